import { strides } from "../../../tensor/shape.ts";
import { type Call, type Kernels, list, type Operand, offsets, others, pick } from "./kernel.ts";
import { fold } from "./reduction.ts";

/**
 * The index vectors of a gather or scatter: for each position of the batch, one start per addressed operand axis. An
 * `index_vector_dim` equal to the rank means vectors of one component.
 */
function indexVectors(indices: Operand, vectorDim: number): { bases: Int32Array; stride: number } {
  const step = strides(indices.shape);
  const batch = others(indices.shape.length, [vectorDim]);
  return { bases: offsets(pick(indices.shape, batch), pick(step, batch)), stride: step[vectorDim] ?? 0 };
}

function gather({ inputs: [x, indices], outputs: [y], attributes }: Call): void {
  const sizes = list(attributes.slice_sizes);
  const map = list(attributes.start_index_map);
  const windowAxes = others(x!.shape.length, list(attributes.collapsed_slice_dims));
  const offsetDims = list(attributes.offset_dims);
  const batchDims = others(y!.shape.length, offsetDims);
  const step = strides(x!.shape);
  const out = strides(y!.shape);
  const source = offsets(pick(sizes, windowAxes), pick(step, windowAxes));
  const target = offsets(pick(y!.shape, offsetDims), pick(out, offsetDims));
  const places = offsets(pick(y!.shape, batchDims), pick(out, batchDims));
  const { bases, stride } = indexVectors(indices!, attributes.index_vector_dim as number);
  for (let b = 0; b < places.length; b++) {
    let start = 0;
    map.forEach((axis, c) => {
      const index = indices!.data[bases[b]! + c * stride]!;
      start += Math.min(Math.max(index, 0), x!.shape[axis]! - sizes[axis]!) * step[axis]!;
    });
    for (let w = 0; w < source.length; w++) y!.data[places[b]! + target[w]!] = x!.data[start + source[w]!]!;
  }
}

function scatter({ inputs: [x, indices, updates], outputs: [y], attributes }: Call): void {
  const map = list(attributes.scatter_dims_to_operand_dims);
  const windowAxes = others(x!.shape.length, list(attributes.inserted_window_dims));
  const windowDims = list(attributes.update_window_dims);
  const batchDims = others(updates!.shape.length, windowDims);
  const step = strides(x!.shape);
  const from = strides(updates!.shape);
  const target = offsets(pick(updates!.shape, windowDims), pick(step, windowAxes));
  const source = offsets(pick(updates!.shape, windowDims), pick(from, windowDims));
  const places = offsets(pick(updates!.shape, batchDims), pick(from, batchDims));
  const { bases, stride } = indexVectors(indices!, attributes.index_vector_dim as number);
  const windows = x!.shape.map((_, axis) => {
    const w = windowAxes.indexOf(axis);
    return w < 0 ? 1 : updates!.shape[windowDims[w]!]!;
  });
  const combine = attributes.kind === "set" ? undefined : fold(attributes.kind as string, x!.dtype).step;
  // Sums are kept in f64 until the end, so that the order of the updates does not round.
  const total = x!.data instanceof Float32Array ? Float64Array.from(x!.data) : x!.data.slice();
  const lengths = x!.shape;
  for (let b = 0; b < places.length; b++) {
    let start = 0;
    const at = lengths.map(() => 0);
    map.forEach((axis, c) => {
      at[axis] = indices!.data[bases[b]! + c * stride]!;
      start += at[axis]! * step[axis]!;
    });
    // StableHLO skips single elements that fall outside; a window partly inside keeps its inner part.
    const whole = at.every((s, axis) => s >= 0 && s + windows[axis]! <= lengths[axis]!);
    for (let w = 0; w < target.length; w++) {
      if (!whole && !inside(w, at, windows, lengths)) continue;
      const to = start + target[w]!;
      const u = updates!.data[places[b]! + source[w]!]!;
      total[to] = combine ? combine(total[to]!, u) : u;
    }
  }
  y!.data.set(total);
}

/** Whether element `w` of a window (row-major over its sizes) lies inside the operand when the window starts `at`. */
function inside(w: number, at: readonly number[], windows: readonly number[], shape: readonly number[]): boolean {
  let rest = w;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const position = at[axis]! + (rest % windows[axis]!);
    if (position < 0 || position >= shape[axis]!) return false;
    rest = Math.floor(rest / windows[axis]!);
  }
  return true;
}

export const indexingKernels: Kernels = { gather, scatter };
