import type { JSX } from "preact";
import type { RunSummary } from "../../../src/serve/api.ts";
import { useWords } from "../language.ts";
import { useLive } from "../live.ts";
import { runLink } from "../route.ts";
import { Empty } from "../ui/controls.tsx";
import { RunView } from "./run-view.tsx";
import { Status } from "./status.tsx";

/** The list of runs and the one that is looked at: the newest unless one is named. */
export function RunsPage({ name, shown }: { name: string | undefined; shown: boolean }): JSX.Element {
  const { t } = useWords();
  const { runs } = useLive();
  if (runs === undefined) return <Empty title={t("loading")} />;
  if (runs.length === 0) {
    return (
      <Empty title={t("noRuns")}>
        <p>{t("noRunsHint")}</p>
      </Empty>
    );
  }
  const current = runs.find((run) => run.name === name) ?? runs[0];
  return (
    <div class="runs">
      {runs.length > 1 && (
        <nav class="run-list" aria-label={t("allRuns")}>
          <h2>{t("allRuns")}</h2>
          <ul>
            {runs.map((run) => (
              <li key={run.name}>
                <a href={runLink(run.name)} aria-current={run === current ? "true" : undefined}>
                  <RunLine run={run} />
                </a>
              </li>
            ))}
          </ul>
        </nav>
      )}
      {current && shown && <RunView key={current.name} run={current} newest={current === runs[0]} />}
    </div>
  );
}

function RunLine({ run }: { run: RunSummary }): JSX.Element {
  const { stage: stageName, language } = useWords();
  const date =
    run.updated === undefined
      ? ""
      : new Date(run.updated).toLocaleString(language === "zh" ? "zh-CN" : "en", {
          month: "short",
          day: "numeric",
          hour: "2-digit",
          minute: "2-digit",
        });
  return (
    <>
      <span class="run-name">{run.name}</span>
      <Status status={run.status} />
      <span class="run-when">{run.status === "running" && run.stage ? stageName(run.stage.name) : date}</span>
    </>
  );
}
