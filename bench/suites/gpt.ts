import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { initGPT, saveModel, trainingFlopsPerToken } from "../../src/models/index.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { byPrecision, sameNumbers, type Work } from "../contest.ts";
import { disposeTree } from "../dispose.ts";
import { ours, pythonPeer } from "../environment.ts";
import { withFolder } from "../folder.ts";
import { configOf } from "../step.ts";
import { chooseWorks, contestShape, runContest } from "../suite.ts";
import type { GPTParameters } from "../workers/gpt.ts";
import { batches, type GPTWork, gptWorks, training } from "../works.ts";

const options = z.object({
  ...contestShape,
  compile: z.boolean().default(true).describe("leave torch.compile out (it needs a C++ compiler)"),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of our matmuls"),
});

export const gpt = defineCommand({
  name: "gpt",
  summary: "a training step of a GPT beside PyTorch",
  description: `A training step of a GPT beside PyTorch. Works: ${gptWorks.map((w) => w.name).join(", ")}.`,
  options,
  async run({ works, rounds, seconds, alone, compile, precision }, context) {
    const styles = compile ? ["eager", "compile"] : ["eager"];
    const variants = styles.flatMap((style) => ["f32", "bf16"].map((type) => `${style} ${type}`));
    const peers = alone ? [] : variants.map((variant) => pythonPeer("PyTorch", "gpt", variant));
    return withFolder(async (folder) => {
      const made: Work[] = [];
      for (const work of chooseWorks(gptWorks, works)) made.push(await gptWork(work, join(folder, work.name)));
      return runContest("gpt", made, { ours: ours("gpt", precision), peers }, { rounds, seconds }, context);
    });
  },
});

/** A work with the weights and tokens that both sides start from, as files in `folder`. */
export async function gptWork(work: GPTWork, folder: string): Promise<Work> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const model = initGPT(configOf(work), randomKey(1));
  const tokens = work.batch * work.context;
  const flops = trainingFlopsPerToken(model) * tokens;
  await saveModel(model, folder);
  disposeTree(model);
  backend.trim();
  const data = join(folder, "batches.bin");
  await writeFile(data, batches(work));
  const parameters: GPTParameters = { work, training, weights: folder, batches: data };
  return {
    name: work.name,
    parameters,
    flops,
    peak: backend.facts.bf16 ? "bf16" : "f32",
    items: { count: tokens, name: "tokens" },
    check: sameNumbers(byPrecision(), "loss"),
  };
}
