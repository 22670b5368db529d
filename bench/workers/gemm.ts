// Products of matrices by a compiled program whose result lies in a buffer that stays.
import { lower } from "../../src/engine/index.ts";
import { bytesPerElement } from "../../src/tensor/dtype.ts";
import { traceCall } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import type { Prepare } from "../worker.ts";

export interface GemmParameters {
  readonly dtype: "f32" | "bf16";
  /** Which operand is stored transposed. */
  readonly layout: "NN" | "NT" | "TN";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Products in a step. */
  readonly repeat: number;
}

/** The same numbers as in peers/gemm.py. */
const numbers = (count: number, step: number) =>
  Float32Array.from({ length: count }, (_, i) => (((i * step) % 201) - 100) / 64);

export const prepare: Prepare<GemmParameters> = async ({ parameters }, backend) => {
  const { dtype, layout, m, n, k, repeat } = parameters;
  const buffer = (data: Float32Array<ArrayBuffer>) =>
    dtype === "f32" ? backend.upload(data, "f32") : backend.upload(bfloat16(data), "bf16");
  const [tall, wide] = [layout === "TN" ? [k, m] : [m, k], layout === "NT" ? [n, k] : [k, n]];
  const a = buffer(numbers(m * k, 37));
  const b = buffer(numbers(k * n, 53));
  using x = tensor(new Float32Array(1))
    .to(dtype)
    .broadcastTo(tall as [number, number]);
  using y = tensor(new Float32Array(1))
    .to(dtype)
    .broadcastTo(wide as [number, number]);
  const multiply = (p: Tensor, q: Tensor) =>
    (layout === "TN" ? p.transpose() : p).matmul(layout === "NT" ? q.transpose() : q);
  const { graph } = traceCall(multiply, [x, y]);
  const bf16 = dtype === "bf16" && backend.facts.bf16;
  const executable = backend.compile(lower(graph, backend, { matmul: bf16 ? "bf16" : "f32" }));
  const c = backend.allocate(m * n * bytesPerElement(dtype));
  executable.run([a, b], [c]);
  const result = await backend.download(c, dtype, m * n);
  let squares = 0;
  for (const value of dtype === "bf16" ? widen(result as Uint16Array) : (result as Float32Array))
    squares += value * value;
  return {
    about: `${bf16 ? "bf16" : "f32"} products of ${dtype}`,
    async step() {
      for (let i = 0; i < repeat; i++) executable.run([a, b], [c]);
      await backend.sync();
      return { output: squares };
    },
    close() {
      executable.release();
      for (const one of [a, b, c]) backend.release(one);
    },
  };
};

/** The upper halves: the numbers above are exact in bf16. */
const bfloat16 = (data: Float32Array<ArrayBuffer>) =>
  Uint16Array.from(new Uint32Array(data.buffer), (word) => word >>> 16);

const widen = (data: Uint16Array) => new Float32Array(Uint32Array.from(data, (half) => half << 16).buffer);
