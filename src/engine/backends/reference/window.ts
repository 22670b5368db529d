import { strides } from "../../../tensor/shape.ts";
import { matmulOperand } from "./dot.ts";
import { type Call, type Kernels, list, offsets, pick } from "./kernel.ts";
import { fold } from "./reduction.ts";

/**
 * Along one axis: which input position (or -1 for padding and holes) lies under tap `w` of output position `o`, as a table o * window + w.
 */
function tapTable(options: {
  input: number;
  output: number;
  window: number;
  stride: number;
  low: number;
  windowDilation: number;
  baseDilation: number;
}): Int32Array {
  const { input, output, window, stride, low, windowDilation, baseDilation } = options;
  const table = new Int32Array(output * window);
  for (let o = 0; o < output; o++)
    for (let w = 0; w < window; w++) {
      const at = o * stride + w * windowDilation - low;
      const inside = at >= 0 && at % baseDilation === 0 && at / baseDilation < input;
      table[o * window + w] = inside ? at / baseDilation : -1;
    }
  return table;
}

/** Pairs (input offset, tap number) that meet at an output position given by its coordinates. */
function taps(
  tables: readonly Int32Array[],
  windows: readonly number[],
  at: readonly number[],
  inputStrides: readonly number[],
): { inputs: number[]; numbers: number[] } {
  let inputs = [0];
  let numbers = [0];
  tables.forEach((table, axis) => {
    const window = windows[axis]!;
    const [nextInputs, nextNumbers]: [number[], number[]] = [[], []];
    for (let i = 0; i < inputs.length; i++)
      for (let w = 0; w < window; w++) {
        const position = table[at[axis]! * window + w]!;
        if (position < 0) continue;
        nextInputs.push(inputs[i]! + position * inputStrides[axis]!);
        nextNumbers.push(numbers[i]! * window + w);
      }
    inputs = nextInputs;
    numbers = nextNumbers;
  });
  return { inputs, numbers };
}

/** The coordinates of row-major position `i` in `shape`. */
function coordinates(i: number, shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length);
  let rest = i;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    out[axis] = rest % shape[axis]!;
    rest = Math.floor(rest / shape[axis]!);
  }
  return out;
}

const count = (sizes: readonly number[]): number => sizes.reduce((n, d) => n * d, 1);

function convolution({ inputs: [x, w], outputs: [y], attributes, matmul }: Call): void {
  const [inputSpec, kernelSpec, outputSpec] = [
    list(attributes.input_spec),
    list(attributes.kernel_spec),
    list(attributes.output_spec),
  ];
  const groups = attributes.groups as number;
  const batchGroups = attributes.batch_groups as number;
  const [xs, ws, ys] = [strides(x!.shape), strides(w!.shape), strides(y!.shape)];
  const [xb, xf, ...xSpatial] = inputSpec as [number, number, ...number[]];
  const [wo, wi, ...wSpatial] = kernelSpec as [number, number, ...number[]];
  const [yb, yf, ...ySpatial] = outputSpec as [number, number, ...number[]];
  const windows = pick(w!.shape, wSpatial);
  const outputs = pick(y!.shape, ySpatial);
  const tables = windows.map((window, d) =>
    tapTable({
      input: x!.shape[xSpatial[d]!]!,
      output: outputs[d]!,
      window,
      stride: list(attributes.strides)[d]!,
      low: list(attributes.low)[d]!,
      windowDilation: list(attributes.rhs_dilation)[d]!,
      baseDilation: list(attributes.lhs_dilation)[d]!,
    }),
  );
  const kernelOffsets = offsets(windows, pick(ws, wSpatial));
  const outputOffsets = offsets(outputs, pick(ys, ySpatial));
  const [left, right] = [matmulOperand(x!, matmul), matmulOperand(w!, matmul)];
  const [batch, features, channels] = [y!.shape[yb]!, y!.shape[yf]!, w!.shape[wi]!];
  const positions = count(outputs);
  for (let p = 0; p < positions; p++) {
    const { inputs, numbers } = taps(tables, windows, coordinates(p, outputs), pick(xs, xSpatial));
    const kernels = numbers.map((n) => kernelOffsets[n]!);
    for (let o = 0; o < features; o++) {
      const group = Math.floor(o / (features / groups));
      const batchGroup = Math.floor(o / (features / batchGroups));
      for (let b = 0; b < batch; b++) {
        let total = 0;
        for (let c = 0; c < channels; c++) {
          const xAt = (batchGroup * batch + b) * xs[xb]! + (group * channels + c) * xs[xf]!;
          const wAt = o * ws[wo]! + c * ws[wi]!;
          for (let t = 0; t < inputs.length; t++) total += left[xAt + inputs[t]!]! * right[wAt + kernels[t]!]!;
        }
        y!.data[b * ys[yb]! + o * ys[yf]! + outputOffsets[p]!] = total;
      }
    }
  }
}

/** Folds the elements under a window that slides over all axes; padding and the holes of a dilated base count as the start value. */
function reduceWindow({ inputs: [x], outputs: [y], attributes }: Call): void {
  const windows = list(attributes.window);
  const tables = windows.map((window, d) =>
    tapTable({
      input: x!.shape[d]!,
      output: y!.shape[d]!,
      window,
      stride: list(attributes.strides)[d]!,
      low: list(attributes.low)[d]!,
      windowDilation: list(attributes.window_dilation)[d]!,
      baseDilation: list(attributes.base_dilation)[d]!,
    }),
  );
  const step = strides(x!.shape);
  const { start, step: combine } = fold(attributes.kind as string, x!.dtype);
  for (let p = 0; p < y!.data.length; p++) {
    const { inputs } = taps(tables, windows, coordinates(p, y!.shape), step);
    let total = start;
    for (const at of inputs) total = combine(total, x!.data[at]!);
    y!.data[p] = total;
  }
}

/** Adds each source element to the operand position that its window selects: the first largest (or smallest). */
function selectAndScatter({ inputs: [x, source], outputs: [y], attributes }: Call): void {
  const windows = list(attributes.window);
  const tables = windows.map((window, d) =>
    tapTable({
      input: x!.shape[d]!,
      output: source!.shape[d]!,
      window,
      stride: list(attributes.strides)[d]!,
      low: list(attributes.low)[d]!,
      windowDilation: 1,
      baseDilation: 1,
    }),
  );
  const step = strides(x!.shape);
  const largest = attributes.kind === "maximum";
  const total = new Float64Array(x!.data.length);
  for (let p = 0; p < source!.data.length; p++) {
    const { inputs } = taps(tables, windows, coordinates(p, source!.shape), step);
    let chosen = inputs[0];
    if (chosen === undefined) continue; // A window wholly in the padding.
    for (const at of inputs) {
      const [next, top] = [x!.data[at]!, x!.data[chosen]!];
      if (largest ? next > top : next < top) chosen = at;
    }
    total[chosen] = total[chosen]! + source!.data[p]!;
  }
  y!.data.set(total);
}

export const windowKernels: Kernels = {
  convolution,
  reduce_window: reduceWindow,
  select_and_scatter: selectAndScatter,
};
