import { type DType, isFloat } from "../../../tensor/dtype.ts";
import type { Attributes } from "../../../tensor/graph.ts";
import type { Call, Kernel, Kernels } from "./kernel.ts";
import { erf, logistic, power, roundNearestEven } from "./special.ts";

type Unary = (x: number) => number;
type Binary = (a: number, b: number) => number;

function unary(choose: (dtype: DType) => Unary): Kernel {
  return ({ inputs: [x], outputs: [y] }) => {
    const f = choose(x!.dtype);
    const from = x!.data;
    const to = y!.data;
    for (let i = 0; i < to.length; i++) to[i] = f(from[i]!);
  };
}

function binary(choose: (dtype: DType, attributes: Attributes) => Binary): Kernel {
  return ({ inputs: [a, b], outputs: [y], attributes }) => {
    const f = choose(a!.dtype, attributes);
    const [left, right] = [a!.data, b!.data];
    const to = y!.data;
    for (let i = 0; i < to.length; i++) to[i] = f(left[i]!, right[i]!);
  };
}

const always =
  <F>(f: F) =>
  () =>
    f;

const bits = (dtype: DType): number => (dtype === "i32" ? 32 : 8);
/** The value with its bits as an unsigned number, and as a two's complement one. */
const unsigned = (x: number, width: number): number => (width === 32 ? x >>> 0 : x & 0xff);
const signed = (x: number, width: number): number => (x << (32 - width)) >> (32 - width);

/** StableHLO: a shift by the width or more leaves nothing but, for the arithmetic one, the sign. */
function shift(f: (x: number, by: number, width: number) => number, beyond: (x: number, width: number) => number) {
  return binary((dtype) => {
    const width = bits(dtype);
    return (x, by) => (by < 0 || by >= width ? beyond(x, width) : f(x, by, width));
  });
}

function divideIntegers(a: number, b: number): number {
  return b === 0 ? -1 : Math.trunc(a / b);
}

export const directions: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  EQ: (a, b) => a === b,
  NE: (a, b) => a !== b,
  LT: (a, b) => a < b,
  LE: (a, b) => a <= b,
  GT: (a, b) => a > b,
  GE: (a, b) => a >= b,
};

const limits: Partial<Record<DType, readonly [number, number]>> = {
  i32: [-2147483648, 2147483647],
  u8: [0, 255],
  i8: [-128, 127],
};

/** Floats to integers truncate toward zero and saturate, NaN is 0; integers to integers keep their low bits; to bool: not 0. */
function converter(from: DType, to: DType): Unary {
  if (to === "bool") return (x) => (x !== 0 ? 1 : 0);
  const range = limits[to];
  if (!range || !isFloat(from)) return (x) => x;
  return (x) => (Number.isNaN(x) ? 0 : Math.min(Math.max(Math.trunc(x), range[0]), range[1]));
}

function convert({ inputs: [x], outputs: [y] }: Call): void {
  const f = converter(x!.dtype, y!.dtype);
  const [from, to] = [x!.data, y!.data];
  for (let i = 0; i < to.length; i++) to[i] = f(from[i]!);
}

export const copy: Kernel = ({ inputs: [x], outputs: [y] }) => {
  y!.bytes.set(x!.bytes);
};

function select({ inputs: [p, a, b], outputs: [y] }: Call): void {
  const [condition, yes, no] = [p!.data, a!.data, b!.data];
  const to = y!.data;
  for (let i = 0; i < to.length; i++) to[i] = condition[i] ? yes[i]! : no[i]!;
}

function clamp({ inputs: [low, x, high], outputs: [y] }: Call): void {
  const [from, at, until] = [low!.data, x!.data, high!.data];
  const to = y!.data;
  for (let i = 0; i < to.length; i++) to[i] = Math.min(Math.max(at[i]!, from[i]!), until[i]!);
}

export const elementwiseKernels: Kernels = {
  negate: unary(always((x) => -x)),
  abs: unary(always(Math.abs)),
  sign: unary(always(Math.sign)),
  exponential: unary(always(Math.exp)),
  exponential_minus_one: unary(always(Math.expm1)),
  log: unary(always(Math.log)),
  log_plus_one: unary(always(Math.log1p)),
  sqrt: unary(always(Math.sqrt)),
  rsqrt: unary(always((x) => 1 / Math.sqrt(x))),
  sine: unary(always(Math.sin)),
  cosine: unary(always(Math.cos)),
  tanh: unary(always(Math.tanh)),
  logistic: unary(always(logistic)),
  erf: unary(always(erf)),
  floor: unary(always(Math.floor)),
  ceil: unary(always(Math.ceil)),
  round_nearest_even: unary(always(roundNearestEven)),
  is_finite: unary(always((x) => (Number.isFinite(x) ? 1 : 0))),
  not: unary((dtype) => (dtype === "bool" ? (x) => (x ? 0 : 1) : (x) => ~x)),
  add: binary(always((a, b) => a + b)),
  subtract: binary(always((a, b) => a - b)),
  // The product of two i32 does not fit f64 exactly; its low 32 bits come from imul.
  multiply: binary((dtype) => (dtype === "i32" ? Math.imul : (a, b) => a * b)),
  divide: binary((dtype) => (isFloat(dtype) ? (a, b) => a / b : divideIntegers)),
  maximum: binary(always(Math.max)),
  minimum: binary(always(Math.min)),
  power: binary(always(power)),
  remainder: binary((dtype) => (isFloat(dtype) ? (a, b) => a % b : (a, b) => (b === 0 ? a : a % b))),
  atan2: binary(always(Math.atan2)),
  and: binary(always((a, b) => a & b)),
  or: binary(always((a, b) => a | b)),
  xor: binary(always((a, b) => a ^ b)),
  shift_left: shift(
    (x, by) => x << by,
    () => 0,
  ),
  shift_right_logical: shift(
    (x, by, width) => unsigned(x, width) >>> by,
    () => 0,
  ),
  shift_right_arithmetic: shift(
    (x, by, width) => signed(x, width) >> by,
    (x, width) => (signed(x, width) < 0 ? -1 : 0),
  ),
  compare: binary((_dtype, { direction }) => {
    const holds = directions[direction as string]!;
    return (a, b) => (holds(a, b) ? 1 : 0);
  }),
  select,
  clamp,
  convert,
  bitcast_convert: copy,
  copy,
  reshape: copy,
  identity: copy,
  stop_gradient: copy,
  optimization_barrier: copy,
};
