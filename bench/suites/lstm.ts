import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { hostTensor, writeSafetensors } from "../../src/checkpoint/index.ts";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend } from "../../src/engine/index.ts";
import { byPrecision, sameNumbers, type Work } from "../contest.ts";
import { ours, pythonPeer } from "../environment.ts";
import { withFolder } from "../folder.ts";
import { noise } from "../numbers.ts";
import { contestShape, runContest } from "../suite.ts";
import type { LSTMParameters } from "../workers/lstm.ts";

const options = z.object({
  ...contestShape,
  compile: z.boolean().default(true).describe("leave torch.compile out (it needs a C++ compiler)"),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of our matmuls"),
});

const sizes = { layers: 2, width: 512, time: 128, batch: 32, momentum: 0.9, rate: 1 };

export const lstm = defineCommand({
  name: "lstm",
  summary: "a training step of an LSTM beside PyTorch",
  description:
    "A training step of an LSTM, 2 layers of 512 over 32 sequences of 128 steps, beside PyTorch's nn.LSTM: forward, backward, SGD with momentum.",
  options,
  async run({ rounds, seconds, alone, compile, precision }, context) {
    const styles = compile ? ["eager", "compile"] : ["eager"];
    const variants = styles.flatMap((style) => ["f32", "bf16"].map((type) => `${style} ${type}`));
    const peers = alone ? [] : variants.map((variant) => pythonPeer("PyTorch", "lstm", variant));
    const sides = { ours: ours("lstm", precision), peers };
    return withFolder(async (folder) =>
      runContest("lstm", [await lstmWork(folder)], sides, { rounds, seconds }, context),
    );
  },
});

/** The work with the weights and numbers that both sides start from, as files in `folder`. */
async function lstmWork(folder: string): Promise<Work> {
  const { layers, width, time, batch } = sizes;
  const deviation = 1 / Math.sqrt(3 * width); // that of a uniform distribution in +-1 / sqrt(width)
  let seed = 0;
  const weight = (shape: readonly number[]) => {
    const numbers = noise(
      shape.reduce((a, b) => a * b, 1),
      ++seed,
    );
    return hostTensor(
      "f32",
      shape,
      numbers.map((x) => x * deviation),
    );
  };
  const tensors = Array.from({ length: layers }, (_, i) => [
    [`weight_ih_l${i}`, weight([4 * width, width])] as const,
    [`weight_hh_l${i}`, weight([4 * width, width])] as const,
    [`bias_ih_l${i}`, weight([4 * width])] as const,
    [`bias_hh_l${i}`, weight([4 * width])] as const,
  ]).flat();
  const weights = join(folder, "model.safetensors");
  await writeSafetensors(weights, new Map(tensors));
  const data = join(folder, "data.bin");
  await writeFile(data, new Uint8Array(noise(2 * time * batch * width, 99).buffer));
  const parameters: LSTMParameters = { ...sizes, weights, data };
  const native = loadNativeBackend();
  return {
    name: `lstm-${layers}x${width}-${time}x${batch}`,
    parameters,
    // The gradient by the input of the first layer is not asked for.
    flops: (6 * 2 * layers - 2) * 4 * width * width * time * batch,
    peak: !("missing" in native) && native.facts.bf16 ? "bf16" : "f32",
    items: { count: time * batch, name: "steps" },
    check: sameNumbers(byPrecision(), "loss"),
  };
}
