import { ShapeError } from "../errors.ts";
import { gradientByDecomposition, vjpOf } from "../grad.ts";
import type { Aval } from "../graph.ts";
import { defineOp, type Op, type OpCase } from "../op.ts";
import { show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { like, needFloat, needIndices, needShape } from "./checks.ts";
import { zeros } from "./creation.ts";
import { erf, where } from "./elementwise.ts";
import { take } from "./indexing.ts";
import { concatenate, expandDims, reshape, sliceAxis, stack } from "./structure.ts";

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
