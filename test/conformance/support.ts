import { mulberry32 } from "../../bench/random.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { type DType, isFloat } from "../../src/tensor/dtype.ts";
import type { Attributes } from "../../src/tensor/graph.ts";
import type { CaseInput } from "../../src/tensor/op.ts";
import { installRuntime, type Runtime } from "../../src/tensor/runtime.ts";
import { size } from "../../src/tensor/shape.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { NaiveRuntime } from "../helpers/naive-runtime.ts";

/** Plain numbers with a shape and a dtype: what a case is made of before it is put on a backend. */
export interface Plain {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** Repeatable uniform numbers in [0, 1) (mulberry32), seeded by a text. */
export function generator(seed: string): () => number {
  let state = 0;
  for (const c of seed) state = Math.imul(state ^ c.charCodeAt(0), 0x01000193) >>> 0;
  return mulberry32(state);
}

/** The input of a case; `float` replaces f32. Without values: uniform in [low, high), by default [-1, 1), whole numbers in [0, 8). */
export function materialize(input: CaseInput, next: () => number, float: DType = "f32"): Plain {
  const declared = input.dtype ?? "f32";
  const dtype = declared === "f32" ? float : declared;
  if (input.values) return { dtype, shape: input.shape, values: input.values };
  const real = isFloat(dtype);
  const [low, high] = [input.low ?? (real ? -1 : 0), input.high ?? (real ? 1 : dtype === "bool" ? 2 : 8)];
  const draw = () => low + (high - low) * next();
  return {
    dtype,
    shape: input.shape,
    values: Array.from({ length: size(input.shape) }, () => (real ? draw() : Math.floor(draw()))),
  };
}

/** The attributes of a case with f32 replaced by another float. */
export function withFloat(attributes: Attributes | undefined, float: DType): Attributes {
  return attributes?.dtype === "f32" ? { ...attributes, dtype: float } : (attributes ?? {});
}

export function put(plain: Plain): Tensor {
  return tensor(plain.values, { dtype: plain.dtype, shape: plain.shape });
}

export async function take(t: Tensor): Promise<Plain> {
  return { dtype: t.dtype, shape: t.shape, values: await t.numbers() };
}

/** Runs `body` on plain inputs with `runtime` installed; everything it makes is released. */
export async function evaluate(
  runtime: Runtime,
  inputs: readonly Plain[],
  body: (inputs: Tensor[]) => readonly Tensor[],
): Promise<Plain[]> {
  const before = installRuntime(runtime);
  const given = inputs.map(put);
  let results: readonly Tensor[] = [];
  try {
    results = body(given);
    return await Promise.all(results.map(take));
  } finally {
    dispose(given);
    dispose(results);
    if (before) installRuntime(before);
  }
}

export const reference: Runtime = new NaiveRuntime(new ReferenceBackend());

/**
 * The first difference between two lists of results that is more than the tolerance, in words. The tolerance is relative to the
 * element, and for small ones to the size of the whole result (at most 1), since sums cancel; to `atLeast` if that is more (`whole`: to the
 * largest element, but at least 1).
 */
export function difference(
  got: readonly Plain[],
  wanted: readonly Plain[],
  tolerance: number,
  atLeast: number | "whole" = 0,
): string | undefined {
  if (got.length !== wanted.length) return `${got.length} results instead of ${wanted.length}`;
  for (const [k, w] of wanted.entries()) {
    const g = got[k]!;
    if (g.dtype !== w.dtype || g.shape.join() !== w.shape.join())
      return `result ${k} is ${g.dtype}(${g.shape}) instead of ${w.dtype}(${w.shape})`;
    const finite = w.values.filter(Number.isFinite).map(Math.abs);
    const largest = finite.reduce((a, b) => Math.max(a, b), 0);
    const scale = atLeast === "whole" ? Math.max(1, largest) : Math.max(atLeast, Math.min(1, largest));
    for (const [i, y] of w.values.entries()) {
      const x = g.values[i]!;
      if (Object.is(x, y) || x === y) continue;
      const far = isFloat(w.dtype) ? !(Math.abs(x - y) <= tolerance * Math.max(scale, Math.abs(y))) : true;
      if (far) return `result ${k}[${i}] is ${x} instead of ${y}`;
    }
  }
  return undefined;
}
