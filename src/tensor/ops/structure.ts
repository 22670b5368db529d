import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp, type Op } from "../op.ts";
import { broadcastShapes, inferReshape, normalizeAxis, type Shape, sameShape, show } from "../shape.ts";
import { type Tensor, tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { full, iota, scalar, zeros } from "./creation.ts";
import { clamp, where } from "./elementwise.ts";
import { gather, scatter } from "./indexing.ts";
import { reduce } from "./reduction.ts";

const list = (a: unknown): readonly number[] => a as readonly number[];

/** The same elements in row-major order under another shape. */
const reshapeOp: Op = defineOp({
  name: "reshape",
  infer: ([x], { shape }) => [{ dtype: x!.dtype, shape: inferReshape(x!.shape, list(shape)) }],
  gradient: ({ inputs: [x], cotangents: [g] }) => [reshape(g!, x!.shape)],
  batch: ([x], _b, { shape }, n) => [reshape(x!, [n, ...inferReshape(x!.shape.slice(1), list(shape))])],
  cases: [
    {
      inputs: [{ shape: [2, 3], values: [1, 2, 3, 4, 5, 6] }],
      attributes: { shape: [3, 2] },
      outputs: [[1, 2, 3, 4, 5, 6]],
    },
  ],
});

/** Axes in another order: output axis i is input axis `permutation[i]`. */
const transposeOp: Op = defineOp({
  name: "transpose",
  infer([x], { permutation }) {
    const order = list(permutation);
    if (order.length !== x!.shape.length || [...order].sort((a, b) => a - b).some((a, i) => a !== i))
      throw new ShapeError(`transpose: [${order}] is not an order of the axes of ${show(x!.shape)}.`);
    return [{ dtype: x!.dtype, shape: order.map((a) => x!.shape[a]!) }];
  },
  gradient: ({ cotangents: [g], attributes }) => [transpose(g!, inversePermutation(list(attributes.permutation)))],
  batch: ([x], _b, { permutation }) => [transpose(x!, [0, ...list(permutation).map((a) => a + 1)])],
  cases: [
    {
      inputs: [{ shape: [2, 3], values: [1, 2, 3, 4, 5, 6] }],
      attributes: { permutation: [1, 0] },
      outputs: [[1, 4, 2, 5, 3, 6]],
    },
    { inputs: [{ shape: [2, 3, 4, 5] }], attributes: { permutation: [2, 0, 3, 1] } },
    { inputs: [{ shape: [33, 65] }], attributes: { permutation: [1, 0] } },
    { inputs: [{ shape: [4, 17, 3, 8] }], attributes: { permutation: [0, 2, 1, 3] } },
  ],
});

/** Input axis i becomes output axis `dimensions[i]`; axes of size 1 are repeated. */
const broadcastOp: Op = defineOp({
  name: "broadcast_in_dim",
  infer([x], attributes) {
    const shape = list(attributes.shape);
    const dimensions = list(attributes.dimensions);
    if (dimensions.length !== x!.shape.length || x!.shape.some((d, i) => d !== 1 && d !== shape[dimensions[i]!]))
      throw new ShapeError(
        `broadcast_in_dim: ${show(x!.shape)} does not fit ${show(shape)} along axes [${dimensions}].`,
      );
    return [{ dtype: x!.dtype, shape }];
  },
  gradient({ inputs: [x], cotangents: [g], attributes }) {
    const shape = list(attributes.shape);
    const dimensions = list(attributes.dimensions);
    const grown = shape
      .map((_, a) => a)
      .filter((a) => {
        const from = dimensions.indexOf(a);
        return from < 0 || (x!.shape[from] === 1 && shape[a] !== 1);
      });
    return [reshape(reduce(g!, "add", grown), x!.shape)];
  },
  batch: ([x], _b, { shape, dimensions }, n) => [
    broadcastInDim(x!, [n, ...list(shape)], [0, ...list(dimensions).map((d) => d + 1)]),
  ],
  cases: [
    {
      inputs: [{ shape: [3], values: [1, 2, 3] }],
      attributes: { shape: [2, 3], dimensions: [1] },
      outputs: [[1, 2, 3, 1, 2, 3]],
    },
    {
      inputs: [{ shape: [2, 1], values: [1, 2] }],
      attributes: { shape: [2, 3], dimensions: [0, 1] },
      outputs: [[1, 1, 1, 2, 2, 2]],
    },
    { inputs: [{ shape: [], values: [7] }], attributes: { shape: [2], dimensions: [] }, outputs: [[7, 7]] },
    { inputs: [{ shape: [3, 1, 5] }], attributes: { shape: [3, 4, 5, 2], dimensions: [0, 1, 2] } },
  ],
});

/** Elements from `start` up to `limit` in steps of `stride`, along each axis. */
const sliceOp: Op = defineOp({
  name: "slice",
  infer([x], { start, limit, stride }) {
    const [s, l, t] = [list(start), list(limit), list(stride)];
    if (x!.shape.some((d, i) => !(s[i]! >= 0 && s[i]! <= l[i]! && l[i]! <= d && t[i]! >= 1)))
      throw new ShapeError(`slice: [${s}] to [${l}] step [${t}] leaves ${show(x!.shape)}.`);
    return [{ dtype: x!.dtype, shape: x!.shape.map((_, i) => Math.ceil((l[i]! - s[i]!) / t[i]!)) }];
  },
  gradient({ inputs: [x], cotangents: [g], attributes }) {
    const [s, t] = [list(attributes.start), list(attributes.stride)];
    const interior = t.map((step) => step - 1);
    const high = x!.shape.map((d, i) => {
      const n = g!.shape[i]!;
      return d - s[i]! - (n === 0 ? 0 : (n - 1) * t[i]! + 1);
    });
    return [pad(g!, 0, s, high, interior)];
  },
  batch: ([x], _b, { start, limit, stride }, n) => [
    slice(x!, [0, ...list(start)], [n, ...list(limit)], [1, ...list(stride)]),
  ],
  cases: [
    {
      inputs: [{ shape: [5], values: [0, 1, 2, 3, 4] }],
      attributes: { start: [1], limit: [5], stride: [2] },
      outputs: [[1, 3]],
    },
    { inputs: [{ shape: [4, 6, 3] }], attributes: { start: [1, 0, 1], limit: [4, 5, 3], stride: [1, 2, 1] } },
    { inputs: [{ shape: [4, 3] }], attributes: { start: [2, 0], limit: [2, 3], stride: [1, 1] } },
  ],
});

/** Slices at positions known only when the program runs: inputs are x and one i32 scalar per axis, clamped into range. */
const dynamicSliceOp: Op = defineOp({
  name: "dynamic_slice",
  infer([x, ...starts], { sizes }) {
    checkStarts("dynamic_slice", x!.shape, starts);
    if (list(sizes).length !== x!.shape.length || list(sizes).some((n, i) => n < 0 || n > x!.shape[i]!))
      throw new ShapeError(`dynamic_slice: sizes ${show(list(sizes))} do not fit ${show(x!.shape)}.`);
    return [{ dtype: x!.dtype, shape: list(sizes) }];
  },
  gradient: ({ inputs: [x, ...starts], cotangents: [g] }) => [
    dynamicUpdateSlice(zeros(x!.shape, x!.dtype), g!, starts),
    ...starts.map(() => undefined),
  ],
  batch([x, ...starts], batched, { sizes }, n) {
    if (batched.slice(1).some(Boolean)) {
      // Starts of their own: a gather, which clamps them too.
      const own = batched[0]!;
      const at = stackStarts(starts, batched.slice(1), n);
      const axes = starts.map((_, i) => i + 1);
      return [
        gather(x!, own ? concatenate([iota([n, 1], 0), at], 1) : at, {
          offset_dims: axes,
          collapsed_slice_dims: own ? [0] : [],
          start_index_map: own ? [0, ...axes] : axes.map((a) => a - 1),
          index_vector_dim: 1,
          slice_sizes: own ? [1, ...list(sizes)] : list(sizes),
        }),
      ];
    }
    const all = batched[0] ? x! : broadcastTo(x!, [n, ...x!.shape]);
    return [dynamicSlice(all, [scalar(0, "i32"), ...starts], [n, ...list(sizes)])];
  },
  cases: [
    {
      inputs: [
        { shape: [5], values: [0, 1, 2, 3, 4] },
        { shape: [], values: [2], dtype: "i32" },
      ],
      attributes: { sizes: [2] },
      outputs: [[2, 3]],
    },
    {
      inputs: [
        { shape: [5], values: [0, 1, 2, 3, 4] },
        { shape: [], values: [99], dtype: "i32" },
      ],
      attributes: { sizes: [2] },
      outputs: [[3, 4]],
    },
    {
      inputs: [{ shape: [4, 6] }, { shape: [], values: [1], dtype: "i32" }, { shape: [], values: [-3], dtype: "i32" }],
      attributes: { sizes: [2, 3] },
    },
  ],
});

/** x with a block replaced at a position known only when the program runs; starts are clamped so that it fits. */
const dynamicUpdateSliceOp: Op = defineOp({
  name: "dynamic_update_slice",
  inPlace: [[0, 0]],
  infer([x, update, ...starts]) {
    checkStarts("dynamic_update_slice", x!.shape, starts);
    if (update!.dtype !== x!.dtype)
      throw new DTypeError(`dynamic_update_slice: the update is ${update!.dtype}, the operand ${x!.dtype}.`);
    if (update!.shape.length !== x!.shape.length || update!.shape.some((d, i) => d > x!.shape[i]!))
      throw new ShapeError(`dynamic_update_slice: update ${show(update!.shape)} does not fit ${show(x!.shape)}.`);
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  gradient: ({ inputs: [, update, ...starts], cotangents: [g] }) => [
    dynamicUpdateSlice(g!, zeros(update!.shape, update!.dtype), starts),
    dynamicSlice(g!, starts, update!.shape),
    ...starts.map(() => undefined),
  ],
  batch([x, update, ...starts], batched, _a, n) {
    const wide = (t: Tensor, b: boolean) => (b ? t : broadcastTo(t, [n, ...t.shape]));
    if (batched.slice(2).some(Boolean)) {
      // Starts of their own: a scatter, which does not clamp them.
      const element = update!.shape.slice(batched[1] ? 1 : 0);
      const limits = x!.shape.slice(batched[0] ? 1 : 0).map((d, i) => d - element[i]!);
      const at = clamp(stackStarts(starts, batched.slice(2), n), 0, tensor(Int32Array.from(limits)));
      const axes = starts.map((_, i) => i + 1);
      return [
        scatter(wide(x!, batched[0]!), concatenate([iota([n, 1], 0), at], 1), wide(update!, batched[1]!), "set", {
          update_window_dims: axes,
          inserted_window_dims: [0],
          scatter_dims_to_operand_dims: [0, ...axes],
          index_vector_dim: 1,
        }),
      ];
    }
    return [dynamicUpdateSlice(wide(x!, batched[0]!), wide(update!, batched[1]!), [scalar(0, "i32"), ...starts])];
  },
  cases: [
    {
      inputs: [
        { shape: [4], values: [0, 1, 2, 3] },
        { shape: [2], values: [10, 11] },
        { shape: [], values: [3], dtype: "i32" },
      ],
      outputs: [[0, 1, 10, 11]],
    },
    {
      inputs: [
        { shape: [4, 5] },
        { shape: [2, 5] },
        { shape: [], values: [1], dtype: "i32" },
        { shape: [], values: [0], dtype: "i32" },
      ],
    },
  ],
});

/** Scalar starts, some of them one per mapped element, as index vectors (n, rank). */
function stackStarts(starts: readonly Tensor[], batched: readonly boolean[], n: number): Tensor {
  return concatenate(
    starts.map((s, i) => reshape(batched[i] ? s : broadcastTo(s, [n]), [n, 1])),
    1,
  );
}

function checkStarts(op: string, shape: Shape, starts: readonly { dtype: string; shape: Shape }[]): void {
  if (starts.length !== shape.length || starts.some((s) => s.dtype !== "i32" || s.shape.length !== 0))
    throw new ShapeError(`${op}: needs one i32 scalar per axis of ${show(shape)} as starts.`);
}

/** StableHLO's pad: `low` and `high` may be negative (they cut), `interior` goes between neighbours. */
const padOp: Op = defineOp({
  name: "pad",
  infer([x, value], { low, high, interior }) {
    if (value!.shape.length !== 0 || value!.dtype !== x!.dtype)
      throw new DTypeError(`pad: the filling must be a scalar of dtype ${x!.dtype}.`);
    const shape = x!.shape.map((d, i) => list(low)[i]! + list(high)[i]! + d + Math.max(d - 1, 0) * list(interior)[i]!);
    if (shape.some((d) => d < 0)) throw new ShapeError(`pad: cuts more than there is from ${show(x!.shape)}.`);
    return [{ dtype: x!.dtype, shape }];
  },
  gradient({ inputs: [x, value], cotangents: [g], attributes, wanted }) {
    const [low, high, interior] = [list(attributes.low), list(attributes.high), list(attributes.interior)];
    const uncut = pad(
      g!,
      0,
      low.map((l) => Math.max(-l, 0)),
      high.map((h) => Math.max(-h, 0)),
      low.map(() => 0),
    );
    const start = low.map((l) => Math.max(l, 0));
    const limit = x!.shape.map((d, i) => start[i]! + (d === 0 ? 0 : (d - 1) * (interior[i]! + 1) + 1));
    const dx = slice(
      uncut,
      start,
      limit,
      interior.map((n) => n + 1),
    );
    return [dx, wanted[1] ? reshape(g!.sum().sub(dx.sum()), value!.shape) : undefined];
  },
  batch([x, value], batched, { low, high, interior }, n) {
    const all = batched[0] ? x! : broadcastTo(x!, [n, ...x!.shape]);
    const wide = (t: Tensor, filling: number | Tensor) =>
      pad(t, filling, [0, ...list(low)], [0, ...list(high)], [0, ...list(interior)]);
    if (!batched[1]) return [wide(all, value!)];
    // A filling of its own for each element: where the padding is, take it.
    const inside = wide(full(all.shape, 1, "bool"), 0);
    return [where(inside, wide(all, 0), reshape(value!, [n, ...x!.shape.slice(batched[0] ? 1 : 0).map(() => 1)]))];
  },
  cases: [
    {
      inputs: [
        { shape: [3], values: [1, 2, 3] },
        { shape: [], values: [0] },
      ],
      attributes: { low: [1], high: [2], interior: [1] },
      outputs: [[0, 1, 0, 2, 0, 3, 0, 0]],
    },
    {
      inputs: [
        { shape: [4], values: [1, 2, 3, 4] },
        { shape: [], values: [9] },
      ],
      attributes: { low: [-1], high: [1], interior: [0] },
      outputs: [[2, 3, 4, 9]],
      differentiable: false,
    },
    {
      inputs: [{ shape: [3, 4] }, { shape: [], values: [0] }],
      attributes: { low: [0, 2], high: [1, 0], interior: [2, 0] },
    },
  ],
});

/** Tensors one after another along an axis; the other axes agree. */
const concatenateOp: Op = defineOp({
  name: "concatenate",
  infer(inputs, { axis }) {
    const a = axis as number;
    const first = inputs[0]!;
    for (const x of inputs)
      if (
        x.dtype !== first.dtype ||
        x.shape.length !== first.shape.length ||
        x.shape.some((d, i) => i !== a && d !== first.shape[i])
      )
        throw new ShapeError(
          `concatenate: ${x.dtype}${show(x.shape)} does not join ${first.dtype}${show(first.shape)} along axis ${a}.`,
        );
    const total = inputs.reduce((n, x) => n + x.shape[a]!, 0);
    return [{ dtype: first.dtype, shape: first.shape.map((d, i) => (i === a ? total : d)) }];
  },
  gradient({ inputs, cotangents: [g], attributes }) {
    let at = 0;
    return inputs.map((x) => {
      const n = x.shape[attributes.axis as number]!;
      at += n;
      return sliceAxis(g!, attributes.axis as number, at - n, at);
    });
  },
  batch: (inputs, batched, { axis }, n) => [
    concatenate(
      inputs.map((x, i) => (batched[i] ? x : broadcastTo(x, [n, ...x.shape]))),
      (axis as number) + 1,
    ),
  ],
  cases: [
    {
      inputs: [
        { shape: [2, 1], values: [1, 2] },
        { shape: [2, 2], values: [3, 4, 5, 6] },
      ],
      attributes: { axis: 1 },
      outputs: [[1, 3, 4, 2, 5, 6]],
    },
    { inputs: [{ shape: [3, 2] }, { shape: [0, 2] }, { shape: [1, 2] }], attributes: { axis: 0 } },
  ],
});

/** The order of the elements turned round along some axes. */
const reverseOp: Op = defineOp({
  name: "reverse",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  gradient: ({ cotangents: [g], attributes }) => [reverse(g!, list(attributes.axes))],
  batch: ([x], _b, { axes }) => [
    reverse(
      x!,
      list(axes).map((a) => a + 1),
    ),
  ],
  cases: [
    { inputs: [{ shape: [2, 2], values: [1, 2, 3, 4] }], attributes: { axes: [0] }, outputs: [[3, 4, 1, 2]] },
    { inputs: [{ shape: [3, 4, 2] }], attributes: { axes: [1, 2] } },
  ],
});

export function reshape(x: Tensor, shape: Shape): Tensor {
  const to = inferReshape(x.shape, shape);
  return sameShape(to, x.shape) ? x : apply1(reshapeOp, [x], { shape: to });
}

export function inversePermutation(order: readonly number[]): number[] {
  const out = new Array<number>(order.length);
  order.forEach((a, i) => {
    out[a] = i;
  });
  return out;
}

export function transpose(x: Tensor, permutation?: readonly number[]): Tensor {
  const order = (permutation ?? x.shape.map((_, i) => x.rank - 1 - i)).map((a) =>
    normalizeAxis("transpose", a, x.rank),
  );
  return order.every((a, i) => a === i) ? x : apply1(transposeOp, [x], { permutation: order });
}

export function swapAxes(x: Tensor, a: number, b: number): Tensor {
  const [i, j] = [normalizeAxis("swapAxes", a, x.rank), normalizeAxis("swapAxes", b, x.rank)];
  return transpose(
    x,
    x.shape.map((_, k) => (k === i ? j : k === j ? i : k)),
  );
}

export function broadcastInDim(x: Tensor, shape: Shape, dimensions: readonly number[]): Tensor {
  if (sameShape(x.shape, shape) && dimensions.every((d, i) => d === i)) return x;
  return apply1(broadcastOp, [x], { shape, dimensions });
}

/** NumPy's broadcast: aligned at the back. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  if (!sameShape(broadcastShapes("broadcastTo", x.shape, shape), shape))
    throw new ShapeError(`broadcastTo: ${show(x.shape)} does not broadcast to ${show(shape)}.`);
  return broadcastInDim(
    x,
    shape,
    x.shape.map((_, i) => shape.length - x.rank + i),
  );
}

export function expandDims(x: Tensor, axis: number): Tensor {
  const a = normalizeAxis("expandDims", axis, x.rank + 1);
  return reshape(x, [...x.shape.slice(0, a), 1, ...x.shape.slice(a)]);
}

export function squeeze(x: Tensor, axis: number): Tensor {
  const a = normalizeAxis("squeeze", axis, x.rank);
  if (x.shape[a] !== 1)
    throw new ShapeError(`squeeze: axis ${axis} of ${show(x.shape)} has size ${x.shape[a]}, not 1.`);
  return reshape(
    x,
    x.shape.filter((_, i) => i !== a),
  );
}

export function slice(
  x: Tensor,
  start: readonly number[],
  limit: readonly number[],
  stride?: readonly number[],
): Tensor {
  const step = stride ?? start.map(() => 1);
  if (start.every((s, i) => s === 0 && limit[i] === x.shape[i] && step[i] === 1)) return x;
  return apply1(sliceOp, [x], { start, limit, stride: step });
}

/** `start..limit` along one axis; negative positions count from the end. */
export function sliceAxis(x: Tensor, axis: number, start: number, limit?: number): Tensor {
  const a = normalizeAxis("slice", axis, x.rank);
  const n = x.shape[a]!;
  const from = start < 0 ? start + n : start;
  const to = limit === undefined ? n : limit < 0 ? limit + n : limit;
  return slice(
    x,
    x.shape.map((_, i) => (i === a ? from : 0)),
    x.shape.map((d, i) => (i === a ? to : d)),
  );
}

export function split(x: Tensor, parts: number, axis = -1): Tensor[] {
  const a = normalizeAxis("split", axis, x.rank);
  const n = x.shape[a]!;
  if (n % parts !== 0)
    throw new ShapeError(`split: axis ${axis} of ${show(x.shape)} does not divide into ${parts} parts.`);
  const step = n / parts;
  return Array.from({ length: parts }, (_, i) => sliceAxis(x, a, i * step, (i + 1) * step));
}

export function dynamicSlice(x: Tensor, starts: readonly Tensor[], sizes: readonly number[]): Tensor {
  return apply1(dynamicSliceOp, [x, ...starts], { sizes });
}

export function dynamicUpdateSlice(x: Tensor, update: Tensor, starts: readonly Tensor[]): Tensor {
  return apply1(dynamicUpdateSliceOp, [x, update, ...starts]);
}

export function pad(
  x: Tensor,
  value: number | Tensor,
  low: readonly number[],
  high: readonly number[],
  interior: readonly number[] = low.map(() => 0),
): Tensor {
  if ([...low, ...high, ...interior].every((n) => n === 0)) return x;
  const filling = typeof value === "number" ? full([], value, x.dtype) : value;
  const y = apply1(padOp, [x, filling], { low, high, interior });
  if (filling !== value) filling.dispose();
  return y;
}

export function concatenate(tensors: readonly Tensor[], axis = 0): Tensor {
  if (tensors.length === 0) throw new ShapeError("concatenate: needs at least one tensor.");
  if (tensors.length === 1) return tensors[0]!;
  return apply1(concatenateOp, tensors, { axis: normalizeAxis("concatenate", axis, tensors[0]!.rank) });
}

/** Joins tensors of one shape along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  return concatenate(
    tensors.map((t) => expandDims(t, axis)),
    axis,
  );
}

export function reverse(x: Tensor, axes: readonly number[]): Tensor {
  return axes.length ? apply1(reverseOp, [x], { axes: axes.map((a) => normalizeAxis("reverse", a, x.rank)) }) : x;
}
