import { DTypeError } from "../errors.ts";
import { defineOp, type Op, type OpCase } from "../op.ts";
import { normalizeAxis, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { iota } from "./creation.ts";
import { compare, where } from "./elementwise.ts";
import { addAlongAxis } from "./sort.ts";
import { concatenate, pad, reverse, sliceAxis } from "./structure.ts";

export type CumulativeKind = "add" | "multiply" | "maximum" | "minimum";

/** x moved by `by` places toward the front of an axis (toward the end if negative), `fill` coming in. */
function shift(x: Tensor, axis: number, by: number, fill: number): Tensor {
  const n = x.shape[axis]!;
  const step = Math.min(Math.abs(by), n);
  const kept = by > 0 ? sliceAxis(x, axis, step, n) : sliceAxis(x, axis, 0, n - step);
  const ends = x.shape.map((_, i) => (i === axis ? step : 0));
  const none = ends.map(() => 0);
  return by > 0 ? pad(kept, fill, none, ends) : pad(kept, fill, ends, none);
}

/** s[i] = b[i] + a[i] s[i + 1] along an axis, in log2 n rounds of doubling. */
function recurrence(a: Tensor, b: Tensor, axis: number): Tensor {
  for (let d = 1; d < b.shape[axis]!; d *= 2) {
    b = b.add(a.mul(shift(b, axis, d, 0)));
    a = a.mul(shift(a, axis, d, 0));
  }
  return b;
}

/** Gradient of a running product without a division, so that zeros are exact: the product before i times what follows from i. */
function productGradient(x: Tensor, y: Tensor, g: Tensor, axis: number): Tensor {
  const before = shift(y, axis, -1, 1);
  return before.mul(recurrence(shift(x, axis, 1, 0), g, axis));
}

/** Gradient of a running maximum: each result goes to the first element that set it. */
function extremeGradient(x: Tensor, y: Tensor, g: Tensor, kind: CumulativeKind, axis: number): Tensor {
  const n = x.shape[axis]!;
  const place = iota(x.shape, axis);
  const before = concatenate([sliceAxis(x, axis, 0, 1), sliceAxis(y, axis, 0, n - 1)], axis);
  const sets = compare(x, before, kind === "maximum" ? "GT" : "LT");
  const setter = cumulative(where(sets, place, 0), "maximum", axis);
  return addAlongAxis(g, setter, axis, n);
}

const line = (kind: CumulativeKind, outputs: number[], more: Partial<OpCase> & { reverse?: boolean } = {}): OpCase => ({
  inputs: [{ shape: [4], values: [3, 1, 0, 5] }],
  attributes: { kind, axis: 0, reverse: more.reverse ?? false },
  outputs: [outputs],
});

/** The fold of all elements up to each one along an axis; with `reverse`, of all from it on. */
export const cumulativeOp: Op = defineOp({
  name: "cumulative",
  infer([x], { kind }) {
    if (x!.dtype === "bool")
      throw new DTypeError(
        `cumulative: ${String(kind)} does not work on bool${show(x!.shape)}. Convert with .to("i32").`,
      );
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  gradient({ inputs: [x], outputs: [y], cotangents: [g], attributes }) {
    const kind = attributes.kind as CumulativeKind;
    const axis = attributes.axis as number;
    if (kind === "add") return [cumulative(g!, "add", axis, !attributes.reverse)];
    if (x!.size === 0) return [g];
    const turn = (t: Tensor) => (attributes.reverse ? reverse(t, [axis]) : t);
    const rule = kind === "multiply" ? productGradient : extremeGradient;
    return [
      turn(
        rule === productGradient
          ? productGradient(turn(x!), turn(y!), turn(g!), axis)
          : extremeGradient(turn(x!), turn(y!), turn(g!), kind, axis),
      ),
    ];
  },
  batch: ([x], _b, { kind, axis, reverse: back }) => [
    cumulative(x!, kind as CumulativeKind, (axis as number) + 1, back === true),
  ],
  flops: ([x]) => size(x!.shape),
  cases: [
    line("add", [3, 4, 4, 9]),
    line("add", [9, 6, 5, 5], { reverse: true }),
    line("multiply", [3, 3, 0, 0]),
    line("multiply", [0, 0, 0, 5], { reverse: true }),
    line("maximum", [3, 3, 3, 5]),
    line("minimum", [3, 1, 0, 0]),
    line("maximum", [5, 5, 5, 5], { reverse: true }),
    {
      inputs: [{ shape: [3], values: [2147483647, 1, 1], dtype: "i32" }],
      attributes: { kind: "add", axis: 0, reverse: false },
      outputs: [[2147483647, -2147483648, -2147483647]],
    },
    ...(["add", "multiply", "maximum", "minimum"] as const).flatMap((kind): OpCase[] => [
      { inputs: [{ shape: [3, 7, 2] }], attributes: { kind, axis: 1, reverse: false } },
      { inputs: [{ shape: [4, 5] }], attributes: { kind, axis: 1, reverse: true } },
    ]),
    { inputs: [{ shape: [2, 0] }], attributes: { kind: "multiply", axis: 1, reverse: false } },
    { inputs: [{ shape: [3, 300] }], attributes: { kind: "add", axis: 1, reverse: false }, tolerance: 1e-4 },
  ],
});

export function cumulative(x: Tensor, kind: CumulativeKind, axis: number, back = false): Tensor {
  return apply1(cumulativeOp, [x], { kind, axis: normalizeAxis("cumulative", axis, x.rank), reverse: back });
}

export interface CumulativeOptions {
  /** From the end: each element sees itself and those after it. */
  readonly reverse?: boolean;
}

export function cumsum(x: Tensor, axis = -1, options: CumulativeOptions = {}): Tensor {
  return cumulative(x, "add", axis, options.reverse);
}

export function cumprod(x: Tensor, axis = -1, options: CumulativeOptions = {}): Tensor {
  return cumulative(x, "multiply", axis, options.reverse);
}

export function cummax(x: Tensor, axis = -1, options: CumulativeOptions = {}): Tensor {
  return cumulative(x, "maximum", axis, options.reverse);
}

export function cummin(x: Tensor, axis = -1, options: CumulativeOptions = {}): Tensor {
  return cumulative(x, "minimum", axis, options.reverse);
}
