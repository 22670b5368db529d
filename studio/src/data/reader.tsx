import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { DocumentHead, DocumentsPage, DocumentView } from "../../../src/serve/data-api.ts";
import { finder, places } from "../../../src/serve/studio/find.ts";
import { useWords } from "../language.ts";
import { getJson } from "../server.ts";
import { IconButton } from "../ui/controls.tsx";
import { knownName, ruleName } from "./names.ts";
import { DocumentMark, Length, Marked, shortId } from "./parts.tsx";
import { useLoaded } from "./use-loaded.ts";

const mostMarks = 2000;

interface ReaderProps {
  name: string;
  at: string;
  /** What is marked in the text. */
  query: string;
  onOpen: (at: string) => void;
  onClose: () => void;
}

/** One document: why it went, if it did, what is known of it, and its text. */
export function Reader({ name, at, query, onOpen, onClose }: ReaderProps): JSX.Element {
  const { t, tongue } = useWords();
  const base = `/api/data/${encodeURIComponent(name)}/document?at=${encodeURIComponent(at)}`;
  const { value: view, error } = useLoaded<DocumentView>(base);
  const [rest, setRest] = useState("");
  const [failed, setFailed] = useState<string>();
  const top = useRef<HTMLElement>(null);
  // On a narrow screen it takes the list's place.
  useEffect(() => {
    if (!matchMedia("(max-width: 900px)").matches) return;
    top.current?.scrollIntoView({ block: "nearest" });
    top.current?.focus({ preventScroll: true });
  }, []);
  // Beside the list it scrolls for itself. What was looked for may be far down; why a document went stands at the top.
  const readable = view !== undefined && view.status !== "dropped";
  useEffect(() => {
    const box = top.current;
    const mark = readable ? box?.querySelector<HTMLElement>(".reader-text mark") : undefined;
    if (!box || !mark) return;
    if (matchMedia("(max-width: 900px)").matches) {
      if (mark.getBoundingClientRect().top > innerHeight * 0.8) mark.scrollIntoView({ block: "center" });
    } else if (mark.offsetTop > box.clientHeight * 0.8) box.scrollTop = mark.offsetTop - box.clientHeight / 3;
  }, [readable]);

  if (view === undefined) {
    return (
      <section class="reader" tabIndex={-1} ref={top}>
        <IconButton icon="close" label={t("closeReader")} onClick={onClose} class="close" />
        <p class={error === undefined ? "muted" : "note failed"}>{error ?? t("loading")}</p>
      </section>
    );
  }
  const text = view.text + rest;
  const marks = places(text, finder(query), mostMarks);
  const showRest = () =>
    getJson<DocumentView>(`${base}&from=${text.length}`).then(
      (page) => setRest(rest + page.text),
      (problem: Error) => setFailed(problem.message),
    );
  return (
    <section class="reader" aria-label={t("read")} tabIndex={-1} ref={top}>
      <IconButton icon="close" label={t("closeReader")} onClick={onClose} class="close" />
      <h2>{view.title ?? shortId(view.id)}</h2>
      <p class="about">
        <DocumentMark status={view.status} />
        <span>{view.source}</span>
        {view.language !== undefined && <span>{tongue(view.language)}</span>}
        <Length status={view.status} length={view.length} />
      </p>
      <Why name={name} view={view} onOpen={onOpen} />
      <Known view={view} />
      <div class="reader-text" lang={view.language}>
        <Marked text={text} matches={marks} />
      </div>
      {view.beginning && <p class="muted small">{t("beginningOnly")}</p>}
      {failed !== undefined && <p class="note failed">{failed}</p>}
      {text.length < view.length && (
        <button type="button" class="button" onClick={() => void showRest()}>
          {t("showRest")}
        </button>
      )}
    </section>
  );
}

function Why({
  name,
  view,
  onOpen,
}: {
  name: string;
  view: DocumentView;
  onOpen: (at: string) => void;
}): JSX.Element | null {
  const { t, number, language } = useWords();
  const { reason, same, copies } = view;
  if (reason) {
    const rule = `${reason.filter}/${reason.rule}`;
    return (
      <div class="why dropped">
        <h3>{t("whyDropped")}</h3>
        <p>
          <b>{ruleName(rule, language)}.</b> <span lang="en">{reason.why}</span>
        </p>
        {typeof reason.value === "number" && rule !== "language/other" && (
          <p class="small">{t("measured", { value: number(reason.value), threshold: number(reason.threshold) })}</p>
        )}
        <code>{rule}</code>
      </div>
    );
  }
  if (view.status === "duplicate") {
    return (
      <div class="why duplicate">
        <h3>{t("whyDuplicate")}</h3>
        {same === undefined ? (
          <p>{t("sameUnknown")}</p>
        ) : (
          <>
            <p>{t(same.kind === "exact" ? "sameExact" : "sameNear")}</p>
            <Jump name={name} id={same.id} status="kept" onOpen={onOpen} />
          </>
        )}
      </div>
    );
  }
  if (copies.length === 0) return null;
  return (
    <details class="why copies">
      <summary>{t("itsCopies", { count: number(copies.length) })}</summary>
      {copies.map((copy) => (
        <Jump key={copy.id} name={name} id={copy.id} status="duplicate" onOpen={onOpen} />
      ))}
    </details>
  );
}

interface JumpProps {
  name: string;
  id: string;
  status: DocumentHead["status"];
  onOpen: (at: string) => void;
}

/** A document by its id: where it is has to be looked for, which a person sees only in a large corpus. */
export function Jump({ name, id, status, onOpen }: JumpProps): JSX.Element {
  const { t } = useWords();
  const [state, setState] = useState<"idle" | "looking" | "gone">("idle");
  const left = useRef(false);
  useEffect(
    () => () => {
      left.current = true;
    },
    [],
  );
  const look = async () => {
    setState("looking");
    let at: string | undefined;
    try {
      do {
        const query = new URLSearchParams({ id, status, limit: "1", ...(at === undefined ? {} : { at }) });
        const page = await getJson<DocumentsPage>(`/api/data/${encodeURIComponent(name)}/documents?${query}`);
        const found = page.documents[0];
        if (found) {
          setState("idle");
          onOpen(found.at);
          return;
        }
        at = page.next;
      } while (at !== undefined && !left.current);
    } catch {
      // said below
    }
    setState("gone");
  };
  return (
    <button type="button" class="jump" onClick={() => void look()} disabled={state === "looking"} title={id}>
      <span>{id}</span>
      {state !== "idle" && <small>{t(state === "looking" ? "searching" : "nothingFound")}</small>}
    </button>
  );
}

/** What is known of it besides its text. */
function Known({ view }: { view: DocumentView }): JSX.Element {
  const { language } = useWords();
  const { title: _, url: _url, extra, ...meta } = view.meta;
  const more = typeof extra === "object" && extra !== null ? extra : {};
  const known = Object.entries({
    id: view.id,
    ...(view.url === undefined ? {} : { url: view.url }),
    ...meta,
    ...more,
  });
  return (
    <dl class="known">
      {known.map(([key, value]) => (
        <div key={key}>
          <dt>{knownName(key, language)}</dt>
          <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
        </div>
      ))}
    </dl>
  );
}
