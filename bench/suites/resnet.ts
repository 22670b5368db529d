import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { initResNet, initResNetStatistics, type ResNetConfig, resNet20, saveResNet } from "../../src/models/index.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { byPrecision, sameNumbers, type Work } from "../contest.ts";
import { disposeTree } from "../dispose.ts";
import { ours, pythonPeer } from "../environment.ts";
import { withFolder } from "../folder.ts";
import { draws, noise } from "../numbers.ts";
import { contestShape, runContest } from "../suite.ts";
import type { ResNetParameters } from "../workers/resnet.ts";

const options = z.object({
  ...contestShape,
  compile: z.boolean().default(true).describe("leave torch.compile out (it needs a C++ compiler)"),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of our convolutions"),
});

const sizes = { batch: 128, batches: 4, size: 32, channels: 3, momentum: 0.9, decay: 1e-4, rate: 0.05 };

/** Multiply-adds of one picture, forward: every convolution and the head. */
function products({ channels, widths, blocks, classes }: ResNetConfig, size: number): number {
  let [sum, from, side] = [9 * channels * widths[0]! * size * size, widths[0]!, size];
  widths.forEach((width, stage) => {
    if (stage > 0) side /= 2;
    for (let i = 0; i < blocks; i++) {
      sum += 9 * side * side * width * (from + width);
      from = width;
    }
  });
  return sum + from * classes;
}

export const resnet = defineCommand({
  name: "resnet",
  summary: "a training step of ResNet-20 beside PyTorch",
  description:
    "A training step of ResNet-20 on pictures of 32 x 32 beside PyTorch with channels last: forward, backward, SGD with momentum.",
  options,
  async run({ rounds, seconds, alone, compile, precision }, context) {
    const styles = compile ? ["eager", "compile"] : ["eager"];
    const variants = styles.flatMap((style) => ["f32", "bf16"].map((type) => `${style} ${type}`));
    const peers = alone ? [] : variants.map((variant) => pythonPeer("PyTorch", "resnet", variant));
    const sides = { ours: ours("resnet", precision), peers };
    return await withResNetWork((work) => runContest("resnet", [work], sides, { rounds, seconds }, context));
  },
});

type ResNetWork = Work & { readonly parameters: ResNetParameters };

/** Calls `body` with the work; the files that it names are gone afterwards. */
export function withResNetWork<T>(body: (work: ResNetWork) => T | Promise<T>): Promise<T> {
  return withFolder(async (folder) => body(await resNetWork(folder)));
}

/** The work with the weights and pictures that both sides start from, as files in `folder`. */
async function resNetWork(folder: string): Promise<ResNetWork> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const trained = { model: initResNet(resNet20, randomKey(1)), statistics: initResNetStatistics(resNet20) };
  const weights = join(folder, "model.safetensors");
  await saveResNet(trained, weights);
  disposeTree(trained);
  backend.trim();
  const { batch, batches, size, channels } = sizes;
  const draw = draws(2);
  const labels = Int32Array.from({ length: batches * batch }, () => Math.floor(draw() * resNet20.classes));
  const data = join(folder, "batches.bin");
  const pictures = noise(batches * batch * size * size * channels);
  await writeFile(data, Buffer.concat([Buffer.from(pictures.buffer), Buffer.from(labels.buffer)]));
  const parameters: ResNetParameters = { ...sizes, weights, data };
  return {
    name: "resnet20-128x32x32",
    parameters,
    flops: 6 * products(resNet20, size) * batch,
    peak: backend.facts.bf16 ? "bf16" : "f32",
    items: { count: batch, name: "pictures" },
    check: sameNumbers(byPrecision(3e-2), "loss"),
  };
}
