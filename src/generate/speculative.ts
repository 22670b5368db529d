import type { LanguageModel } from "../models/model.ts";
import { InputError } from "../tensor/errors.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";
import { Sampler, type SamplingParameters, uniformAt } from "./sampler.ts";

/**
 * Speculative decoding: tokens are guessed cheaply, and the model checks all of them in one step, which costs little more than a step for one
 * token. What comes out has the model's own distribution (Leviathan et al. 2023; Chen et al. 2023).
 */

/** A text that goes on, and how many of its next tokens may be guessed. */
export interface Guessed {
  readonly slot: number;
  readonly history: readonly number[];
  readonly most: number;
  readonly sampling: SamplingParameters;
  readonly seed: number;
  readonly stream: number;
  /** Length of the prompt in `history`. */
  readonly prompt: number;
}

export interface Guess {
  readonly tokens: readonly number[];
  /** The distribution that each token was drawn from, (vocabulary); none: the token was certain. */
  readonly from?: readonly Float64Array[];
}

/** Whoever guesses. */
export interface Guesser {
  /** Programs compiled so far. */
  readonly programs: number;
  /** @returns one guess per text, which may be empty */
  guess(texts: readonly Guessed[]): Promise<Guess[]>;
  /** A text is over. */
  clear(slot: number): void;
  /** Compiles what guessing needs. No text may be under way. */
  warm(): Promise<void>;
  /** Gives memory back; it may be used again. */
  release(): void;
  dispose(): void;
}

/** Lengths of the ends of a text that are looked for in it, the longest first. */
const LONGEST = 4;
const SHORTEST = 2;

/**
 * What followed the last time the text ended like this: prompt lookup (Saxena 2023). Good where a reply repeats its prompt: summaries, edits,
 * quotations.
 */
export function lookUp(history: readonly number[], most: number): number[] {
  for (let n = Math.min(LONGEST, history.length - 1); n >= SHORTEST; n--) {
    const from = history.length - n;
    for (let at = from - 1; at >= 0; at--) {
      let same = 0;
      while (same < n && history[at + same] === history[from + same]) same++;
      if (same === n) return history.slice(at + n, at + n + most);
    }
  }
  return [];
}

export const lookUpGuesser: Guesser = {
  programs: 0,
  guess: (texts) => Promise.resolve(texts.map(({ history, most }) => ({ tokens: lookUp(history, most) }))),
  clear: () => {},
  warm: () => Promise.resolve(),
  release: () => {},
  dispose: () => {},
};

/** Draws of one position that have nothing to do with one another: the token itself, whether a guess is accepted, the guess. */
const DRAWS = { token: 0, accept: 1, guess: 2 } as const;

function draw(text: { seed: number; stream: number }, position: number, kind: keyof typeof DRAWS): number {
  return uniformAt(text.seed, (text.stream + DRAWS[kind] * 2 ** 30) >>> 0, position);
}

/** A smaller model guesses, sampling as the large one does. */
export class DraftGuesser implements Guesser {
  readonly #model: LanguageModel;
  readonly #decoder: Decoder;
  readonly #sampler: Sampler;

  /** @throws InputError where the models do not share a vocabulary */
  constructor(draft: LanguageModel, model: LanguageModel, options: DecoderOptions) {
    const [mine, theirs] = [draft.config.vocabulary, model.config.vocabulary];
    if (mine !== theirs)
      throw new InputError(
        `The draft model has ${mine} tokens, the model ${theirs}. A draft must have the same tokenizer: choose a smaller model of the same family.`,
      );
    this.#model = draft;
    const capacity = Math.min(options.capacity ?? model.config.context, draft.config.context);
    this.#decoder = new Decoder({ ...options, capacity, ahead: 0, prefixes: false });
    this.#sampler = new Sampler(mine);
  }

  get programs(): number {
    return this.#decoder.programs;
  }

  async guess(texts: readonly Guessed[]): Promise<Guess[]> {
    const tokens: number[][] = texts.map(() => []);
    const from: Float64Array[][] = texts.map(() => []);
    const gone = new Set<number>();
    const capacity = this.#decoder.capacityFor(this.#model);
    for (;;) {
      const open = texts.flatMap((text, i) => {
        const length = text.history.length + tokens[i]!.length;
        return tokens[i]!.length < text.most && length < capacity && !gone.has(i) ? [{ text, i }] : [];
      });
      if (open.length === 0) break;
      // What the draft has not read yet: after a check a token or two, at first the whole prompt.
      let room = this.#decoder.sizes.at(-1)!;
      let pieces: { i: number; slot: number; ids: number[]; wanted: number }[] = [];
      for (const { text, i } of open) {
        const whole = [...text.history, ...tokens[i]!];
        const held = this.#begin(text, whole);
        const ids = whole.slice(held, held + room);
        if (ids.length === 0) continue;
        room -= ids.length;
        pieces.push({ i, slot: text.slot, ids, wanted: held + ids.length === whole.length ? 1 : 0 });
      }
      // Compiles while the event loop goes on. A text that ends meanwhile has given up its slot, and is not read.
      for (;;) {
        const ready = this.#decoder.prepareStep(this.#model, pieces);
        if (!ready) break;
        await ready;
        for (const { i, slot } of pieces) if (!this.#decoder.holds(slot)) gone.add(i);
        pieces = pieces.filter(({ i }) => !gone.has(i));
      }
      if (pieces.length === 0) continue;
      const rows = await this.#decoder.step(this.#model, pieces);
      for (const [n, { i, wanted }] of pieces.entries()) {
        if (wanted === 0) continue;
        const text = texts[i]!;
        const seen = [...text.history, ...tokens[i]!];
        const q = this.#sampler.distribution(rows[n]![0]!, text.sampling, seen);
        tokens[i]!.push(pick(q, draw(text, seen.length - text.prompt, "guess")));
        from[i]!.push(q);
      }
    }
    return texts.map((_, i) => ({ tokens: tokens[i]!, from: from[i]! }));
  }

  /** @returns how many tokens of the text the draft holds; what it guessed wrongly is taken back */
  #begin({ slot }: Guessed, whole: readonly number[]): number {
    if (!this.#decoder.holds(slot)) {
      this.#decoder.begin(this.#model, slot, whole, this.#decoder.capacityFor(this.#model));
      return 0;
    }
    // The last token is read again at the least: what follows it is what is asked for.
    this.#decoder.rewind(slot, Math.min(this.#decoder.sharedLength(slot, whole), whole.length - 1));
    return this.#decoder.lengthOf(slot);
  }

  clear(slot: number): void {
    this.#decoder.clear(slot);
  }
  warm(): Promise<void> {
    return this.#decoder.warm(this.#model, true);
  }
  release(): void {
    this.#decoder.release();
  }
  dispose(): void {
    this.#decoder.dispose();
  }
}

/**
 * Which tokens follow, given the model's distributions after the text and after each guessed token. A guess x from q is accepted with probability
 * min(1, p(x) / q(x)); the first one that is not is replaced by a draw from the rest, max(p - q, 0) (Leviathan et al. 2023, algorithm 1). After
 * guesses that were all accepted comes one more.
 * @param distribution of the model after the first n guessed tokens, (vocabulary)
 * @returns at least one token
 */
export function check(
  text: Pick<Guessed, "seed" | "stream">,
  position: number,
  guess: Guess,
  distribution: (n: number) => Float64Array,
): number[] {
  const kept: number[] = [];
  for (const [n, token] of guess.tokens.entries()) {
    const p = distribution(n);
    const q = guess.from?.[n];
    const likely = q ? p[token]! / q[token]! : p[token]!;
    if (draw(text, position + n, "accept") < likely) {
      kept.push(token);
      continue;
    }
    const rest = p.map((x, i) => Math.max(x - (q ? q[i]! : i === token ? 1 : 0), 0));
    kept.push(pick(rest, draw(text, position + n, "token")));
    return kept;
  }
  const n = guess.tokens.length;
  kept.push(pick(distribution(n), draw(text, position + n, "token")));
  return kept;
}

/** The index at `uniform` of the way through weights of any sum. */
function pick(weights: Float64Array, uniform: number): number {
  let left = uniform * weights.reduce((sum, w) => sum + w, 0);
  let last = 0;
  for (let i = 0; i < weights.length; i++) {
    const w = weights[i]!;
    if (w === 0) continue;
    last = i;
    left -= w;
    if (left < 0) break;
  }
  return last;
}
