import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { gradientByDecomposition, vjpOf } from "../grad.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type GradientContext, type Op, type OpCase } from "../op.ts";
import { type Shape, sameShape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { full, iota, zeros } from "./creation.ts";
import { erf, where } from "./elementwise.ts";
import { take, takeAlongLast } from "./indexing.ts";
import { bitsToUniform, randomBits } from "./random.ts";
import { logSumExp } from "./reduction.ts";
import { broadcastTo, concatenate, expandDims, reshape, sliceAxis, stack } from "./structure.ts";

const like = (x: Aval): Aval => ({ dtype: x.dtype, shape: x.shape });

function needFloat(op: string, ...avals: readonly (Aval | undefined)[]): void {
  const first = avals[0]!;
  for (const a of avals)
    if (a && (!isFloat(a.dtype) || a.dtype !== first.dtype))
      throw new DTypeError(
        `${op}: needs floating-point tensors of one dtype, got ${avals.map((x) => `${x!.dtype}${show(x!.shape)}`).join(", ")}.`,
      );
}

function needShape(op: string, what: string, aval: Aval, shape: Shape): void {
  if (!sameShape(aval.shape, shape))
    throw new ShapeError(`${op}: ${what} must be ${show(shape)}, got ${show(aval.shape)}.`);
}

function needIndices(op: string, what: string, aval: Aval): void {
  if (aval.dtype !== "i32") throw new DTypeError(`${op}: ${what} must be i32, got ${aval.dtype}${show(aval.shape)}.`);
}

// Activations -----------------------------------------------------------------------------------------------------------

const activationCases: OpCase[] = [
  { inputs: [{ shape: [3, 37], low: -4, high: 4 }] },
  { inputs: [{ shape: [3], values: [0, 30, -30] }], outputs: [[0, 30, 0]], tolerance: 1e-5 },
];
const activationGradCases: OpCase[] = [
  {
    inputs: [
      { shape: [3, 37], low: -1, high: 1 },
      { shape: [3, 37], low: -4, high: 4 },
    ],
  },
];

function activation(name: string, decompose: (x: Tensor) => Tensor): Op {
  const gradOp: Op = defineOp({
    name: `${name}_grad`,
    elementwise: true,
    inPlace: [[0, 0]],
    infer([dy, x]) {
      needFloat(`${name}_grad`, dy, x);
      needShape(`${name}_grad`, "dy", dy!, x!.shape);
      return [like(x!)];
    },
    decompose: ([dy, x]) => [vjpOf([x!], (y) => [decompose(y)], [dy])[0]!],
    flops: (_i, [y]) => 8 * size(y!.shape),
    cases: activationGradCases,
  });
  return defineOp({
    name,
    elementwise: true,
    inPlace: [[0, 0]],
    infer([x]) {
      needFloat(name, x);
      return [like(x!)];
    },
    gradient: ({ inputs: [x], cotangents: [g] }) => [apply1(gradOp, [g!, x!])],
    decompose: ([x]) => [decompose(x!)],
    flops: (_i, [y]) => 8 * size(y!.shape),
    cases: activationCases,
  });
}

const geluOp = activation("gelu", (x) => x.mul(erf(x.mul(Math.SQRT1_2)).add(1)).mul(0.5));
const geluTanhOp = activation("gelu_tanh", (x) =>
  x.mul(0.5).mul(
    x
      .mul(x)
      .mul(x)
      .mul(0.044715)
      .add(x)
      .mul(Math.sqrt(2 / Math.PI))
      .tanh()
      .add(1),
  ),
);
const siluOp = activation("silu", (x) => x.mul(x.sigmoid()));

/** x * Phi(x). Hendrycks & Gimpel 2016. `approximate: "tanh"` is GPT-2's. */
export function gelu(x: Tensor, options: { approximate?: "none" | "tanh" } = {}): Tensor {
  return apply1(options.approximate === "tanh" ? geluTanhOp : geluOp, [x]);
}

/** x * sigmoid(x), also called swish. Elfwing et al. 2017. */
export function silu(x: Tensor): Tensor {
  return apply1(siluOp, [x]);
}

export function relu(x: Tensor): Tensor {
  return where(x.greater(0), x, 0);
}

/** silu(gate) * up: the gated unit of Shazeer 2020. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return silu(gate).mul(up);
}

// Softmax over the last axis --------------------------------------------------------------------------------------------

const rowCases: OpCase[] = [
  { inputs: [{ shape: [4, 33], low: -3, high: 3 }] },
  { inputs: [{ shape: [2, 3, 5], low: -3, high: 3 }] },
  { inputs: [{ shape: [0, 4] }] },
];
const twoRowCases: OpCase[] = [
  {
    inputs: [
      { shape: [4, 33], low: 0, high: 1 },
      { shape: [4, 33], low: -1, high: 1 },
    ],
  },
];

function rowwise(name: string, inputs: readonly Aval[]): Aval[] {
  needFloat(name, ...inputs);
  for (const x of inputs) needShape(name, "every operand", x, inputs[0]!.shape);
  if (inputs[0]!.shape.length === 0) throw new ShapeError(`${name}: needs at least one axis.`);
  return [like(inputs[0]!)];
}

/** Gradient of softmax from its result: y (dy - sum(y dy)). */
const softmaxGradOp = defineOp({
  name: "softmax_grad",
  infer: (inputs) => rowwise("softmax_grad", inputs),
  decompose: ([y, dy]) => [y!.mul(dy!.sub(dy!.mul(y!).sum(-1, { keep: true })))],
  cases: twoRowCases,
});
/** exp(x) over its sum along the last axis. */
const softmaxOp = defineOp({
  name: "softmax",
  inPlace: [[0, 0]],
  infer: (inputs) => rowwise("softmax", inputs),
  gradient: ({ outputs: [y], cotangents: [g] }) => [apply1(softmaxGradOp, [y!, g!])],
  decompose([x]) {
    const e = x!.sub(x!.max(-1, { keep: true }).stopGradient()).exp();
    return [e.div(e.sum(-1, { keep: true }))];
  },
  flops: ([x]) => 5 * size(x!.shape),
  cases: [{ inputs: [{ shape: [1, 2], values: [1000, 1000] }], outputs: [[0.5, 0.5]] }, ...rowCases],
});
/** Gradient of log-softmax from its result: dy - exp(y) sum(dy). */
const logSoftmaxGradOp = defineOp({
  name: "log_softmax_grad",
  infer: (inputs) => rowwise("log_softmax_grad", inputs),
  decompose: ([y, dy]) => [dy!.sub(y!.exp().mul(dy!.sum(-1, { keep: true })))],
  cases: twoRowCases,
});
/** x minus the log of the sum of exp(x) along the last axis. */
const logSoftmaxOp = defineOp({
  name: "log_softmax",
  inPlace: [[0, 0]],
  infer: (inputs) => rowwise("log_softmax", inputs),
  gradient: ({ outputs: [y], cotangents: [g] }) => [apply1(logSoftmaxGradOp, [y!, g!])],
  decompose([x]) {
    const shifted = x!.sub(x!.max(-1, { keep: true }).stopGradient());
    return [shifted.sub(shifted.exp().sum(-1, { keep: true }).log())];
  },
  flops: ([x]) => 5 * size(x!.shape),
  cases: [{ inputs: [{ shape: [1, 2], values: [1000, 0] }], outputs: [[0, -1000]] }, ...rowCases],
});

/** exp(x) / sum(exp(x)) over the last axis. */
export function softmax(x: Tensor): Tensor {
  return apply1(softmaxOp, [x]);
}
export function logSoftmax(x: Tensor): Tensor {
  return apply1(logSoftmaxOp, [x]);
}

// Normalisation over the last axis --------------------------------------------------------------------------------------

const layerNormDecomposition = ([x, scale, bias]: readonly Tensor[], { epsilon }: Attributes): Tensor[] => {
  const mean = x!.mean(-1, { keep: true });
  const centred = x!.sub(mean);
  const rstd = centred
    .square()
    .mean(-1, { keep: true })
    .add(epsilon as number)
    .rsqrt();
  const lead = x!.shape.slice(0, -1);
  return [centred.mul(rstd).mul(scale!).add(bias!), reshape(mean, lead), reshape(rstd, lead)];
};
/** Gradients of layer norm with respect to x, scale and bias. */
const layerNormGradOp = defineOp({
  name: "layer_norm_grad",
  infer: ([, x, scale]) => [like(x!), like(scale!), like(scale!)],
  decompose([dy, x, scale, mean, rstd]) {
    const keep = [...mean!.shape, 1];
    const normal = x!.sub(reshape(mean!, keep)).mul(reshape(rstd!, keep));
    const g = dy!.mul(scale!);
    const dx = g
      .sub(g.mean(-1, { keep: true }))
      .sub(normal.mul(g.mul(normal).mean(-1, { keep: true })))
      .mul(reshape(rstd!, keep));
    const rows = x!.shape.slice(0, -1).map((_, i) => i);
    return [dx, dy!.mul(normal).sum(rows), dy!.sum(rows)];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 8] },
        { shape: [3, 8] },
        { shape: [8] },
        { shape: [3], low: -0.1, high: 0.1 },
        { shape: [3], low: 0.9, high: 1.1 },
      ],
    },
  ],
});
/** Rows of mean 0 and variance 1, scaled and shifted; also the mean and 1 / deviation of each row. Ba et al. 2016. */
const layerNormOp = defineOp({
  name: "layer_norm",
  infer([x, scale, bias]) {
    needFloat("layer_norm", x, scale, bias);
    const width = [x!.shape[x!.shape.length - 1] ?? 0];
    needShape("layer_norm", "the scale", scale!, width);
    needShape("layer_norm", "the bias", bias!, width);
    const lead = { dtype: x!.dtype, shape: x!.shape.slice(0, -1) };
    return [like(x!), lead, lead];
  },
  gradient(c) {
    if (c.cotangents[1] || c.cotangents[2] || !c.cotangents[0]) return gradientByDecomposition(c);
    const [x, scale] = c.inputs;
    return apply(layerNormGradOp, [c.cotangents[0], x!, scale!, c.outputs[1]!, c.outputs[2]!]);
  },
  decompose: layerNormDecomposition,
  flops: ([x]) => 8 * size(x!.shape),
  cases: [
    { inputs: [{ shape: [3, 37] }, { shape: [37] }, { shape: [37] }], attributes: { epsilon: 1e-5 }, tolerance: 1e-4 },
    {
      inputs: [{ shape: [2, 3, 16] }, { shape: [16] }, { shape: [16] }],
      attributes: { epsilon: 1e-5 },
      tolerance: 1e-4,
    },
  ],
});

/** Gradients of RMS norm with respect to x and scale. */
const rmsNormGradOp = defineOp({
  name: "rms_norm_grad",
  infer: ([, x, scale]) => [like(x!), like(scale!)],
  decompose([dy, x, scale, rstd]) {
    const r = reshape(rstd!, [...rstd!.shape, 1]);
    const normal = x!.mul(r);
    const g = dy!.mul(scale!);
    const dx = g.sub(normal.mul(g.mul(normal).mean(-1, { keep: true }))).mul(r);
    return [dx, dy!.mul(normal).sum(x!.shape.slice(0, -1).map((_, i) => i))];
  },
  cases: [{ inputs: [{ shape: [3, 8] }, { shape: [3, 8] }, { shape: [8] }, { shape: [3], low: 0.9, high: 1.1 }] }],
});
/** Rows over their root mean square, scaled; also 1 / root of each row. Zhang & Sennrich 2019. */
const rmsNormOp = defineOp({
  name: "rms_norm",
  infer([x, scale]) {
    needFloat("rms_norm", x, scale);
    needShape("rms_norm", "the scale", scale!, [x!.shape[x!.shape.length - 1] ?? 0]);
    return [like(x!), { dtype: x!.dtype, shape: x!.shape.slice(0, -1) }];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    return apply(rmsNormGradOp, [c.cotangents[0], c.inputs[0]!, c.inputs[1]!, c.outputs[1]!]);
  },
  decompose([x, scale], { epsilon }) {
    const rstd = x!
      .square()
      .mean(-1, { keep: true })
      .add(epsilon as number)
      .rsqrt();
    return [x!.mul(rstd).mul(scale!), reshape(rstd, x!.shape.slice(0, -1))];
  },
  flops: ([x]) => 5 * size(x!.shape),
  cases: [{ inputs: [{ shape: [3, 37] }, { shape: [37] }], attributes: { epsilon: 1e-5 }, tolerance: 1e-4 }],
});

/** (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis. Ba et al. 2016. */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  return apply1(layerNormOp, [x, scale, bias], { epsilon });
}

/** x / sqrt(mean(x^2) + epsilon) * scale over the last axis. Zhang & Sennrich 2019. */
export function rmsNorm(x: Tensor, scale: Tensor, epsilon = 1e-6): Tensor {
  return apply1(rmsNormOp, [x, scale], { epsilon });
}

// Rotary positions ------------------------------------------------------------------------------------------------------

/** Pairs of the last axis rotated by given angles. Su et al. 2021. */
const rotaryOp: Op = defineOp({
  name: "rotary",
  inPlace: [[0, 0]],
  infer([x, cosine, sine]) {
    needFloat("rotary", x, cosine, sine);
    const [b, t, , d] = x!.shape;
    const [cb, ct, half] = cosine!.shape;
    if (x!.shape.length !== 4 || cosine!.shape.length !== 3 || (cb !== 1 && cb !== b) || ct !== t || 2 * half! > d!)
      throw new ShapeError(
        `rotary: x must be (batch, time, heads, width) and the angles (1 or batch, time, at most width / 2), got ${show(x!.shape)} and ${show(cosine!.shape)}.`,
      );
    needShape("rotary", "the sines", sine!, cosine!.shape);
    return [like(x!)];
  },
  gradient(c) {
    const {
      inputs: [, cosine, sine],
      cotangents: [g],
      attributes,
      wanted,
    } = c;
    if (wanted[1] || wanted[2]) return gradientByDecomposition(c);
    // The gradient of a rotation is the rotation back.
    const dx = apply1(rotaryOp, [g!, cosine!, sine!], { ...attributes, inverse: !attributes.inverse });
    return [dx, undefined, undefined];
  },
  decompose([x, cosine, sine], { interleaved, inverse }) {
    const half = cosine!.shape[2]!;
    const c = expandDims(cosine!, 2);
    const s = inverse ? expandDims(sine!, 2).neg() : expandDims(sine!, 2);
    const rotated = sliceAxis(x!, 3, 0, 2 * half);
    const rest = sliceAxis(x!, 3, 2 * half);
    const turn = (a: Tensor, b: Tensor): [Tensor, Tensor] => [a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s))];
    if (!interleaved) {
      const [a, b] = turn(sliceAxis(rotated, 3, 0, half), sliceAxis(rotated, 3, half));
      return [concatenate([a, b, rest], 3)];
    }
    const pairs = reshape(rotated, [...rotated.shape.slice(0, 3), half, 2]);
    const part = (i: number) => reshape(sliceAxis(pairs, 4, i, i + 1), [...rotated.shape.slice(0, 3), half]);
    const [a, b] = turn(part(0), part(1));
    return [concatenate([reshape(stack([a, b], 4), rotated.shape), rest], 3)];
  },
  flops: ([x]) => 3 * size(x!.shape),
  cases: [
    {
      inputs: [{ shape: [2, 3, 2, 8] }, { shape: [1, 3, 4] }, { shape: [1, 3, 4] }],
      attributes: { interleaved: false, inverse: false },
    },
    {
      inputs: [{ shape: [2, 3, 2, 8] }, { shape: [2, 3, 4] }, { shape: [2, 3, 4] }],
      attributes: { interleaved: true, inverse: false },
    },
    {
      inputs: [{ shape: [2, 3, 1, 10] }, { shape: [1, 3, 3] }, { shape: [1, 3, 3] }],
      attributes: { interleaved: false, inverse: true },
    },
  ],
});

/**
 * Rotates pairs of the last axis by an angle that grows with the position. Su et al. 2021.
 * @param x (batch, time, heads, width)
 * @param cosine (1 or batch, time, rotated / 2); the rest of the width passes through
 */
export function rotary(x: Tensor, cosine: Tensor, sine: Tensor, options: { interleaved?: boolean } = {}): Tensor {
  return apply1(rotaryOp, [x, cosine, sine], { interleaved: options.interleaved ?? false, inverse: false });
}

// Embedding -------------------------------------------------------------------------------------------------------------

/** Sums of rows by index: the gradient of an embedding; added onto a third operand if there is one (a tied head's gradient). */
export const embeddingGradOp = defineOp({
  name: "embedding_grad",
  inPlace: (inputs) => (inputs > 2 ? [[0, 2]] : []),
  infer: ([dy], { classes }) => [{ dtype: dy!.dtype, shape: [classes as number, dy!.shape[dy!.shape.length - 1]!] }],
  decompose: ([dy, ids, base], { classes }) => {
    const width = dy!.shape[dy!.rank - 1]!;
    const sums = vjpOf([zeros([classes as number, width], dy!.dtype)], (table) => [take(table, ids!)], [dy])[0]!;
    return [base ? base.add(sums) : sums];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
        { shape: [3], values: [1, 0, 1], dtype: "i32" },
      ],
      attributes: { classes: 3 },
      outputs: [[3, 4, 6, 8, 0, 0]],
    },
    {
      inputs: [
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
        { shape: [3], values: [1, 0, 1], dtype: "i32" },
        { shape: [3, 2], values: [1, 1, 2, 2, 3, 3] },
      ],
      attributes: { classes: 3 },
      outputs: [[4, 5, 8, 10, 3, 3]],
    },
  ],
});
/** Rows of a table by index. */
const embeddingOp = defineOp({
  name: "embedding",
  infer([table, ids]) {
    needFloat("embedding", table);
    needIndices("embedding", "the ids", ids!);
    if (table!.shape.length !== 2)
      throw new ShapeError(`embedding: the table must be (classes, width), got ${show(table!.shape)}.`);
    return [{ dtype: table!.dtype, shape: [...ids!.shape, table!.shape[1]!] }];
  },
  gradient: ({ inputs: [table, ids], cotangents: [g] }) => [
    apply1(embeddingGradOp, [g!, ids!], { classes: table!.shape[0]! }),
    undefined,
  ],
  decompose: ([table, ids]) => [take(table!, ids!)],
  cases: [
    {
      inputs: [
        { shape: [3, 2], values: [1, 2, 3, 4, 5, 6] },
        { shape: [2, 2], values: [2, 0, 1, 1], dtype: "i32" },
      ],
      outputs: [[5, 6, 1, 2, 3, 4, 3, 4]],
    },
  ],
});

/** Rows of `table` (classes, width) at integer `ids`, whose shape precedes the width. */
export function embedding(table: Tensor, ids: Tensor): Tensor {
  return apply1(embeddingOp, [table, ids]);
}

// Losses ----------------------------------------------------------------------------------------------------------------

/**
 * Loss and log-normaliser per row from logits; a negative target gives 0 for both. A target that names no class ends the run with an
 * error on a backend with kernels of its own; decomposed, as on the reference backend, its loss is NaN.
 */
function crossEntropyDecomposition(logits: Tensor, targets: Tensor): Tensor[] {
  const lse = logSumExp(logits, -1);
  const counted = targets.greaterEqual(0);
  const chosen = takeAlongLast(logits, where(counted, targets, 0));
  const loss = where(targets.less(logits.shape[1]!), lse.sub(chosen), Number.NaN);
  return [where(counted, loss, 0), where(counted, lse, 0)];
}
/** Gradient of cross-entropy with respect to the logits. */
const crossEntropyGradOp = defineOp({
  name: "cross_entropy_grad",
  inPlace: [[0, 0]],
  infer: ([logits]) => [like(logits!)],
  decompose([logits, targets, lse, dloss]) {
    const [n, v] = logits!.shape as [number, number];
    const p = logits!.sub(reshape(lse!, [n, 1])).exp();
    const target = broadcastTo(reshape(targets!, [n, 1]), [n, v]);
    const hit = target.equal(iota([n, v], 1));
    // Not a product with 0: the log-normaliser of an ignored row is 0, so its exponentials may overflow.
    return [where(target.greaterEqual(0), p.sub(hit.to(p.dtype)).mul(reshape(dloss!, [n, 1])), 0)];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 7] },
        { shape: [3], values: [2, -1, 6], dtype: "i32" },
        { shape: [3], low: 1.8, high: 2.2 },
        { shape: [3] },
      ],
    },
  ],
});
/** -log softmax(logits) at the target, and the log of the sum of exponentials, per row. */
const crossEntropyOp = defineOp({
  name: "cross_entropy",
  infer([logits, targets]) {
    needFloat("cross_entropy", logits);
    needIndices("cross_entropy", "the targets", targets!);
    if (logits!.shape.length !== 2)
      throw new ShapeError(`cross_entropy: logits must be (rows, classes), got ${show(logits!.shape)}.`);
    needShape("cross_entropy", "the targets", targets!, [logits!.shape[0]!]);
    const row = { dtype: logits!.dtype, shape: [logits!.shape[0]!] };
    return [row, row];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    return [apply1(crossEntropyGradOp, [c.inputs[0]!, c.inputs[1]!, c.outputs[1]!, c.cotangents[0]]), undefined];
  },
  decompose: ([logits, targets]) => crossEntropyDecomposition(logits!, targets!),
  flops: ([x]) => 5 * size(x!.shape),
  cases: [
    {
      inputs: [
        { shape: [1, 2], values: [0, 0] },
        { shape: [1], values: [1], dtype: "i32" },
      ],
      outputs: [[Math.LN2], [Math.LN2]],
    },
    { inputs: [{ shape: [5, 33] }, { shape: [5], values: [0, 32, -1, 7, 8], dtype: "i32" }] },
  ],
});

const headLogits = (h: Tensor, w: Tensor): Tensor => h.matmul(w.transpose());
/** Gradients of the head's cross-entropy with respect to hidden states and weights. */
const linearCrossEntropyGradOp = defineOp({
  name: "linear_cross_entropy_grad",
  infer: ([h, w]) => [like(h!), like(w!)],
  decompose([h, w, targets, lse, dloss]) {
    const logits = headLogits(h!, w!);
    const dlogits = apply1(crossEntropyGradOp, [logits, targets!, lse!, dloss!]);
    return [dlogits.matmul(w!), dlogits.transpose().matmul(h!)];
  },
  flops: ([h, w]) => 6 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [
        { shape: [3, 4] },
        { shape: [7, 4] },
        { shape: [3], values: [2, -1, 6], dtype: "i32" },
        { shape: [3], low: 1.8, high: 2.2 },
        { shape: [3] },
      ],
    },
  ],
});
/** Cross-entropy of hidden . weight^T per row, without holding the logits. */
const linearCrossEntropyOp = defineOp({
  name: "linear_cross_entropy",
  infer([h, w, targets]) {
    needFloat("linear_cross_entropy", h, w);
    needIndices("linear_cross_entropy", "the targets", targets!);
    if (h!.shape.length !== 2 || w!.shape.length !== 2 || h!.shape[1] !== w!.shape[1])
      throw new ShapeError(
        `linear_cross_entropy: hidden states (rows, width) and weights (classes, width) do not fit: ${show(h!.shape)}, ${show(w!.shape)}.`,
      );
    needShape("linear_cross_entropy", "the targets", targets!, [h!.shape[0]!]);
    const row = { dtype: h!.dtype, shape: [h!.shape[0]!] };
    return [row, row];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    const [h, w, targets] = c.inputs;
    const [dh, dw] = apply(linearCrossEntropyGradOp, [h!, w!, targets!, c.outputs[1]!, c.cotangents[0]]);
    return [dh, dw, undefined];
  },
  decompose([h, w, targets]) {
    return crossEntropyDecomposition(headLogits(h!, w!), targets!);
  },
  flops: ([h, w]) => 2 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [{ shape: [5, 4] }, { shape: [33, 4] }, { shape: [5], values: [0, 32, -1, 7, 8], dtype: "i32" }],
    },
  ],
});

/**
 * Loss and gradients in one walk over the logits: what the compiler makes of `linear_cross_entropy` and its gradient when the loss's
 * cotangent does not depend on the loss. Outputs loss, lse, dh, dw.
 */
export const linearCrossEntropyValueAndGradOp = defineOp({
  name: "linear_cross_entropy_value_and_grad",
  infer([h, w]) {
    const row = { dtype: h!.dtype, shape: [h!.shape[0]!] };
    return [row, row, like(h!), like(w!)];
  },
  decompose([h, w, targets, dloss]) {
    const [loss, lse] = apply(linearCrossEntropyOp, [h!, w!, targets!]);
    return [loss!, lse!, ...apply(linearCrossEntropyGradOp, [h!, w!, targets!, lse!, dloss!])];
  },
  flops: ([h, w]) => 6 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [{ shape: [3, 4] }, { shape: [7, 4] }, { shape: [3], values: [2, -1, 6], dtype: "i32" }, { shape: [3] }],
    },
  ],
});

/** Cross-entropy per row of logits (rows, classes) at integer targets (rows); a negative target counts nothing, one past the classes is an error. */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  return apply1(crossEntropyOp, [logits, targets]);
}

/**
 * Cross-entropy of the logits `hidden . weight^T` per row, without ever holding all logits.
 * @param hidden (rows, width)
 * @param weight (classes, width)
 * @param targets (rows) i32; negative ones count nothing, ones past the classes are an error
 */
export function linearCrossEntropy(hidden: Tensor, weight: Tensor, targets: Tensor): Tensor {
  return apply1(linearCrossEntropyOp, [hidden, weight, targets]);
}

// Attention -------------------------------------------------------------------------------------------------------------

export interface AttentionOptions {
  /** Multiplies the scores; default 1 / sqrt(width). */
  readonly scale?: number;
  /** Query i sees keys up to its own position (aligned at the end when there are more keys than queries). */
  readonly causal?: boolean;
  /** (batch, queries) i32: the first key each query sees, such as the start of its document. */
  readonly first?: Tensor;
  /** (batch, queries) i32: one past the last key each query sees; replaces `causal`. */
  readonly end?: Tensor;
  /** (heads): ALiBi slopes. Press et al. 2021. */
  readonly slopes?: Tensor;
  readonly dropout?: { readonly key: Tensor; readonly rate: number };
}

/** Inputs after the operands, in this order, each there if its attribute says so; the dropout key is there if the rate is not 0. */
const optionalInputs = ["first", "end", "slopes", "key"] as const;
type OptionalInput = (typeof optionalInputs)[number];

function present(attributes: Attributes): readonly OptionalInput[] {
  return optionalInputs.filter((name) =>
    name === "key" ? (attributes.dropout as number) > 0 : attributes[name] === true,
  );
}

function optionalOf<T>(inputs: readonly T[], attributes: Attributes): Partial<Record<OptionalInput, T>> {
  return Object.fromEntries(present(attributes).map((name, i) => [name, inputs[i]!]));
}

/** How many operands carry q, k and v: three, or one (batch, time, heads + 2 groups, width) that holds them side by side. */
const operandCount = (attributes: Attributes): number => (attributes.packed ? 1 : 3);

function unpack<T>(
  operands: readonly T[],
  attributes: Attributes,
  part: (x: T, from: number, to: number) => T,
): [T, T, T] {
  if (!attributes.packed) return operands as [T, T, T];
  const [h, g] = [attributes.heads as number, attributes.groups as number];
  const x = operands[0]!;
  return [part(x, 0, h), part(x, h, h + g), part(x, h + g, h + 2 * g)];
}

const unpackTensors = (operands: readonly Tensor[], attributes: Attributes): [Tensor, Tensor, Tensor] =>
  unpack(operands, attributes, (x, from, to) => sliceAxis(x, 2, from, to));
const unpackAvals = (operands: readonly Aval[], attributes: Attributes): [Aval, Aval, Aval] =>
  unpack(operands, attributes, (x, from, to) => ({
    dtype: x.dtype,
    shape: x.shape.map((d, i) => (i === 2 ? to - from : d)),
  }));

/** The textbook form, which holds the whole score matrix: the oracle for the fused kernels. Vaswani et al. 2017, equation 1. */
function attentionDecomposition(inputs: readonly Tensor[], attributes: Attributes): Tensor[] {
  const n = operandCount(attributes);
  const [q, k, v] = unpackTensors(inputs.slice(0, n), attributes);
  const { first, end, slopes, key } = optionalOf(inputs.slice(n), attributes);
  const [b, tq, h, d] = q.shape as [number, number, number, number];
  const [, tk, g] = k.shape as [number, number, number];
  const group = (x: Tensor) => reshape(x, [b, tq, g, h / g, x.shape[3]!]).transpose(0, 2, 3, 1, 4); // (b, g, h/g, tq, d)
  const shape = [b, g, h / g, tq, tk];
  const scores = group(q)
    .reshape(b, g, (h / g) * tq, d)
    .matmul(k.transpose(0, 2, 3, 1))
    .reshape(...shape)
    .mul(attributes.scale as number);
  const column = iota(shape, 4);
  const rows = (x: Tensor) => broadcastTo(reshape(x, [b, 1, 1, tq, 1]), shape);
  const until = end ? rows(end) : attributes.causal ? iota(shape, 3).add(1 + tk - tq) : full(shape, tk, "i32");
  let visible = column.less(until);
  if (first) visible = where(visible, column.greaterEqual(rows(first)), full(shape, 0, "bool")) as Tensor<"bool">;
  let biased = scores;
  if (slopes) {
    const distance = until.sub(1).sub(column).to(q.dtype);
    biased = scores.sub(distance.mul(reshape(slopes, [1, g, h / g, 1, 1])));
  }
  const minus = Number.NEGATIVE_INFINITY;
  const masked = where(visible, biased, minus);
  const top = masked.max(-1, { keep: true }).stopGradient();
  const safe = where(top.equal(minus), 0, top);
  const e = where(visible, biased.sub(safe), minus).exp();
  const total = e.sum(-1, { keep: true });
  const any = total.greater(0);
  let p = e.div(where(any, total, 1));
  if (key) {
    const rate = attributes.dropout as number;
    const index = randomBits(key, [b, h, tq, tk]);
    const uniform = bitsToUniform(index, q.dtype === "f64" ? "f64" : "f32")
      .to(q.dtype)
      .reshape(...shape);
    p = where(uniform.greaterEqual(rate), p.mul(1 / (1 - rate)), 0);
  }
  const out = p
    .reshape(b, g, (h / g) * tq, tk)
    .matmul(v.transpose(0, 2, 1, 3))
    .reshape(b, g, h / g, tq, v.shape[3]!)
    .transpose(0, 3, 1, 2, 4)
    .reshape(b, tq, h, v.shape[3]!);
  const lse = where(any, where(any, total, 1).log().add(safe), minus);
  return [out, lse.reshape(b, h, tq)];
}

/** Gradients of attention with respect to queries, keys and values. */
const attentionGradOp = defineOp({
  name: "attention_grad",
  infer: (inputs, a) => inputs.slice(1, 1 + operandCount(a)).map(like),
  decompose(inputs, attributes) {
    const n = operandCount(attributes);
    const operands = inputs.slice(1, 1 + n);
    const rest = inputs.slice(1 + n + 2);
    const gs = vjpOf(operands, (...xs) => attentionDecomposition([...xs, ...rest], attributes).slice(0, 1), [
      inputs[0],
    ]);
    return gs.map((g, i) => g ?? zeros(operands[i]!.shape, operands[i]!.dtype));
  },
  flops: (inputs, _o, a) => 2.5 * attentionFlops(inputs.slice(1), a),
});

function attentionFlops(inputs: readonly Aval[], attributes: Attributes): number {
  const [q, k, v] = unpackAvals(inputs, attributes);
  const { causal } = attributes;
  const [b, tq, h, d] = q.shape as [number, number, number, number];
  const tk = k.shape[1]!;
  return b * h * tq * tk * 2 * (d + v.shape[3]!) * (causal ? (tk - (tq - 1) / 2) / tk : 1);
}

const qkv = (b: number, tq: number, tk: number, h: number, g: number, d: number) => [
  { shape: [b, tq, h, d] },
  { shape: [b, tk, g, d] },
  { shape: [b, tk, g, d] },
];

/** Scaled dot-product attention with masks by interval, ALiBi and dropout; also the log-sum of each row of scores. */
const attentionOp = defineOp({
  name: "attention",
  infer(inputs, attributes) {
    const n = operandCount(attributes);
    if (attributes.packed && inputs[0]!.shape[2] !== (attributes.heads as number) + 2 * (attributes.groups as number))
      throw new ShapeError(
        `attention: ${String(attributes.heads)} query heads and twice ${String(attributes.groups)} groups do not fill ${show(inputs[0]!.shape)}.`,
      );
    const [q, k, v] = unpackAvals(inputs.slice(0, n), attributes);
    needFloat("attention", q, k, v);
    const bad =
      [q, k, v].some((x) => x.shape.length !== 4) ||
      [k, v].some((x) => x.shape[0] !== q.shape[0] || x.shape[2] !== k.shape[2]) ||
      k.shape[1] !== v.shape[1] ||
      q.shape[3] !== k.shape[3] ||
      q.shape[2]! % k.shape[2]! !== 0;
    if (bad)
      throw new ShapeError(
        `attention: queries, keys and values must be (batch, time, heads, width) with the query heads a multiple of the others', got ${show(q.shape)}, ${show(k.shape)}, ${show(v.shape)}.`,
      );
    const [b, t, h] = q.shape as [number, number, number];
    present(attributes).forEach((name, i) => {
      const aval = inputs[n + i]!;
      if (name === "slopes") needShape("attention", "the slopes", aval, [h]);
      else {
        needIndices("attention", name, aval);
        needShape("attention", name, aval, name === "key" ? [2] : [b, t]);
      }
    });
    return [
      { dtype: q.dtype, shape: [b, t, h, v.shape[3]!] },
      { dtype: q.dtype, shape: [b, h, t] },
    ];
  },
  gradient(c: GradientContext) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    const n = operandCount(c.attributes);
    const rest = c.inputs.slice(n);
    const gs = apply(
      attentionGradOp,
      [c.cotangents[0], ...c.inputs.slice(0, n), c.outputs[0]!, c.outputs[1]!, ...rest],
      c.attributes,
    );
    return [...gs, ...rest.map(() => undefined)];
  },
  decompose: attentionDecomposition,
  flops: (inputs, _o, a) => attentionFlops(inputs, a),
  cases: [
    { inputs: qkv(2, 5, 5, 2, 2, 4), attributes: { scale: 0.5, causal: true, dropout: 0, first: false } },
    { inputs: qkv(1, 3, 7, 4, 2, 8), attributes: { scale: 0.3, causal: true, dropout: 0, first: false } },
    { inputs: qkv(2, 3, 6, 2, 1, 4), attributes: { scale: 0.5, causal: false, dropout: 0, first: false } },
    {
      inputs: [
        ...qkv(2, 3, 6, 2, 2, 4),
        { shape: [2, 3], values: [0, 1, 2, 0, 0, 5], dtype: "i32" },
        { shape: [2, 3], values: [1, 4, 6, 3, 3, 5], dtype: "i32" },
      ],
      attributes: { scale: 0.5, causal: false, dropout: 0, first: true, end: true },
      // The last query of the second row sees nothing: its lse is -inf.
      differentiable: false,
    },
    {
      inputs: [...qkv(1, 4, 4, 2, 2, 4), { shape: [2], values: [0.5, 0.25] }],
      attributes: { scale: 0.5, causal: true, dropout: 0, slopes: true },
    },
    {
      inputs: [...qkv(1, 4, 4, 2, 2, 4), { shape: [2], values: [3, 7], dtype: "i32" }],
      attributes: { scale: 0.5, causal: true, dropout: 0.3 },
    },
    {
      inputs: [{ shape: [2, 5, 8, 4] }],
      attributes: { scale: 0.5, causal: true, dropout: 0, packed: true, heads: 4, groups: 2 },
    },
    {
      inputs: qkv(2, 70, 70, 3, 1, 16),
      attributes: { scale: 0.25, causal: true, dropout: 0, first: false },
      tolerance: 1e-4,
      differentiable: false,
    },
  ],
});

/**
 * Scaled dot-product attention; the score matrix is never held by a backend with a fused kernel (Dao et al. 2022).
 * @param q (batch, queries, heads, width)
 * @param k (batch, keys, groups, width), groups dividing heads (Ainslie et al. 2023)
 * @param v (batch, keys, groups, width of values)
 * @returns (batch, queries, heads, width of values); a query that sees no key gets zeros
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  return attend([q, k, v], {}, q.shape[3]!, options);
}

/**
 * The same with queries, keys and values side by side in one tensor, as a joint projection gives them: nothing is copied apart.
 * @param qkv (batch, time, heads + 2 * groups, width)
 */
export function packedAttention(qkv: Tensor, heads: number, groups: number, options: AttentionOptions = {}): Tensor {
  return attend([qkv], { packed: true, heads, groups }, qkv.shape[3]!, options);
}

function attend(operands: readonly Tensor[], packing: Attributes, width: number, options: AttentionOptions): Tensor {
  const rate = options.dropout?.rate ?? 0;
  const given: Record<OptionalInput, Tensor | undefined> = {
    first: options.first,
    end: options.end,
    slopes: options.slopes,
    key: rate > 0 ? options.dropout!.key : undefined,
  };
  return apply1(attentionOp, [...operands, ...optionalInputs.flatMap((name) => given[name] ?? [])], {
    ...packing,
    scale: options.scale ?? 1 / Math.sqrt(width),
    causal: options.end ? false : (options.causal ?? false),
    dropout: rate,
    ...(options.first ? { first: true } : {}),
    ...(options.end ? { end: true } : {}),
    ...(options.slopes ? { slopes: true } : {}),
  });
}
