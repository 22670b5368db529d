import type { DType } from "../../../tensor/dtype.ts";
import type { Attributes } from "../../../tensor/graph.ts";
import type { Shape } from "../../../tensor/shape.ts";

/** Elements as JavaScript numbers. Storing into one rounds (f32) or wraps (integers) to the element type. */
export type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array | Int8Array;

/** One input or output of a kernel. bf16 and f16 come decoded to f32, and results are encoded when the kernel is done. */
export interface Operand {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: Numbers;
  /** The bytes themselves, for ops on bit patterns. */
  readonly bytes: Uint8Array;
}

export interface Call {
  readonly inputs: readonly Operand[];
  readonly outputs: readonly Operand[];
  readonly attributes: Attributes;
  /** The type that operands of matrix products are rounded to. */
  readonly matmul: "f32" | "bf16";
}

/**
 * Computes the outputs of one op. Where the op allows it in place, an output may be the same memory as an input, so element-wise
 * kernels read position i before they write it.
 */
export type Kernel = (call: Call) => void;

export type Kernels = Readonly<Record<string, Kernel>>;

export const list = (attribute: unknown): readonly number[] => attribute as readonly number[];

/**
 * The position of each element of a row-major walk over `shape` in a memory with the given strides: the whole of indexing. A stride
 * of 0 repeats, a negative one runs backwards.
 */
export function offsets(shape: Shape, strides: readonly number[], start = 0): Int32Array {
  let count = 1;
  for (const d of shape) count *= d;
  const out = new Int32Array(count);
  if (count === 0) return out;
  out[0] = start;
  // From the innermost axis outwards, each step repeats what is there at the next positions of that axis.
  let filled = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = shape[axis]!;
    const stride = strides[axis]!;
    for (let i = 1; i < n; i++) {
      const shift = i * stride;
      for (let k = 0; k < filled; k++) out[i * filled + k] = out[k]! + shift;
    }
    filled *= n;
  }
  return out;
}

/** The elements `axes` of a list. */
export function pick(values: readonly number[], axes: readonly number[]): number[] {
  return axes.map((a) => values[a]!);
}

/** The axes of a rank that are not in `axes`. */
export function others(rank: number, axes: readonly number[]): number[] {
  return Array.from({ length: rank }, (_, i) => i).filter((i) => !axes.includes(i));
}
