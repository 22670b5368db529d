import {
  bytesPerElement,
  type DType,
  fromBfloat16,
  fromFloat16,
  type HostArray,
  type HostArrays,
  hostArray,
  isFloat,
  toBfloat16,
  toFloat16,
} from "./dtype.ts";
import { ShapeError, StateError } from "./errors.ts";
import type { Aval, Value } from "./graph.ts";
import * as creation from "./ops/creation.ts";
import * as dot from "./ops/dot.ts";
import * as elementwise from "./ops/elementwise.ts";
import * as indexing from "./ops/indexing.ts";
import * as reduction from "./ops/reduction.ts";
import * as structure from "./ops/structure.ts";
import { type Estate, runtime, type Storage } from "./runtime.ts";
import { type Shape, show, size } from "./shape.ts";

/** Concrete tensors alive now; a test that ends with more than it began with has leaked. */
let live = 0;
export function liveTensors(): number {
  return live;
}

/**
 * Storages are watched, not tensors: those of donated tensors go on in the next ones, and a training step that hands on some hundred of them
 * leaves the garbage collector nothing to do.
 */
const unreleased = new FinalizationRegistry<Estate>((estate) => {
  if (estate.owned) live--;
  estate.owned = false;
  estate.release();
});

const decoderOf = (dtype: DType): ((x: number) => number) =>
  dtype === "bf16" ? fromBfloat16 : dtype === "f16" ? fromFloat16 : (x) => x;

export type Operand = Tensor | number;
export type NestedNumbers = number | boolean | readonly NestedNumbers[];

/**
 * An n-dimensional array. It is either *concrete* (owns a buffer of a backend) or *traced* (stands for a value of a program that
 * is being recorded by `jit`, `grad` and the like). Both have the same methods; only concrete ones can be read.
 */
export class Tensor<D extends DType = DType> implements Aval {
  readonly dtype: D;
  readonly shape: Shape;
  #storage: Storage | undefined;
  readonly #value: Value | undefined;
  #gone: string | undefined;

  private constructor(aval: { dtype: D; shape: Shape }, storage: Storage | undefined, value: Value | undefined) {
    this.dtype = aval.dtype;
    this.shape = aval.shape;
    this.#storage = storage;
    this.#value = value;
    if (storage) {
      live++;
      const { estate } = storage;
      estate.owned = true;
      if (!estate.watched) unreleased.register(storage, estate, storage);
      estate.watched = true;
    }
  }

  static concrete<D extends DType>(dtype: D, shape: Shape, storage: Storage): Tensor<D> {
    return new Tensor({ dtype, shape }, storage, undefined);
  }

  static traced(value: Value): Tensor {
    return new Tensor(value, undefined, value);
  }

  get rank(): number {
    return this.shape.length;
  }
  get size(): number {
    return size(this.shape);
  }
  get bytes(): number {
    return this.size * bytesPerElement(this.dtype);
  }
  /** The value this tensor stands for in a trace; undefined for concrete tensors. */
  get tracedValue(): Value | undefined {
    return this.#value;
  }
  get isTraced(): boolean {
    return this.#value !== undefined;
  }

  /** The buffer of a concrete tensor. Throws when it is traced, disposed or donated. */
  storage(by: string): Storage {
    if (this.#storage) return this.#storage;
    if (this.#value)
      throw new StateError(
        `${by} needs the values of a tensor that is only being traced. Return it from the traced function and read it outside.`,
      );
    throw new StateError(`${by} uses a tensor ${show(this.shape)} that was ${this.#gone}.`);
  }

  assertAlive(by: string): void {
    if (!this.#value) this.storage(by);
  }

  /** Releases the buffer; using the tensor afterwards is an error. Harmless when repeated or traced. */
  dispose(): void {
    this.#release("disposed", true);
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
  /** Gives the buffer away: the caller takes over its storage. */
  donate(): Storage {
    const storage = this.storage("donation");
    this.#release("donated to a compiled function; use that function's result instead", false);
    return storage;
  }
  #release(how: string, free: boolean): void {
    const storage = this.#storage;
    if (!storage) return;
    live--;
    storage.estate.owned = false;
    if (free) {
      unreleased.unregister(storage);
      storage.estate.watched = false;
      storage.release();
    }
    this.#storage = undefined;
    this.#gone = how;
  }

  /** The elements as the backend holds them (bf16 and f16 as bits), row-major. Waits for pending work. */
  async data(): Promise<HostArrays[D]> {
    return (await this.storage("data").read(this.dtype, this.size)) as HostArrays[D];
  }

  /** The elements as JavaScript numbers, row-major. */
  async numbers(): Promise<number[]> {
    const data = await this.data();
    const array: ArrayLike<number> = data;
    return Array.from(array, decoderOf(this.dtype));
  }

  /** The one element of a tensor of size 1. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item: the tensor has shape ${show(this.shape)}, not one element.`);
    const [first] = await this.storage("item").read(this.dtype, 1);
    return decoderOf(this.dtype)(first as number);
  }

  toString(): string {
    return `Tensor<${this.dtype}>${show(this.shape)}${this.#value ? " traced" : ""}`;
  }

  // Element by element. Numbers and smaller shapes broadcast.
  add(b: Operand): Tensor<D> {
    return elementwise.add(this, b) as Tensor<D>;
  }
  sub(b: Operand): Tensor<D> {
    return elementwise.subtract(this, b) as Tensor<D>;
  }
  mul(b: Operand): Tensor<D> {
    return elementwise.multiply(this, b) as Tensor<D>;
  }
  div(b: Operand): Tensor<D> {
    return elementwise.divide(this, b) as Tensor<D>;
  }
  pow(b: Operand): Tensor<D> {
    return elementwise.power(this, b) as Tensor<D>;
  }
  maximum(b: Operand): Tensor<D> {
    return elementwise.maximum(this, b) as Tensor<D>;
  }
  minimum(b: Operand): Tensor<D> {
    return elementwise.minimum(this, b) as Tensor<D>;
  }
  neg(): Tensor<D> {
    return elementwise.negate(this) as Tensor<D>;
  }
  abs(): Tensor<D> {
    return elementwise.abs(this) as Tensor<D>;
  }
  exp(): Tensor<D> {
    return elementwise.exp(this) as Tensor<D>;
  }
  log(): Tensor<D> {
    return elementwise.log(this) as Tensor<D>;
  }
  sqrt(): Tensor<D> {
    return elementwise.sqrt(this) as Tensor<D>;
  }
  rsqrt(): Tensor<D> {
    return elementwise.rsqrt(this) as Tensor<D>;
  }
  square(): Tensor<D> {
    return elementwise.multiply(this, this) as Tensor<D>;
  }
  sin(): Tensor<D> {
    return elementwise.sin(this) as Tensor<D>;
  }
  cos(): Tensor<D> {
    return elementwise.cos(this) as Tensor<D>;
  }
  tanh(): Tensor<D> {
    return elementwise.tanh(this) as Tensor<D>;
  }
  sigmoid(): Tensor<D> {
    return elementwise.logistic(this) as Tensor<D>;
  }
  equal(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "EQ");
  }
  notEqual(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "NE");
  }
  less(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "LT");
  }
  lessEqual(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "LE");
  }
  greater(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "GT");
  }
  greaterEqual(b: Operand): Tensor<"bool"> {
    return elementwise.compare(this, b, "GE");
  }
  /** Converts to another dtype: floats round to nearest even, floats to integers truncate toward zero and saturate. */
  to<E extends DType>(dtype: E): Tensor<E> {
    return elementwise.convert(this, dtype);
  }
  stopGradient(): Tensor<D> {
    return elementwise.stopGradient(this) as Tensor<D>;
  }

  // Over axes. `axes` undefined means all; `keep` leaves them with size 1.
  sum(axes?: number | readonly number[], options?: reduction.ReduceOptions): Tensor<D> {
    return reduction.sum(this, axes, options) as Tensor<D>;
  }
  mean(axes?: number | readonly number[], options?: reduction.ReduceOptions): Tensor<D> {
    return reduction.mean(this, axes, options) as Tensor<D>;
  }
  max(axes?: number | readonly number[], options?: reduction.ReduceOptions): Tensor<D> {
    return reduction.max(this, axes, options) as Tensor<D>;
  }
  min(axes?: number | readonly number[], options?: reduction.ReduceOptions): Tensor<D> {
    return reduction.min(this, axes, options) as Tensor<D>;
  }

  // Form.
  reshape(...shape: number[]): Tensor<D> {
    return structure.reshape(this, shape) as Tensor<D>;
  }
  /** Axes in a new order; without arguments, reversed. */
  transpose(...permutation: number[]): Tensor<D> {
    return structure.transpose(this, permutation.length ? permutation : undefined) as Tensor<D>;
  }
  swapAxes(a: number, b: number): Tensor<D> {
    return structure.swapAxes(this, a, b) as Tensor<D>;
  }
  expandDims(axis: number): Tensor<D> {
    return structure.expandDims(this, axis) as Tensor<D>;
  }
  squeeze(axis: number): Tensor<D> {
    return structure.squeeze(this, axis) as Tensor<D>;
  }
  broadcastTo(shape: Shape): Tensor<D> {
    return structure.broadcastTo(this, shape) as Tensor<D>;
  }
  /** Elements `start..limit` along one axis. */
  slice(axis: number, start: number, limit?: number): Tensor<D> {
    return structure.sliceAxis(this, axis, start, limit) as Tensor<D>;
  }
  split(parts: number, axis = -1): Tensor<D>[] {
    return structure.split(this, parts, axis) as Tensor<D>[];
  }
  /** Rows of `this` along `axis`, chosen by integer `indices`. */
  take(indices: Tensor, axis = 0): Tensor<D> {
    return indexing.take(this, indices, axis) as Tensor<D>;
  }

  /** Matrix product over the last two axes; leading axes broadcast. */
  matmul(b: Tensor): Tensor<D> {
    return dot.matmul(this, b) as Tensor<D>;
  }
}

/** A concrete tensor from numbers (nested lists give the shape) or from a typed array with a shape. */
export function tensor<D extends DType = "f32">(
  values: NestedNumbers | HostArray,
  options: { dtype?: D; shape?: Shape } = {},
): Tensor<D> {
  const dtype = (options.dtype ?? (isHostArray(values) ? defaultDType(values) : "f32")) as D;
  if (isHostArray(values) && values.constructor === hostArray(dtype, 0).constructor) {
    const shape = options.shape ?? [values.length];
    checkSize(shape, values.length);
    return creation.fromHost(dtype, shape, values as HostArrays[D]);
  }
  const { flat, shape: found } = isHostArray(values)
    ? { flat: Array.from(values as ArrayLike<number>), shape: [values.length] }
    : flattenNested(values);
  const shape = options.shape ?? found;
  checkSize(shape, flat.length);
  return creation.fromHost(dtype, shape, encodeNumbers(dtype, flat));
}

/** JavaScript numbers as a dtype's host array. */
export function encodeNumbers<D extends DType>(dtype: D, numbers: readonly number[]): HostArrays[D] {
  const out = hostArray(dtype, numbers.length);
  const encode =
    dtype === "bf16"
      ? toBfloat16
      : dtype === "f16"
        ? toFloat16
        : dtype === "bool"
          ? (x: number) => (x ? 1 : 0)
          : undefined;
  for (let i = 0; i < numbers.length; i++) out[i] = encode ? encode(numbers[i]!) : numbers[i]!;
  return out;
}

function isHostArray(values: NestedNumbers | HostArray): values is HostArray {
  return ArrayBuffer.isView(values);
}

function defaultDType(values: HostArray): DType {
  if (values instanceof Int32Array) return "i32";
  if (values instanceof Float64Array) return "f64";
  if (values instanceof Uint8Array) return "u8";
  if (values instanceof Int8Array) return "i8";
  return "f32";
}

function checkSize(shape: Shape, count: number): void {
  if (size(shape) !== count)
    throw new ShapeError(`tensor: shape ${show(shape)} holds ${size(shape)} elements, but ${count} were given.`);
}

function flattenNested(values: NestedNumbers): { flat: number[]; shape: number[] } {
  const shape: number[] = [];
  for (let level: NestedNumbers | undefined = values; Array.isArray(level); level = level[0]) shape.push(level.length);
  const flat: number[] = [];
  const walk = (v: NestedNumbers, depth: number): void => {
    if (typeof v === "number" || typeof v === "boolean") {
      if (depth !== shape.length) throw new ShapeError("tensor: the nested lists have different depths.");
      flat.push(Number(v));
      return;
    }
    if (v.length !== shape[depth]) throw new ShapeError("tensor: the nested lists have different lengths.");
    for (const w of v) walk(w, depth + 1);
  };
  walk(values, 0);
  return { flat, shape };
}

/** Storage for host data on the installed engine's backend. */
export function uploadStorage(data: HostArray, dtype: DType): Storage {
  return runtime().upload(data, dtype);
}

export function assertFloat(op: string, t: Aval): void {
  if (!isFloat(t.dtype)) throw new ShapeError(`${op}: needs a floating-point tensor, got ${t.dtype}${show(t.shape)}.`);
}
