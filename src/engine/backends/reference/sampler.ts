import { HowdahError } from "../../../tensor/errors.ts";
import { philox } from "./random.ts";

/** How the next token is chosen. The filters are applied in the order of transformers' processors: penalty, temperature, top-k, top-p, min-p. */
export interface SamplingParameters {
  /** 0 takes the most likely token (of equals the lowest id); otherwise logits are divided by it. */
  readonly temperature: number;
  /** Only the k most likely tokens, and whatever ties with the last of them. 0 is off. */
  readonly topK?: number | undefined;
  /** Only the smallest set of most likely tokens that holds this much probability. Holtzman et al. 2020. 1 is off. */
  readonly topP?: number | undefined;
  /** Only tokens at least this fraction as likely as the most likely one. Nguyen et al. 2024. 0 is off. */
  readonly minP?: number | undefined;
  /** Logits of tokens seen already are divided by it where positive, multiplied where negative. Keskar et al. 2019. 1 is off. */
  readonly repetitionPenalty?: number | undefined;
}

export interface Sampled {
  token: number;
  /**
   * log p(token) under softmax(logits / temperature) (temperature 1 where sampling is greedy), before penalty and filters: what a policy
   * gradient needs. Nats; NaN where it was not asked for.
   */
  logProbability: number;
  /** Entropy of that distribution in nats; NaN where it was not asked for. */
  entropy: number;
}

/** Whether any token may be left out. */
function filters({ topK = 0, topP = 1, minP = 0 }: SamplingParameters, vocabulary: number): boolean {
  return (topK > 0 && topK < vocabulary) || topP < 1 || minP > 0;
}

/**
 * A number in [0, 1) with 53 random bits that depends on its arguments alone, by a counter-based generator (Philox): the draws of a
 * request are the same whatever else runs.
 * @param seed a whole number up to 2^53
 * @param stream tells sequences of one seed apart
 * @param position of the token in its reply
 */
export function uniformAt(seed: number, stream: number, position: number): number {
  const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0] as const;
  const [a, b] = philox([position >>> 0, stream >>> 0, 0, 0], key);
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53;
}

/** Chooses tokens from logits. Holds working memory for one vocabulary, so that choosing allocates nothing; not to be shared between threads. */
export class Sampler {
  readonly vocabulary: number;
  /** Logits over temperature, after the penalty. */
  readonly #scores: Float64Array;
  /** The tokens that may still be chosen, and exp(score - highest score) of each. */
  readonly #tokens: Int32Array;
  readonly #weights: Float64Array;
  /** Which tokens the penalty has met, by the number of the call. */
  readonly #met: Int32Array;
  #call = 0;
  readonly #heap: Float64Array;
  readonly #result: Sampled = { token: 0, logProbability: Number.NaN, entropy: Number.NaN };

  constructor(vocabulary: number) {
    this.vocabulary = vocabulary;
    this.#scores = new Float64Array(vocabulary);
    this.#tokens = new Int32Array(vocabulary);
    this.#weights = new Float64Array(vocabulary);
    this.#met = new Int32Array(vocabulary);
    this.#heap = new Float64Array(vocabulary);
  }

  /**
   * @param logits (vocabulary)
   * @param history ids of prompt and reply so far, for the repetition penalty
   * @param uniform in [0, 1): the only randomness
   * @param measure whether to compute log-probability and entropy
   * @returns overwritten by the next call
   * @throws HowdahError "not_finite" for logits that hold NaN, or nothing but minus infinity
   */
  sample(
    logits: Float32Array,
    parameters: SamplingParameters,
    history: readonly number[],
    uniform: number,
    measure: boolean,
  ): Sampled {
    const { temperature } = parameters;
    const result = this.#result;
    const scores = this.#scores;
    const n = this.vocabulary;
    const scale = temperature === 0 ? 1 : 1 / temperature;
    for (let i = 0; i < n; i++) scores[i] = logits[i]! * scale;
    const statistics = measure ? this.#statistics() : undefined;
    const penalty = parameters.repetitionPenalty ?? 1;
    if (penalty !== 1) this.#penalize(history, penalty);
    if (temperature === 0) result.token = statistics && penalty === 1 ? statistics.token : this.#highest().token;
    else if (statistics && penalty === 1 && !filters(parameters, n))
      result.token = this.#pick(undefined, n, statistics.total, uniform);
    else result.token = this.#draw(parameters, uniform);
    result.logProbability = Number.NaN;
    result.entropy = Number.NaN;
    if (statistics) {
      // The penalty may have changed the score of the token itself.
      result.logProbability = logits[result.token]! * scale - statistics.logSumExp;
      result.entropy = statistics.entropy;
    }
    return result;
  }

  /**
   * What `sample` draws from, as a whole: (vocabulary) probabilities after penalty, temperature and filters. Greedy: 1 at the most likely token.
   * @throws HowdahError "not_finite" as `sample`
   */
  distribution(logits: Float32Array, parameters: SamplingParameters, history: readonly number[]): Float64Array {
    const { temperature, repetitionPenalty: penalty = 1 } = parameters;
    const scale = temperature === 0 ? 1 : 1 / temperature;
    for (let i = 0; i < this.vocabulary; i++) this.#scores[i] = logits[i]! * scale;
    if (penalty !== 1) this.#penalize(history, penalty);
    const p = new Float64Array(this.vocabulary);
    if (temperature === 0) {
      p[this.#highest().token] = 1;
      return p;
    }
    const { count, total } = this.#filter(parameters);
    for (let i = 0; i < count; i++) p[this.#tokens[i]!] = this.#weights[i]! / total;
    return p;
  }

  #highest(): { token: number; score: number } {
    const scores = this.#scores;
    let token = -1;
    let score = Number.NEGATIVE_INFINITY;
    let sum = 0;
    for (let i = 0; i < scores.length; i++) {
      const x = scores[i]!;
      sum += x;
      if (x > score) {
        score = x;
        token = i;
      }
    }
    // NaN passes every comparison unseen, but not a sum; infinities of both signs cannot make one with a finite highest.
    if (token < 0 || score === Number.POSITIVE_INFINITY || Number.isNaN(sum))
      throw new HowdahError(
        "not_finite",
        "The model's logits are not finite, so no token can be chosen. Its weights are damaged or its training diverged.",
      );
    return { token, score };
  }

  /** H = log Z - sum of p x, with x the scores and Z the sum of their exponentials. Leaves the weights of all tokens behind. */
  #statistics(): { token: number; logSumExp: number; entropy: number; total: number } {
    const { token, score: top } = this.#highest();
    const scores = this.#scores;
    const weights = this.#weights;
    let total = 0;
    let weighted = 0;
    for (let i = 0; i < scores.length; i++) {
      const x = scores[i]! - top;
      const e = Math.exp(x);
      weights[i] = e;
      total += e;
      if (e > 0) weighted += e * x;
    }
    return { token, logSumExp: top + Math.log(total), entropy: Math.log(total) - weighted / total, total };
  }

  #penalize(history: readonly number[], penalty: number): void {
    const scores = this.#scores;
    this.#call++;
    for (const id of history) {
      if (this.#met[id] === this.#call) continue;
      this.#met[id] = this.#call;
      const x = scores[id]!;
      scores[id] = x < 0 ? x * penalty : x / penalty;
    }
  }

  #draw(parameters: SamplingParameters, uniform: number): number {
    const { count, total } = this.#filter(parameters);
    return this.#pick(this.#tokens, count, total, uniform);
  }

  /** The tokens that may be chosen and their weights, in front of `#tokens` and `#weights`. */
  #filter({ topK = 0, topP = 1, minP = 0 }: SamplingParameters): { count: number; total: number } {
    const scores = this.#scores;
    const tokens = this.#tokens;
    const weights = this.#weights;
    const { score: top } = this.#highest();
    // Ties with the k-th stay, as in transformers.
    const lowest = topK > 0 && topK < scores.length ? this.#kthHighest(topK) : Number.NEGATIVE_INFINITY;
    let count = 0;
    let total = 0;
    for (let i = 0; i < scores.length; i++) {
      const x = scores[i]!;
      if (x < lowest) continue;
      const e = Math.exp(x - top);
      tokens[count] = i;
      weights[count++] = e;
      total += e;
    }
    if (topP < 1) ({ count, total } = this.#keepTopP(count, total, topP));
    if (minP > 0) {
      let kept = 0;
      total = 0;
      for (let i = 0; i < count; i++) {
        const e = weights[i]!;
        if (e < minP) continue; // the most likely token has weight 1
        tokens[kept] = tokens[i]!;
        weights[kept++] = e;
        total += e;
      }
      count = kept;
    }
    return { count, total };
  }

  /** The token at `uniform` of the way through the weights, which sum to `total`. @param tokens none: all in order */
  #pick(tokens: Int32Array | undefined, count: number, total: number, uniform: number): number {
    const weights = this.#weights;
    let left = uniform * total;
    let last = 0;
    for (let i = 0; i < count; i++) {
      const e = weights[i]!;
      if (e === 0) continue;
      last = i;
      left -= e;
      if (left < 0) break;
    }
    return tokens ? tokens[last]! : last;
  }

  /** The k-th highest score, by a heap of the k highest so far whose root is the lowest of them. */
  #kthHighest(k: number): number {
    const scores = this.#scores;
    const heap = this.#heap;
    for (let i = 0; i < k; i++) heap[i] = scores[i]!;
    const sink = (from: number): void => {
      const x = heap[from]!;
      let at = from;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= k) break;
        if (child + 1 < k && heap[child + 1]! < heap[child]!) child++;
        if (heap[child]! >= x) break;
        heap[at] = heap[child]!;
        at = child;
      }
      heap[at] = x;
    };
    for (let i = (k >> 1) - 1; i >= 0; i--) sink(i);
    for (let i = k; i < scores.length; i++) {
      if (scores[i]! <= heap[0]!) continue;
      heap[0] = scores[i]!;
      sink(0);
    }
    return heap[0]!;
  }

  /**
   * Keeps each of the first `count` tokens whose more likely ones sum to less than `p` of `total`, and moves them to the front. Only as
   * many as are kept are put in order.
   */
  #keepTopP(count: number, total: number, p: number): { count: number; total: number } {
    const tokens = this.#tokens;
    const weights = this.#weights;
    // Tokens below this weight together hold less than 1 - p, so all of them go.
    const floor = ((1 - p) * total) / count;
    let n = 0;
    for (let i = 0; i < count; i++) {
      if (weights[i]! < floor) continue;
      tokens[n] = tokens[i]!;
      weights[n++] = weights[i]!;
    }
    const before = (i: number, j: number) =>
      weights[i]! > weights[j]! || (weights[i]! === weights[j]! && tokens[i]! < tokens[j]!);
    const swap = (i: number, j: number): void => {
      const [t, w] = [tokens[i]!, weights[i]!];
      tokens[i] = tokens[j]!;
      weights[i] = weights[j]!;
      tokens[j] = t;
      weights[j] = w;
    };
    // Quicksort that always goes on with the likeliest part, and stops where the sum is reached.
    let kept = 0;
    let sum = 0;
    const ranges: [from: number, to: number][] = n > 0 ? [[0, n]] : [];
    while (ranges.length > 0) {
      const [from, to] = ranges.pop()!;
      if (to - from <= 1) {
        if (to === from) continue;
        if (sum >= p * total && kept > 0) break;
        sum += weights[from]!;
        kept++;
        continue;
      }
      if (sum >= p * total && kept > 0) break;
      swap(from + ((to - from) >> 1), to - 1);
      let at = from;
      for (let i = from; i < to - 1; i++) if (before(i, to - 1)) swap(i, at++);
      swap(at, to - 1);
      ranges.push([at + 1, to], [at, at + 1], [from, at]);
    }
    return { count: kept, total: sum };
  }
}
