import { InputError } from "../../tensor/errors.ts";
import { drop, type Filter, kept, type Outcome, type Page } from "./filter.ts";

/** Counts by 53-bit keys in open addressing: a JavaScript Map of a million numbers takes four times the room. */
class Counts {
  #keys: Float64Array;
  #values: Uint32Array;
  #size = 0;

  constructor(capacity = 1024) {
    this.#keys = new Float64Array(capacity).fill(-1);
    this.#values = new Uint32Array(capacity);
  }
  get size(): number {
    return this.#size;
  }
  #place(key: number): number {
    const mask = this.#keys.length - 1;
    let at = (Math.imul(key >>> 0, 0x9e3779b1) >>> 7) & mask;
    while (this.#keys[at] !== -1 && this.#keys[at] !== key) at = (at + 1) & mask;
    return at;
  }
  get(key: number): number {
    const at = this.#place(key);
    return this.#keys[at] === key ? this.#values[at]! : 0;
  }
  /** @returns the count before */
  add(key: number, n: number): number {
    const at = this.#place(key);
    const before = this.#keys[at] === key ? this.#values[at]! : 0;
    if (before === 0) {
      this.#keys[at] = key;
      if (++this.#size * 2 > this.#keys.length) {
        this.#values[at] = n;
        this.#grow();
        return 0;
      }
    }
    this.#values[at] = before + n;
    return before;
  }
  #grow(): void {
    const [keys, values] = [this.#keys, this.#values];
    this.#keys = new Float64Array(keys.length * 2).fill(-1);
    this.#values = new Uint32Array(keys.length * 2);
    for (let i = 0; i < keys.length; i++)
      if (keys[i] !== -1) {
        const at = this.#place(keys[i]!);
        this.#keys[at] = keys[i]!;
        this.#values[at] = values[i]!;
      }
  }
}

const tokens = /\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{M}])+|\p{N}+|[^\s\p{L}\p{M}\p{N}]/gu;

function wordHash(word: string): number {
  let a = 0x811c9dc5;
  let b = 0xc2b2ae35;
  for (let i = 0; i < word.length; i++) {
    const c = word.charCodeAt(i);
    a = Math.imul(a ^ c, 0x01000193);
    b = Math.imul(b ^ c, 0x85ebca6b);
  }
  return join(a, b);
}
/** Two words of 32 bits as a whole number below 2^53. */
const join = (a: number, b: number) => (a >>> 0) * 2 ** 21 + ((b ^ (b >>> 15)) & 0x1fffff);
function chain(context: number, word: number): number {
  const a = Math.imul((context / 2 ** 21) ^ 0x9e3779b1, 0x85ebca6b) ^ (word / 2 ** 21);
  const b = Math.imul((context & 0x1fffff) ^ 0x27d4eb2f, 0xc2b2ae35) ^ (word & 0x1fffff) ^ (a >>> 11);
  return join(Math.imul(a ^ (a >>> 16), 0x9e3779b1), b);
}

const START = wordHash("\u0002");
const END = wordHash("\u0003");

interface Level {
  /** Of n-grams: occurrences at the highest order, different words before them below. */
  readonly counts: Counts;
  /** Of contexts: sum of those counts, and how many different words follow. */
  readonly totals: Counts;
  readonly followers: Counts;
}

/**
 * A word n-gram model with interpolated Kneser-Ney smoothing (Chen & Goodman 1999, section 4.1.6, one discount of 0.75): how surprising a text is to
 * somebody who has read the texts it was made of. Chinese is read by characters, case is not looked at. Words that were not seen share the
 * probability of one.
 */
export class NGramModel {
  readonly order: number;
  readonly #levels: readonly Level[];
  readonly #vocabulary = new Counts();
  #trained = 0;

  constructor(order = 3) {
    if (!(Number.isInteger(order) && order >= 1 && order <= 6))
      throw new InputError(`n-gram model: the order is ${order}; it must be 1 to 6.`);
    this.order = order;
    this.#levels = Array.from({ length: order }, () => ({
      counts: new Counts(),
      totals: new Counts(),
      followers: new Counts(),
    }));
  }

  /** Words read so far. */
  get words(): number {
    return this.#trained;
  }

  static #sentences(text: string): number[][] {
    return text
      .toLowerCase()
      .split("\n")
      .map((line) => Array.from(line.matchAll(tokens), ([w]) => wordHash(w)))
      .filter((l) => l.length > 0);
  }

  /** Reads a text. Lines are sentences. */
  add(text: string): void {
    for (const line of NGramModel.#sentences(text)) {
      const words = [...Array.from({ length: this.order - 1 }, () => START), ...line, END];
      this.#trained += line.length + 1;
      for (let i = this.order - 1; i < words.length; i++) {
        this.#vocabulary.add(words[i]!, 1);
        this.#count(words, i, this.order);
      }
    }
  }

  /** Counts the n-gram that ends at i; when it is new, the shorter one has one more word before it. */
  #count(words: readonly number[], i: number, n: number): void {
    const level = this.#levels[n - 1]!;
    const context = this.#context(words, i, n);
    const isNew = level.counts.add(chain(context, words[i]!), 1) === 0;
    level.totals.add(context, 1);
    if (isNew) level.followers.add(context, 1);
    if (isNew && n > 1) this.#count(words, i, n - 1);
  }

  #context(words: readonly number[], i: number, n: number): number {
    let key = n;
    for (let k = i - n + 1; k < i; k++) key = chain(key, words[k]!);
    return key;
  }

  #probability(words: readonly number[], i: number, n: number): number {
    const unseen = 1 / (this.#vocabulary.size + 1);
    if (n === 0) return unseen;
    const level = this.#levels[n - 1]!;
    const context = this.#context(words, i, n);
    const total = level.totals.get(context);
    const lower = this.#probability(words, i, n - 1);
    if (total === 0) return lower;
    const discount = 0.75;
    const seen = Math.max(level.counts.get(chain(context, words[i]!)) - discount, 0);
    return (seen + discount * level.followers.get(context) * lower) / total;
  }

  /** The probability that a word follows the words of a text's last line. */
  probability(history: string, word: string): number {
    const line = NGramModel.#sentences(history).at(-1) ?? [];
    const next = NGramModel.#sentences(word)[0]?.[0];
    if (next === undefined) throw new InputError(`n-gram model: ${JSON.stringify(word)} is no word.`);
    const words = [...Array.from({ length: this.order - 1 }, () => START), ...line, next];
    return this.#probability(words, words.length - 1, this.order);
  }

  /** exp of the mean surprise of a word, in nats; infinite for a text without words. */
  perplexity(text: string): number {
    let nats = 0;
    let count = 0;
    for (const line of NGramModel.#sentences(text)) {
      const words = [...Array.from({ length: this.order - 1 }, () => START), ...line, END];
      for (let i = this.order - 1; i < words.length; i++) {
        nats -= Math.log(this.#probability(words, i, this.order));
        count++;
      }
    }
    return count === 0 ? Number.POSITIVE_INFINITY : Math.exp(nats / count);
  }
}

/** Keeps texts that are neither noise nor boilerplate to a model of good text (Wenzek et al. 2020, CCNet, section 4.2). */
export function perplexityFilter(options: {
  readonly model: NGramModel;
  readonly min?: number;
  readonly max: number;
}): Filter {
  const { model, min = 0, max } = options;
  const name = "perplexity";
  return {
    name,
    source: "Wenzek et al. 2020, section 4.2",
    rules: { high: `perplexity above ${max}`, low: `perplexity below ${min}` },
    apply({ text }: Page): Outcome {
      const value = model.perplexity(text);
      if (value > max) return drop(name, "high", value, max, `Its perplexity is ${value.toPrecision(3)}.`);
      if (value < min)
        return drop(name, "low", value, min, `Its perplexity is ${value.toPrecision(3)}: it repeats what is known.`);
      return kept;
    },
  };
}
