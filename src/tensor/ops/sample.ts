import { DTypeError, ShapeError } from "../errors.ts";
import type { Aval } from "../graph.ts";
import { defineOp, type Op } from "../op.ts";
import { sameShape, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply } from "../trace.ts";
import { broadcastTo, expandDims, reshape } from "./structure.ts";

/** Words of one row of `settings`: how a sequence's next tokens are chosen. Numbers of 64 bits are two words, the low one first. */
export const sampleSettings = {
  temperature: 0,
  topP: 2,
  minP: 4,
  penalty: 6,
  topK: 8,
  /** Of the draws: a whole number up to 2^53. */
  seed: 9,
  stream: 11,
  /** Place of the reply's first token in its sequence: draws are counted from there. */
  start: 12,
  /** 1: log-probability and entropy are wanted. */
  measure: 13,
  words: 14,
} as const;

function check(inputs: readonly Aval[]): { rows: number } {
  const [logits, token, position, settings, history] = inputs as [Aval, Aval, Aval, Aval, Aval | undefined];
  const real = logits.dtype === "f32" || logits.dtype === "f64";
  if (logits.shape.length !== 2 || !real || logits.shape[1] === 0)
    throw new ShapeError(`sample_token: logits must be f32 (rows, classes), got ${logits.dtype}${show(logits.shape)}.`);
  const rows = logits.shape[0]!;
  const want = (what: string, x: Aval, shape: readonly number[]) => {
    if (x.dtype !== "i32") throw new DTypeError(`sample_token: ${what} must be i32, got ${x.dtype}${show(x.shape)}.`);
    if (!sameShape(x.shape, shape))
      throw new ShapeError(`sample_token: ${what} must be ${show(shape)}, got ${show(x.shape)}.`);
  };
  want("the tokens", token, [rows]);
  want("their places", position, [rows]);
  want("the settings", settings, [rows, sampleSettings.words]);
  if (history) want("the history", history, [rows, history.shape[1] ?? 0]);
  return { rows };
}

const double = new DataView(new ArrayBuffer(8));
/** The two words of a 64-bit number, the low one first. */
export function wordsOf(x: number): [low: number, high: number] {
  double.setFloat64(0, x);
  return [double.getInt32(4), double.getInt32(0)];
}

/** Cases: [temperature, top-p, min-p, penalty, top-k, measure]. */
const caseSettings = [
  [0, 1, 0, 1, 0, 0],
  [0, 1, 0, 1.3, 0, 1],
  [1, 1, 0, 1, 0, 1],
  [0.8, 0.9, 0, 1, 0, 0],
  [1.2, 1, 0.1, 1, 5, 1],
  [0.7, 0.8, 0.05, 1.2, 20, 1],
] as const;
const settingsOf = (rows: readonly (readonly number[])[]): number[] =>
  rows.flatMap(([temperature, topP, minP, penalty, topK, measure], i) => [
    ...[temperature!, topP!, minP!, penalty!].flatMap(wordsOf),
    topK!,
    77 + i,
    3,
    i,
    2,
    measure!,
  ]);

/**
 * The next token of each row, chosen as `SamplingParameters` says from draws that depend on seed, stream and place alone. Also its place, log-probability
 * and entropy (NaN where not wanted), and the history with the token that was read. A row whose token is below 0 is no sequence: it stays so. A
 * row whose logits are not finite gives token -1.
 */
export const sampleTokenOp: Op = defineOp({
  name: "sample_token",
  inPlace: [[3, 4]],
  infer(inputs) {
    const { rows } = check(inputs);
    const history = inputs[4];
    return [
      { dtype: "i32", shape: [rows] },
      { dtype: "i32", shape: [rows] },
      { dtype: "f32", shape: [rows, 2] },
      ...(history ? [{ dtype: "i32" as const, shape: history.shape }] : []),
    ];
  },
  batch(inputs, batched, attributes, n) {
    const all = inputs.map((x, i) => (batched[i] ? x : broadcastTo(expandDims(x, 0), [n, ...x.shape])));
    const flat = all.map((x) => reshape(x, [x.shape[0]! * x.shape[1]!, ...x.shape.slice(2)]));
    return apply(sampleTokenOp, flat, attributes).map((y) => reshape(y, [n, y.shape[0]! / n, ...y.shape.slice(1)]));
  },
  cases: [
    {
      inputs: [
        { shape: [2, 4], values: [1, 3, 2, 3, 0, -1, 5, 4] },
        { shape: [2], dtype: "i32", values: [0, -1] },
        { shape: [2], dtype: "i32", values: [5, 0] },
        { shape: [2, sampleSettings.words], dtype: "i32", values: settingsOf([caseSettings[0], caseSettings[0]]) },
      ],
      outputs: [
        [1, -1],
        [6, 0],
        [Number.NaN, Number.NaN, Number.NaN, Number.NaN],
      ],
      differentiable: false,
    },
    {
      inputs: [
        { shape: [6, 97], low: -3, high: 3 },
        { shape: [6], dtype: "i32", values: [5, 6, 7, 8, 9, 10] },
        { shape: [6], dtype: "i32", values: [2, 3, 4, 5, 6, 7] },
        { shape: [6, sampleSettings.words], dtype: "i32", values: settingsOf(caseSettings) },
        { shape: [6, 9], dtype: "i32", low: 0, high: 97 },
      ],
      differentiable: false,
    },
    {
      inputs: [
        { shape: [5, 1000], low: -9, high: 9 },
        { shape: [5], dtype: "i32", values: [5, 6, 7, 8, 9] },
        { shape: [5], dtype: "i32", values: [2, 300, 4, 5, 6] },
        { shape: [5, sampleSettings.words], dtype: "i32", values: settingsOf(caseSettings.slice(0, 5)) },
      ],
      differentiable: false,
    },
    // Nuclei of most of a flat distribution, alone and with the other filters.
    {
      inputs: [
        { shape: [5, 3000], low: -0.5, high: 0.5 },
        { shape: [5], dtype: "i32", values: [5, 6, 7, 8, 9] },
        { shape: [5], dtype: "i32", values: [2, 300, 4, 5, 6] },
        {
          shape: [5, sampleSettings.words],
          dtype: "i32",
          values: settingsOf([
            [1, 0.95, 0, 1, 0, 0],
            [1, 0.9, 0.5, 1, 0, 1],
            [0.8, 0.9, 0, 1, 100, 0],
            [0.1, 0.999, 0.001, 1, 0, 0],
            [1, 0, 0, 1, 0, 0],
          ]),
        },
      ],
      differentiable: false,
    },
  ],
});

export interface SampledTokens {
  /** i32 (rows): the tokens chosen; -1 where the row is no sequence, or its logits are not finite. */
  readonly token: Tensor<"i32">;
  /** i32 (rows): their places. */
  readonly position: Tensor<"i32">;
  /** f32 (rows, 2): log-probability and entropy, in nats. */
  readonly measures: Tensor;
  readonly history: Tensor<"i32"> | undefined;
}

/**
 * Chooses the next token of each row.
 * @param logits (rows, classes)
 * @param token i32 (rows): the tokens whose successors the logits are about; below 0 where a row is no sequence
 * @param position i32 (rows): their places in their sequences
 * @param settings i32 (rows, words), see `sampleSettings`
 * @param history i32 (rows, longest): the tokens before, for the repetition penalty; without it there is none
 */
export function sampleToken(
  logits: Tensor,
  token: Tensor,
  position: Tensor,
  settings: Tensor,
  history?: Tensor<"i32">,
): SampledTokens {
  const out = apply(sampleTokenOp, [logits, token, position, settings, ...(history ? [history] : [])]);
  const [next, place, measures, kept] = out as [Tensor<"i32">, Tensor<"i32">, Tensor, Tensor<"i32"> | undefined];
  return { token: next, position: place, measures, history: kept };
}
