import { bytesPerElement, type DType, type HostArray, hostArray, toBfloat16, toFloat16 } from "../dtype.ts";
import { ShapeError } from "../errors.ts";
import type { Attributes } from "../graph.ts";
import { defineOp } from "../op.ts";
import { runtime } from "../runtime.ts";
import { type Shape, show, size } from "../shape.ts";
import { Tensor, uploadStorage } from "../tensor.ts";
import { apply1, currentTrace } from "../trace.ts";

/** A tensor known when the program is compiled: `data` on the node, or one number repeated. */
export const constantOp = defineOp({
  name: "constant",
  infer: (_inputs, a) => [{ dtype: a.dtype as DType, shape: a.shape as Shape }],
  gradient: () => [],
  cases: [
    { inputs: [], attributes: { dtype: "f32", shape: [2, 2], value: 1.5 }, outputs: [[1.5, 1.5, 1.5, 1.5]] },
    { inputs: [], attributes: { dtype: "i32", shape: [], value: -3 }, outputs: [[-3]] },
  ],
});

/** The index along `axis`, counted from 0. */
export const iotaOp = defineOp({
  name: "iota",
  infer(_inputs, a) {
    const [shape, axis] = [a.shape as Shape, a.axis as number];
    if (!(axis >= 0 && axis < shape.length))
      throw new ShapeError(`iota: axis ${axis} does not exist in ${show(shape)}.`);
    return [{ dtype: a.dtype as DType, shape }];
  },
  gradient: () => [],
  cases: [
    { inputs: [], attributes: { dtype: "i32", shape: [2, 3], axis: 1 }, outputs: [[0, 1, 2, 0, 1, 2]] },
    { inputs: [], attributes: { dtype: "f32", shape: [2, 3], axis: 0 }, outputs: [[0, 0, 0, 1, 1, 1]] },
  ],
});

/** A tensor over host data: a buffer of its own when concrete, a constant of the program while tracing. */
export function fromHost<D extends DType>(dtype: D, shape: Shape, data: HostArray): Tensor<D> {
  if (currentTrace()) {
    const attributes: Attributes = { dtype, shape };
    return apply1(constantOp, [], attributes, { data: data.slice() as HostArray }) as Tensor<D>;
  }
  return Tensor.concrete(dtype, shape, uploadStorage(data, dtype));
}

/**
 * An f32 tensor whose elements come in parts, so that a large one is never in JavaScript's memory. Outside of traces only.
 * @param part memory for one part; the next one comes when `read` is done with it, so it may be used again for other tensors
 * @param read fills its argument with the elements from `from` on
 */
export async function fromParts(
  shape: Shape,
  part: Float32Array,
  read: (into: Float32Array, from: number) => Promise<void>,
): Promise<Tensor<"f32">> {
  const whole = uninitialized(shape);
  try {
    const count = size(shape);
    for (let from = 0; from < count; from += part.length) {
      const into = part.subarray(0, Math.min(part.length, count - from));
      await read(into, from);
      whole.storage("fromParts").write(from * bytesPerElement("f32"), into);
    }
    return whole;
  } catch (error) {
    whole.dispose();
    throw error;
  }
}

/** From so many elements on, repeating a number is work for the backend: JavaScript would stand still for milliseconds. */
const LARGE = 1 << 14;

/** `value` repeated. */
export function full<D extends DType = "f32">(shape: Shape, value: number, dtype?: D): Tensor<D> {
  const type = (dtype ?? "f32") as D;
  if (currentTrace()) return apply1(constantOp, [], { dtype: type, shape, value }) as Tensor<D>;
  if (size(shape) >= LARGE) {
    using one = full([], value, type);
    return one.broadcastTo(shape);
  }
  const data = hostArray(type as DType, size(shape));
  data.fill(type === "bf16" ? toBfloat16(value) : type === "f16" ? toFloat16(value) : value);
  return Tensor.concrete(type, shape, uploadStorage(data, type));
}

/**
 * Memory for numbers that are written before they are read; until then they are undefined. Large ones take no memory of the machine before
 * they are written. Outside of traces only.
 */
export function uninitialized<D extends DType = "f32">(shape: Shape, dtype?: D): Tensor<D> {
  const type = (dtype ?? "f32") as D;
  if (currentTrace()) return zeros(shape, type);
  return Tensor.concrete(type, shape, runtime().allocate(Math.max(size(shape), 1) * bytesPerElement(type)));
}

export function zeros<D extends DType = "f32">(shape: Shape, dtype?: D): Tensor<D> {
  return full(shape, 0, dtype);
}

export function ones<D extends DType = "f32">(shape: Shape, dtype?: D): Tensor<D> {
  return full(shape, 1, dtype);
}

export function scalar<D extends DType = "f32">(value: number, dtype?: D): Tensor<D> {
  return full([], value, dtype);
}

export function iota<D extends DType = "i32">(shape: Shape, axis: number, dtype?: D): Tensor<D> {
  return apply1(iotaOp, [], { dtype: (dtype ?? "i32") as D, shape, axis }) as Tensor<D>;
}

/** 0, 1, ... n - 1. */
export function arange<D extends DType = "i32">(n: number, dtype?: D): Tensor<D> {
  return iota([n], 0, dtype);
}
