// A training step of a GPT, from the weights and batches of the suite `gpt`.
import { readFile } from "node:fs/promises";
import { type GPT, loadModel } from "../../src/models/index.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { trainer } from "../step.ts";
import type { Prepare } from "../worker.ts";
import type { GPTWork } from "../works.ts";

export interface GPTParameters {
  readonly work: GPTWork;
  readonly training: Readonly<Record<string, number>>;
  /** A Hugging Face folder. */
  readonly weights: string;
  /** `batches` of works.ts, as a file of i32. */
  readonly batches: string;
}

export const prepare: Prepare<GPTParameters> = async ({ parameters, variant }, backend) => {
  const { model } = await loadModel(parameters.weights);
  const bytes = await readFile(parameters.batches);
  const data = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const precision = variant as Precision;
  const run = trainer(parameters.work, model as GPT, data, backend, precision);
  const bf16 = precision === "bf16" || (precision === "auto" && backend.facts.bf16);
  return { about: bf16 ? "bf16" : "f32", step: async () => ({ output: await run.step() }) };
};
