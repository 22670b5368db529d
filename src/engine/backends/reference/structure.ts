import { strides } from "../../../tensor/shape.ts";
import { type Call, type Kernels, list, type Numbers, type Operand, offsets } from "./kernel.ts";

function read(from: Numbers, at: Int32Array, to: Numbers): void {
  for (let i = 0; i < to.length; i++) to[i] = from[at[i]!]!;
}

function write(from: Numbers, to: Numbers, at: Int32Array): void {
  for (let i = 0; i < from.length; i++) to[at[i]!] = from[i]!;
}

function transpose({ inputs: [x], outputs: [y], attributes }: Call): void {
  const step = strides(x!.shape);
  const moved = list(attributes.permutation).map((a) => step[a]!);
  read(x!.data, offsets(y!.shape, moved), y!.data);
}

function broadcastInDim({ inputs: [x], outputs: [y], attributes }: Call): void {
  const step = strides(x!.shape);
  const spread = y!.shape.map((_, axis) => {
    const from = list(attributes.dimensions).indexOf(axis);
    return from < 0 || x!.shape[from] === 1 ? 0 : step[from]!;
  });
  read(x!.data, offsets(y!.shape, spread), y!.data);
}

function slice({ inputs: [x], outputs: [y], attributes }: Call): void {
  const step = strides(x!.shape);
  const start = list(attributes.start).reduce((at, s, i) => at + s * step[i]!, 0);
  const jump = list(attributes.stride).map((s, i) => s * step[i]!);
  read(x!.data, offsets(y!.shape, jump, start), y!.data);
}

/** Where a window of `sizes` begins in `shape`: the starts clamped so that it fits. */
function windowStart(shape: readonly number[], sizes: readonly number[], starts: readonly Operand[]): number {
  const step = strides(shape);
  return starts.reduce((at, s, i) => {
    const clamped = Math.min(Math.max(s.data[0]!, 0), shape[i]! - sizes[i]!);
    return at + clamped * step[i]!;
  }, 0);
}

function dynamicSlice({ inputs: [x, ...starts], outputs: [y] }: Call): void {
  const start = windowStart(x!.shape, y!.shape, starts);
  read(x!.data, offsets(y!.shape, strides(x!.shape), start), y!.data);
}

function dynamicUpdateSlice({ inputs: [x, update, ...starts], outputs: [y] }: Call): void {
  const start = windowStart(x!.shape, update!.shape, starts);
  y!.data.set(x!.data);
  write(update!.data, y!.data, offsets(update!.shape, strides(x!.shape), start));
}

function pad({ inputs: [x, value], outputs: [y], attributes }: Call): void {
  const low = list(attributes.low);
  const gap = list(attributes.interior).map((n) => n + 1);
  y!.data.fill(value!.data[0]!);
  // Negative padding cuts: along each axis keep the elements that land inside.
  const first = x!.shape.map((_, i) => Math.max(0, Math.ceil(-low[i]! / gap[i]!)));
  const kept = x!.shape.map((n, i) => {
    const last = Math.min(n - 1, Math.floor((y!.shape[i]! - 1 - low[i]!) / gap[i]!));
    return Math.max(0, last - first[i]! + 1);
  });
  const [from, to] = [strides(x!.shape), strides(y!.shape)];
  const source = offsets(
    kept,
    from,
    first.reduce((at, f, i) => at + f * from[i]!, 0),
  );
  const target = offsets(
    kept,
    to.map((s, i) => s * gap[i]!),
    first.reduce((at, f, i) => at + (low[i]! + f * gap[i]!) * to[i]!, 0),
  );
  for (let i = 0; i < source.length; i++) y!.data[target[i]!] = x!.data[source[i]!]!;
}

function concatenate({ inputs, outputs: [y], attributes }: Call): void {
  const axis = attributes.axis as number;
  const step = strides(y!.shape);
  let at = 0;
  for (const x of inputs) {
    write(x.data, y!.data, offsets(x.shape, step, at * step[axis]!));
    at += x.shape[axis]!;
  }
}

function reverse({ inputs: [x], outputs: [y], attributes }: Call): void {
  const axes = list(attributes.axes);
  const step = strides(x!.shape);
  const start = axes.reduce((at, a) => at + Math.max(0, x!.shape[a]! - 1) * step[a]!, 0);
  const turned = step.map((s, a) => (axes.includes(a) ? -s : s));
  read(x!.data, offsets(x!.shape, turned, start), y!.data);
}

function iota({ outputs: [y], attributes }: Call): void {
  const along = y!.shape.map((_, a) => (a === attributes.axis ? 1 : 0));
  y!.data.set(offsets(y!.shape, along));
}

export const structureKernels: Kernels = {
  transpose,
  broadcast_in_dim: broadcastInDim,
  slice,
  dynamic_slice: dynamicSlice,
  dynamic_update_slice: dynamicUpdateSlice,
  pad,
  concatenate,
  reverse,
  iota,
};
