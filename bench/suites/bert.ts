import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { bertBase, initBert, saveEncoder } from "../../src/models/index.ts";
import { BackendError, InputError } from "../../src/tensor/errors.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { byPrecision, type Outcome, type Work } from "../contest.ts";
import { disposeTree } from "../dispose.ts";
import { ours, pythonPeer } from "../environment.ts";
import { withFolder } from "../folder.ts";
import { draws } from "../numbers.ts";
import { contestShape, runContest } from "../suite.ts";
import type { BertParameters } from "../workers/bert.ts";

const options = z.object({
  ...contestShape,
  compile: z.boolean().default(true).describe("leave torch.compile out (it needs a C++ compiler)"),
  onnx: z.boolean().default(true).describe("leave onnxruntime out (it needs onnx and onnxscript for the export)"),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of our matmuls"),
});

const sizes = { batch: 32, time: 128, compared: 256 };

export const bert = defineCommand({
  name: "bert",
  summary: "BERT-base reading a batch beside PyTorch and onnxruntime",
  description:
    "BERT-base over 32 rows of 128 tokens, hidden states and pooled vectors, beside transformers under PyTorch and beside onnxruntime.",
  options,
  async run({ rounds, seconds, alone, compile, onnx, precision }, context) {
    const styles = compile ? ["eager", "compile"] : ["eager"];
    // Weights in f32, in f32 under bf16 autocast, and in bf16.
    const variants = styles.flatMap((style) => ["f32", "autocast bf16", "bf16"].map((type) => `${style} ${type}`));
    const peers = alone
      ? []
      : [
          ...variants.map((variant) => pythonPeer("PyTorch", "bert", variant)),
          ...(onnx ? [pythonPeer("onnxruntime", "bert_onnx", "f32")] : []),
        ];
    const sides = { ours: ours("bert", precision), peers };
    return await withBertWork((work) => runContest("bert", [work], sides, { rounds, seconds }, context));
  },
});

type BertWork = Work & { readonly parameters: BertParameters };

/** Calls `body` with the work; the files that it names are gone afterwards. */
export function withBertWork<T>(body: (work: BertWork) => T | Promise<T>): Promise<T> {
  return withFolder(async (folder) => body(await bertWork(folder)));
}

/** Whether the first pooled vectors are the same, relative to the largest number. */
function check(ours: Outcome, peer: Outcome): void {
  const allowed = byPrecision(4e-2)(ours, peer) * 3;
  const [mine, theirs] = [ours.outputs[0], peer.outputs[0]] as [number[], number[]];
  const scale = Math.max(...theirs.map(Math.abs));
  const worst = Math.max(...theirs.map((x, i) => Math.abs(x - mine[i]!)));
  if (mine.length !== theirs.length || !(worst <= allowed * scale))
    throw new InputError(
      `The two sides do not do the same work: the pooled vectors of ${peer.name} differ from ours by ${worst}, the largest number is ${scale}.`,
    );
}

/** The work with the weights and tokens that all sides start from, as files in `folder`. */
async function bertWork(folder: string): Promise<BertWork> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const model = initBert(bertBase, randomKey(1));
  await saveEncoder(model, folder);
  disposeTree(model);
  backend.trim();
  const { batch, time } = sizes;
  const draw = draws(3);
  const ids = Int32Array.from({ length: batch * time }, () => 1000 + Math.floor(draw() * 20000));
  const file = join(folder, "ids.bin");
  await writeFile(file, new Uint8Array(ids.buffer));
  const parameters: BertParameters = { ...sizes, weights: folder, ids: file };
  const { layers, width, mlpWidth } = bertBase;
  return {
    name: `bert-base-${batch}x${time}`,
    parameters,
    // Projections and feed-forward part, then the scores and what they weigh.
    flops: layers * batch * time * (2 * (4 * width * width + 2 * width * mlpWidth) + 4 * time * width),
    peak: backend.facts.bf16 ? "bf16" : "f32",
    items: { count: batch, name: "rows" },
    check,
  };
}
