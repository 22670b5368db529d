import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type OpCase } from "../op.ts";
import { type Shape, sameShape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { full, iota } from "./creation.ts";
import { linear } from "./dot.ts";
import { clamp, floor, round, where } from "./elementwise.ts";
import { take } from "./indexing.ts";
import { silu } from "./nn.ts";
import { rmsNorm } from "./norm.ts";
import { concatenate, expandDims, pad, reshape, sliceAxis, stack, transpose } from "./structure.ts";

/**
 * Weights in the form that matrix-vector products read fastest. Rows (outputs) are gathered in panels of 16, whose elements take turns, so that
 * one vector of a processor holds the same inputs of 16 rows and no sum across lanes is needed; a panel is one run of memory. The layout is a
 * function of the shape alone, the same on every processor. Rows are padded to whole panels and inputs to whole groups, with zeros.
 *
 *   bf16   bf16 (panels, inputs / 2, 16 rows, 2 inputs)
 *   int8   u8 (panels, groups, 16 quads, 16 rows, 4 inputs): weight + 128; a group is 64 inputs
 *   int4   u8 (panels, groups, 4 octets, 16 rows, 4 bytes): byte b of octet o holds input 8 o + b below and 8 o + 4 + b above, each the
 *          number of one of 16 levels; a group is 32 inputs
 *
 * with scales bf16 (panels, groups, 16 rows). A weight is its whole number or level times the scale of its row and group.
 */
export const weightFormats = ["bf16", "int8", "int4"] as const;
export type WeightFormat = (typeof weightFormats)[number];

/** Rows of a panel. */
export const PANEL = 16;
/** Inputs that share a scale: chosen by error (docs/log.md). For bf16, the unit that inputs are padded to. */
const GROUP: Readonly<Record<WeightFormat, number>> = { bf16: 2, int8: 64, int4: 32 };
/**
 * What the 16 numbers of 4 bits stand for, in units of the scale: weights are many near zero and few far from it. Found by Lloyd's algorithm
 * (Lloyd 1982) on normally distributed groups of 32, each with its best scale; the squared error is 0.81 of evenly spaced levels'.
 */
const LEVELS = [-127, -99, -79, -63, -49, -35, -22, -10, 3, 16, 29, 42, 56, 73, 92, 121] as const;
/** Where the largest weight of a group may lie, in the same units, before its scale is fitted. Beyond the last level it is cut. */
const REACH = [-152, -144, -136, -128, -120, -112, -104, -96, 136, 128, 120, 112, 104] as const;

export interface PackedWeight {
  readonly packed: Tensor;
  /** None for bf16. */
  readonly scales: Tensor | undefined;
}

const divideUp = (n: number, by: number): number => Math.ceil(n / by);
const list = (a: unknown): readonly number[] => a as readonly number[];

/** Shapes of a packed (out, in) matrix. */
export function packedShape(format: WeightFormat, out: number, inner: number): { packed: Shape; scales?: Shape } {
  const panels = divideUp(out, PANEL);
  const groups = divideUp(inner, GROUP[format]);
  if (format === "bf16") return { packed: [panels, groups, PANEL, 2] };
  const bytes = format === "int8" ? 16 : 4;
  return { packed: [panels, groups, bytes, PANEL, 4], scales: [panels, groups, PANEL] };
}

/** Checks the packed operands against format and shape. */
function needPacked(op: string, packed: Aval, scales: Aval | undefined, a: Attributes): WeightFormat {
  const format = a.format as WeightFormat;
  const [out, inner] = list(a.shape) as [number, number];
  const panels = a.gated ? 2 * divideUp(out, PANEL) : divideUp(out, PANEL);
  const want = packedShape(format, panels * PANEL, inner);
  const dtype = format === "bf16" ? "bf16" : "u8";
  if (packed.dtype !== dtype || !sameShape(packed.shape, want.packed))
    throw new ShapeError(
      `${op}: the packed ${format} weights of (${out}, ${inner}) must be ${dtype}${show(want.packed)}, got ${packed.dtype}${show(packed.shape)}.`,
    );
  if (want.scales && !(scales?.dtype === "bf16" && sameShape(scales.shape, want.scales)))
    throw new ShapeError(
      `${op}: the scales of ${format} weights of (${out}, ${inner}) must be bf16${show(want.scales)}, got ${scales ? scales.dtype + show(scales.shape) : "none"}.`,
    );
  return format;
}

/** Levels over their sum of steps: `at` counts the steps below. */
function level(at: (i: number) => Tensor): Tensor {
  let sum: Tensor | undefined;
  for (let i = 1; i < LEVELS.length; i++) {
    const step = where(at(i), LEVELS[i]! - LEVELS[i - 1]!, 0);
    sum = sum ? sum.add(step) : step;
  }
  return sum!.add(LEVELS[0]!);
}

/** Which level is nearest, as a number of 0 to 15. @param u in units of the levels */
function nearest(u: Tensor): Tensor {
  let sum: Tensor | undefined;
  for (let i = 1; i < LEVELS.length; i++) {
    const above = u.greater((LEVELS[i]! + LEVELS[i - 1]!) / 2).to(u.dtype);
    sum = sum ? sum.add(above) : above;
  }
  return sum!;
}

/** What is stored of each weight, from 0, and the scales: w (rows, groups, group). */
function quantize(w: Tensor, format: "int8" | "int4"): { stored: Tensor; scales: Tensor } {
  const high = w.max(-1, { keep: true });
  const low = w.min(-1, { keep: true });
  const over = (x: Tensor, by: Tensor) => where(by.equal(0), 0, x.div(where(by.equal(0), 1, by)));
  if (format === "int8") {
    // The scale is rounded before it is used, so that its rounding is no error of its own.
    const scales = high
      .maximum(low.neg())
      .mul(1 / 127)
      .to("bf16");
    return { stored: clamp(round(over(w, scales.to(w.dtype))), -127, 127).add(128), scales };
  }
  /** The largest weight with its sign, which the levels reach at different places. */
  const peak = where(high.greaterEqual(low.neg()), high, low);
  let best: { start: Tensor; scale: Tensor; error: Tensor } | undefined;
  for (const reach of REACH) {
    const start = peak.mul(1 / reach);
    const u = over(w, start);
    const codes = level((i) => u.greater((LEVELS[i]! + LEVELS[i - 1]!) / 2));
    // The best scale for these levels, by least squares.
    const fit = over(w.mul(codes).sum(-1, { keep: true }), codes.square().sum(-1, { keep: true }));
    const scale = fit.to("bf16").to(w.dtype);
    const error = codes.mul(scale).sub(w).square().sum(-1, { keep: true });
    if (best) {
      const better = error.less(best.error);
      best = {
        start: where(better, start, best.start),
        scale: where(better, scale, best.scale),
        error: where(better, error, best.error),
      };
    } else best = { start, scale, error };
  }
  return { stored: nearest(over(w, best!.start)), scales: best!.scale.to("bf16") };
}

/** What `packWeight` does, by simpler ops. */
function packByOps(w: Tensor, format: WeightFormat): PackedWeight {
  const [out, inner] = w.shape as [number, number];
  const panels = divideUp(out, PANEL);
  const groups = divideUp(inner, GROUP[format]);
  const g = GROUP[format];
  const whole = pad(w, 0, [0, 0], [panels * PANEL - out, groups * g - inner]);
  if (format === "bf16") {
    const pairs = reshape(whole.to("bf16"), [panels, PANEL, groups, 2]);
    return { packed: transpose(pairs, [0, 2, 1, 3]), scales: undefined };
  }
  const { stored, scales } = quantize(reshape(whole, [panels * PANEL, groups, g]), format);
  const scalesOf = transpose(reshape(scales, [panels, PANEL, groups]), [0, 2, 1]);
  if (format === "int8") {
    const quads = reshape(stored.to("u8"), [panels, PANEL, groups, g / 4, 4]);
    return { packed: transpose(quads, [0, 2, 3, 1, 4]), scales: scalesOf };
  }
  const octets = reshape(stored, [panels, PANEL, groups, g / 8, 2, 4]);
  const half = (i: number) => reshape(sliceAxis(octets, 4, i, i + 1), [panels, PANEL, groups, g / 8, 4]);
  const bytes = half(0).add(half(1).mul(16)).to("u8");
  return { packed: transpose(bytes, [0, 2, 3, 1, 4]), scales: scalesOf };
}

/** Panels as rows again, of `dtype`: (panels * 16, padded inputs). */
function unpack(packed: Tensor, scales: Tensor | undefined, format: WeightFormat, dtype: "f32" | "f64"): Tensor {
  const [panels, groups] = packed.shape as [number, number];
  const rows = panels * PANEL;
  const g = GROUP[format];
  if (format === "bf16") return reshape(transpose(packed.to(dtype), [0, 2, 1, 3]), [rows, groups * 2]);
  const bytes = packed.to(dtype);
  let numbers: Tensor;
  if (format === "int8") numbers = transpose(bytes, [0, 3, 1, 2, 4]);
  else {
    const above = floor(bytes.div(16));
    const below = bytes.sub(above.mul(16));
    // (panels, groups, octets, rows, halves, 4)
    numbers = transpose(stack([below, above], 4), [0, 3, 1, 2, 4, 5]);
  }
  const scale = reshape(transpose(scales!.to(dtype), [0, 2, 1]), [rows, groups, 1]);
  const grouped = reshape(numbers, [rows, groups, g]);
  const values = format === "int8" ? grouped.sub(128) : level((i) => grouped.greater(i - 0.5));
  return reshape(values.mul(scale), [rows, groups * g]);
}

/** The matrix that packed weights stand for. @returns (out, in) */
export function unpackWeight(p: PackedWeight, format: WeightFormat, out: number, inner: number): Tensor {
  return sliceAxis(sliceAxis(unpack(p.packed, p.scales, format, "f32"), 0, 0, out), 1, 0, inner);
}

/**
 * What the kernel multiplies by in place of x: bf16 beside bf16 weights, whole numbers of -127 to 127 with a scale per group beside int8 and int4.
 * @param x (..., in)
 */
function roundActivations(x: Tensor, format: WeightFormat): Tensor {
  const { dtype } = x;
  if (format === "bf16") return x.to("bf16").to(dtype);
  const inner = x.shape[x.rank - 1]!;
  const lead = x.shape.slice(0, -1);
  const groups = divideUp(inner, GROUP[format]);
  const room = groups * GROUP[format] - inner;
  const padded = room === 0 ? x : concatenate([x, full([...lead, room], 0, dtype as "f32")], x.rank - 1);
  const grouped = reshape(padded, [...lead, groups, GROUP[format]]);
  const most = grouped.abs().max(-1, { keep: true });
  const numbers = round(grouped.mul(where(most.equal(0), 0, full(most.shape, 127, dtype as "f32").div(most))));
  const back = reshape(numbers.mul(most.mul(1 / 127)), [...lead, groups * GROUP[format]]);
  return sliceAxis(back, back.rank - 1, 0, inner);
}

interface Operands {
  readonly x: Tensor;
  readonly packed: Tensor;
  readonly scales: Tensor | undefined;
  readonly norm: Tensor | undefined;
  readonly residual: Tensor | undefined;
}

/** Operands by name: those that the attributes do not speak of are not there. */
function operands<T>(
  inputs: readonly T[],
  a: Attributes,
): { [K in keyof Operands]: Operands[K] extends Tensor ? T : T | undefined } {
  let at = 2;
  return {
    x: inputs[0]!,
    packed: inputs[1]!,
    scales: a.format === "bf16" ? undefined : inputs[at++],
    norm: a.epsilon === null ? undefined : inputs[at++],
    residual: a.residual ? inputs[at++] : undefined,
  };
}

/** The rows of the weight that the product uses; a gated one's as [gate, up]. */
function weights(
  { packed, scales }: Pick<Operands, "packed" | "scales">,
  a: Attributes,
  dtype: "f32" | "f64",
): Tensor[] {
  const [out, inner] = list(a.shape) as [number, number];
  const all = unpack(packed, scales, a.format as WeightFormat, dtype);
  const cut = (w: Tensor) => sliceAxis(sliceAxis(w, 0, 0, out), 1, 0, inner);
  if (!a.gated) return [cut(all)];
  // Panels of the gate and of what it gates take turns.
  const [rows, columns] = all.shape as [number, number];
  const pairs = reshape(all, [rows / (2 * PANEL), 2, PANEL, columns]);
  return [0, 1].map((i) => cut(reshape(sliceAxis(pairs, 1, i, i + 1), [rows / 2, columns])));
}

const quantizedCases: OpCase[] = [];
for (const [format, out, inner, lead] of [
  ["bf16", 5, 7, [3]],
  ["int8", 5, 70, [2]],
  ["int4", 18, 40, [3]],
  ["bf16", 33, 64, [9]],
  ["int8", 34, 130, [2, 7]],
  ["int4", 16, 64, [13]],
] as const) {
  const { packed, scales } = packedShape(format, out, inner);
  const x = { shape: [...lead, inner] };
  const w =
    format === "bf16"
      ? [{ shape: packed, dtype: "bf16" as const }]
      : [
          { shape: packed, dtype: "u8" as const, low: 0, high: 256 },
          { shape: scales!, dtype: "bf16" as const, low: 0.001, high: 0.01 },
        ];
  const attributes = { format, shape: [out, inner], gated: false, epsilon: null, residual: false };
  const tolerance = 2e-4;
  quantizedCases.push({ inputs: [x, ...w], attributes, differentiable: false, tolerance });
  quantizedCases.push({
    inputs: [x, ...w, { shape: [inner] }, { shape: [...lead, out] }],
    attributes: { ...attributes, epsilon: 1e-5, residual: true },
    differentiable: false,
    tolerance,
  });
  if (out > PANEL && out <= 2 * PANEL)
    quantizedCases.push({
      inputs: [x, ...w],
      attributes: { ...attributes, shape: [13, inner], gated: true },
      differentiable: false,
      tolerance,
    });
}

/**
 * A linear map by packed weights, with what comes before and after it in a Transformer. The activations are rounded as the weights' format says
 * (bf16, or 8-bit whole numbers by group). RMS norm before (`epsilon`), silu(gate) * up after (`gated`), a sum after that (`residual`).
 */
export const quantizedLinearOp = defineOp({
  name: "quantized_linear",
  inPlace: (inputs) => [[0, inputs - 1]],
  infer(inputs, a) {
    const { x, packed, scales, norm, residual } = operands<Aval>(inputs, a);
    const [out, inner] = list(a.shape) as [number, number];
    if (!isFloat(x.dtype) || x.shape.length === 0)
      throw new DTypeError(`quantized_linear: x must be floating-point with an axis, got ${x.dtype}${show(x.shape)}.`);
    needPacked("quantized_linear", packed, scales, a);
    if (x.shape[x.shape.length - 1] !== inner)
      throw new ShapeError(
        `quantized_linear: the weight takes ${inner} inputs, but x is ${show(x.shape)}: its last axis must be ${inner}.`,
      );
    const y = { dtype: x.dtype, shape: [...x.shape.slice(0, -1), out] };
    if (norm && !sameShape(norm.shape, [inner]))
      throw new ShapeError(`quantized_linear: the norm's scale must be (${inner}), got ${show(norm.shape)}.`);
    if (residual && !sameShape(residual.shape, y.shape))
      throw new ShapeError(`quantized_linear: the residual must be ${show(y.shape)}, got ${show(residual.shape)}.`);
    return [y];
  },
  /** Straight through the rounding of x, as if it were exact. */
  gradient({ inputs, attributes: a, cotangents: [g] }) {
    const { x, packed, scales } = operands(inputs, a);
    if (a.epsilon !== null || a.residual || a.gated)
      throw new DTypeError(
        "quantized_linear: only the plain product has a gradient; the compiler joins the rest later.",
      );
    const [w] = weights({ packed, scales }, a, x.dtype as "f32");
    return [g!.matmul(w!), ...inputs.slice(1).map(() => undefined)];
  },
  decompose(inputs, a) {
    const o = operands(inputs, a);
    const x = roundActivations(o.norm ? rmsNorm(o.x, o.norm, a.epsilon as number) : o.x, a.format as WeightFormat);
    const [y, up] = weights(o, a, x.dtype as "f32").map((w) => linear(x, w));
    const out = up ? silu(y!).mul(up) : y!;
    return [o.residual ? out.add(o.residual) : out];
  },
  flops: ([x], [y], a) => 2 * size(y!.shape) * x!.shape[x!.shape.length - 1]! * (a.gated ? 2 : 1),
  cases: quantizedCases,
});

/** Rows of a packed table by index, as numbers. */
export const quantizedEmbeddingOp = defineOp({
  name: "quantized_embedding",
  infer([ids, packed, scales], a) {
    if (ids!.dtype !== "i32") throw new DTypeError(`quantized_embedding: the ids must be i32, got ${ids!.dtype}.`);
    needPacked("quantized_embedding", packed!, scales, a);
    return [{ dtype: "f32", shape: [...ids!.shape, list(a.shape)[1]!] }];
  },
  decompose([ids, packed, scales], a) {
    const [, inner] = list(a.shape) as [number, number];
    const flat = reshape(ids!, [ids!.size]);
    const panel = floor(flat.to("f32").div(PANEL)).to("i32");
    const rows = unpack(take(packed!, panel), scales && take(scales, panel), a.format as WeightFormat, "f32");
    const at = iota([ids!.size], 0)
      .mul(PANEL)
      .add(flat.sub(panel.mul(PANEL)));
    return [reshape(sliceAxis(take(rows, at), 1, 0, inner), [...ids!.shape, inner])];
  },
  cases: (["bf16", "int8", "int4"] as const).map((format) => {
    const { packed, scales } = packedShape(format, 37, 70);
    const table =
      format === "bf16"
        ? [{ shape: packed, dtype: "bf16" as const }]
        : [
            { shape: packed, dtype: "u8" as const, low: 0, high: 256 },
            { shape: scales!, dtype: "bf16" as const },
          ];
    return {
      inputs: [{ shape: [2, 2], dtype: "i32" as const, values: [36, 0, 17, 15] }, ...table],
      attributes: { format, shape: [37, 70], gated: false },
      differentiable: false,
    };
  }),
});

/**
 * Packs a weight matrix for `quantized_linear`. int8: the largest weight of a row's group becomes 127. int4: of several places for the
 * largest weight, with the scale that fits each best, the one with the least squared error.
 */
export const packWeightOp = defineOp({
  name: "pack_weight",
  infer([w], a) {
    if (!isFloat(w!.dtype) || w!.shape.length !== 2)
      throw new DTypeError(
        `pack_weight: the weight must be floating-point (out, in), got ${w!.dtype}${show(w!.shape)}.`,
      );
    const format = a.format as WeightFormat;
    const { packed, scales } = packedShape(format, w!.shape[0]!, w!.shape[1]!);
    return [
      { dtype: format === "bf16" ? "bf16" : "u8", shape: packed },
      ...(scales ? [{ dtype: "bf16" as const, shape: scales }] : []),
    ];
  },
  decompose([w], a) {
    const { packed, scales } = packByOps(w!, a.format as WeightFormat);
    return scales ? [packed, scales] : [packed];
  },
  cases: weightFormats.flatMap((format) =>
    [
      [37, 70],
      [16, 64],
    ].map((shape) => ({ inputs: [{ shape }], attributes: { format }, differentiable: false })),
  ),
});

/**
 * Packs a weight matrix.
 * @param w f32 (out, in)
 */
export function packWeight(w: Tensor, format: WeightFormat): PackedWeight {
  const [packed, scales] = apply(packWeightOp, [w], { format }) as [Tensor, Tensor?];
  return { packed, scales };
}

export interface PackedMatrixParts extends PackedWeight {
  readonly format: WeightFormat;
  /** (out, in) */
  readonly shape: readonly [number, number];
}

/**
 * x times packed weights transposed; with `gated`, silu(x gate^T) * (x up^T) by panels that take turns.
 * @param x (..., in)
 * @returns (..., out)
 */
export function quantizedLinear(x: Tensor, w: PackedMatrixParts, { gated = false } = {}): Tensor {
  const inputs = [x, w.packed, ...(w.scales ? [w.scales] : [])];
  return apply1(quantizedLinearOp, inputs, { format: w.format, shape: w.shape, gated, epsilon: null, residual: false });
}

/** Rows of a packed table (classes, width) at `ids`, whose shape precedes the width; f32. */
export function quantizedEmbedding(ids: Tensor, w: PackedMatrixParts): Tensor {
  const inputs = [ids, w.packed, ...(w.scales ? [w.scales] : [])];
  return apply1(quantizedEmbeddingOp, inputs, { format: w.format, shape: w.shape, gated: false });
}

/** Packs a gate and what it gates as one matrix whose panels take turns, for `quantizedLinear` with `gated`. */
export function packGated(gate: Tensor, up: Tensor, format: WeightFormat): PackedWeight {
  const [a, b] = [packWeight(gate, format), packWeight(up, format)];
  const weave = (x: Tensor, y: Tensor) => {
    const [panels, ...rest] = x.shape;
    return reshape(concatenate([expandDims(x, 1), expandDims(y, 1)], 1), [2 * panels!, ...rest]);
  };
  return { packed: weave(a.packed, b.packed), scales: a.scales && weave(a.scales, b.scales!) };
}
