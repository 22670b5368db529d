import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes } from "../graph.ts";
import { defineOp, type Op, type OpCase } from "../op.ts";
import { normalizeAxis, type Shape, sameShape, show } from "../shape.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { iota, zeros } from "./creation.ts";
import { clamp } from "./elementwise.ts";
import { broadcastTo, concatenate, expandDims, pad, reshape, transpose } from "./structure.ts";

export interface GatherDimensions {
  /** Output axes that run over the slices. */
  readonly offset_dims: readonly number[];
  /** Operand axes of slice size 1 that do not appear in the output. */
  readonly collapsed_slice_dims: readonly number[];
  /** Which operand axis each component of an index vector addresses. */
  readonly start_index_map: readonly number[];
  readonly index_vector_dim: number;
  readonly slice_sizes: readonly number[];
}

export interface ScatterDimensions {
  readonly update_window_dims: readonly number[];
  readonly inserted_window_dims: readonly number[];
  readonly scatter_dims_to_operand_dims: readonly number[];
  readonly index_vector_dim: number;
}

export type ScatterKind = "add" | "set" | "maximum" | "minimum" | "multiply";

const gatherDims = (a: Attributes): GatherDimensions => a as unknown as GatherDimensions;
const scatterDims = (a: Attributes): ScatterDimensions => a as unknown as ScatterDimensions;

function batchShape(indices: Shape, vectorDim: number): number[] {
  return indices.filter((_, i) => i !== vectorDim);
}

const rows: GatherDimensions = {
  offset_dims: [1],
  collapsed_slice_dims: [0],
  start_index_map: [0],
  index_vector_dim: 1,
  slice_sizes: [1, 2],
};

/** StableHLO's gather: slices of the operand at starts given by index vectors, clamped into range. */
export const gatherOp: Op = defineOp({
  name: "gather",
  infer([x, indices], attributes) {
    const d = gatherDims(attributes);
    if (indices!.dtype !== "i32") throw new DTypeError(`gather: indices must be i32, got ${indices!.dtype}.`);
    if (d.slice_sizes.length !== x!.shape.length || d.slice_sizes.some((n, i) => n > x!.shape[i]!))
      throw new ShapeError(`gather: slices of ${show(d.slice_sizes)} do not fit ${show(x!.shape)}.`);
    const batch = batchShape(indices!.shape, d.index_vector_dim);
    const window = d.slice_sizes.filter((_, i) => !d.collapsed_slice_dims.includes(i));
    const rank = batch.length + window.length;
    let b = 0;
    let w = 0;
    const shape = Array.from({ length: rank }, (_, i) => (d.offset_dims.includes(i) ? window[w++]! : batch[b++]!));
    return [{ dtype: x!.dtype, shape }];
  },
  gradient({ inputs: [x, indices], cotangents: [g], attributes }) {
    const d = gatherDims(attributes);
    // Starts out of range were clamped, and so must be the places the gradient goes to: scatter would skip them.
    const limits = d.start_index_map.map((axis) => x!.shape[axis]! - d.slice_sizes[axis]!);
    const at = clampStarts(indices!, d.index_vector_dim, 0, limits);
    return [
      scatter(zeros(x!.shape, x!.dtype), at, g!, "add", {
        update_window_dims: d.offset_dims,
        inserted_window_dims: d.collapsed_slice_dims,
        scatter_dims_to_operand_dims: d.start_index_map,
        index_vector_dim: d.index_vector_dim,
      }),
      undefined,
    ];
  },
  batch([x, indices], batched, attributes, n) {
    const d = gatherDims(attributes);
    if (batched[0] && !batched[1]) {
      return [
        gather(x!, indices!, {
          offset_dims: [0, ...d.offset_dims.map((i) => i + 1)],
          collapsed_slice_dims: d.collapsed_slice_dims.map((i) => i + 1),
          start_index_map: d.start_index_map.map((i) => i + 1),
          index_vector_dim: d.index_vector_dim,
          slice_sizes: [n, ...d.slice_sizes],
        }),
      ];
    }
    if (!batched[0])
      return [
        gather(x!, indices!, {
          ...d,
          offset_dims: d.offset_dims.map((i) => i + 1),
          index_vector_dim: d.index_vector_dim + 1,
        }),
      ];
    const [lead, at] = leadIndex(indices!, d.index_vector_dim + 1, n);
    return [
      gather(x!, lead, {
        offset_dims: d.offset_dims.map((i) => i + 1),
        collapsed_slice_dims: [0, ...d.collapsed_slice_dims.map((i) => i + 1)],
        start_index_map: [0, ...d.start_index_map.map((i) => i + 1)],
        index_vector_dim: at,
        slice_sizes: [1, ...d.slice_sizes],
      }),
    ];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
        { shape: [2, 1], values: [2, 0], dtype: "i32" },
      ],
      attributes: { ...rows },
      outputs: [[5, 6, 1, 2]],
    },
    {
      // Out of range: clamped.
      inputs: [
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
        { shape: [2, 1], values: [9, -4], dtype: "i32" },
      ],
      attributes: { ...rows },
      outputs: [[5, 6, 1, 2]],
    },
    {
      inputs: [{ shape: [5, 4, 3] }, { shape: [2, 3], values: [3, 0, 2, 1, 2, 1], dtype: "i32" }],
      attributes: {
        offset_dims: [1, 2],
        collapsed_slice_dims: [2],
        start_index_map: [0, 2],
        index_vector_dim: 0,
        slice_sizes: [2, 3, 1],
      },
    },
  ],
});

/** Index vectors with each component kept within `low` and its own limit. */
function clampStarts(indices: Tensor, vectorDim: number, low: number, limits: readonly number[]): Tensor {
  if (vectorDim === indices.rank) return clamp(indices, low, limits[0]!);
  const shape = indices.shape.map((d, i) => (i === vectorDim ? d : 1));
  return clamp(indices, low, reshape(tensor(Int32Array.from(limits)), shape));
}

/** Puts the number of the mapped element in front of each index vector: for `vmap` of gather and scatter. */
function leadIndex(indices: Tensor, vectorDim: number, n: number): [Tensor, number] {
  const whole = vectorDim === indices.rank ? expandDims(indices, vectorDim) : indices;
  const shape = whole.shape.map((d, i) => (i === vectorDim ? 1 : i === 0 ? n : d));
  return [concatenate([iota(shape, 0), whole], vectorDim), vectorDim];
}

/** StableHLO's scatter with a fixed way of combining: updates that fall outside are skipped; the order of equal indices is row-major. */
export const scatterOp: Op = defineOp({
  name: "scatter",
  inPlace: [[0, 0]],
  infer([x, indices, updates], attributes) {
    const { kind } = attributes;
    if (x!.dtype === "bool" && kind !== "set")
      throw new DTypeError(`scatter: ${String(kind)} does not work on bool${show(x!.shape)}. Convert with .to("i32").`);
    const d = scatterDims(attributes);
    const batch = batchShape(indices!.shape, d.index_vector_dim);
    const places = updates!.shape.filter((_, i) => !d.update_window_dims.includes(i));
    if (
      !sameShape(batch, places) ||
      d.update_window_dims.length + d.inserted_window_dims.length !== x!.shape.length ||
      windowSizes(x!.shape, updates!.shape, d).some((n, i) => n > x!.shape[i]!)
    )
      throw new ShapeError(
        `scatter: updates ${show(updates!.shape)} at indices ${show(indices!.shape)} do not fit ${show(x!.shape)}.`,
      );
    if (indices!.dtype !== "i32") throw new DTypeError(`scatter: indices must be i32, got ${indices!.dtype}.`);
    if (updates!.dtype !== x!.dtype)
      throw new DTypeError(`scatter: the updates are ${updates!.dtype}, the operand ${x!.dtype}.`);
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  gradient({ inputs: [x, indices, updates], cotangents: [g], attributes, wanted }) {
    const d = scatterDims(attributes);
    const kind = attributes.kind as ScatterKind;
    const back = () =>
      wanted[2] ? gatherUpdates(g!, indices!, windowSizes(x!.shape, updates!.shape, d), d) : undefined;
    if (kind === "add") return [g, undefined, back()];
    if (kind === "set")
      // Exact where no two updates meet; where they do, the last one wins forward and each receives the gradient.
      return [scatter(g!, indices!, zeros(updates!.shape, updates!.dtype), "set", d), undefined, back()];
    throw new DTypeError(`scatter: there is no gradient for kind "${kind}". Use "add" or "set".`);
  },
  batch([x, indices, updates], batched, attributes, n) {
    const d = scatterDims(attributes);
    const wide = (t: Tensor, b: boolean) => (b ? t : broadcastTo(t, [n, ...t.shape]));
    const [lead, at] = leadIndex(wide(indices!, batched[1]!), d.index_vector_dim + 1, n);
    return [
      scatter(wide(x!, batched[0]!), lead, wide(updates!, batched[2]!), attributes.kind as ScatterKind, {
        update_window_dims: d.update_window_dims.map((i) => i + 1),
        inserted_window_dims: [0, ...d.inserted_window_dims.map((i) => i + 1)],
        scatter_dims_to_operand_dims: [0, ...d.scatter_dims_to_operand_dims.map((i) => i + 1)],
        index_vector_dim: at,
      }),
    ];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 2], values: [1, 1, 1, 1, 1, 1] },
        { shape: [3, 1], values: [2, 0, 2], dtype: "i32" },
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
      ],
      attributes: {
        kind: "add",
        update_window_dims: [1],
        inserted_window_dims: [0],
        scatter_dims_to_operand_dims: [0],
        index_vector_dim: 1,
      },
      outputs: [[4, 5, 1, 1, 7, 9]],
    },
    {
      inputs: [
        { shape: [3], values: [1, 1, 1] },
        { shape: [2, 1], values: [1, 7], dtype: "i32" },
        { shape: [2], values: [5, 6] },
      ],
      attributes: {
        kind: "set",
        update_window_dims: [],
        inserted_window_dims: [0],
        scatter_dims_to_operand_dims: [0],
        index_vector_dim: 1,
      },
      outputs: [[1, 5, 1]],
    },
    {
      // Windows that stick out: the elements inside count.
      inputs: [
        { shape: [4, 3], values: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
        { shape: [2, 2], values: [-1, 0, 3, 2], dtype: "i32" },
        { shape: [2, 2, 2], values: [1, 2, 3, 4, 5, 6, 7, 8] },
      ],
      attributes: {
        kind: "add",
        update_window_dims: [1, 2],
        inserted_window_dims: [],
        scatter_dims_to_operand_dims: [0, 1],
        index_vector_dim: 1,
      },
      outputs: [[3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]],
    },
    ...(["maximum", "minimum", "multiply"] as const).map(
      (kind): OpCase => ({
        inputs: [
          { shape: [3], values: [2, 3, -1] },
          { shape: [4, 1], values: [0, 1, 0, 2], dtype: "i32" },
          { shape: [4], values: [5, -4, 3, 0.5] },
        ],
        attributes: {
          kind,
          update_window_dims: [],
          inserted_window_dims: [0],
          scatter_dims_to_operand_dims: [0],
          index_vector_dim: 1,
        },
        outputs: [{ maximum: [5, 3, 0.5], minimum: [2, -4, -1], multiply: [30, -12, -0.5] }[kind]],
        differentiable: false,
      }),
    ),
  ],
});

function windowSizes(operand: Shape, updates: Shape, d: ScatterDimensions): number[] {
  let w = 0;
  return operand.map((_, i) => (d.inserted_window_dims.includes(i) ? 1 : updates[d.update_window_dims[w++]!]!));
}

/**
 * What each update of a scatter sees of `g`; 0 for what was skipped. A border of zeros as wide as the window takes in whatever falls
 * outside.
 */
function gatherUpdates(g: Tensor, indices: Tensor, windows: readonly number[], d: ScatterDimensions): Tensor {
  const map = d.scatter_dims_to_operand_dims;
  const border = g.shape.map((_, axis) => (map.includes(axis) ? windows[axis]! : 0));
  const starts = map.map((axis) => border[axis]!);
  const shifted = indices.add(
    d.index_vector_dim === indices.rank
      ? starts[0]!
      : reshape(
          tensor(Int32Array.from(starts)),
          indices.shape.map((n, i) => (i === d.index_vector_dim ? n : 1)),
        ),
  );
  const limits = map.map((axis) => g.shape[axis]! + border[axis]!);
  return gather(pad(g, 0, border, border), clampStarts(shifted, d.index_vector_dim, 0, limits), {
    offset_dims: d.update_window_dims,
    collapsed_slice_dims: d.inserted_window_dims,
    start_index_map: map,
    index_vector_dim: d.index_vector_dim,
    slice_sizes: windows,
  });
}

export function gather(x: Tensor, indices: Tensor, d: GatherDimensions): Tensor {
  return apply1(gatherOp, [x, indices], { ...d });
}

export function scatter(x: Tensor, indices: Tensor, updates: Tensor, kind: ScatterKind, d: ScatterDimensions): Tensor {
  return apply1(scatterOp, [x, indices, updates], {
    kind,
    update_window_dims: d.update_window_dims,
    inserted_window_dims: d.inserted_window_dims,
    scatter_dims_to_operand_dims: d.scatter_dims_to_operand_dims,
    index_vector_dim: d.index_vector_dim,
  });
}

/** Slices of `x` along `axis` at `indices` (any shape), which replace that axis in the result. */
export function take(x: Tensor, indices: Tensor, axis = 0): Tensor {
  const a = normalizeAxis("take", axis, x.rank);
  const r = indices.rank;
  return gather(x, indices, {
    offset_dims: x.shape
      .map((_, i) => i)
      .filter((i) => i !== a)
      .map((i) => (i < a ? i : i - 1 + r)),
    collapsed_slice_dims: [a],
    start_index_map: [a],
    index_vector_dim: r,
    slice_sizes: x.shape.map((d, i) => (i === a ? 1 : d)),
  });
}

/** One element per row: x (..., n) at indices (...) gives (...). */
export function takeAlongLast(x: Tensor, indices: Tensor): Tensor {
  const n = x.shape[x.rank - 1]!;
  const flat = reshape(x, [-1, n]);
  const index = reshape(indices, [-1, 1]);
  const where = concatenate([iota(index.shape, 0), index], 1);
  const y = gather(flat, where, {
    offset_dims: [],
    collapsed_slice_dims: [0, 1],
    start_index_map: [0, 1],
    index_vector_dim: 1,
    slice_sizes: [1, 1],
  });
  return reshape(y, indices.shape);
}

/** 1 at the index, 0 elsewhere, along a new last axis of size n. */
export function oneHot(indices: Tensor, n: number, dtype: "f32" | "f64" | "i32" = "f32"): Tensor {
  const shape = [...indices.shape, n];
  return broadcastTo(expandDims(indices, indices.rank), shape).equal(iota(shape, indices.rank)).to(dtype);
}

/** Axis `from` moved to position `to`. */
export function moveAxis(x: Tensor, from: number, to: number): Tensor {
  const [f, t] = [normalizeAxis("moveAxis", from, x.rank), normalizeAxis("moveAxis", to, x.rank)];
  const order = x.shape.map((_, i) => i).filter((i) => i !== f);
  order.splice(t, 0, f);
  return transpose(x, order);
}
