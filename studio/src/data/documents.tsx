import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { CorpusReport, FoundDocument } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";
import { corpusLink } from "../route.ts";
import { ruleName } from "./names.ts";
import { DocumentMark, Length, Marked, shortId } from "./parts.tsx";
import { Reader } from "./reader.tsx";
import { useSearch, type Wish } from "./use-search.ts";

const wishKeys = ["q", "status", "source", "rule", "language"] as const;
const wishOf = (query: URLSearchParams) =>
  Object.fromEntries(wishKeys.map((key) => [key, query.get(key) ?? ""])) as unknown as Wish;

const onlyText = { kept: "onlyKept", dropped: "onlyDropped", duplicate: "onlyDuplicates" } as const;

interface DocumentsProps {
  name: string;
  report: CorpusReport | undefined;
  query: URLSearchParams;
}

/** Search, filters, what was found, and a document to read. The wish and the open document are in the address. */
export function Documents({ name, report, query }: DocumentsProps): JSX.Element {
  const { t, tongue, language } = useWords();
  const [wish, setWish] = useState<Wish>(() => wishOf(query));
  const [open, setOpen] = useState<string | undefined>(query.get("at") ?? undefined);
  // Another address by a link or the back button.
  useEffect(() => {
    setWish(wishOf(query));
    setOpen(query.get("at") ?? undefined);
  }, [query]);
  const show = (next: Wish, at: string | undefined) => {
    // Going back closes a document.
    const opens = at !== undefined && open === undefined;
    setWish(next);
    setOpen(at);
    const address = corpusLink(name, "documents", { ...next, ...(at === undefined ? {} : { at }) });
    if (opens) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  };
  const change = (part: Partial<Wish>) => show({ ...wish, ...part }, undefined);
  const search = useSearch(name, wish);
  // Whoever closes a document is where they opened it.
  const list = useRef<HTMLOListElement>(null);
  const last = useRef<string | undefined>(undefined);
  useEffect(() => {
    if (open === undefined && last.current !== undefined && document.activeElement === document.body) {
      const at = search.documents.findIndex((found) => found.at === last.current);
      list.current?.querySelectorAll("button")[at]?.focus();
    }
    last.current = open;
  }, [open]);
  const sources = report?.sources.map((s) => s.name) ?? [];
  const rules = report?.dropped.map((d) => d.rule) ?? [];
  const languages = Object.keys(report?.languages ?? {});
  const options = (list: readonly string[], chosen: string) =>
    chosen === "" || list.includes(chosen) ? list : [chosen, ...list];

  return (
    <div class={open === undefined ? "documents" : "documents reading"}>
      <search class="wishes">
        <input
          type="search"
          value={wish.q}
          maxLength={200}
          placeholder={t("searchHint")}
          aria-label={t("search")}
          onInput={(event) => change({ q: event.currentTarget.value })}
        />
        <Choice
          label={t("status")}
          any={t("anyStatus")}
          value={wish.status}
          options={Object.keys(onlyText)}
          text={(s) => t(onlyText[s as keyof typeof onlyText] ?? "anyStatus")}
          onChange={(status) => change({ status, rule: status === "dropped" ? wish.rule : "" })}
        />
        {rules.length + wish.rule.length > 0 && (
          <Choice
            label={t("rule")}
            any={t("anyRule")}
            value={wish.rule}
            options={options(rules, wish.rule)}
            text={(rule) => ruleName(rule, language)}
            onChange={(rule) => change({ rule, status: rule === "" ? wish.status : "dropped" })}
          />
        )}
        {(sources.length > 1 || wish.source !== "") && (
          <Choice
            label={t("source")}
            any={t("anySource")}
            value={wish.source}
            options={options(sources, wish.source)}
            onChange={(source) => change({ source })}
          />
        )}
        {(languages.length > 1 || wish.language !== "") && (
          <Choice
            label={t("languageOfText")}
            any={t("anyLanguage")}
            value={wish.language}
            options={options(languages, wish.language)}
            text={tongue}
            onChange={(code) => change({ language: code })}
          />
        )}
      </search>
      <div class="split">
        <section class="results" aria-busy={search.busy} aria-label={t("documents")}>
          <Found search={search} />
          <ol ref={list}>
            {search.documents.map((found) => (
              <li key={found.at}>
                <button type="button" aria-pressed={found.at === open} onClick={() => show(wish, found.at)}>
                  <ResultText found={found} />
                </button>
              </li>
            ))}
          </ol>
          {search.next !== undefined && !search.busy && (
            <button type="button" class="button" onClick={search.more}>
              {t("searchOn")}
            </button>
          )}
        </section>
        {open === undefined ? (
          <p class="muted no-reader">{t("readHint")}</p>
        ) : (
          <Reader
            key={open}
            name={name}
            at={open}
            query={wish.q}
            onOpen={(at) => show(wish, at)}
            onClose={() => show(wish, undefined)}
          />
        )}
      </div>
    </div>
  );
}

function Found({ search }: { search: ReturnType<typeof useSearch> }): JSX.Element {
  const { t, number, percent } = useWords();
  const { documents, next, busy, share, error } = search;
  const count = number(documents.length);
  if (error !== undefined) return <p class="note failed">{error}</p>;
  let text: string;
  if (busy && documents.length === 0) text = t("searching");
  else if (next !== undefined || busy) text = t("foundSoFar", { count, share: percent(share) });
  else text = documents.length === 0 ? t("nothingFound") : t("found", { count });
  return (
    <p class="muted small" role="status">
      {text}
    </p>
  );
}

function ResultText({ found }: { found: FoundDocument }): JSX.Element {
  const { language, tongue } = useWords();
  const { reason } = found;
  return (
    <>
      <b>{found.title ?? shortId(found.id)}</b>
      <span class="about">
        <DocumentMark status={found.status} />
        {reason && <span class="reason">{ruleName(`${reason.filter}/${reason.rule}`, language)}</span>}
        <span>{found.source}</span>
        {found.language !== undefined && <span>{tongue(found.language)}</span>}
        <Length status={found.status} length={found.length} />
      </span>
      <span class="excerpt">
        <Marked text={found.excerpt} matches={found.matches} />
      </span>
    </>
  );
}

interface ChoiceProps {
  label: string;
  any: string;
  value: string;
  options: readonly string[];
  text?: (option: string) => string;
  onChange: (value: string) => void;
}

function Choice({ label, any, value, options, text = (s) => s, onChange }: ChoiceProps): JSX.Element {
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      <option value="">{any}</option>
      {options.map((option) => (
        <option key={option} value={option}>
          {text(option)}
        </option>
      ))}
    </select>
  );
}
