import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp, type Op } from "../op.ts";
import { normalizeAxis, sameShape, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { iota, zeros } from "./creation.ts";
import { not } from "./elementwise.ts";
import { gather, moveAxis, scatter } from "./indexing.ts";
import { broadcastTo, concatenate, reshape } from "./structure.ts";

/** Row number and column of each element of `indices` (..., k), as rows of a list (rows * k, 2). */
function pairs(indices: Tensor): Tensor {
  const k = indices.shape[indices.rank - 1]!;
  const flat = reshape(indices, [indices.size / Math.max(k, 1), k]);
  const rows = reshape(iota(flat.shape, 0), [-1, 1]);
  return concatenate([rows, reshape(flat, [-1, 1])], 1);
}

/** y[..., i, ...] = x[..., indices[..., i, ...], ...]: as NumPy's `take_along_axis`. Shapes agree except along the axis. */
export function takeAlongAxis(x: Tensor, indices: Tensor, axis = -1): Tensor {
  const a = checkAlong("takeAlongAxis", x, indices, axis);
  if (indices.size === 0) return zeros(indices.shape, x.dtype);
  const [last, at] = [moveAxis(x, a, -1), moveAxis(indices, a, -1)];
  const n = last.shape[last.rank - 1]!;
  const y = gather(reshape(last, [last.size / n, n]), pairs(at), {
    offset_dims: [],
    collapsed_slice_dims: [0, 1],
    start_index_map: [0, 1],
    index_vector_dim: 1,
    slice_sizes: [1, 1],
  });
  return moveAxis(reshape(y, at.shape), -1, a);
}

/** Adds `updates` into zeros that are `n` long along the axis, at `indices`: the transpose of `takeAlongAxis`. */
export function addAlongAxis(updates: Tensor, indices: Tensor, axis: number, n: number): Tensor {
  const a = checkAlong("addAlongAxis", updates, indices, axis);
  const [last, at] = [moveAxis(updates, a, -1), moveAxis(indices, a, -1)];
  const lead = last.shape.slice(0, -1);
  const rows = lead.reduce((m, d) => m * d, 1);
  if (updates.size === 0) return zeros(updates.shape.with(a, n), updates.dtype);
  const y = scatter(zeros([rows, n], updates.dtype), pairs(at), reshape(last, [-1]), "add", {
    update_window_dims: [],
    inserted_window_dims: [0, 1],
    scatter_dims_to_operand_dims: [0, 1],
    index_vector_dim: 1,
  });
  return moveAxis(reshape(y, [...lead, n]), -1, a);
}

function checkAlong(op: string, x: Tensor, indices: Tensor, axis: number): number {
  const a = normalizeAxis(op, axis, x.rank);
  if (indices.rank !== x.rank || indices.shape.some((d, i) => i !== a && d !== x.shape[i]))
    throw new ShapeError(`${op}: indices ${show(indices.shape)} and ${show(x.shape)} may differ only in axis ${a}.`);
  if (indices.dtype !== "i32") throw new DTypeError(`${op}: indices must be i32, got ${indices.dtype}.`);
  return a;
}

/** Sorts all operands along an axis by the first one; equal keys keep their order, NaN comes last in both directions. */
export const sortOp: Op = defineOp({
  name: "sort",
  infer(inputs, { axis }) {
    const keys = inputs[0]!;
    if (!((axis as number) >= 0 && (axis as number) < keys.shape.length))
      throw new ShapeError(`sort: axis ${String(axis)} does not exist in ${show(keys.shape)}.`);
    for (const x of inputs)
      if (!sameShape(x.shape, keys.shape))
        throw new ShapeError(`sort: the operands differ in shape: ${show(keys.shape)} and ${show(x.shape)}.`);
    return inputs.map((x) => ({ dtype: x.dtype, shape: x.shape }));
  },
  gradient({ inputs, cotangents, attributes, wanted }) {
    const axis = attributes.axis as number;
    const keys = inputs[0]!.stopGradient();
    // Where each element went, and with it how the gradient comes back.
    const order = apply(sortOp, [keys, iota(keys.shape, axis)], { ...attributes })[1]!;
    return inputs.map((_, i) => {
      const g = cotangents[i];
      return g && wanted[i] ? addAlongAxis(g, order, axis, keys.shape[axis]!) : undefined;
    });
  },
  batch: (inputs, batched, attributes, n) =>
    apply(
      sortOp,
      inputs.map((t, i) => (batched[i] ? t : broadcastTo(t, [n, ...t.shape]))),
      { ...attributes, axis: (attributes.axis as number) + 1 },
    ),
  cases: [
    {
      inputs: [{ shape: [5], values: [3, Number.NaN, -1, 2, -7] }],
      attributes: { axis: 0, descending: false },
      outputs: [[-7, -1, 2, 3, Number.NaN]],
      differentiable: false,
    },
    {
      inputs: [{ shape: [5], values: [3, Number.NaN, -1, 2, -7] }],
      attributes: { axis: 0, descending: true },
      outputs: [[3, 2, -1, -7, Number.NaN]],
      differentiable: false,
    },
    {
      // Equal keys keep the order of the payload.
      inputs: [
        { shape: [2, 4], values: [1, 0, 1, 0, 5, 5, 5, 4], dtype: "i32" },
        { shape: [2, 4], values: [10, 20, 30, 40, 1, 2, 3, 4] },
      ],
      attributes: { axis: 1, descending: true },
      outputs: [
        [1, 1, 0, 0, 5, 5, 5, 4],
        [10, 30, 20, 40, 1, 2, 3, 4],
      ],
    },
    { inputs: [{ shape: [5, 3, 4] }, { shape: [5, 3, 4] }], attributes: { axis: 0, descending: false } },
    // So many numbers are too close to one another for central differences.
    { inputs: [{ shape: [3, 70] }], attributes: { axis: 1, descending: true }, differentiable: false },
    { inputs: [{ shape: [3, 0] }], attributes: { axis: 1, descending: false } },
  ],
});

export interface SortOptions {
  readonly descending?: boolean;
}

/** `x` in order along an axis. */
export function sort(x: Tensor, axis = -1, { descending = false }: SortOptions = {}): Tensor {
  return apply1(sortOp, [x], { axis: normalizeAxis("sort", axis, x.rank), descending });
}

/** The operands in the order of the first one along an axis. */
export function sortBy(
  keys: Tensor,
  values: readonly Tensor[],
  axis = -1,
  { descending = false }: SortOptions = {},
): Tensor[] {
  return apply(sortOp, [keys, ...values], { axis: normalizeAxis("sortBy", axis, keys.rank), descending });
}

/** The positions that sort `x`: `takeAlongAxis(x, argsort(x))` is `sort(x)`. */
export function argsort(x: Tensor, axis = -1, { descending = false }: SortOptions = {}): Tensor<"i32"> {
  const a = normalizeAxis("argsort", axis, x.rank);
  return apply(sortOp, [x.stopGradient(), iota(x.shape, a)], { axis: a, descending })[1] as Tensor<"i32">;
}

/** The k largest of the last axis, largest first, and their positions; equal ones by position. */
export const topKOp: Op = defineOp({
  name: "top_k",
  infer([x], { k }) {
    const n = x!.shape[x!.shape.length - 1];
    if (n === undefined || !((k as number) >= 0 && (k as number) <= n))
      throw new ShapeError(`top_k: ${String(k)} elements cannot be taken from the last axis of ${show(x!.shape)}.`);
    const shape = [...x!.shape.slice(0, -1), k as number];
    return [
      { dtype: x!.dtype, shape },
      { dtype: "i32", shape },
    ];
  },
  gradient: ({ inputs: [x], outputs: [, indices], cotangents: [g] }) => [
    g ? addAlongAxis(g, indices!, x!.rank - 1, x!.shape[x!.rank - 1]!) : undefined,
  ],
  batch: ([x], _b, attributes) => apply(topKOp, [x!], attributes),
  cases: [
    {
      inputs: [{ shape: [2, 4], values: [1, 4, 4, 2, -1, -5, -3, -1] }],
      attributes: { k: 3 },
      outputs: [
        [4, 4, 2, -1, -1, -3],
        [1, 2, 3, 0, 3, 2],
      ],
      differentiable: false,
    },
    { inputs: [{ shape: [3, 2, 17] }], attributes: { k: 5 } },
    { inputs: [{ shape: [2, 300] }], attributes: { k: 40 }, differentiable: false },
    {
      inputs: [{ shape: [4], values: [3, 9, -2, 9], dtype: "i32" }],
      attributes: { k: 2 },
      outputs: [
        [9, 9],
        [1, 3],
      ],
    },
  ],
});

export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor<"i32"> } {
  const [values, indices] = apply(topKOp, [x], { k });
  return { values: values!, indices: indices as Tensor<"i32"> };
}

/** The position of the largest element along an axis, the first of equals; NaN counts as the largest. */
export const argmaxOp: Op = defineOp({
  name: "argmax",
  infer([x], { axis }) {
    const a = axis as number;
    if (!(x!.shape[a]! > 0))
      throw new ShapeError(`argmax: axis ${a} of ${show(x!.shape)} has no elements to choose from.`);
    return [{ dtype: "i32", shape: x!.shape.filter((_, i) => i !== a) }];
  },
  gradient: () => [undefined],
  batch: ([x], _b, { axis }) => [argmax(x!, (axis as number) + 1)],
  cases: [
    { inputs: [{ shape: [2, 3], values: [1, 5, 5, 9, 2, 9] }], attributes: { axis: 1 }, outputs: [[1, 0]] },
    { inputs: [{ shape: [2, 3], values: [1, 5, 5, 9, 2, 9] }], attributes: { axis: 0 }, outputs: [[1, 0, 1]] },
    { inputs: [{ shape: [3], values: [1, Number.NaN, 5] }], attributes: { axis: 0 }, outputs: [[1]] },
    { inputs: [{ shape: [4, 33, 3] }], attributes: { axis: 1 } },
  ],
});

export function argmax(x: Tensor, axis = -1): Tensor<"i32"> {
  return apply1(argmaxOp, [x], { axis: normalizeAxis("argmax", axis, x.rank) }) as Tensor<"i32">;
}

/** The position of the smallest element along an axis, the first of equals; NaN counts as the smallest. */
export function argmin(x: Tensor, axis = -1): Tensor<"i32"> {
  // Turning the order round: -x for floats; ~x for integers, where -x would overflow at the lowest.
  return argmax(isFloat(x.dtype) ? x.neg() : not(x), axis);
}
