// Attention over intervals of keys.
import { ShapeError } from "../errors.ts";
import { gradientByDecomposition, vjpOf } from "../grad.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type GradientContext } from "../op.ts";
import { show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { like, needFloat, needIndices, needShape } from "./checks.ts";
import { full, iota, zeros } from "./creation.ts";
import { where } from "./elementwise.ts";
import { bitsToUniform, randomBits } from "./random.ts";
import { broadcastTo, reshape, sliceAxis } from "./structure.ts";

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
