import { z } from "zod";
import { formatBytes } from "../../runs/atomic.ts";
import { Checkpoints } from "../../runs/checkpoints.ts";
import { type RunInfo, readRun, runNames } from "../../runs/run.ts";
import { latest, series } from "../../runs/state.ts";
import { defineCommand } from "../command.ts";
import { headlineOf } from "../display.ts";
import { terminalFacts } from "../terminal.ts";
import { curve, formatNumber, formatSeconds, printable, table } from "../text.ts";

const day = (time: number | undefined) =>
  time === undefined ? "" : new Date(time).toISOString().slice(0, 16).replace("T", " ");

/** `pretrain 2/5`: the stage a run is at. */
function place({ state }: RunInfo): string {
  const index = state.stages.findIndex(({ status }) => status === "running");
  if (index >= 0) return `${state.stages[index]!.name} (${index + 1} of ${state.count})`;
  const done = state.stages.filter(({ status }) => status === "finished" || status === "skipped").length;
  return `${done} of ${state.count} stages`;
}

const options = z.object({
  name: z.string().optional().describe("one run, to see its stages; without it all runs are listed"),
  runs: z.string().default("runs").describe("the folder of the runs").meta({ value: "DIR" }),
});

export const runs = defineCommand({
  name: "runs",
  summary: "list the runs, or show one",
  options,
  positional: ["name"],
  examples: [
    ["howdah runs", "every run in ./runs, the latest first"],
    ["howdah runs shakespeare", "its stages, what they ended with, and its checkpoints"],
  ],
  async run({ name, runs: folder }, { print, stdout, environment }) {
    if (name !== undefined) return show(readRun(folder, name), print, terminalFacts(stdout, environment).unicode);
    const all = runNames(folder).map((one) => readRun(folder, one));
    if (all.length === 0) print(`There are no runs in ${folder} yet: howdah start, or howdah train RECIPE.`);
    for (const line of table(all.map((run) => [run.name, run.status, place(run), day(run.state.updated)]))) print(line);
    return {
      runs: all.map((run) => ({
        name: run.name,
        status: run.status,
        path: run.path,
        updated: run.state.updated ?? null,
      })),
    };
  },
});

function show(run: RunInfo, print: (line?: string) => void, unicode: boolean) {
  const { state } = run;
  print(`${run.name}: ${run.status}${run.pid === undefined ? "" : ` (process ${run.pid})`}`);
  if (state.message !== undefined) print(printable(state.message));
  const rows = state.stages.map((stage) => {
    const metric = headlineOf(stage);
    const value = metric === undefined ? undefined : latest(stage, metric);
    const drawn =
      metric === undefined
        ? ""
        : curve(
            series(stage, metric).map(([, y]) => y),
            24,
            unicode,
          );
    const seconds = stage.seconds === undefined ? "" : formatSeconds(stage.seconds);
    return [stage.name, stage.status, seconds, value === undefined ? "" : `${metric} ${formatNumber(value)}`, drawn];
  });
  for (const line of table(rows)) print(`  ${line}`);
  const checkpoints = new Checkpoints(`${run.path}/checkpoints`).list();
  for (const { stage, step, bytes, path } of checkpoints)
    print(`  checkpoint ${stage} step ${step}, ${formatBytes(bytes)}: ${path}`);
  if (run.report !== undefined) print(`  report: ${run.report}`);
  return {
    name: run.name,
    status: run.status,
    path: run.path,
    stages: state.stages.map((stage) => ({
      stage: stage.name,
      status: stage.status,
      seconds: stage.seconds ?? null,
      summary: stage.summary ?? null,
    })),
    checkpoints: checkpoints.map(({ stage, step, path }) => ({ stage, step, path })),
    report: run.report ?? null,
  };
}
