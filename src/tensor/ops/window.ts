import { type DType, isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type Op } from "../op.ts";
import { show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { type Padding, resolvePadding, transposedPadding, windowCount } from "./convolution.ts";
import { full, iota, zeros } from "./creation.ts";
import { compare, where } from "./elementwise.ts";
import { gather, scatter } from "./indexing.ts";
import { broadcastTo, pad, reshape, slice } from "./structure.ts";

export type WindowKind = "add" | "maximum" | "minimum";

/** A window that slides over all axes of a tensor. Lists have one entry per axis. */
export interface Window {
  readonly window: readonly number[];
  readonly strides: readonly number[];
  readonly low: readonly number[];
  readonly high: readonly number[];
  /** Distance between neighbours inside the window. */
  readonly window_dilation: readonly number[];
  /** Distance between neighbours of the input. */
  readonly base_dilation: readonly number[];
}

const dims = (a: Attributes): Window => a as unknown as Window;
const span = (n: number, dilation: number): number => (n === 0 ? 0 : (n - 1) * dilation + 1);
const undilated = (d: Window): boolean => [...d.window_dilation, ...d.base_dilation].every((n) => n === 1);

function places(op: string, x: Aval, d: Window): number[] {
  const lists = [d.window, d.strides, d.low, d.high, d.window_dilation, d.base_dilation];
  if (lists.some((l) => l.length !== x.shape.length))
    throw new ShapeError(`${op}: window, strides, padding and dilations need one entry per axis of ${show(x.shape)}.`);
  if ([...d.window, ...d.strides, ...d.window_dilation, ...d.base_dilation].some((n) => n < 1))
    throw new ShapeError(`${op}: windows, strides and dilations must be at least 1.`);
  return x.shape.map((n, i) =>
    windowCount(
      span(n, d.base_dilation[i]!) + d.low[i]! + d.high[i]!,
      span(d.window[i]!, d.window_dilation[i]!),
      d.strides[i]!,
    ),
  );
}

function checkKind(op: string, kind: unknown, dtype: DType, kinds: readonly string[]): void {
  if (!kinds.includes(kind as string))
    throw new ShapeError(`${op}: kind is one of ${kinds.join(", ")}, not ${String(kind)}.`);
  if (dtype === "bool") throw new DTypeError(`${op}: does not work on bool. Convert with .to("i32").`);
}

/** The smallest number of a dtype (the largest for minima): what padding counts as. */
function lowest(kind: WindowKind, dtype: DType): number {
  const range: Partial<Record<DType, [number, number]>> = {
    i32: [-2147483648, 2147483647],
    u8: [0, 255],
    i8: [-128, 127],
  };
  const [low, high] = range[dtype] ?? [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY];
  return kind === "maximum" ? low : high;
}

/**
 * For each window, the row-major position in x of its first largest (or smallest) element; -1 where it lies in the padding alone. Built
 * from shifted slices, one per element of the window.
 */
function windowArgument(x: Tensor, kind: WindowKind, d: Window, output: readonly number[]): Tensor {
  const interior = d.base_dilation.map((n) => n - 1);
  const flat = reshape(iota([size(x.shape)], 0), x.shape);
  // One more slot at the end than any window needs is never read: slices stop at the last place.
  const values = pad(x, lowest(kind, x.dtype), d.low, d.high, interior);
  const numbers = pad(flat, -1, d.low, d.high, interior);
  let best: Tensor | undefined;
  let at: Tensor | undefined;
  for (let tap = 0; tap < size(d.window); tap++) {
    let rest = tap;
    const start = new Array<number>(x.rank);
    for (let i = x.rank - 1; i >= 0; i--) {
      start[i] = (rest % d.window[i]!) * d.window_dilation[i]!;
      rest = Math.floor(rest / d.window[i]!);
    }
    const limit = start.map((s, i) => s + (output[i]! - 1) * d.strides[i]! + 1);
    const [v, n] = [slice(values, start, limit, d.strides), slice(numbers, start, limit, d.strides)];
    if (!best || !at) [best, at] = [v, n];
    else {
      // A real element also replaces padding that is its equal (-inf against -inf).
      const first = at.equal(-1).to("i32").mul(n.notEqual(-1).to("i32")).equal(1);
      const better = compare(v, best, kind === "maximum" ? "GT" : "LT");
      const take = where(first, 1, where(better, n.notEqual(-1).to("f32"), 0)).equal(1);
      [best, at] = [where(take, v, best), where(take, n, at)];
    }
  }
  return at!;
}

const single = {
  offset_dims: [],
  collapsed_slice_dims: [0],
  start_index_map: [0],
  slice_sizes: [1],
};

/** Elements of `x` at row-major positions; 0 where the position is -1. */
function pickAt(x: Tensor, at: Tensor): Tensor {
  const y = gather(reshape(x, [-1]), at, { ...single, index_vector_dim: at.rank });
  return where(at.less(0), 0, y);
}

/** A tensor of the given shape with `updates` added at row-major positions; -1 adds nowhere. */
function addAt(shape: readonly number[], at: Tensor, updates: Tensor): Tensor {
  const y = scatter(zeros([size(shape)], updates.dtype), at, updates, "add", {
    update_window_dims: [],
    inserted_window_dims: [0],
    scatter_dims_to_operand_dims: [0],
    index_vector_dim: at.rank,
  });
  return reshape(y, shape);
}

const lead = (d: Window): Window => ({
  window: [1, ...d.window],
  strides: [1, ...d.strides],
  low: [0, ...d.low],
  high: [0, ...d.high],
  window_dilation: [1, ...d.window_dilation],
  base_dilation: [1, ...d.base_dilation],
});

const twos = { window_dilation: [1, 1], base_dilation: [1, 1] };

/** Folds the elements under each place of a sliding window. Padding counts as nothing: 0, or the lowest number for a maximum. */
export const reduceWindowOp: Op = defineOp({
  name: "reduce_window",
  infer([x], attributes) {
    checkKind("reduce_window", attributes.kind, x!.dtype, ["add", "maximum", "minimum"]);
    return [{ dtype: x!.dtype, shape: places("reduce_window", x!, dims(attributes)) }];
  },
  gradient({ inputs: [x], cotangents: [g], attributes }) {
    const d = dims(attributes);
    const kind = attributes.kind as WindowKind;
    if (g!.size === 0 || x!.size === 0) return [zeros(x!.shape, x!.dtype)];
    if (kind === "add") {
      // Each input collects the gradients of the windows it was in: a window sum over the spread-out gradient.
      const padding = x!.shape.map((input, i) =>
        transposedPadding({
          input,
          output: g!.shape[i]!,
          window: d.window[i]!,
          stride: d.strides[i]!,
          low: d.low[i]!,
          lhsDilation: d.base_dilation[i]!,
          rhsDilation: d.window_dilation[i]!,
        }),
      );
      return [
        reduceWindow(g!, "add", {
          window: d.window,
          strides: d.base_dilation,
          low: padding.map((p) => p[0]),
          high: padding.map((p) => p[1]),
          window_dilation: d.window_dilation,
          base_dilation: d.strides,
        }),
      ];
    }
    if (undilated(d)) return [selectAndScatter(x!, g!, kind, d)];
    return [addAt(x!.shape, windowArgument(x!, kind, d, g!.shape), g!)];
  },
  batch: ([x], _b, attributes) => [reduceWindow(x!, attributes.kind as WindowKind, lead(dims(attributes)))],
  flops: (_inputs, [y], attributes) => size(y!.shape) * size(dims(attributes).window),
  cases: [
    {
      inputs: [{ shape: [5], values: [1, 5, 2, 4, 3] }],
      attributes: {
        kind: "maximum",
        window: [3],
        strides: [2],
        low: [0],
        high: [0],
        window_dilation: [1],
        base_dilation: [1],
      },
      outputs: [[5, 4]],
    },
    {
      inputs: [{ shape: [4], values: [1, 2, 3, 4] }],
      attributes: {
        kind: "add",
        window: [2],
        strides: [1],
        low: [1],
        high: [1],
        window_dilation: [1],
        base_dilation: [1],
      },
      outputs: [[1, 3, 5, 7, 4]],
    },
    {
      inputs: [{ shape: [3], values: [7, 8, 9], dtype: "i32" }],
      attributes: {
        kind: "minimum",
        window: [2],
        strides: [2],
        low: [3],
        high: [0],
        window_dilation: [1],
        base_dilation: [1],
      },
      outputs: [[2147483647, 7, 8]],
    },
    {
      inputs: [{ shape: [6, 7] }],
      attributes: {
        kind: "add",
        window: [2, 3],
        strides: [2, 1],
        low: [0, 1],
        high: [1, 1],
        window_dilation: [2, 1],
        base_dilation: [1, 2],
      },
    },
    {
      inputs: [{ shape: [6, 7] }],
      attributes: { kind: "maximum", window: [3, 2], strides: [2, 2], low: [1, 0], high: [1, 1], ...twos },
    },
    {
      inputs: [{ shape: [6, 7] }],
      attributes: { kind: "minimum", window: [3, 2], strides: [1, 2], low: [0, 0], high: [-1, 0], ...twos },
    },
    {
      inputs: [{ shape: [5, 4] }],
      attributes: {
        kind: "maximum",
        window: [2, 3],
        strides: [1, 2],
        low: [1, 0],
        high: [0, 2],
        window_dilation: [2, 1],
        base_dilation: [1, 2],
      },
      // A place between the holes of a dilated input sees nothing and gives -inf.
      differentiable: false,
    },
    {
      inputs: [{ shape: [7, 5] }],
      attributes: {
        kind: "maximum",
        window: [2, 2],
        strides: [2, 1],
        low: [1, 0],
        high: [0, 1],
        window_dilation: [2, 3],
        base_dilation: [1, 1],
      },
    },
    {
      inputs: [{ shape: [2, 3] }],
      attributes: { kind: "add", window: [3, 1], strides: [1, 1], low: [0, 0], high: [0, 0], ...twos },
    },
  ],
});

export function reduceWindow(x: Tensor, kind: WindowKind, d: Window): Tensor {
  return apply1(reduceWindowOp, [x], { kind, ...d });
}

/**
 * For each place of a window over x, adds the source's element where x is largest (or smallest; the first of equals): the gradient of
 * a window maximum.
 */
export const selectAndScatterOp: Op = defineOp({
  name: "select_and_scatter",
  infer([x, source], attributes) {
    checkKind("select_and_scatter", attributes.kind, x!.dtype, ["maximum", "minimum"]);
    const shape = places("select_and_scatter", x!, withoutDilation(attributes));
    if (source!.dtype !== x!.dtype)
      throw new DTypeError(`select_and_scatter: the source is ${source!.dtype}, the operand ${x!.dtype}.`);
    if (show(source!.shape) !== show(shape))
      throw new ShapeError(
        `select_and_scatter: the source is ${show(source!.shape)}, the windows of ${show(x!.shape)} are ${show(shape)}.`,
      );
    return [{ dtype: x!.dtype, shape: x!.shape }];
  },
  gradient({ inputs: [x, source], cotangents: [g], attributes }) {
    if (source!.size === 0) return [undefined, zeros(source!.shape, source!.dtype)];
    const at = windowArgument(x!, attributes.kind as WindowKind, withoutDilation(attributes), source!.shape);
    return [undefined, pickAt(g!, at)];
  },
  batch([x, source], batched, attributes, n) {
    const wide = (t: Tensor, b: boolean) => (b ? t : broadcastTo(t, [n, ...t.shape]));
    return [
      selectAndScatter(
        wide(x!, batched[0]!),
        wide(source!, batched[1]!),
        attributes.kind as WindowKind,
        lead(withoutDilation(attributes)),
      ),
    ];
  },
  cases: [
    {
      inputs: [
        { shape: [5], values: [1, 5, 2, 5, 3] },
        { shape: [2], values: [10, 20] },
      ],
      attributes: { kind: "maximum", window: [3], strides: [2], low: [0], high: [0] },
      outputs: [[0, 10, 0, 20, 0]],
      differentiable: false,
    },
    {
      inputs: [
        { shape: [2, 2], values: [3, 3, 3, 3] },
        { shape: [1, 1], values: [1] },
      ],
      attributes: { kind: "minimum", window: [2, 2], strides: [1, 1], low: [0, 0], high: [0, 0] },
      outputs: [[1, 0, 0, 0]],
      differentiable: false,
    },
    {
      inputs: [{ shape: [6, 7] }, { shape: [3, 4] }],
      attributes: { kind: "maximum", window: [3, 2], strides: [2, 2], low: [1, 0], high: [0, 1] },
    },
  ],
});

function withoutDilation(attributes: Attributes): Window {
  const d = dims(attributes);
  const ones = d.window.map(() => 1);
  return { ...d, window_dilation: ones, base_dilation: ones };
}

export function selectAndScatter(x: Tensor, source: Tensor, kind: WindowKind, d: Window): Tensor {
  const { window, strides, low, high } = d;
  return apply1(selectAndScatterOp, [x, source], { kind, window, strides, low, high });
}

export interface PoolOptions {
  /** Default: the window, so that places do not overlap. */
  readonly stride?: number | readonly number[];
  readonly padding?: Padding;
  readonly channels?: "first" | "last";
}

/** A pooling window over the spatial axes of x (batch, channels, spatial...). */
function poolWindow(op: string, x: Tensor, window: number | readonly number[], options: PoolOptions): Window {
  const rank = x.rank - 2;
  if (rank < 1) throw new ShapeError(`${op}: needs (batch, channels, spatial...), got ${show(x.shape)}.`);
  const each = (v: number | readonly number[]) => (typeof v === "number" ? new Array<number>(rank).fill(v) : v);
  const sizes = each(window);
  const stride = each(options.stride ?? sizes);
  if (sizes.length !== rank || stride.length !== rank)
    throw new ShapeError(`${op}: window [${sizes}] and stride [${stride}] need ${rank} entries for ${show(x.shape)}.`);
  const first = (options.channels ?? "first") === "first" ? 2 : 1;
  const padding = resolvePadding(op, options.padding, x.shape.slice(first, first + rank), sizes, stride);
  const place = (values: readonly number[], otherwise: number) =>
    x.shape.map((_, i) => (i >= first && i < first + rank ? values[i - first]! : otherwise));
  return {
    window: place(sizes, 1),
    strides: place(stride, 1),
    low: place(
      padding.map((p) => p[0]),
      0,
    ),
    high: place(
      padding.map((p) => p[1]),
      0,
    ),
    window_dilation: x.shape.map(() => 1),
    base_dilation: x.shape.map(() => 1),
  };
}

/** The largest element under each window: x (batch, channels, spatial...) -> (batch, channels, places...). */
export function maxPool(x: Tensor, window: number | readonly number[], options: PoolOptions = {}): Tensor {
  return reduceWindow(x, "maximum", poolWindow("maxPool", x, window, options));
}

/** The mean under each window. With `countPadding` (default, as in PyTorch) padding counts as zeros; without, it is left out of the mean. */
export function avgPool(
  x: Tensor,
  window: number | readonly number[],
  options: PoolOptions & { readonly countPadding?: boolean } = {},
): Tensor {
  if (!isFloat(x.dtype))
    throw new DTypeError(`avgPool: needs a floating-point tensor, got ${x.dtype}${show(x.shape)}.`);
  const d = poolWindow("avgPool", x, window, options);
  const total = reduceWindow(x, "add", d);
  if (options.countPadding ?? true) return total.mul(1 / size(d.window));
  return total.div(reduceWindow(full(x.shape, 1, x.dtype), "add", d));
}
