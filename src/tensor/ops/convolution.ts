import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type Op, type OpCase } from "../op.ts";
import { show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { zeros } from "./creation.ts";
import { moveAxis } from "./indexing.ts";
import { broadcastTo, reshape, reverse } from "./structure.ts";

/**
 * StableHLO's convolution. A `spec` names the axes of an array in the order batch, feature, spatial...; for the kernel: output
 * feature, input feature, spatial.... Lists have one entry per spatial axis.
 */
export interface ConvolutionDimensions {
  readonly strides: readonly number[];
  /** Zeros before and after each spatial axis; negative cuts. */
  readonly low: readonly number[];
  readonly high: readonly number[];
  /** Distance between neighbours of the input (a fraction of a step: transposed convolution), and of the kernel. */
  readonly lhs_dilation: readonly number[];
  readonly rhs_dilation: readonly number[];
  /** Features in independent groups; the kernel has the features of one group. */
  readonly groups: number;
  /** The batch in groups, each with its own part of the output features: what the kernel's gradient needs. */
  readonly batch_groups: number;
  readonly input_spec: readonly number[];
  readonly kernel_spec: readonly number[];
  readonly output_spec: readonly number[];
}

const dims = (a: Attributes): ConvolutionDimensions => a as unknown as ConvolutionDimensions;

/** Length of `n` elements `dilation` apart. */
const dilated = (n: number, dilation: number): number => (n === 0 ? 0 : (n - 1) * dilation + 1);

/** Along one axis: how often a window fits. */
export function windowCount(length: number, window: number, stride: number): number {
  return length < window ? 0 : Math.floor((length - window) / stride) + 1;
}

function checkSpec(what: string, spec: readonly number[], rank: number): void {
  if (spec.length !== rank || [...spec].sort((a, b) => a - b).some((a, i) => a !== i))
    throw new ShapeError(`convolution: [${spec}] does not name the ${rank} axes of the ${what}.`);
}

function outputShape(x: Aval, w: Aval, d: ConvolutionDimensions): number[] {
  const rank = x.shape.length;
  checkSpec("input", d.input_spec, rank);
  checkSpec("kernel", d.kernel_spec, w.shape.length);
  checkSpec("output", d.output_spec, rank);
  const shapes = `input ${show(x.shape)}, kernel ${show(w.shape)}`;
  if (x.dtype !== w.dtype || !isFloat(x.dtype))
    throw new DTypeError(
      `convolution: needs two floating-point tensors of one dtype, got ${x.dtype}${show(x.shape)} and ${w.dtype}${show(w.shape)}. Convert one with .to(...).`,
    );
  if (w.shape.length !== rank) throw new ShapeError(`convolution: the input and the kernel differ in rank: ${shapes}.`);
  const [batch, features] = [x.shape[d.input_spec[0]!]!, x.shape[d.input_spec[1]!]!];
  const [out, channels] = [w.shape[d.kernel_spec[0]!]!, w.shape[d.kernel_spec[1]!]!];
  if (features !== channels * d.groups)
    throw new ShapeError(
      `convolution: the input has ${features} features, the kernel takes ${channels} in each of ${d.groups} groups: ${shapes}.`,
    );
  if (out % d.groups !== 0 || out % d.batch_groups !== 0 || batch % d.batch_groups !== 0)
    throw new ShapeError(
      `convolution: ${out} output features and a batch of ${batch} do not divide into ${Math.max(d.groups, d.batch_groups)} groups: ${shapes}.`,
    );
  if (d.groups > 1 && d.batch_groups > 1)
    throw new ShapeError("convolution: groups and batch_groups cannot both be more than 1.");
  const shape = new Array<number>(rank);
  shape[d.output_spec[0]!] = batch / d.batch_groups;
  shape[d.output_spec[1]!] = out;
  for (let i = 0; i < rank - 2; i++) {
    if (!(d.strides[i]! >= 1 && d.lhs_dilation[i]! >= 1 && d.rhs_dilation[i]! >= 1))
      throw new ShapeError("convolution: strides and dilations must be at least 1 for each spatial axis.");
    const length = dilated(x.shape[d.input_spec[i + 2]!]!, d.lhs_dilation[i]!) + d.low[i]! + d.high[i]!;
    const window = dilated(w.shape[d.kernel_spec[i + 2]!]!, d.rhs_dilation[i]!);
    shape[d.output_spec[i + 2]!] = windowCount(length, window, d.strides[i]!);
  }
  return shape;
}

/** Axis `axis` of size a * b as two axes (a, b), of which the first moves into axis `into` as its slower part. */
function regroup(x: Tensor, axis: number, parts: number, into: number): Tensor {
  const n = x.shape[axis]!;
  const apart = reshape(x, [...x.shape.slice(0, axis), parts, n / parts, ...x.shape.slice(axis + 1)]);
  return mergeAxes(moveAxis(apart, axis, into), into);
}

/** Axes `axis` and `axis + 1` as one. */
function mergeAxes(x: Tensor, axis: number): Tensor {
  return reshape(x, [...x.shape.slice(0, axis), x.shape[axis]! * x.shape[axis + 1]!, ...x.shape.slice(axis + 2)]);
}

/** The first two entries of a spec exchanged. */
const exchanged = ([a, b, ...rest]: readonly number[]): number[] => [b!, a!, ...rest];

/** How far the gradient of a windowed op has to be padded so that each input meets the windows it was in. */
export function transposedPadding(options: {
  input: number;
  output: number;
  window: number;
  stride: number;
  low: number;
  lhsDilation: number;
  rhsDilation: number;
}): [low: number, high: number] {
  const window = dilated(options.window, options.rhsDilation);
  const low = window - 1 - options.low;
  const input = dilated(options.input, options.lhsDilation);
  return [low, input + window - 1 - dilated(options.output, options.stride) - low];
}

function inputGradient(x: Tensor, w: Tensor, g: Tensor, d: ConvolutionDimensions): Tensor {
  const spatial = d.strides.map((_, i) => i);
  const padding = spatial.map((i) =>
    transposedPadding({
      input: x.shape[d.input_spec[i + 2]!]!,
      output: g.shape[d.output_spec[i + 2]!]!,
      window: w.shape[d.kernel_spec[i + 2]!]!,
      stride: d.strides[i]!,
      low: d.low[i]!,
      lhsDilation: d.lhs_dilation[i]!,
      rhsDilation: d.rhs_dilation[i]!,
    }),
  );
  const groups = Math.max(d.groups, d.batch_groups);
  const turned = reverse(w, d.kernel_spec.slice(2));
  // Each group's output features become its input features.
  const kernel = groups > 1 ? regroup(turned, d.kernel_spec[0]!, groups, d.kernel_spec[1]!) : turned;
  const dx = convolution(g, kernel, {
    strides: d.lhs_dilation,
    low: padding.map((p) => p[0]),
    high: padding.map((p) => p[1]),
    lhs_dilation: d.strides,
    rhs_dilation: d.rhs_dilation,
    groups,
    batch_groups: 1,
    input_spec: d.output_spec,
    kernel_spec: exchanged(d.kernel_spec),
    output_spec: d.input_spec,
  });
  return d.batch_groups > 1 ? regroup(dx, d.input_spec[1]!, d.batch_groups, d.input_spec[0]!) : dx;
}

function kernelGradient(x: Tensor, w: Tensor, g: Tensor, d: ConvolutionDimensions): Tensor {
  // The batch is summed over, so it takes the place of the input features; the gradient is the kernel, spread by the strides.
  const high = d.strides.map((_, i) => {
    const input = dilated(x.shape[d.input_spec[i + 2]!]!, d.lhs_dilation[i]!);
    const window = dilated(w.shape[d.kernel_spec[i + 2]!]!, d.rhs_dilation[i]!);
    return dilated(g.shape[d.output_spec[i + 2]!]!, d.strides[i]!) + window - 1 - input - d.low[i]!;
  });
  return convolution(x, g, {
    strides: d.rhs_dilation,
    low: d.low,
    high,
    lhs_dilation: d.lhs_dilation,
    rhs_dilation: d.strides,
    groups: d.batch_groups,
    batch_groups: d.groups,
    input_spec: exchanged(d.input_spec),
    kernel_spec: exchanged(d.output_spec),
    output_spec: exchanged(d.kernel_spec),
  });
}

/** The mapped axis (in front) folded into axis `axis` of the element, as its slower part. */
function foldInto(x: Tensor, axis: number): Tensor {
  return mergeAxes(moveAxis(x, 0, axis), axis);
}

/** The slower part of size n of axis `axis`, taken out to the front. */
function unfoldFrom(x: Tensor, axis: number, n: number): Tensor {
  const shape = [...x.shape.slice(0, axis), n, x.shape[axis]! / n, ...x.shape.slice(axis + 1)];
  return moveAxis(reshape(x, shape), axis, 0);
}

const plain1d = { input_spec: [0, 1, 2], kernel_spec: [0, 1, 2], output_spec: [0, 1, 2] };
const plain2d = { input_spec: [0, 1, 2, 3], kernel_spec: [0, 1, 2, 3], output_spec: [0, 1, 2, 3] };
const unit = { strides: [1], low: [0], high: [0], lhs_dilation: [1], rhs_dilation: [1], groups: 1, batch_groups: 1 };
const unit2 = {
  strides: [1, 1],
  low: [0, 0],
  high: [0, 0],
  lhs_dilation: [1, 1],
  rhs_dilation: [1, 1],
  groups: 1,
  batch_groups: 1,
};

const cases: OpCase[] = [
  {
    inputs: [
      { shape: [1, 1, 4], values: [1, 2, 3, 4] },
      { shape: [1, 1, 2], values: [10, 1] },
    ],
    attributes: { ...plain1d, ...unit },
    outputs: [[12, 23, 34]],
  },
  {
    inputs: [
      { shape: [1, 1, 3], values: [1, 2, 3] },
      { shape: [1, 1, 3], values: [1, 10, 100] },
    ],
    // A transposed convolution: holes in the input, padding of 2.
    attributes: { ...plain1d, ...unit, lhs_dilation: [2], low: [2], high: [2] },
    outputs: [[100, 10, 201, 20, 302, 30, 3]],
  },
  { inputs: [{ shape: [2, 3, 9] }, { shape: [4, 3, 3] }], attributes: { ...plain1d, ...unit, strides: [2], low: [1] } },
  {
    inputs: [{ shape: [2, 4, 7] }, { shape: [6, 2, 3] }],
    attributes: { ...plain1d, ...unit, groups: 2, rhs_dilation: [2], low: [2], high: [1] },
  },
  {
    inputs: [{ shape: [4, 3, 6] }, { shape: [6, 3, 2] }],
    attributes: { ...plain1d, ...unit, batch_groups: 2, strides: [2], low: [-1], high: [2] },
  },
  { inputs: [{ shape: [2, 3, 6, 5] }, { shape: [4, 3, 3, 3] }], attributes: { ...plain2d, ...unit2 } },
  {
    inputs: [{ shape: [2, 2, 7, 6] }, { shape: [4, 2, 3, 2] }],
    attributes: { ...plain2d, ...unit2, strides: [2, 1], low: [1, 0], high: [1, 2], rhs_dilation: [1, 2] },
  },
  {
    // Depthwise, with holes in the input.
    inputs: [{ shape: [2, 3, 4, 4] }, { shape: [6, 1, 2, 3] }],
    attributes: { ...plain2d, ...unit2, groups: 3, lhs_dilation: [2, 1], low: [1, 1], high: [0, 1] },
  },
  {
    // Channels last, kernel (height, width, in, out).
    inputs: [{ shape: [2, 5, 6, 3] }, { shape: [3, 2, 3, 4] }],
    attributes: {
      ...unit2,
      input_spec: [0, 3, 1, 2],
      kernel_spec: [3, 2, 0, 1],
      output_spec: [0, 3, 1, 2],
      low: [1, 0],
      high: [1, 1],
    },
  },
  { inputs: [{ shape: [1, 2, 2] }, { shape: [3, 2, 5] }], attributes: { ...plain1d, ...unit } },
  {
    inputs: [{ shape: [1, 2, 3, 4, 3] }, { shape: [2, 2, 2, 2, 2] }],
    attributes: {
      strides: [1, 2, 1],
      low: [0, 1, 0],
      high: [1, 0, 0],
      lhs_dilation: [1, 1, 1],
      rhs_dilation: [1, 1, 1],
      groups: 1,
      batch_groups: 1,
      input_spec: [0, 1, 2, 3, 4],
      kernel_spec: [0, 1, 2, 3, 4],
      output_spec: [0, 1, 2, 3, 4],
    },
  },
];

/** Slides a kernel over an input and sums the products: (batch, in, spatial...) and (out, in, window...) give (batch, out, places...). */
export const convolutionOp: Op = defineOp({
  name: "convolution",
  infer: ([x, w], attributes) => [{ dtype: x!.dtype, shape: outputShape(x!, w!, dims(attributes)) }],
  gradient({ inputs: [x, w], cotangents: [g], attributes, wanted }) {
    const d = dims(attributes);
    if (g!.size === 0) return [zeros(x!.shape, x!.dtype), zeros(w!.shape, w!.dtype)];
    return [
      wanted[0] ? inputGradient(x!, w!, g!, d) : undefined,
      wanted[1] ? kernelGradient(x!, w!, g!, d) : undefined,
    ];
  },
  batch([x, w], batched, attributes, n) {
    const d = dims(attributes);
    const [xb, xf] = d.input_spec as [number, number];
    const wo = d.kernel_spec[0]!;
    const [yb, yf] = d.output_spec as [number, number];
    if (batched[0] && !batched[1] && d.batch_groups === 1)
      return [unfoldFrom(convolution(foldInto(x!, xb), w!, d), yb, n)];
    if (!batched[0] && d.groups === 1 && d.batch_groups === 1)
      return [unfoldFrom(convolution(x!, foldInto(w!, wo), d), yf, n)];
    // Both: each mapped element is a group (or a batch group) of its own.
    const all = batched[0] ? x! : broadcastTo(x!, [n, ...x!.shape]);
    const kernel = foldInto(batched[1] ? w! : broadcastTo(w!, [n, ...w!.shape]), wo);
    const y =
      d.batch_groups > 1
        ? convolution(foldInto(all, xb), kernel, { ...d, batch_groups: d.batch_groups * n })
        : convolution(foldInto(all, xf), kernel, { ...d, groups: d.groups * n });
    return [unfoldFrom(y, yf, n)];
  },
  flops([, w], [y], attributes) {
    const d = dims(attributes);
    return 2 * size(y!.shape) * (size(w!.shape) / w!.shape[d.kernel_spec[0]!]!);
  },
  cases,
});

export function convolution(x: Tensor, w: Tensor, d: ConvolutionDimensions): Tensor {
  return apply1(convolutionOp, [x, w], { ...d });
}

export type Padding = number | "same" | "valid" | readonly (number | readonly [low: number, high: number])[];

export interface ConvolutionOptions {
  readonly stride?: number | readonly number[];
  /** Zeros at both ends: one number, one per axis, pairs, or "same" (output as long as the input divided by the stride, rounded up). */
  readonly padding?: Padding;
  readonly dilation?: number | readonly number[];
  readonly groups?: number;
  readonly bias?: Tensor;
  /** Where the channels of input and output are; the kernel is (out, in, window...) always. Default "first". */
  readonly channels?: "first" | "last";
}

export interface TransposedOptions extends Omit<ConvolutionOptions, "padding"> {
  /** What the matching convolution was padded with; it is cut off here. */
  readonly padding?: number | readonly number[];
  /** Extra length at the end of each axis, to tell apart input sizes that a stride maps to one. */
  readonly outputPadding?: number | readonly number[];
}

function perAxis(op: string, value: number | readonly number[] | undefined, rank: number, otherwise: number): number[] {
  if (value === undefined || typeof value === "number") return new Array<number>(rank).fill(value ?? otherwise);
  if (value.length !== rank)
    throw new ShapeError(`${op}: [${value}] has ${value.length} entries for ${rank} spatial axes.`);
  return [...value];
}

/** Padding as pairs. `lengths` and `windows` are those of the spatial axes, windows with their dilation. */
export function resolvePadding(
  op: string,
  padding: Padding | undefined,
  lengths: readonly number[],
  windows: readonly number[],
  stride: readonly number[],
): [low: number, high: number][] {
  if (padding === "same")
    return lengths.map((n, i) => {
      const total = Math.max(0, (Math.ceil(n / stride[i]!) - 1) * stride[i]! + windows[i]! - n);
      return [Math.floor(total / 2), Math.ceil(total / 2)];
    });
  if (padding === undefined || padding === "valid") return lengths.map(() => [0, 0]);
  if (typeof padding === "number") return lengths.map(() => [padding, padding]);
  if (padding.length !== lengths.length)
    throw new ShapeError(`${op}: padding has ${padding.length} entries for ${lengths.length} spatial axes.`);
  return padding.map((p) => (typeof p === "number" ? [p, p] : [p[0], p[1]]));
}

function layout(rank: number, channels: "first" | "last"): readonly number[] {
  const spatial = Array.from({ length: rank }, (_, i) => i);
  return channels === "first" ? [0, 1, ...spatial.map((i) => i + 2)] : [0, rank + 1, ...spatial.map((i) => i + 1)];
}

function checkRank(op: string, x: Tensor, w: Tensor, rank: number): void {
  if (x.rank !== rank + 2 || w.rank !== rank + 2)
    throw new ShapeError(
      `${op}: needs an input and a kernel of rank ${rank + 2}, got ${show(x.shape)} and ${show(w.shape)}.`,
    );
}

function addBias(op: string, y: Tensor, bias: Tensor | undefined, axis: number): Tensor {
  if (!bias) return y;
  if (bias.rank !== 1 || bias.shape[0] !== y.shape[axis])
    throw new ShapeError(`${op}: the bias is ${show(bias.shape)}, the output has ${y.shape[axis]} features.`);
  return y.add(
    reshape(
      bias,
      y.shape.map((d, i) => (i === axis ? d : 1)),
    ),
  );
}

function convolve(op: string, rank: number, x: Tensor, w: Tensor, options: ConvolutionOptions): Tensor {
  checkRank(op, x, w, rank);
  const spec = layout(rank, options.channels ?? "first");
  const stride = perAxis(op, options.stride, rank, 1);
  const dilation = perAxis(op, options.dilation, rank, 1);
  const lengths = spec.slice(2).map((a) => x.shape[a]!);
  const windows = w.shape.slice(2).map((n, i) => dilated(n, dilation[i]!));
  const padding = resolvePadding(op, options.padding, lengths, windows, stride);
  const y = convolution(x, w, {
    strides: stride,
    low: padding.map((p) => p[0]),
    high: padding.map((p) => p[1]),
    lhs_dilation: stride.map(() => 1),
    rhs_dilation: dilation,
    groups: options.groups ?? 1,
    batch_groups: 1,
    input_spec: spec,
    kernel_spec: layout(rank, "first"),
    output_spec: spec,
  });
  return addBias(op, y, options.bias, spec[1]!);
}

function convolveTransposed(op: string, rank: number, x: Tensor, w: Tensor, options: TransposedOptions): Tensor {
  checkRank(op, x, w, rank);
  const spec = layout(rank, options.channels ?? "first");
  const groups = options.groups ?? 1;
  const dilation = perAxis(op, options.dilation, rank, 1);
  const padding = perAxis(op, options.padding, rank, 0);
  const extra = perAxis(op, options.outputPadding, rank, 0);
  const windows = w.shape.slice(2).map((n, i) => dilated(n, dilation[i]!));
  if (w.shape[0]! % groups !== 0)
    throw new ShapeError(
      `${op}: the kernel ${show(w.shape)} takes ${w.shape[0]} features, not a multiple of ${groups} groups.`,
    );
  const turned = reverse(
    w,
    windows.map((_, i) => i + 2),
  );
  // (in, out / groups, window...) -> (in / groups, out, window...)
  const kernel = groups > 1 ? regroup(turned, 0, groups, 1) : turned;
  const y = convolution(x, kernel, {
    strides: windows.map(() => 1),
    low: windows.map((n, i) => n - 1 - padding[i]!),
    high: windows.map((n, i) => n - 1 - padding[i]! + extra[i]!),
    lhs_dilation: perAxis(op, options.stride, rank, 1),
    rhs_dilation: dilation,
    groups,
    batch_groups: 1,
    input_spec: spec,
    kernel_spec: exchanged(layout(rank, "first")),
    output_spec: spec,
  });
  return addBias(op, y, options.bias, spec[1]!);
}

/** x (batch, in, length), w (out, in / groups, window) -> (batch, out, places). */
export function conv1d(x: Tensor, w: Tensor, options: ConvolutionOptions = {}): Tensor {
  return convolve("conv1d", 1, x, w, options);
}

/** x (batch, in, height, width), w (out, in / groups, window height, window width) -> (batch, out, ...). */
export function conv2d(x: Tensor, w: Tensor, options: ConvolutionOptions = {}): Tensor {
  return convolve("conv2d", 2, x, w, options);
}

/** x (batch, in, depth, height, width), w (out, in / groups, ...) -> (batch, out, ...). */
export function conv3d(x: Tensor, w: Tensor, options: ConvolutionOptions = {}): Tensor {
  return convolve("conv3d", 3, x, w, options);
}

/** The convolution whose gradient conv1d is: x (batch, in, length), w (in, out / groups, window), as in PyTorch. */
export function convTranspose1d(x: Tensor, w: Tensor, options: TransposedOptions = {}): Tensor {
  return convolveTransposed("convTranspose1d", 1, x, w, options);
}

/** x (batch, in, height, width), w (in, out / groups, window height, window width), as in PyTorch. */
export function convTranspose2d(x: Tensor, w: Tensor, options: TransposedOptions = {}): Tensor {
  return convolveTransposed("convTranspose2d", 2, x, w, options);
}
