import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { StageState } from "../../../src/runs/state.ts";
import type { RunDetail, RunSummary } from "../../../src/serve/api.ts";
import { useWords } from "../language.ts";
import { useLive } from "../live.ts";
import { chatLink } from "../route.ts";
import { getJson, request } from "../server.ts";
import { TabPanel, Tabs } from "../ui/controls.tsx";
import { Icon } from "../ui/icons.tsx";
import { Markdown } from "../ui/markdown.tsx";
import { Chart } from "./chart.tsx";
import { curvesOf } from "./curves.ts";
import { Progress } from "./progress.tsx";
import { Samples } from "./samples.tsx";
import { Stages } from "./stages.tsx";
import { Status } from "./status.tsx";
import { type LogLine, useRun } from "./use-run.ts";

/** Everything about one run, as it happens. */
export function RunView({ run, newest: isNewest }: { run: RunSummary; newest: boolean }): JSX.Element {
  const { t, duration } = useWords();
  const { models } = useLive();
  const live = useRun(run.name);
  const [tab, setTab] = useState("curves");
  const detail = useDetail(run);
  const [picked, pick] = useState<string>();
  const { state } = live;
  const running = run.status === "running";
  const now = useNow(running);

  const active = state.stages.findLast((stage) => stage.status === "running");
  const measured = state.stages.findLast((stage) => stage.metrics.size > 0 || stage.samples.length > 0);
  // The stage a person picked, or the one that runs, or the last with something to show.
  const stage = state.stages.find(({ name }) => name === picked) ?? active ?? measured ?? state.stages[0];
  const seconds = ((running ? now : (state.updated ?? 0)) - (state.began ?? now)) / 1000;
  const tabs = (["curves", "samples", "report", "recipe", "log"] as const).map((id) => ({ id, label: t(id) }));
  // Models that are served come from the run that goes on, or the last one.
  const model = isNewest ? models?.at(-1) : undefined;

  return (
    <article class="run" aria-busy={!live.loaded}>
      <header class="run-head">
        <h1>{run.name}</h1>
        <Status status={run.status} />
        {state.began !== undefined && (
          <span class="muted">{t(running ? "elapsed" : "took", { time: duration(Math.max(0, seconds)) })}</span>
        )}
        {model && (
          <a class="button" href={chatLink(model.id)}>
            {t("talkToIt")}
            <Icon name="arrow" />
          </a>
        )}
      </header>
      {state.message && state.status !== "running" && <p class={`note ${state.status}`}>{state.message}</p>}
      <Stages
        state={state}
        planned={detail?.stages ?? []}
        selected={stage?.name}
        onSelect={pick}
        now={now}
        running={running}
      />
      {running && active?.progress && <Progress progress={active.progress} />}
      <Tabs tabs={tabs} selected={tab} onSelect={setTab} label={run.name} />
      <TabPanel id={tab}>
        {tab === "curves" && (stage ? <Curves stage={stage} /> : <p class="muted">{t("noCurves")}</p>)}
        {tab === "samples" && <Samples samples={stage?.samples ?? []} />}
        {tab === "report" && <Report run={run} />}
        {tab === "recipe" && <Recipe detail={detail} />}
        {tab === "log" && <Log lines={live.log} />}
      </TabPanel>
    </article>
  );
}

function Curves({ stage }: { stage: StageState }): JSX.Element {
  const { t } = useWords();
  const curves = curvesOf(stage);
  return (
    <>
      {curves.length === 0 ? (
        <p class="muted">{t("noCurves")}</p>
      ) : (
        <div class="charts">
          {curves.map((curve) => (
            <Chart key={`${stage.name} ${curve.name}`} curve={curve} />
          ))}
        </div>
      )}
      {stage.summary && <Summary summary={stage.summary} />}
    </>
  );
}

/** What a stage ended with, as its trainer reported it. */
function Summary({ summary }: { summary: Record<string, unknown> }): JSX.Element | null {
  const { t, metric, number } = useWords();
  const rows = Object.entries(summary).filter(([, value]) => ["number", "string", "boolean"].includes(typeof value));
  if (rows.length === 0) return null;
  return (
    <section class="summary">
      <h2>{t("summary")}</h2>
      <dl>
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{metric(name)}</dt>
            <dd>{typeof value === "number" ? number(value) : String(value)}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Report({ run }: { run: RunSummary }): JSX.Element {
  const { t } = useWords();
  const [text, setText] = useState<string>();
  useEffect(() => {
    let gone = false;
    void request(`/api/runs/${encodeURIComponent(run.name)}/report`)
      .then((response) => response.text())
      .then((report) => gone || setText(report))
      .catch(() => {}); // none yet: the page says so
    return () => {
      gone = true;
    };
  }, [run]);
  return text === undefined ? <p class="muted">{t("noReport")}</p> : <Markdown text={text} />;
}

function Recipe({ detail }: { detail: RunDetail | undefined }): JSX.Element {
  const { t } = useWords();
  if (detail === undefined) return <p class="muted">{t("loading")}</p>;
  return detail.recipe === undefined ? <p class="muted">{t("noRecipe")}</p> : <pre class="recipe">{detail.recipe}</pre>;
}

/** The run's files, looked at again after each change of its state (the first run of a recipe writes its steps into it). */
function useDetail(run: RunSummary): RunDetail | undefined {
  const [detail, setDetail] = useState<RunDetail>();
  useEffect(() => {
    let gone = false;
    getJson<RunDetail>(`/api/runs/${encodeURIComponent(run.name)}`).then(
      (loaded) => gone || setDetail(loaded),
      () => {}, // the connection is away; its banner says so
    );
    return () => {
      gone = true;
    };
  }, [run]);
  return detail;
}

function Log({ lines }: { lines: readonly LogLine[] }): JSX.Element {
  const { t, language } = useWords();
  if (lines.length === 0) return <p class="muted">{t("noLog")}</p>;
  return (
    <ol class="log">
      {lines.map((line) => (
        <li key={`${line.t} ${line.message}`} class={line.level}>
          <time>{new Date(line.t).toLocaleTimeString(language === "zh" ? "zh-CN" : "en", { hour12: false })}</time>
          <span>{line.message}</span>
        </li>
      ))}
    </ol>
  );
}

/** The time, each second while `ticking`. */
function useNow(ticking: boolean): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    if (!ticking) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, [ticking]);
  return now;
}
