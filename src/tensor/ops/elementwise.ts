import { type DType, isFloat, isInteger } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type GradientContext, type Op, type OpCase } from "../op.ts";
import { broadcastShapes, sameShape, show, size } from "../shape.ts";
import type { Operand, Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { full } from "./creation.ts";
import { broadcastTo } from "./structure.ts";

type Kind = "float" | "number" | "integer" | "bits";

function checkKind(op: string, aval: Aval, kind: Kind): void {
  const { dtype } = aval;
  const good =
    kind === "float"
      ? isFloat(dtype)
      : kind === "integer"
        ? isInteger(dtype)
        : kind === "bits"
          ? isInteger(dtype) || dtype === "bool"
          : dtype !== "bool";
  if (!good) {
    const wanted = {
      float: "a floating-point",
      number: "a numeric",
      integer: "an integer",
      bits: "an integer or bool",
    }[kind];
    throw new DTypeError(`${op}: needs ${wanted} tensor, got ${dtype}${show(aval.shape)}. Convert it with .to(...).`);
  }
}

function sameAvals(op: string, inputs: readonly Aval[]): Aval {
  const first = inputs[0]!;
  for (const other of inputs) {
    if (other.dtype !== first.dtype)
      throw new DTypeError(
        `${op}: the operands have different dtypes: ${first.dtype}${show(first.shape)} and ${other.dtype}${show(other.shape)}. Convert one with .to(...).`,
      );
    if (!sameShape(other.shape, first.shape))
      throw new ShapeError(`${op}: the operands have different shapes: ${show(first.shape)} and ${show(other.shape)}.`);
  }
  return first;
}

/** All inputs broadcast to the mapped size, then the op again: the rule under `vmap` of every element-wise op. */
function batchElementwise(op: () => Op) {
  return (inputs: readonly Tensor[], batched: readonly boolean[], attributes: Attributes, n: number): Tensor[] => [
    apply1(
      op(),
      inputs.map((t, i) => (batched[i] ? t : broadcastTo(t, [n, ...t.shape]))),
      attributes,
    ),
  ];
}

type Gradient = (g: Tensor, c: GradientContext) => readonly (Tensor | undefined)[];

function unary(name: string, kind: Kind, gradient: Gradient | undefined, cases: readonly OpCase[]): Op {
  const op: Op = defineOp({
    name,
    elementwise: true,
    inPlace: [[0, 0]],
    infer([x]) {
      checkKind(name, x!, kind);
      return [{ dtype: x!.dtype, shape: x!.shape }];
    },
    gradient: (c) => (gradient ? gradient(c.cotangents[0]!, c) : [undefined]),
    batch: batchElementwise(() => op),
    flops: (_i, [y]) => size(y!.shape),
    cases,
  });
  return op;
}

function binary(name: string, kind: Kind, gradient: Gradient | undefined, cases: readonly OpCase[]): Op {
  const op: Op = defineOp({
    name,
    elementwise: true,
    inPlace: [
      [0, 0],
      [0, 1],
    ],
    infer(inputs) {
      const aval = sameAvals(name, inputs);
      checkKind(name, aval, kind);
      return [{ dtype: aval.dtype, shape: aval.shape }];
    },
    gradient: (c) => (gradient ? gradient(c.cotangents[0]!, c) : [undefined, undefined]),
    batch: batchElementwise(() => op),
    flops: (_i, [y]) => size(y!.shape),
    cases,
  });
  return op;
}

const x1 = (values: number[], outputs: number[], more: Partial<OpCase> = {}): OpCase => ({
  inputs: [{ shape: [values.length], values }],
  outputs: [outputs],
  ...more,
});
const x2 = (a: number[], b: number[], outputs: number[], dtype: DType = "f32"): OpCase => ({
  inputs: [
    { shape: [a.length], values: a, dtype },
    { shape: [b.length], values: b, dtype },
  ],
  outputs: [outputs],
  differentiable: dtype === "f32",
});
const random1 = (low: number, high: number): OpCase[] => [
  { inputs: [{ shape: [3, 17], low, high }] },
  { inputs: [{ shape: [0, 4], low, high }] },
  { inputs: [{ shape: [], low, high }] },
];
const random2 = (low: number, high: number, low2 = low, high2 = high): OpCase => ({
  inputs: [
    { shape: [5, 33], low, high },
    { shape: [5, 33], low: low2, high: high2 },
  ],
});
const kink = { differentiable: false };
const inf = Number.POSITIVE_INFINITY;

const negateOp = unary("negate", "number", (g) => [g.neg()], [x1([1, -2, 0], [-1, 2, -0]), ...random1(-2, 2)]);
const absOp = unary("abs", "number", (g, { inputs: [x] }) => [g.mul(sign(x!))], [
  x1([1, -2, -inf], [1, 2, inf], kink),
  ...random1(0.1, 2),
]);
const signOp = unary("sign", "number", () => [undefined], [x1([3, -2, 0], [1, -1, 0], kink)]);
const expOp = unary("exponential", "float", (g, { outputs: [y] }) => [g.mul(y!)], [
  x1([0, 1, -inf], [1, Math.E, 0], kink),
  ...random1(-5, 5),
]);
const expm1Op = unary("exponential_minus_one", "float", (g, { outputs: [y] }) => [g.mul(y!.add(1))], [
  x1([0, 1e-6], [0, 1.0000005e-6]),
  ...random1(-3, 3),
]);
const logOp = unary("log", "float", (g, { inputs: [x] }) => [g.div(x!)], [
  x1([1, 0, inf], [0, -inf, inf], kink),
  ...random1(0.1, 9),
]);
const log1pOp = unary("log_plus_one", "float", (g, { inputs: [x] }) => [g.div(x!.add(1))], [
  x1([0, 1e-6], [0, 9.999995e-7]),
  ...random1(-0.5, 5),
]);
const sqrtOp = unary("sqrt", "float", (g, { outputs: [y] }) => [g.mul(0.5).div(y!)], [
  x1([4, 9, 0], [2, 3, 0], kink),
  ...random1(0.2, 5),
]);
const rsqrtOp = unary("rsqrt", "float", (g, { inputs: [x], outputs: [y] }) => [g.mul(-0.5).mul(y!.div(x!))], [
  x1([4, 0.25], [0.5, 2]),
  ...random1(0.2, 5),
]);
const sinOp = unary("sine", "float", (g, { inputs: [x] }) => [g.mul(x!.cos())], [x1([0], [0]), ...random1(-9, 9)]);
const cosOp = unary("cosine", "float", (g, { inputs: [x] }) => [g.mul(x!.sin()).neg()], [
  x1([0], [1]),
  ...random1(-9, 9),
]);
const tanhOp = unary("tanh", "float", (g, { outputs: [y] }) => [g.sub(g.mul(y!).mul(y!))], [
  x1([0, 100, -100], [0, 1, -1]),
  ...random1(-4, 4),
]);
const logisticOp = unary("logistic", "float", (g, { outputs: [y] }) => [g.mul(y!.sub(y!.mul(y!)))], [
  x1([0, 200, -200], [0.5, 1, 0], kink),
  ...random1(-6, 6),
]);
const erfOp = unary(
  "erf",
  "float",
  (g, { inputs: [x] }) => [
    g.mul(
      x!
        .mul(x!)
        .neg()
        .exp()
        .mul(2 / Math.sqrt(Math.PI)),
    ),
  ],
  [x1([0, 1, -1, 6], [0, 0.8427007929497149, -0.8427007929497149, 1]), ...random1(-3, 3)],
);
const floorOp = unary("floor", "float", () => [undefined], [x1([1.5, -1.5, 2], [1, -2, 2], kink)]);
const ceilOp = unary("ceil", "float", () => [undefined], [x1([1.5, -1.5, 2], [2, -1, 2], kink)]);
const roundOp = unary("round_nearest_even", "float", () => [undefined], [
  x1([0.5, 1.5, 2.5, -0.6], [0, 2, 2, -1], kink),
]);
const notOp = unary("not", "bits", undefined, [
  { inputs: [{ shape: [2], values: [0, 1], dtype: "bool" }], outputs: [[1, 0]] },
  { inputs: [{ shape: [2], values: [0, 5], dtype: "i32" }], outputs: [[-1, -6]] },
]);

/** Neither infinite nor NaN. */
const isFiniteOp: Op = defineOp({
  name: "is_finite",
  elementwise: true,
  infer([x]) {
    checkKind("is_finite", x!, "float");
    return [{ dtype: "bool", shape: x!.shape }];
  },
  gradient: () => [undefined],
  batch: batchElementwise(() => isFiniteOp),
  cases: [x1([1, inf, -inf, Number.NaN], [1, 0, 0, 0], kink)],
});

/** Not the derivative anywhere: what `stopGradient` and the gradients of kinks are built on. */
const stopGradientOp: Op = unary("stop_gradient", "number", () => [undefined], [x1([1, 2], [1, 2], kink)]);
/** The same values under a new name, so that `grad` can ask for the gradient with respect to this use only. */
export const identityOp: Op = defineOp({
  name: "identity",
  elementwise: true,
  inPlace: [[0, 0]],
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  gradient: (c) => [c.cotangents[0]],
  batch: batchElementwise(() => identityOp),
  cases: [x1([1, 2], [1, 2])],
});
/** The same values, but nothing is moved or merged across it. */
export const optimizationBarrierOp: Op = defineOp({
  name: "optimization_barrier",
  infer: ([x]) => [{ dtype: x!.dtype, shape: x!.shape }],
  gradient: (c) => [c.cotangents[0]],
  batch: batchElementwise(() => optimizationBarrierOp),
  cases: [x1([1, 2], [1, 2])],
});

const addOp = binary("add", "number", (g) => [g, g], [
  x2([1, 2], [10, 20], [11, 22]),
  x2([2147483647, 2], [1, 3], [-2147483648, 5], "i32"),
  random2(-2, 2),
]);
const subtractOp = binary("subtract", "number", (g) => [g, g.neg()], [
  x2([1, 2], [10, 20], [-9, -18]),
  x2([-2147483648], [1], [2147483647], "i32"),
  random2(-2, 2),
]);
const multiplyOp = binary(
  "multiply",
  "number",
  (g, { inputs: [a, b], wanted }) => [wanted[0] ? g.mul(b!) : undefined, wanted[1] ? g.mul(a!) : undefined],
  [x2([3, -2], [10, 20], [30, -40]), x2([65537], [65537], [131073], "i32"), random2(-2, 2)],
);
const divideOp = binary(
  "divide",
  "number",
  (g, { inputs: [, b], outputs: [y], wanted }) => [
    wanted[0] ? g.div(b!) : undefined,
    wanted[1] ? g.mul(y!).div(b!).neg() : undefined,
  ],
  [
    x2([3, -2], [2, 4], [1.5, -0.5]),
    x2([7, -7, 5], [2, 2, 0], [3, -3, -1], "i32"),
    { ...x2([1, -1, 0], [0, 0, 0], [inf, -inf, Number.NaN]), differentiable: false },
    random2(-2, 2, 0.5, 2),
  ],
);
const maximumOp = binary("maximum", "number", (g, { inputs: [a, b] }) => halves(g, a!, b!, "GT"), [
  { ...x2([3, -2, Number.NaN], [2, 4, 1], [3, 4, Number.NaN]), differentiable: false },
  x2([3, -2], [2, 4], [3, 4], "i32"),
  random2(-2, 2),
]);
const minimumOp = binary("minimum", "number", (g, { inputs: [a, b] }) => halves(g, a!, b!, "LT"), [
  { ...x2([3, -2, Number.NaN], [2, 4, 1], [2, -2, Number.NaN]), differentiable: false },
  random2(-2, 2),
]);
const powerOp = binary(
  "power",
  "float",
  (g, { inputs: [a, b], outputs: [y], wanted }) => [
    wanted[0] ? g.mul(b!.mul(power(a!, b!.sub(1)))) : undefined,
    // 0^b is constant in b > 0, so the log of 0 must not poison the product.
    wanted[1] ? g.mul(where(a!.greater(0), y!.mul(log(where(a!.greater(0), a!, 1))), 0)) : undefined,
  ],
  [
    x2([2, 9], [10, 0.5], [1024, 3]),
    { ...x2([0, 0, -2], [2, 0, 3], [0, 1, -8]), differentiable: false },
    random2(0.3, 3, -2, 2),
  ],
);
const remainderOp = binary(
  "remainder",
  "number",
  (g, { inputs: [a, b], wanted }) => [
    g,
    wanted[1] ? g.mul(where(a!.div(b!).less(0), ceil(a!.div(b!)), floor(a!.div(b!)))).neg() : undefined,
  ],
  [x2([5.5, -5.5], [2, 2], [1.5, -1.5]), x2([7, -7], [3, 3], [1, -1], "i32")],
);
const atan2Op = binary(
  "atan2",
  "float",
  (g, { inputs: [a, b] }) => {
    const r = g.div(a!.mul(a!).add(b!.mul(b!)));
    return [r.mul(b!), r.mul(a!).neg()];
  },
  [x2([1, 1], [1, -1], [Math.PI / 4, (3 * Math.PI) / 4]), random2(0.3, 2)],
);
const andOp = binary("and", "bits", undefined, [
  x2([1, 1, 0], [1, 0, 0], [1, 0, 0], "bool"),
  x2([12, -1], [10, 7], [8, 7], "i32"),
]);
const orOp = binary("or", "bits", undefined, [
  x2([1, 1, 0], [1, 0, 0], [1, 1, 0], "bool"),
  x2([12], [10], [14], "i32"),
]);
const xorOp = binary("xor", "bits", undefined, [
  x2([1, 1, 0], [1, 0, 0], [0, 1, 0], "bool"),
  x2([12], [10], [6], "i32"),
]);
const shiftLeftOp = binary("shift_left", "integer", undefined, [
  x2([3, 1, 1], [2, 31, 32], [12, -2147483648, 0], "i32"),
]);
const shiftRightLogicalOp = binary("shift_right_logical", "integer", undefined, [
  x2([-1, 8, 5], [28, 2, 32], [15, 2, 0], "i32"),
]);
const shiftRightArithmeticOp = binary("shift_right_arithmetic", "integer", undefined, [
  x2([-16, 8], [2, 2], [-4, 2], "i32"),
]);

/** The gradient of max and min: to the chosen operand, half to each where they are equal. */
function halves(g: Tensor, a: Tensor, b: Tensor, direction: Direction): Tensor[] {
  const tie = where(a.equal(b), g.mul(0.5), 0);
  return [where(compare(a, b, direction), g, tie), where(compare(b, a, direction), g, tie)];
}

export type Direction = "EQ" | "NE" | "LT" | "LE" | "GT" | "GE";

/** Whether a relation holds, element by element; none but NE holds for NaN. */
const compareOp: Op = defineOp({
  name: "compare",
  elementwise: true,
  infer: (inputs) => [{ dtype: "bool", shape: sameAvals("compare", inputs).shape }],
  gradient: () => [undefined, undefined],
  batch: batchElementwise(() => compareOp),
  cases: (["EQ", "NE", "LT", "LE", "GT", "GE"] as const).map((direction) => ({
    ...x2(
      [1, 2, 3, Number.NaN],
      [2, 2, 2, 1],
      { EQ: [0, 1, 0, 0], NE: [1, 0, 1, 1], LT: [1, 0, 0, 0], LE: [1, 1, 0, 0], GT: [0, 0, 1, 0], GE: [0, 1, 1, 0] }[
        direction
      ],
    ),
    attributes: { direction },
    differentiable: false,
  })),
});

/** The first where the condition holds, the second elsewhere. */
const selectOp: Op = defineOp({
  name: "select",
  elementwise: true,
  inPlace: [
    [0, 1],
    [0, 2],
  ],
  infer([p, a, b]) {
    if (p!.dtype !== "bool")
      throw new DTypeError(`select: the condition must be bool, got ${p!.dtype}${show(p!.shape)}.`);
    const aval = sameAvals("select", [a!, b!]);
    if (!sameShape(p!.shape, aval.shape))
      throw new ShapeError(`select: condition ${show(p!.shape)} and operands ${show(aval.shape)} differ in shape.`);
    return [{ dtype: aval.dtype, shape: aval.shape }];
  },
  gradient: ({ inputs: [p], cotangents: [g] }) => [undefined, where(p!, g!, 0), where(p!, 0, g!)],
  batch: batchElementwise(() => selectOp),
  cases: [
    {
      inputs: [
        { shape: [3], values: [1, 0, 1], dtype: "bool" },
        { shape: [3], values: [1, 2, 3] },
        { shape: [3], values: [10, 20, 30] },
      ],
      outputs: [[1, 20, 3]],
    },
  ],
});

/** min(max(x, low), high). */
const clampOp: Op = defineOp({
  name: "clamp",
  elementwise: true,
  infer: (inputs) => {
    const aval = sameAvals("clamp", inputs);
    return [{ dtype: aval.dtype, shape: aval.shape }];
  },
  gradient: ({ inputs: [low, x, high], cotangents: [g] }) => [
    where(x!.less(low!), g!, 0),
    where(x!.greaterEqual(low!), where(x!.lessEqual(high!), g!, 0), 0),
    where(x!.greater(high!), g!, 0),
  ],
  batch: batchElementwise(() => clampOp),
  cases: [
    {
      inputs: [
        { shape: [3], values: [-1, -1, -1] },
        { shape: [3], values: [-5, 0.5, 5] },
        { shape: [3], values: [1, 1, 1] },
      ],
      outputs: [[-1, 0.5, 1]],
    },
  ],
});

/** Another dtype; floats to integers truncate toward zero and saturate, NaN is 0. */
const convertOp: Op = defineOp({
  name: "convert",
  elementwise: true,
  infer: ([x], { dtype }) => [{ dtype: dtype as DType, shape: x!.shape }],
  gradient: ({ inputs: [x], cotangents: [g] }) => [isFloat(x!.dtype) ? convert(g!, x!.dtype) : undefined],
  batch: batchElementwise(() => convertOp),
  cases: [
    {
      inputs: [{ shape: [4], values: [1.9, -1.9, Number.NaN, 1e30] }],
      attributes: { dtype: "i32" },
      outputs: [[1, -1, 0, 2147483647]],
      differentiable: false,
    },
    { inputs: [{ shape: [3], values: [1, 0, 1], dtype: "bool" }], attributes: { dtype: "f32" }, outputs: [[1, 0, 1]] },
    {
      inputs: [{ shape: [3], values: [0, 0.5, -3] }],
      attributes: { dtype: "bool" },
      outputs: [[0, 1, 1]],
      differentiable: false,
    },
    {
      inputs: [{ shape: [2], values: [1.00390625, Math.PI] }],
      attributes: { dtype: "bf16" },
      outputs: [[1, 3.140625]],
      differentiable: false,
    },
    { inputs: [{ shape: [2], values: [300, -7], dtype: "i32" }], attributes: { dtype: "f32" }, outputs: [[300, -7]] },
    { inputs: [{ shape: [2, 5] }], attributes: { dtype: "f32" } },
    {
      inputs: [{ shape: [3], values: [300, -1, 127], dtype: "i32" }],
      attributes: { dtype: "u8" },
      outputs: [[44, 255, 127]],
    },
    {
      inputs: [{ shape: [4], values: [300, -1, 99.9, Number.NaN] }],
      attributes: { dtype: "i8" },
      outputs: [[127, -1, 99, 0]],
      differentiable: false,
    },
  ],
});

/** The same bits under another dtype of the same width. */
const bitcastConvertOp: Op = defineOp({
  name: "bitcast_convert",
  infer([x], { dtype }) {
    const width = { f32: 4, i32: 4, bf16: 2, f16: 2, u8: 1, i8: 1, bool: 1, f64: 8 };
    if (width[x!.dtype] !== width[dtype as DType])
      throw new DTypeError(`bitcast_convert: ${x!.dtype} and ${String(dtype)} have different widths.`);
    return [{ dtype: dtype as DType, shape: x!.shape }];
  },
  gradient: () => [undefined],
  batch: batchElementwise(() => bitcastConvertOp),
  cases: [
    {
      inputs: [{ shape: [2], values: [1, -2] }],
      attributes: { dtype: "i32" },
      outputs: [[1065353216, -1073741824]],
      differentiable: false,
    },
  ],
});

/** Brings two operands to one shape; numbers take the other's dtype. */
export function align(op: string, a: Operand, b: Operand): [Tensor, Tensor] {
  if (typeof a === "number" && typeof b === "number") return [full([], a), full([], b)];
  if (typeof a === "number") return [full((b as Tensor).shape, a, (b as Tensor).dtype), b as Tensor];
  if (typeof b === "number") return [a, full(a.shape, b, a.dtype)];
  const shape = broadcastShapes(op, a.shape, b.shape);
  return [broadcastTo(a, shape), broadcastTo(b, shape)];
}

/** Applies an op to operands made from those given (broadcast, filled); outside a trace, what was made is released again. */
function applyTo(op: Op, operands: readonly Tensor[], given: readonly Operand[], attributes: Attributes = {}): Tensor {
  try {
    return apply1(op, operands, attributes);
  } finally {
    for (const x of operands) if (!given.includes(x)) x.dispose();
  }
}

const two =
  (op: Op) =>
  (a: Operand, b: Operand): Tensor =>
    applyTo(op, align(op.name, a, b), [a, b]);
const one =
  (op: Op) =>
  (x: Tensor): Tensor =>
    apply1(op, [x]);

export const add = two(addOp);
export const subtract = two(subtractOp);
export const multiply = two(multiplyOp);
/** Quotient; integers truncate toward zero and x / 0 is -1, as in StableHLO. */
export const divide = two(divideOp);
export const maximum = two(maximumOp);
export const minimum = two(minimumOp);
export const power = two(powerOp);
/** Remainder with the sign of the dividend. */
export const remainder = two(remainderOp);
export const atan2 = two(atan2Op);
export const and = two(andOp);
export const or = two(orOp);
export const xor = two(xorOp);
export const shiftLeft = two(shiftLeftOp);
export const shiftRightLogical = two(shiftRightLogicalOp);
export const shiftRightArithmetic = two(shiftRightArithmeticOp);

export const negate = one(negateOp);
export const abs = one(absOp);
export const sign = one(signOp);
export const exp = one(expOp);
export const expm1 = one(expm1Op);
export const log = one(logOp);
export const log1p = one(log1pOp);
export const sqrt = one(sqrtOp);
export const rsqrt = one(rsqrtOp);
export const sin = one(sinOp);
export const cos = one(cosOp);
export const tanh = one(tanhOp);
export const logistic = one(logisticOp);
export const erf = one(erfOp);
export const floor = one(floorOp);
export const ceil = one(ceilOp);
/** To the nearest whole number, halves to the even one. */
export const round = one(roundOp);
export const not = one(notOp);
export const isFiniteNumber = (x: Tensor): Tensor<"bool"> => apply1(isFiniteOp, [x]) as Tensor<"bool">;
export const stopGradient = one(stopGradientOp);
export const identity = one(identityOp);
export const optimizationBarrier = one(optimizationBarrierOp);

export function compare(a: Operand, b: Operand, direction: Direction): Tensor<"bool"> {
  return applyTo(compareOp, align("compare", a, b), [a, b], { direction }) as Tensor<"bool">;
}

/** `a` where the condition holds, else `b`; all broadcast together. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  const [x, y] =
    typeof a === "number" && typeof b === "number"
      ? [full(condition.shape, a), full(condition.shape, b)]
      : align("where", a, b);
  const shape = broadcastShapes("where", condition.shape, x.shape);
  const made = [broadcastTo(condition, shape), broadcastTo(x, shape), broadcastTo(y, shape)];
  const result = applyTo(selectOp, made, [condition, a, b]);
  for (const t of [x, y]) if (t !== a && t !== b) t.dispose();
  return result;
}

/** `x` kept within `low` and `high`. */
export function clamp(x: Tensor, low: Operand, high: Operand): Tensor {
  const bound = (b: Operand) => (typeof b === "number" ? full(x.shape, b, x.dtype) : broadcastTo(b, x.shape));
  return applyTo(clampOp, [bound(low), x, bound(high)], [low, x, high]);
}

export function convert<D extends DType>(x: Tensor, dtype: D): Tensor<D> {
  if (x.dtype === (dtype as DType)) return x as Tensor<DType> as Tensor<D>;
  return apply1(convertOp, [x], { dtype }) as Tensor<D>;
}

/** The same bits under another dtype of the same width. */
export function bitcastConvert<D extends DType>(x: Tensor, dtype: D): Tensor<D> {
  return apply1(bitcastConvertOp, [x], { dtype }) as Tensor<D>;
}
