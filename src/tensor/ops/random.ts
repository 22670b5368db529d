import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp, type Op } from "../op.ts";
import { type Shape, show } from "../shape.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { cos, log, shiftRightLogical, sqrt, where, xor } from "./elementwise.ts";
import { concatenate, reshape, sliceAxis, stack } from "./structure.ts";

/**
 * 32 random bits per element by Philox4x32-10 (Salmon et al. 2011): the counter of element 4i + j is (i, 0, 0, 0), the result its word j.
 * The same bits on every backend and for any number of threads.
 */
export const randomBitsOp: Op = defineOp({
  name: "random_bits",
  infer([key], { shape }) {
    checkKey("random_bits", key!);
    return [{ dtype: "i32", shape: shape as Shape }];
  },
  gradient: () => [undefined],
  // Each element has a key of its own, and with it its own sequence of counters.
  batch: ([keys], _b, { shape }, n) => [
    stack(Array.from({ length: n }, (_, i) => randomBits(reshape(sliceAxis(keys!, 0, i, i + 1), [2]), shape as Shape))),
  ],
  cases: [
    {
      inputs: [{ shape: [2], values: [0, 0], dtype: "i32" }],
      attributes: { shape: [4] },
      // Random123's known answers for counter 0 and key 0.
      outputs: [[0x6627e8d5, 0xe169c58d | 0, 0xbc57ac4c | 0, 0x9b00dbd8 | 0]],
    },
    { inputs: [{ shape: [2], values: [123, -456], dtype: "i32" }], attributes: { shape: [3, 7] } },
    { inputs: [{ shape: [2], values: [1, 2], dtype: "i32" }], attributes: { shape: [2, 700] } },
  ],
});

function checkKey(op: string, key: { dtype: string; shape: Shape }): void {
  if (key.dtype !== "i32" || key.shape.length !== 1 || key.shape[0] !== 2)
    throw new DTypeError(
      `${op}: a random key is i32(2), got ${key.dtype}${show(key.shape)}. Make one with randomKey(seed).`,
    );
}

/** A key from a seed (a whole number up to 2^53). Keys are values: use each once, and split it to get more. */
export function randomKey(seed: number): Tensor<"i32"> {
  if (!Number.isSafeInteger(seed)) throw new ShapeError(`randomKey: the seed must be a whole number, got ${seed}.`);
  return tensor(Int32Array.of(seed | 0, Math.floor(seed / 2 ** 32) | 0));
}

/** `n` independent keys from one. */
export function splitKey(key: Tensor, n = 2): Tensor<"i32">[] {
  const bits = apply1(randomBitsOp, [key], { shape: [n, 2] });
  return Array.from({ length: n }, (_, i) => reshape(sliceAxis(bits, 0, i, i + 1), [2]) as Tensor<"i32">);
}

/** A key that depends on `data` (an i32 scalar, such as the step) as well. */
export function foldIn(key: Tensor, data: Tensor): Tensor<"i32"> {
  const mixed = xor(key, concatenate([reshape(data, [1]), reshape(data.mul(0x9e3779b1 | 0), [1])], 0));
  return reshape(apply1(randomBitsOp, [mixed], { shape: [2] }), [2]) as Tensor<"i32">;
}

export function randomBits(key: Tensor, shape: Shape): Tensor<"i32"> {
  return apply1(randomBitsOp, [key], { shape }) as Tensor<"i32">;
}

/** Bits as numbers in [0, 1): the top 24, so that every value is exact in f32. */
export function bitsToUniform(bits: Tensor, dtype: "f32" | "f64" = "f32"): Tensor {
  return shiftRightLogical(bits, 8)
    .to(dtype)
    .mul(2 ** -24);
}

/** Uniform in [low, high). */
export function uniform(key: Tensor, shape: Shape, low = 0, high = 1): Tensor<"f32"> {
  return bitsToUniform(randomBits(key, shape))
    .mul(high - low)
    .add(low) as Tensor<"f32">;
}

/** Standard normal, by Box & Muller (1958). */
export function normal(key: Tensor, shape: Shape): Tensor<"f32"> {
  const u = uniform(key, [2, ...shape]);
  const part = (i: number) => reshape(sliceAxis(u, 0, i, i + 1), shape);
  // 1 - u lies in (0, 1], so the log is finite.
  return sqrt(log(part(0).neg().add(1)).mul(-2)).mul(cos(part(1).mul(2 * Math.PI))) as Tensor<"f32">;
}

/** True with probability p. */
export function bernoulli(key: Tensor, shape: Shape, p: number): Tensor<"bool"> {
  return uniform(key, shape).less(p);
}

/** Minus the log of an exponential variable: the noise whose argmax draws from a softmax. */
export function gumbel(key: Tensor, shape: Shape): Tensor<"f32"> {
  const u = bitsToUniform(randomBits(key, shape)).add(2 ** -25);
  return log(log(u).neg()).neg() as Tensor<"f32">;
}

/**
 * Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate). Srivastava et al. 2014. The mask is a function of
 * the key and the position, so it is computed again for the gradient instead of being stored.
 */
export function dropout(x: Tensor, key: Tensor, rate: number): Tensor {
  if (!(rate >= 0 && rate < 1)) throw new ShapeError(`dropout: the rate must be in [0, 1), got ${rate}.`);
  if (rate === 0) return x;
  const keep = uniform(key, x.shape).greaterEqual(rate);
  return where(keep, x.mul(1 / (1 - rate)), 0);
}
