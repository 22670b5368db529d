import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { measurePeaks } from "../../engine/backends/native/peaks.ts";
import { loadNativeBackend, type Profile, Profiler, profileRows, useBackend } from "../../engine/index.ts";
import { runJob } from "../../pipeline/index.ts";
import { type LoadedRecipe, loadRecipe, type Stage, writeResolved } from "../../recipe/index.ts";
import type { EventSink } from "../../runs/events.ts";
import { Run } from "../../runs/run.ts";
import { BackendError, InputError } from "../../tensor/errors.ts";
import { StoppedError } from "../../train/index.ts";
import { defineCommand } from "../command.ts";
import { Interrupted } from "../interrupt.ts";
import { profileNotes, profileResult, profileTable } from "../profile-view.ts";

const options = z.object({
  recipe: z.string().describe("a recipe file, such as recipes/shakespeare.yaml"),
  stage: z.string().optional().describe("which of its stages; default the first").meta({ value: "NAME" }),
  steps: z.number().int().min(1).default(10).describe("steps to measure"),
  warmUp: z.number().int().min(1).default(3).describe("steps before"),
  by: z
    .enum(["op", "shape", "scope"])
    .default("op")
    .describe("what makes a kind of kernel: its op, its op and shapes, or where in the model it stands"),
  trace: z
    .string()
    .optional()
    .describe("write every call to a file for chrome://tracing or ui.perfetto.dev")
    .meta({ value: "FILE" }),
  set: z
    .array(z.string())
    .default([])
    .describe("change a value of the recipe, such as model.layers=4")
    .meta({ value: "KEY=VALUE" }),
});

export const profile = defineCommand({
  name: "profile",
  summary: "where a recipe's stage spends its time and memory, kernel by kernel",
  description:
    "Runs a few steps of one stage of a recipe in a folder of its own, which is removed, and shows for each kind of kernel the time, " +
    "the calls, the rates, and how near they come to what the machine can do (measured as well). Stages before it run for one step only.",
  options,
  positional: ["recipe"],
  examples: [
    ["howdah profile recipes/shakespeare.yaml", "the first stage's step"],
    ["howdah profile recipes/shakespeare.yaml --stage ppo --by shape", "rollouts and updates, with shapes"],
    ["howdah profile my.yaml --trace trace.json", "every call of every kernel, to look at in Perfetto"],
  ],
  async run(o, { print, stdout, signal }) {
    const native = loadNativeBackend();
    if ("missing" in native) throw new BackendError(native.missing);
    if (o.trace !== undefined) requireFolder(o.trace);
    const loaded = cut(loadRecipe(o.recipe, o.set), o.stage, o.warmUp + o.steps);
    const target = loaded.recipe.stages.at(-1)!;
    const profiler = new Profiler(native);
    useBackend(profiler.backend);
    const folder = mkdtempSync(join(tmpdir(), "howdah-profile-"));
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    let measured: Promise<{ profile: Profile; milliseconds: number }> | undefined;
    try {
      const run = await Run.open(folder, loaded.recipe.name, { recipe: writeResolved(loaded.recipe), resume: false });
      try {
        let begun: number | undefined;
        const listen: EventSink = (event) => {
          if (event.type === "stage" && event.status === "started") print(`${event.stage} ...`);
          if (event.type !== "metrics" || event.stage !== target.name || measured) return;
          // Held-out measurements are metrics as well, of a step that was reported before.
          if (begun === undefined && event.step >= o.warmUp) {
            begun = performance.now();
            profiler.start({ trace: o.trace !== undefined });
          } else if (begun !== undefined && event.step >= o.warmUp + o.steps) {
            const milliseconds = (performance.now() - begun) / o.steps;
            measured = profiler.stop().then((profile) => ({ profile, milliseconds }));
            // Whatever is wrong with it is said when it is waited for, below.
            measured.catch(() => {});
            stop.abort();
          }
        };
        run.events.add(listen);
        await runJob(run, loaded, { signal: either }).catch((error: unknown) => {
          if (!(error instanceof StoppedError)) throw error;
        });
      } finally {
        run.close();
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
    if (signal.aborted) throw new Interrupted("Stopped; a profile leaves nothing behind.");
    if (!measured)
      throw new InputError(
        `The stage ${target.name} ended before ${o.warmUp} + ${o.steps} steps: give fewer with --warm-up and --steps.`,
      );
    const { profile, milliseconds } = await measured;
    const peaks = await measurePeaks();
    const rows = profileRows(profile, o.by, o.steps, peaks);
    const columns = Math.max(stdout.columns ?? 80, 80);
    print();
    for (const line of profileTable(rows, columns)) print(line);
    print();
    const about = { steps: o.steps, millisecondsPerStep: milliseconds, peaks, threads: native.facts.threads };
    for (const line of profileNotes(profile, rows, about, columns)) print(line);
    if (o.trace !== undefined) {
      writeFileSync(o.trace, JSON.stringify({ traceEvents: profile.trace, displayTimeUnit: "ms" }));
      print(`\nTrace: ${o.trace}, ${profile.trace!.length} events; open it in ui.perfetto.dev or chrome://tracing.`);
    }
    const result = profileResult(profile, rows, about);
    return { recipe: o.recipe, stage: target.name, ...result, ...(o.trace === undefined ? {} : { trace: o.trace }) };
  },
});

/** Before minutes are spent on what cannot be written. */
function requireFolder(trace: string): void {
  const folder = dirname(resolve(trace));
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new InputError(`--trace is ${JSON.stringify(trace)}, and there is no folder ${folder}: make it first.`);
}

/** The recipe up to one stage: that one long enough and saying every step, those before it one step long. */
function cut(loaded: LoadedRecipe, name: string | undefined, steps: number): LoadedRecipe {
  const { stages } = loaded.recipe;
  const at = name === undefined ? 0 : stages.findIndex((s) => s.name === name || s.kind === name);
  const names = stages.map((s) => s.name).join(", ");
  if (at < 0) throw new InputError(`--stage is ${JSON.stringify(name)}: the recipe's stages are ${names}.`);
  if (!("log_every" in stages[at]!))
    throw new InputError(
      `--stage is ${JSON.stringify(stages[at]!.name)}, which has no steps; the stages are ${names}.`,
    );
  const shortened = stages.slice(0, at + 1).map((stage, i) => (i < at ? shorten(stage, 1) : shorten(stage, steps + 2)));
  return { ...loaded, recipe: { ...loaded.recipe, stages: shortened } };
}

/** So many steps at least, each reported, without measurements between them; what cannot be counted goes on until it is stopped. */
function shorten(stage: Stage, steps: number): Stage {
  const never = 1e9;
  switch (stage.kind) {
    case "pretrain": {
      const { minutes: _minutes, ...rest } = stage;
      return { ...rest, steps, log_every: 1, evaluate_every: never, sample_every: never, checkpoint_every: never };
    }
    case "sft":
      return { ...stage, steps, log_every: 1, evaluate_every: never, checkpoint_every: never };
    case "reward": {
      const length = steps === 1 ? { examples: 64, epochs: 1 } : { epochs: never };
      return { ...stage, ...length, log_every: 1, evaluate_every: never, checkpoint_every: never };
    }
    case "ppo":
      return { ...stage, steps, log_every: 1, checkpoint_every: never };
    default:
      return stage;
  }
}
