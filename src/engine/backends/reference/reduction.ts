import { type DType, isFloat } from "../../../tensor/dtype.ts";
import { strides } from "../../../tensor/shape.ts";
import { type Call, type Kernels, list, offsets, others, pick } from "./kernel.ts";

export interface Fold {
  readonly start: number;
  readonly step: (accumulated: number, x: number) => number;
}

/** The smallest value of a dtype, and the largest: where a maximum and a minimum start. */
export function extremes(dtype: DType): readonly [number, number] {
  switch (dtype) {
    case "i32":
      return [-2147483648, 2147483647];
    case "u8":
      return [0, 255];
    case "i8":
      return [-128, 127];
    case "bool":
      return [0, 1];
    default:
      return [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  }
}

/** How a kind of reduction combines; integers wrap at every step as 32-bit numbers, and to fewer bits when stored. */
export function fold(kind: string, dtype: DType): Fold {
  const float = isFloat(dtype);
  switch (kind) {
    case "add":
      return { start: 0, step: float ? (a, x) => a + x : (a, x) => (a + x) | 0 };
    case "multiply":
      return { start: 1, step: float ? (a, x) => a * x : Math.imul };
    case "maximum":
      return { start: extremes(dtype)[0], step: Math.max };
    case "minimum":
      return { start: extremes(dtype)[1], step: Math.min };
    case "and":
      return { start: 1, step: (a, x) => a & x };
    case "or":
      return { start: 0, step: (a, x) => a | x };
    default:
      throw new RangeError(`There is no reduction named ${kind}.`);
  }
}

function reduce({ inputs: [x], outputs: [y], attributes }: Call): void {
  const axes = list(attributes.axes);
  const kept = others(x!.shape.length, axes);
  const step = strides(x!.shape);
  const bases = offsets(pick(x!.shape, kept), pick(step, kept));
  const within = offsets(pick(x!.shape, axes), pick(step, axes));
  const { start, step: combine } = fold(attributes.kind as string, x!.dtype);
  const [from, to] = [x!.data, y!.data];
  for (let i = 0; i < bases.length; i++) {
    const base = bases[i]!;
    let total = start;
    for (let k = 0; k < within.length; k++) total = combine(total, from[base + within[k]!]!);
    to[i] = total;
  }
}

/** y[i] = x[0] + ... + x[i] along an axis (or from the end), and the same for products, maxima and minima. */
function cumulative({ inputs: [x], outputs: [y], attributes }: Call): void {
  const axis = attributes.axis as number;
  const kept = others(x!.shape.length, [axis]);
  const step = strides(x!.shape);
  const bases = offsets(pick(x!.shape, kept), pick(step, kept));
  const n = x!.shape[axis]!;
  const { start, step: combine } = fold(attributes.kind as string, x!.dtype);
  for (const base of bases) {
    let total = start;
    for (let k = 0; k < n; k++) {
      const at = base + (attributes.reverse ? n - 1 - k : k) * step[axis]!;
      total = combine(total, x!.data[at]!);
      y!.data[at] = total;
    }
  }
}

/** The place of the largest element along an axis; the first of equals. NaN counts as larger than everything. */
function argmax({ inputs: [x], outputs: [y], attributes }: Call): void {
  const axis = attributes.axis as number;
  const kept = others(x!.shape.length, [axis]);
  const step = strides(x!.shape);
  const bases = offsets(pick(x!.shape, kept), pick(step, kept));
  const n = x!.shape[axis]!;
  bases.forEach((base, i) => {
    let best = 0;
    for (let k = 1; k < n; k++) {
      const [top, next] = [x!.data[base + best * step[axis]!]!, x!.data[base + k * step[axis]!]!];
      if (next > top || (Number.isNaN(next) && !Number.isNaN(top))) best = k;
    }
    y!.data[i] = best;
  });
}

export const reductionKernels: Kernels = { reduce, cumulative, argmax };
