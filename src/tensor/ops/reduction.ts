import { isFloat } from "../dtype.ts";
import { DTypeError } from "../errors.ts";
import { defineOp, type Op, type OpCase } from "../op.ts";
import { normalizeAxes, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { exp, log, where } from "./elementwise.ts";
import { broadcastInDim, broadcastTo, reshape } from "./structure.ts";

export type ReduceKind = "add" | "multiply" | "maximum" | "minimum" | "and" | "or";

export interface ReduceOptions {
  /** Leave the reduced axes in place with size 1. */
  readonly keep?: boolean;
}

const list = (a: unknown): readonly number[] => a as readonly number[];
const inf = Number.POSITIVE_INFINITY;
const grid = (kind: ReduceKind, outputs: number[]): OpCase => ({
  inputs: [{ shape: [2, 3], values: [1, 5, 3, 4, 2, 6] }],
  attributes: { kind, axes: [1] },
  outputs: [outputs],
});

/** Folds axes away. An empty sum is 0, an empty product 1, an empty maximum -inf. */
export const reduceOp: Op = defineOp({
  name: "reduce",
  infer([x], { kind, axes }) {
    const logical = kind === "and" || kind === "or";
    if (logical !== (x!.dtype === "bool"))
      throw new DTypeError(
        `reduce: ${String(kind)} does not work on ${x!.dtype}. Convert with .to("${logical ? "bool" : "i32"}").`,
      );
    return [{ dtype: x!.dtype, shape: x!.shape.filter((_, i) => !list(axes).includes(i)) }];
  },
  gradient({ inputs: [x], outputs: [y], cotangents: [g], attributes }) {
    const kept = x!.shape.map((_, i) => i).filter((i) => !list(attributes.axes).includes(i));
    const spread = (t: Tensor) => broadcastInDim(t, x!.shape, kept);
    switch (attributes.kind as ReduceKind) {
      case "add":
        return [spread(g!)];
      case "maximum":
      case "minimum": {
        // Equal extremes share the gradient.
        const hit = x!.equal(spread(y!)).to(x!.dtype);
        return [hit.mul(spread(g!.div(reduce(hit, "add", list(attributes.axes)))))];
      }
      case "multiply": {
        // The product of the others, by prefix and suffix products, so that zeros are handled exactly.
        const axes = list(attributes.axes);
        const others = productOfOthers(x!, axes);
        return [others.mul(spread(g!))];
      }
      default:
        return [undefined];
    }
  },
  batch: ([x], _b, { kind, axes }) => [
    reduce(
      x!,
      kind as ReduceKind,
      list(axes).map((a) => a + 1),
    ),
  ],
  flops: ([x]) => size(x!.shape),
  cases: [
    grid("add", [9, 12]),
    grid("multiply", [15, 48]),
    grid("maximum", [5, 6]),
    grid("minimum", [1, 2]),
    { inputs: [{ shape: [0, 2] }], attributes: { kind: "add", axes: [0] }, outputs: [[0, 0]] },
    {
      inputs: [{ shape: [0, 2] }],
      attributes: { kind: "maximum", axes: [0] },
      outputs: [[-inf, -inf]],
      differentiable: false,
    },
    { inputs: [{ shape: [7, 5, 33] }], attributes: { kind: "add", axes: [0, 2] } },
    { inputs: [{ shape: [7, 5, 33] }], attributes: { kind: "add", axes: [1] } },
    { inputs: [{ shape: [3, 700] }], attributes: { kind: "add", axes: [1] }, tolerance: 1e-4 },
    { inputs: [{ shape: [700, 3] }], attributes: { kind: "add", axes: [0] }, tolerance: 1e-4 },
    { inputs: [{ shape: [4, 9] }], attributes: { kind: "maximum", axes: [0, 1] } },
    { inputs: [{ shape: [3, 4] }], attributes: { kind: "multiply", axes: [1] } },
    {
      inputs: [{ shape: [2, 2], values: [1, 0, 1, 1], dtype: "bool" }],
      attributes: { kind: "and", axes: [1] },
      outputs: [[0, 1]],
    },
    {
      inputs: [{ shape: [2, 2], values: [1, 0, 0, 0], dtype: "bool" }],
      attributes: { kind: "or", axes: [1] },
      outputs: [[1, 0]],
    },
    {
      inputs: [{ shape: [3], values: [1, 2, 3], dtype: "i32" }],
      attributes: { kind: "add", axes: [0] },
      outputs: [[6]],
    },
  ],
});

function productOfOthers(x: Tensor, axes: readonly number[]): Tensor {
  const zero = x.equal(0);
  const safe = where(zero, 1, x);
  const kept = x.shape.map((_, i) => i).filter((i) => !axes.includes(i));
  const spread = (t: Tensor) => broadcastInDim(t, x.shape, kept);
  const zeros = reduce(zero.to("i32"), "add", axes);
  const product = reduce(safe, "multiply", axes);
  const noZero = spread(product).div(safe);
  // With one zero only that element sees the product of the rest; with two or more all are 0.
  const atZero = where(zero, spread(product), 0);
  return where(spread(zeros).equal(0), noZero, where(spread(zeros).equal(1), atZero, 0));
}

/** Folds the given axes (sorted, unique). */
export function reduce(x: Tensor, kind: ReduceKind, axes: readonly number[]): Tensor {
  return axes.length === 0 ? x : apply1(reduceOp, [x], { kind, axes });
}

function reduceAxes(x: Tensor, kind: ReduceKind, axes: number | readonly number[] | undefined, keep: boolean): Tensor {
  const over = normalizeAxes(`reduce ${kind}`, axes, x.rank);
  const y = reduce(x, kind, over);
  if (!keep) return y;
  return consume(y, (t) =>
    reshape(
      t,
      x.shape.map((d, i) => (over.includes(i) ? 1 : d)),
    ),
  );
}

/** `f(x)` of a value nobody else has: outside a trace it is released, unless it is the result itself. */
function consume(x: Tensor, f: (x: Tensor) => Tensor): Tensor {
  const y = f(x);
  if (y !== x) x.dispose();
  return y;
}

type Axes = number | readonly number[];

export function sum(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "add", axes, keep);
}

export function max(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "maximum", axes, keep);
}

export function min(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "minimum", axes, keep);
}

export function product(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "multiply", axes, keep);
}

export function all(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "and", axes, keep);
}

export function any(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  return reduceAxes(x, "or", axes, keep);
}

export function mean(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  if (!isFloat(x.dtype)) throw new DTypeError(`mean: needs a floating-point tensor, got ${x.dtype}.`);
  const over = normalizeAxes("mean", axes, x.rank);
  const count = over.reduce((n, a) => n * x.shape[a]!, 1);
  if (over.length === 0) return x;
  return consume(reduceAxes(x, "add", over, keep), (total) => total.mul(1 / count));
}

/** Mean squared distance from the mean (divided by n, not n - 1). */
export function variance(x: Tensor, axes?: Axes, options: ReduceOptions = {}): Tensor {
  const centred = x.sub(mean(x, axes, { keep: true }));
  return mean(centred.mul(centred), axes, options);
}

/** log(sum(exp(x))) without overflow. */
export function logSumExp(x: Tensor, axes?: Axes, { keep = false }: ReduceOptions = {}): Tensor {
  const over = normalizeAxes("logSumExp", axes, x.rank);
  const top = max(x, over, { keep: true }).stopGradient();
  const safe = where(top.abs().equal(inf), 0, top);
  const y = log(sum(exp(x.sub(broadcastTo(safe, x.shape))), over, { keep: true })).add(safe);
  return keep
    ? y
    : reshape(
        y,
        x.shape.filter((_, i) => !over.includes(i)),
      );
}
