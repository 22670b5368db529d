import { z } from "zod";
import { InputError } from "../../tensor/errors.ts";
import { valueAndGrad } from "../../tensor/grad.ts";
import { jit } from "../../tensor/jit.ts";
import { scalar, zeros } from "../../tensor/ops/creation.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import { dispose } from "../../tensor/tree.ts";
import { shuffled, uniform } from "../random.ts";
import { drop, type Filter, kept, type Outcome, type Page, percent } from "./filter.ts";

/** Words, numbers, single Chinese characters, single signs. */
const pieces = /\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{M}])+|\p{N}+|[^\s\p{L}\p{M}\p{N}]/gu;
/** Features of a document that are looked at: its first ones. */
const MOST = 2048;

/** FNV-1a over UTF-16 units, mixed at the end. */
function hash(text: string, seed: number): number {
  let h = 0x811c9dc5 ^ seed;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

/** Hashed 1-grams and 2-grams of a text: positions in a table of `buckets` weights (Weinberger et al. 2009). */
export function hashedFeatures(text: string, buckets: number): Int32Array {
  const out: number[] = [];
  let before = 0;
  for (const [piece] of text.toLowerCase().matchAll(pieces)) {
    const h = hash(piece, 0);
    out.push(h);
    if (before !== 0) out.push((Math.imul(before, 0x9e3779b1) ^ h) >>> 0);
    before = h;
    if (out.length >= MOST) break;
  }
  return Int32Array.from(out, (x) => (x >>> 0) % buckets);
}

export interface QualityOptions {
  readonly buckets?: number;
  readonly epochs?: number;
  readonly batch?: number;
  readonly rate?: number;
  readonly seed?: number;
  readonly onEpoch?: (epoch: number, loss: number) => void;
}

interface State {
  /** (buckets) */
  readonly weights: Tensor;
  readonly bias: Tensor;
  /** Sums of squared gradients. */
  readonly weightSquares: Tensor;
  readonly biasSquares: Tensor;
}

interface Batch {
  /** i32 (batch, features), padded with 0 */
  readonly ids: Tensor<"i32">;
  /** (batch, features): 1 / number of the row's features, 0 for padding */
  readonly share: Tensor;
  /** (batch): 1 for good */
  readonly good: Tensor;
}

const stored = z.object({
  kind: z.literal("howdah-quality-1"),
  buckets: z.number().int().positive(),
  bias: z.number(),
  /** f32, little-endian, base64 */
  weights: z.string(),
});

/**
 * How much a text looks like known-good ones: logistic regression on hashed word 1-grams and 2-grams, as GPT-3 chose its Common Crawl pages
 * (Brown et al. 2020, appendix A). Trained by our own engine; applied without it.
 */
export class QualityClassifier {
  readonly buckets: number;
  readonly weights: Float32Array;
  readonly bias: number;

  constructor(weights: Float32Array, bias: number) {
    this.buckets = weights.length;
    this.weights = weights;
    this.bias = bias;
  }

  /** The probability, 0 to 1, that the text is one of the good ones, where good and other are equally many. */
  score(text: string): number {
    const features = hashedFeatures(text, this.buckets);
    if (features.length === 0) return 0;
    let sum = 0;
    for (const f of features) sum += this.weights[f]!;
    return 1 / (1 + Math.exp(-(sum / features.length + this.bias)));
  }

  toJSON(): z.infer<typeof stored> {
    const bytes = Buffer.from(this.weights.buffer, this.weights.byteOffset, this.weights.byteLength);
    return { kind: "howdah-quality-1", buckets: this.buckets, bias: this.bias, weights: bytes.toString("base64") };
  }

  /** @throws InputError when the file is no classifier */
  static fromJSON(value: unknown, where: string): QualityClassifier {
    const parsed = stored.safeParse(value);
    const bytes = parsed.success ? Buffer.from(parsed.data.weights, "base64") : undefined;
    if (!parsed.success || bytes?.length !== parsed.data.buckets * 4)
      throw new InputError(`${where}: this is not a quality classifier. Make one with trainQuality(...).`);
    return new QualityClassifier(
      new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)),
      parsed.data.bias,
    );
  }

  /** Trains on texts that are known to be good and on others. @throws InputError when one of the two is empty */
  static async train(
    good: readonly string[],
    other: readonly string[],
    options: QualityOptions = {},
  ): Promise<QualityClassifier> {
    const { buckets = 2 ** 18, epochs = 5, batch = 64, rate = 2, seed = 1, onEpoch } = options;
    const rows = [...good.map((text) => [text, 1] as const), ...other.map((text) => [text, 0] as const)]
      .map(([text, label]) => ({ features: hashedFeatures(text, buckets), label }))
      .filter(({ features }) => features.length > 0);
    const count = (label: number) => rows.filter((r) => r.label === label).length;
    if (count(1) === 0 || count(0) === 0)
      throw new InputError(
        `quality: there are ${count(1)} good and ${count(0)} other texts with words in them; both are needed.`,
      );
    // The two sides weigh the same, however many texts each has.
    const importance = [rows.length / 2 / count(0), rows.length / 2 / count(1)];
    const step = jit(
      (state: State, { ids, share, good: target }: Batch, weight: Tensor) => {
        const parameters = { weights: state.weights, bias: state.bias };
        const [loss, g] = valueAndGrad(parameters, (p) => {
          const logit = p.weights.take(ids).mul(share).sum(1).add(p.bias);
          // -log sigmoid of the right sign, without overflow
          const nats = logit.maximum(0).sub(logit.mul(target)).add(logit.abs().neg().exp().add(1).log());
          return nats.mul(weight).mean();
        });
        // Adagrad (Duchi et al. 2011): rare features keep a large rate.
        const weightSquares = state.weightSquares.add(g.weights.square());
        const biasSquares = state.biasSquares.add(g.bias.square());
        const next = {
          weights: state.weights.sub(g.weights.mul(rate).div(weightSquares.sqrt().add(1e-6))),
          bias: state.bias.sub(g.bias.mul(rate / 10).div(biasSquares.sqrt().add(1e-6))),
          weightSquares,
          biasSquares,
        };
        return { next, loss };
      },
      { donate: [0], name: "quality" },
    );
    let state: State = {
      weights: zeros([buckets]),
      bias: scalar(0),
      weightSquares: zeros([buckets]),
      biasSquares: scalar(0),
    };
    for (let epoch = 0; epoch < epochs; epoch++) {
      const order = shuffled(rows.length, seed, epoch);
      let total = 0;
      let steps = 0;
      for (let at = 0; at + batch <= rows.length || at === 0; at += batch) {
        const chosen = Array.from({ length: batch }, (_, i) => rows[order[(at + i) % rows.length]!]!);
        const width = 2 ** Math.ceil(Math.log2(Math.max(16, ...chosen.map((r) => r.features.length))));
        const ids = new Int32Array(batch * width);
        const share = new Float32Array(batch * width);
        chosen.forEach(({ features }, row) => {
          ids.set(features, row * width);
          share.fill(1 / features.length, row * width, row * width + features.length);
        });
        const given: Batch = {
          ids: tensor(ids, { shape: [batch, width] }) as Tensor<"i32">,
          share: tensor(share, { shape: [batch, width] }) as Tensor,
          good: tensor(Float32Array.from(chosen, (r) => r.label)) as Tensor,
        };
        const weight = tensor(Float32Array.from(chosen, (r) => importance[r.label]!)) as Tensor;
        const result = step(state, given, weight);
        state = result.next;
        total += await result.loss.item();
        steps++;
        dispose([given, weight, result.loss]);
      }
      onEpoch?.(epoch, total / steps);
    }
    const classifier = new QualityClassifier((await state.weights.data()) as Float32Array, await state.bias.item());
    dispose(state);
    step.release();
    return classifier;
  }
}

/**
 * Keeps a document when a Pareto draw (shape `alpha`, from 0 upwards) is above 1 - score: nearly all that score high, and some of the rest, so
 * that the corpus is not one kind of text (Brown et al. 2020, appendix A: alpha 9). The draw depends on the seed and the text alone.
 */
export function qualityFilter(options: {
  readonly classifier: QualityClassifier;
  readonly alpha?: number;
  readonly seed?: number;
}): Filter {
  const { classifier, alpha = 9, seed = 1 } = options;
  const name = "quality";
  return {
    name,
    source: "Brown et al. 2020, appendix A",
    rules: { pareto: `a Pareto draw (shape ${alpha}) is at most 1 - score` },
    apply({ text }: Page): Outcome {
      const score = classifier.score(text);
      const u = uniform(seed, hash(text, 1), hash(text, 2));
      // Inverse of the Lomax distribution, which is what numpy.random.pareto draws from.
      const draw = (1 - u) ** (-1 / alpha) - 1;
      return draw > 1 - score
        ? kept
        : drop(name, "pareto", score, 1 - draw, `It looks like a good text with ${percent(score)}.`);
    },
  };
}
