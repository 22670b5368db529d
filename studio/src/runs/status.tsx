import type { JSX } from "preact";
import type { RunSummary } from "../../../src/serve/api.ts";
import { type Text, useWords } from "../language.ts";

const texts: Record<RunSummary["status"], Text> = {
  empty: "statusEmpty",
  running: "statusRunning",
  finished: "statusFinished",
  stopped: "statusStopped",
  failed: "statusFailed",
  interrupted: "statusInterrupted",
};

export function Status({ status }: { status: RunSummary["status"] }): JSX.Element {
  const { t } = useWords();
  return <span class={`status ${status}`}>{t(texts[status])}</span>;
}
