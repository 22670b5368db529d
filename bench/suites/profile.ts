import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { profileNotes, profileResult, profileTable } from "../../src/cli/profile-view.ts";
import { measurePeaks } from "../../src/engine/backends/native/peaks.ts";
import { loadNativeBackend, type NativeBackend, Profiler, profileRows, useBackend } from "../../src/engine/index.ts";
import { initGPT } from "../../src/models/index.ts";
import { BackendError, InputError } from "../../src/tensor/errors.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { configOf, trainer } from "../step.ts";
import { chooseWorks } from "../suite.ts";
import { prepare as prepareBert } from "../workers/bert.ts";
import { prepare as prepareResNet } from "../workers/resnet.ts";
import { batches, gptWorks } from "../works.ts";
import { withBertWork } from "./bert.ts";
import { withResNetWork } from "./resnet.ts";

const options = z.object({
  work: z.string().describe(`one of ${[...gptWorks.map((w) => w.name), "resnet-20", "bert-base"].join(", ")}`),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of the matmuls"),
  steps: z.number().int().min(1).default(5).describe("steps to profile"),
  by: z.enum(["op", "shape", "scope"]).default("shape").describe("what makes a kind of kernel"),
});

export const profile = defineCommand({
  name: "profile",
  summary: "where our training step spends its time; `howdah profile` does it for a recipe",
  options,
  positional: ["work"],
  async run({ work: name, precision, steps, by }, { print, stdout }) {
    const native = loadNativeBackend();
    if ("missing" in native) throw new BackendError(native.missing);
    const profiler = new Profiler(native);
    useBackend(profiler.backend);
    const run = await workOf(name, precision, profiler.backend);
    for (let i = 0; i < 2; i++) await run.step();
    profiler.start();
    const begun = performance.now();
    for (let i = 0; i < steps; i++) await run.step();
    const millisecondsPerStep = (performance.now() - begun) / steps;
    const measured = await profiler.stop();
    const peaks = await measurePeaks();
    const rows = profileRows(measured, by, steps, peaks);
    const columns = Math.max(stdout.columns ?? 100, 80);
    for (const line of profileTable(rows, columns)) print(line);
    print();
    const about = { steps, millisecondsPerStep, peaks, threads: native.facts.threads };
    for (const line of profileNotes(measured, rows, about, columns)) print(line);
    return { work: name, ...profileResult(measured, rows, about) };
  },
});

/** Steps of the work of this name. */
async function workOf(
  name: string,
  precision: Precision,
  backend: NativeBackend,
): Promise<{ step(): Promise<unknown> }> {
  if (name === "resnet-20")
    return withResNetWork((work) => {
      useBackend(backend);
      return prepareResNet({ work: work.name, variant: precision, parameters: work.parameters }, backend);
    });
  if (name === "bert-base")
    return withBertWork((work) => {
      useBackend(backend);
      return prepareBert({ work: work.name, variant: precision, parameters: work.parameters }, backend);
    });
  const [work, ...more] = chooseWorks(gptWorks, name);
  if (more.length > 0) throw new InputError(`${JSON.stringify(name)} names several works: say one.`);
  return trainer(work!, initGPT(configOf(work!), randomKey(1)), batches(work!), backend, precision);
}
