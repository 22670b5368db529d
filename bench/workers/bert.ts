// What a BERT makes of a batch of whole rows: hidden states and pooled vectors.
import { readFile } from "node:fs/promises";
import { type Bert, loadEncoder } from "../../src/models/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import type { Prepare } from "../worker.ts";

export interface BertParameters {
  readonly batch: number;
  readonly time: number;
  /** A Hugging Face folder. */
  readonly weights: string;
  /** i32 (batch, time) */
  readonly ids: string;
  /** How many of the pooled vectors' numbers are compared. */
  readonly compared: number;
}

export const prepare: Prepare<BertParameters> = async ({ parameters: p, variant }, backend) => {
  const { model } = await loadEncoder(p.weights);
  const bytes = await readFile(p.ids);
  const ids = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const rows = tensor(ids, { shape: [p.batch, p.time] }) as Tensor<"i32">;
  const precision = variant as Precision;
  const forward = jit(
    (m: Bert, x: Tensor<"i32">) => {
      const hidden = m.hidden(x);
      return { hidden, pooled: m.pooled(hidden) };
    },
    { precision, name: "BERT" },
  );
  const bf16 = precision === "bf16" || (precision === "auto" && backend.facts.bf16);
  return {
    about: bf16 ? "bf16" : "f32",
    async step() {
      const out = forward(model, rows);
      const pooled = await out.pooled.data();
      dispose(out);
      return { output: Array.from(pooled.subarray(0, p.compared)) };
    },
  };
};
