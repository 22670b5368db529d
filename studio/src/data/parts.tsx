import type { ComponentChildren, JSX } from "preact";
import type { CorpusSummary, DocumentStatus } from "../../../src/serve/data-api.ts";
import { useWords } from "../language.ts";

const documentText = { kept: "docKept", dropped: "docDropped", duplicate: "docDuplicate" } as const;

export function DocumentMark({ status }: { status: DocumentStatus }): JSX.Element {
  const { t } = useWords();
  return <span class={`doc-status ${status}`}>{t(documentText[status])}</span>;
}

/** How long a document is; of a dropped one only so much is known as is kept. */
export function Length({ status, length }: { status: DocumentStatus; length: number }): JSX.Element {
  const { t, number } = useWords();
  const more = status === "dropped" && length >= keptOfDropped ? "+" : "";
  return <span>{t("characters", { count: `${number(length)}${more}` })}</span>;
}
const keptOfDropped = 4000;

/** The end of an id, which tells documents of one folder apart. */
export const shortId = (id: string): string => id.split("/").slice(-2).join("/");

const corpusText = { finished: "corpusFinished", unfinished: "corpusUnfinished", running: "corpusRunning" } as const;
const corpusClass = { finished: "finished", unfinished: "stopped", running: "running" } as const;

export function CorpusStatus({ status }: { status: CorpusSummary["status"] }): JSX.Element {
  const { t } = useWords();
  return <span class={`status ${corpusClass[status]}`}>{t(corpusText[status])}</span>;
}

/** Text with the places that were found in it. */
export function Marked({
  text,
  matches,
}: {
  text: string;
  matches: readonly (readonly [number, number])[];
}): JSX.Element {
  const parts: ComponentChildren[] = [];
  let at = 0;
  for (const [from, to] of matches) {
    if (from > at) parts.push(text.slice(at, from));
    parts.push(<mark key={from}>{text.slice(from, to)}</mark>);
    at = to;
  }
  parts.push(text.slice(at));
  return <>{parts}</>;
}
