import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { CorpusSummary } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";
import { useLive } from "../live.ts";
import { corpusLink, type Route } from "../route.ts";
import { Empty } from "../ui/controls.tsx";
import { CorpusView } from "./corpus-view.tsx";
import { CorpusStatus } from "./parts.tsx";

/** The list of corpora and the one that is looked at: the newest unless one is named. */
export function DataPage({ route }: { route: Route }): JSX.Element {
  const { t } = useWords();
  const { data } = useLive();
  const list = useRef<HTMLElement>(null);
  const known = data !== undefined;
  // On a narrow screen the list is a row that may be longer than the screen.
  useEffect(
    () => list.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }),
    [known, route.corpus],
  );
  if (data === undefined) return <Empty title={t("loading")} />;
  const { corpora, folder } = data;
  if (corpora.length === 0) {
    return (
      <Empty title={t("noCorpora")}>
        <p>{t("noCorporaHint")}</p>
        <p class="small folder">{t("corporaFolder", { folder })}</p>
      </Empty>
    );
  }
  const current = route.corpus === undefined ? corpora[0] : corpora.find((corpus) => corpus.name === route.corpus);
  return (
    <div class="runs">
      {(corpora.length > 1 || current === undefined) && (
        <nav class="run-list" aria-label={t("allCorpora")} ref={list}>
          <h2>{t("allCorpora")}</h2>
          <ul>
            {corpora.map((corpus) => (
              <li key={corpus.name}>
                <a href={corpusLink(corpus.name)} aria-current={corpus === current ? "true" : undefined}>
                  <CorpusLine corpus={corpus} />
                </a>
              </li>
            ))}
          </ul>
        </nav>
      )}
      {current ? (
        <CorpusView key={current.name} corpus={current} corpora={corpora} route={route} />
      ) : (
        <Empty title={t("noCorpus", { name: route.corpus ?? "" })} />
      )}
    </div>
  );
}

function CorpusLine({ corpus }: { corpus: CorpusSummary }): JSX.Element {
  const { t, number } = useWords();
  return (
    <>
      <span class="run-name">{corpus.name}</span>
      <CorpusStatus status={corpus.status} />
      {corpus.documents !== undefined && (
        <span class="run-when">{t("documentsCount", { count: number(corpus.documents) })}</span>
      )}
    </>
  );
}
