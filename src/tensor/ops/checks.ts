// What the ops of several families ask of their operands.
import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Aval } from "../graph.ts";
import { type Shape, sameShape, show } from "../shape.ts";

/** The same dtype and shape. */
export const like = (x: Aval): Aval => ({ dtype: x.dtype, shape: x.shape });

/** Refuses operands that are not floating-point of one dtype. */
export function needFloat(op: string, ...avals: readonly (Aval | undefined)[]): void {
  const first = avals[0]!;
  for (const a of avals)
    if (a && (!isFloat(a.dtype) || a.dtype !== first.dtype))
      throw new DTypeError(
        `${op}: needs floating-point tensors of one dtype, got ${avals.map((x) => `${x!.dtype}${show(x!.shape)}`).join(", ")}.`,
      );
}

export function needShape(op: string, what: string, aval: Aval, shape: Shape): void {
  if (!sameShape(aval.shape, shape))
    throw new ShapeError(`${op}: ${what} must be ${show(shape)}, got ${show(aval.shape)}.`);
}

export function needIndices(op: string, what: string, aval: Aval): void {
  if (aval.dtype !== "i32") throw new DTypeError(`${op}: ${what} must be i32, got ${aval.dtype}${show(aval.shape)}.`);
}
