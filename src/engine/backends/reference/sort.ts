import { strides } from "../../../tensor/shape.ts";
import { type Call, type Kernels, offsets, others, pick } from "./kernel.ts";

/** Before, after or equal; NaN after everything in both directions. */
function order(a: number, b: number, descending: boolean): number {
  const [x, y] = [Number.isNaN(a), Number.isNaN(b)];
  if (x || y) return Number(x) - Number(y);
  if (a === b) return 0;
  return a < b === descending ? 1 : -1;
}

/** The positions of a line in sorted order; equal keys keep theirs (Array.prototype.sort is stable). */
function permutation(key: (k: number) => number, n: number, descending: boolean): number[] {
  return Array.from({ length: n }, (_, k) => k).sort((a, b) => order(key(a), key(b), descending));
}

/** Sorts all operands along an axis by the first one. */
function sort({ inputs, outputs, attributes }: Call): void {
  const axis = attributes.axis as number;
  const { shape, data: keys } = inputs[0]!;
  const step = strides(shape);
  const kept = others(shape.length, [axis]);
  const n = shape[axis]!;
  const stride = step[axis]!;
  for (const base of offsets(pick(shape, kept), pick(step, kept))) {
    const moved = permutation((k) => keys[base + k * stride]!, n, attributes.descending === true);
    inputs.forEach((x, i) => {
      const line = moved.map((k) => x.data[base + k * stride]!);
      line.forEach((value, k) => {
        outputs[i]!.data[base + k * stride] = value;
      });
    });
  }
}

/** The k largest of the last axis, largest first, and their positions. */
function topK({ inputs: [x], outputs: [values, indices], attributes }: Call): void {
  const k = attributes.k as number;
  const n = x!.shape[x!.shape.length - 1]!;
  for (let row = 0; row * k < values!.data.length; row++) {
    const best = permutation((i) => x!.data[row * n + i]!, n, true);
    for (let i = 0; i < k; i++) {
      values!.data[row * k + i] = x!.data[row * n + best[i]!]!;
      indices!.data[row * k + i] = best[i]!;
    }
  }
}

export const sortKernels: Kernels = { sort, top_k: topK };
