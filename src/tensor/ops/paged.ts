import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes, Aval } from "../graph.ts";
import { type CaseInput, defineOp, type OpCase } from "../op.ts";
import { show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { attention } from "./attention.ts";
import { clamp, round, where } from "./elementwise.ts";
import { scatter, take, takeAlongLast } from "./indexing.ts";
import { concatenate, reshape, sliceAxis } from "./structure.ts";

/** How keys and values are stored: i8 has a scale for each head's vector of each token. */
export type PageType = "f32" | "bf16" | "i8";

/**
 * Keys and values of one layer in pages of a fixed number of positions (Kwon et al. 2023). Keys lie as columns and values as rows, which is how
 * the two products of attention read them.
 */
export interface Pages {
  /** (pages, groups, width, page) */
  readonly k: Tensor;
  /** (pages, groups, page, width) */
  readonly v: Tensor;
  /** (pages, groups, page) f32: what whole numbers are multiplied by; there if the pages are i8. */
  readonly kScale?: Tensor | undefined;
  readonly vScale?: Tensor | undefined;
}

/** Where tokens are: token i is at `position[i]` of the sequence whose pages are row `sequence[i]` of the table. */
export interface Places {
  /** i32 (sequences, blocks): page ids, in the order of the sequence's positions. */
  readonly table: Tensor;
  /** i32 (tokens) */
  readonly sequence: Tensor;
  /** i32 (tokens); a negative one is padding. */
  readonly position: Tensor;
}

const pageTypes: readonly string[] = ["f32", "bf16", "i8", "f64"];

/** Checks pages and places, and splits the inputs of an op: pages [and scales] from `at`, then others, then the three places. */
function checkPages(op: string, inputs: readonly Aval[], at: number): { scaled: boolean; sizes: number[] } {
  const [k, v] = [inputs[at]!, inputs[at + 1]!];
  if (!pageTypes.includes(k.dtype) || v.dtype !== k.dtype)
    throw new DTypeError(
      `${op}: pages must be f32, bf16 or i8, got ${k.dtype}${show(k.shape)}, ${v.dtype}${show(v.shape)}.`,
    );
  const [pages, groups, width, page] = k.shape as [number, number, number, number];
  const fits = k.shape.length === 4 && v.shape.length === 4 && [pages, groups, page].every((n, i) => n === v.shape[i]);
  if (!fits || page % 16 !== 0)
    throw new ShapeError(
      `${op}: pages must be (pages, groups, width, page) for keys and (pages, groups, page, width) for values, with a multiple of 16 positions, got ${show(k.shape)} and ${show(v.shape)}.`,
    );
  const scaled = k.dtype === "i8";
  for (const s of scaled ? inputs.slice(at + 2, at + 4) : [])
    if (!isFloat(s.dtype) || show(s.shape) !== show([pages, groups, page]))
      throw new ShapeError(`${op}: scales must be ${show([pages, groups, page])}, got ${s.dtype}${show(s.shape)}.`);
  const [table, sequence, position] = inputs.slice(-3) as [Aval, Aval, Aval];
  if ([table, sequence, position].some((x) => x.dtype !== "i32"))
    throw new DTypeError(`${op}: table, sequences and positions must be i32.`);
  if (table.shape.length !== 2 || sequence.shape.length !== 1 || position.shape[0] !== sequence.shape[0])
    throw new ShapeError(
      `${op}: the table must be (sequences, blocks), sequences and positions (tokens), got ${show(table.shape)}, ${show(sequence.shape)}, ${show(position.shape)}.`,
    );
  return { scaled, sizes: [pages, groups, width, page, v.shape[3]!, sequence.shape[0]!] };
}

function checkHeads(op: string, what: string, x: Aval, tokens: number, heads: number, width: number): void {
  if (!isFloat(x.dtype) || x.shape.length !== 3 || x.shape[0] !== tokens || x.shape[1]! < heads || x.shape[2] !== width)
    throw new ShapeError(
      `${op}: ${what} must be (${tokens} tokens, at least ${heads} heads, width ${width}), got ${x.dtype}${show(x.shape)}.`,
    );
}

const pageInputs = (pages: Pages): Tensor[] => [
  pages.k,
  pages.v,
  ...(pages.kScale && pages.vScale ? [pages.kScale, pages.vScale] : []),
];
const placeInputs = ({ table, sequence, position }: Places): Tensor[] => [table, sequence, position];

/** Keys and values put into their pages, which a compiled program does in place where the pages are not needed otherwise. */
const pageWriteOp = defineOp({
  name: "page_write",
  inPlace: (inputs) => (inputs === 9 ? [0, 1, 2, 3] : [0, 1]).map((i) => [i, i] as const),
  infer(inputs, { key_head, value_head }) {
    const { scaled, sizes } = checkPages("page_write", inputs, 0);
    const [, groups, width, , valueWidth, tokens] = sizes as [number, number, number, number, number, number];
    const n = scaled ? 4 : 2;
    checkHeads("page_write", "the keys", inputs[n]!, tokens, (key_head as number) + groups, width);
    checkHeads("page_write", "the values", inputs[n + 1]!, tokens, (value_head as number) + groups, valueWidth);
    return inputs.slice(0, n).map(({ dtype, shape }) => ({ dtype, shape }));
  },
  decompose(inputs, attributes) {
    const scaled = inputs.length === 9;
    const n = scaled ? 4 : 2;
    const [table, sequence, position] = inputs.slice(-3) as [Tensor<"i32">, Tensor<"i32">, Tensor<"i32">];
    const [kPages, vPages] = inputs as [Tensor, Tensor];
    const [groups, page] = [kPages.shape[1]!, kPages.shape[3]!];
    const part = (x: Tensor, from: unknown) => sliceAxis(x, 1, from as number, (from as number) + groups);
    const k = part(inputs[n]!, attributes.key_head);
    const v = part(inputs[n + 1]!, attributes.value_head);
    const blocks = table.shape[1]!;
    const inside = where(position.less(0), 0, position);
    const block = inside.div(page);
    const id = takeAlongLast(take(table, sequence), clamp(block, 0, blocks - 1));
    // What is outside goes to a page that is not there, and a scatter leaves it out.
    const kept = where(position.less(0), -1, where(block.less(blocks), id, -1));
    const at = concatenate([reshape(kept, [-1, 1]), reshape(inside.sub(block.mul(page)), [-1, 1])], 1);
    const put = (pages: Tensor, x: Tensor, axis: number, window: readonly number[]) =>
      scatter(pages, at, x, "set", {
        update_window_dims: window,
        inserted_window_dims: [0, axis],
        scatter_dims_to_operand_dims: [0, axis],
        index_vector_dim: 1,
      });
    if (!scaled) return [put(kPages, k.to(kPages.dtype), 3, [1, 2]), put(vPages, v.to(vPages.dtype), 2, [1, 2])];
    const quantise = (x: Tensor): [Tensor, Tensor] => {
      const scale = x.abs().max(-1, { keep: true }).div(127);
      const whole = x.div(where(scale.equal(0), 1, scale));
      return [round(whole).to("i8"), reshape(scale, scale.shape.slice(0, 2))];
    };
    const [kWhole, kScale] = quantise(k);
    const [vWhole, vScale] = quantise(v);
    return [
      put(kPages, kWhole, 3, [1, 2]),
      put(vPages, vWhole, 2, [1, 2]),
      put(inputs[2]!, kScale.to(inputs[2]!.dtype), 2, [1]),
      put(inputs[3]!, vScale.to(inputs[3]!.dtype), 2, [1]),
    ];
  },
  cases: [
    // Two sequences, a token of padding, and one beyond the last block.
    ...(["f32", "bf16", "i8"] as const).map(
      (dtype): OpCase => ({
        inputs: [
          ...pageCase(dtype, 3, 2, 5, 4),
          { shape: [5, 3, 5] },
          { shape: [5, 2, 4] },
          { shape: [2, 1], values: [2, 0], dtype: "i32" },
          { shape: [5], values: [0, 1, 1, 0, 0], dtype: "i32" },
          { shape: [5], values: [3, 0, 1, -1, 16], dtype: "i32" },
        ],
        attributes: { key_head: 1, value_head: 0 },
        differentiable: false,
      }),
    ),
  ],
});

function pageCase(dtype: PageType, pages: number, groups: number, width: number, valueWidth: number): CaseInput[] {
  const range = dtype === "i8" ? { low: -127, high: 128 } : {};
  const scale = { shape: [pages, groups, 16], low: 0.001, high: 0.01 };
  return [
    { shape: [pages, groups, width, 16], dtype, ...range },
    { shape: [pages, groups, 16, valueWidth], dtype, ...range },
    ...(dtype === "i8" ? [scale, scale] : []),
  ];
}

/** Attention of each token over its sequence's keys up to its own. */
const pagedAttentionOp = defineOp({
  name: "paged_attention",
  infer(inputs, { heads }) {
    const { sizes } = checkPages("paged_attention", inputs, 1);
    const [, groups, width, , valueWidth, tokens] = sizes as [number, number, number, number, number, number];
    checkHeads("paged_attention", "the queries", inputs[0]!, tokens, heads as number, width);
    if ((heads as number) % groups !== 0)
      throw new ShapeError(`paged_attention: ${String(heads)} query heads are no multiple of ${groups} groups.`);
    return [{ dtype: inputs[0]!.dtype, shape: [tokens, heads as number, valueWidth] }];
  },
  decompose(inputs, { heads, scale }) {
    const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
    const [table, sequence, position] = inputs.slice(-3) as [Tensor, Tensor, Tensor];
    const tokens = sequence.shape[0]!;
    const ids = take(table, sequence); // (tokens, blocks)
    const [keys, groups] = [ids.shape[1]! * k.shape[3]!, k.shape[1]!];
    const [kScale, vScale] = k.dtype === "i8" ? inputs.slice(3, 5) : [];
    const scaled = (x: Tensor, scales: Tensor | undefined, axis: number) =>
      scales ? x.to(q.dtype).mul(reshape(scales, scales.shape.toSpliced(axis, 0, 1))) : x.to(q.dtype);
    // (tokens, blocks, groups, ...) -> (tokens, keys, groups, width)
    const kRows = take(scaled(k, kScale, 2), ids)
      .transpose(0, 1, 4, 2, 3)
      .reshape(tokens, keys, groups, k.shape[2]!);
    const vRows = take(scaled(v, vScale, 3), ids)
      .transpose(0, 1, 3, 2, 4)
      .reshape(tokens, keys, groups, v.shape[3]!);
    const out = attention(
      reshape(sliceAxis(q, 1, 0, heads as number), [tokens, 1, heads as number, q.shape[2]!]),
      kRows,
      vRows,
      {
        scale: scale as number,
        end: reshape(clamp(position.add(1), 0, keys), [tokens, 1]),
      },
    );
    return [reshape(out, [tokens, heads as number, v.shape[3]!])];
  },
  // Every position of the table is counted, whatever is there.
  flops: (inputs, [y]) => 2 * size(y!.shape) * inputs.at(-3)!.shape[1]! * inputs[1]!.shape[3]! * 2,
  cases: [
    ...(["f32", "bf16", "i8"] as const).flatMap((dtype): OpCase[] => [
      {
        // Three tokens of one sequence, one of another, a token of padding; page ids in no order.
        inputs: [
          { shape: [5, 5, 6] },
          ...pageCase(dtype, 5, 2, 6, 4),
          { shape: [2, 2], values: [3, 1, 4, 0], dtype: "i32" },
          { shape: [5], values: [1, 1, 1, 0, 0], dtype: "i32" },
          { shape: [5], values: [15, 16, 17, 31, -1], dtype: "i32" },
        ],
        attributes: { heads: 4, scale: 0.4 },
        tolerance: 1e-4,
        differentiable: false,
      },
      {
        // Many tokens of one sequence, over more keys than a segment of the kernel, and one whose keys are walked in pieces.
        inputs: [
          { shape: [41, 3, 16] },
          ...pageCase(dtype, 40, 1, 16, 16),
          { shape: [2, 20], values: Array.from({ length: 40 }, (_, i) => (i * 7) % 40), dtype: "i32" },
          { shape: [41], values: Array.from({ length: 41 }, (_, i) => (i < 40 ? 0 : 1)), dtype: "i32" },
          { shape: [41], values: Array.from({ length: 41 }, (_, i) => 260 + i), dtype: "i32" },
        ],
        attributes: { heads: 3, scale: 0.25 },
        tolerance: 1e-4,
        differentiable: false,
      },
    ]),
  ],
});

/**
 * Puts keys and values of new tokens into their pages. Tokens of padding and places beyond the table are left out.
 * @param k (tokens, at least `keyHead` + groups, width): heads from `keyHead` are the keys
 * @param v (tokens, at least `valueHead` + groups, width of values)
 */
export function pageWrite(
  pages: Pages,
  k: Tensor,
  v: Tensor,
  places: Places,
  heads: { readonly keyHead?: number; readonly valueHead?: number } = {},
): Pages {
  const attributes = { key_head: heads.keyHead ?? 0, value_head: heads.valueHead ?? 0 };
  const [k2, v2, kScale, vScale] = apply(pageWriteOp, [...pageInputs(pages), k, v, ...placeInputs(places)], attributes);
  return { k: k2!, v: v2!, ...(kScale && vScale ? { kScale, vScale } : {}) };
}

/**
 * Attention of tokens of any mixture of sequences, each over its own keys up to its own position.
 * @param q (tokens, at least `heads`, width): the first heads are the queries'
 * @returns (tokens, heads, width of values); zeros for padding
 */
export function pagedAttention(
  q: Tensor,
  pages: Pages,
  places: Places,
  options: { readonly heads?: number; readonly scale?: number } = {},
): Tensor {
  const attributes: Attributes = {
    heads: options.heads ?? q.shape[1]!,
    scale: options.scale ?? 1 / Math.sqrt(q.shape[2]!),
  };
  return apply1(pagedAttentionOp, [q, ...pageInputs(pages), ...placeInputs(places)], attributes);
}
