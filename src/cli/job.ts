import { existsSync } from "node:fs";
import { join } from "node:path";
import { chooseBackend } from "../engine/default.ts";
import { useBackend } from "../engine/index.ts";
import { type JobResult, type ModelNews, runJob } from "../pipeline/index.ts";
import { differences, type LoadedRecipe, loadRecipe, parseRecipe, writeResolved } from "../recipe/index.ts";
import { Run, runPath } from "../runs/run.ts";
import { InputError } from "../tensor/errors.ts";
import type { CommandContext, CommandResult } from "./command.ts";
import { RunDisplay } from "./terminal.ts";

export interface JobRequest {
  readonly recipe: string;
  readonly set: readonly string[];
  readonly runs: string;
  /** Go on with a run that is there; otherwise it is refused. */
  readonly resume: boolean;
}

export interface OpenedJob {
  readonly run: Run;
  readonly loaded: LoadedRecipe;
}

/**
 * Checks a recipe whole and opens its run. A run that is there goes on with the recipe it was started with, minutes already turned
 * into steps; a recipe that says something else now is refused.
 */
export async function openJob(request: JobRequest): Promise<OpenedJob> {
  const asked = loadRecipe(request.recipe, request.set);
  const { name } = asked.recipe;
  const kept = join(runPath(request.runs, name), "recipe.yaml");
  const exists = existsSync(kept);
  const run = await Run.open(request.runs, name, { recipe: writeResolved(asked.recipe), resume: request.resume });
  if (!exists) return { run, loaded: asked };
  try {
    const loaded = parseRecipe(kept, run.recipe);
    const inMinutes = asked.recipe.stages.flatMap((stage, i) =>
      stage.kind === "pretrain" && stage.minutes !== undefined ? [i] : [],
    );
    const changed = differences(asked.recipe, loaded.recipe).filter(
      // The first sitting turned minutes into steps.
      (line) =>
        !inMinutes.some((at) => line.startsWith(`stages.${at}.steps:`) || line.startsWith(`stages.${at}.minutes:`)),
    );
    if (changed.length > 0)
      throw new InputError(
        `The run "${name}" was started with another recipe: ${changed.slice(0, 5).join("; ")}. Choose another name with --set name=..., or remove ${run.path}.`,
      );
    return { run, loaded };
  } catch (error) {
    run.close();
    throw error;
  }
}

/** Runs the job with its display and gives the JSON of the last line. The caller closes the run. */
export async function driveJob(
  { run, loaded }: OpenedJob,
  { stdout, environment, signal, warn, print }: CommandContext,
  onModel?: (news: ModelNews) => void,
): Promise<CommandResult> {
  useBackend(chooseBackend("auto", warn));
  if (!run.resumed && loaded.derived.length) print(`Decided: ${loaded.derived.join(", ")}.`);
  const display = new RunDisplay({
    title: loaded.recipe.name,
    stages: loaded.recipe.stages.map((s) => s.name),
    expected: new Map(
      loaded.recipe.stages.flatMap((s) => (s.kind === "pretrain" && s.minutes ? [[s.name, s.minutes * 60]] : [])),
    ),
    stream: stdout,
    environment,
    past: structuredClone(run.past),
  });
  const remove = run.events.add(display.sink);
  const begun = performance.now();
  try {
    const result = await runJob(run, loaded, { signal, ...(onModel ? { onModel } : {}) });
    return resultLine(run, result, (performance.now() - begun) / 1000);
  } finally {
    remove();
    display.stop();
  }
}

function resultLine(run: Run, r: JobResult, sitting: number): CommandResult {
  const s = r.summaries;
  const pick = (from: Readonly<Record<string, number>> | undefined, ...keys: string[]) =>
    Object.fromEntries(keys.flatMap((k) => (from?.[k] === undefined ? [] : [[k, from[k]]])));
  const report = s.report ?? {};
  return {
    run: run.path,
    seconds: Object.values(r.seconds).reduce((a, b) => a + b, 0),
    sitting_seconds: sitting,
    stage_seconds: r.seconds,
    parameters: r.parameters,
    pretrain: pick(s.pretrain, "bits_per_byte", "perplexity", "steps", "tokens"),
    sft: pick(s.sft, "loss_before", "loss_after"),
    reward: pick(s.reward, "accuracy", "margin"),
    ppo: pick(s.ppo, "reward_before", "reward_after", "kl", "kl_target"),
    judge: {
      ...(report.win_rate === undefined
        ? {}
        : { win_rate: report.win_rate, low: report.win_rate_low, high: report.win_rate_high, prompts: report.prompts }),
      ...pick(report, "judge_accuracy", "distinct2_sft", "distinct2_ppo"),
    },
    peak_memory_mb: Math.round(r.peakMemoryBytes / 1e6),
    report: join(run.path, "report.md"),
  };
}
