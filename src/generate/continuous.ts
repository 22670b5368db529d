import type { LanguageModel } from "../models/model.ts";
import { InputError } from "../tensor/errors.ts";
import type { Decoder } from "./decoder.ts";
import type { ReplyStep } from "./replies.ts";
import { type Sampled, Sampler, type SamplingParameters, uniformAt } from "./sampler.ts";
import { check, type Guess, type Guesser } from "./speculative.ts";
import { turn } from "./turn.ts";

/** A text in the making, as the batch sees it. */
export interface Sequence {
  /** Token ids; at least one, and fewer than the capacity. */
  readonly prompt: readonly number[];
  readonly sampling: SamplingParameters;
  readonly seed: number;
  /** Tells sequences of one seed apart. */
  readonly stream: number;
  /** Whether log-probabilities and entropies are wanted. */
  readonly measure: boolean;
  /** Most tokens of the reply, for which memory is set aside; default as many as fit the capacity. */
  readonly maxTokens?: number | undefined;
  /** Told once how many tokens of the prompt need not be read, because a text that begins alike was read before. */
  known?(tokens: number): void;
  /** Takes the next token. @returns whether the sequence goes on */
  accept(sampled: Readonly<Sampled>): boolean;
}

interface Running {
  readonly sequence: Sequence;
  readonly slot: number;
  /** Prompt and reply so far. */
  readonly history: number[];
  /** The same as the decoder is told it, one object for the life of the sequence. */
  readonly reply: ReplyStep;
  /** How many of `history` the cache holds. */
  read: number;
  /** In the order of arrival. */
  readonly arrival: number;
  /** Whether all of its prompt is read. */
  ready: boolean;
  gone: boolean;
}

/** Milliseconds of this thread that are taken without a pause. */
const PATIENCE = 2;

/** What one step does for one sequence. */
interface Work {
  readonly one: Running;
  readonly ids: readonly number[];
  /** After how many of these tokens the next one is chosen: none in the middle of a prompt. */
  readonly wanted: number;
  /** Guessed tokens, the last of `ids`. */
  readonly guess?: Guess;
}

/**
 * Continuous batching (Yu et al. 2022, "Orca"): sequences join and leave between any two steps, and what is left of the batch goes on. A step takes
 * one token of every reply and, up to its size, tokens of prompts, so that a long prompt does not hold up the replies that are being
 * written (Agrawal et al. 2023, "Sarathi"). What a sequence becomes does not depend on its company but for the last bits of its logits, and
 * with a reproducible decoder not even for those: its draws are its own.
 */
export class ContinuousBatch {
  readonly #decoder: Decoder;
  readonly #bySlot: (Running | undefined)[];
  readonly #guesser: Guesser | undefined;
  #arrivals = 0;
  #sampler: Sampler | undefined;
  /** Tokens that were guessed, and that were right. */
  readonly guesses = { made: 0, right: 0 };

  /** @param guesser guesses at most `decoder.ahead` tokens of each reply; what comes out has the same distribution */
  constructor(decoder: Decoder, guesser?: Guesser) {
    this.#decoder = decoder;
    this.#guesser = decoder.ahead > 0 ? guesser : undefined;
    this.#bySlot = Array.from({ length: decoder.slots }, () => undefined);
  }

  /** Sequences in the batch. */
  get size(): number {
    return this.#bySlot.reduce((n, one) => n + (one ? 1 : 0), 0);
  }
  get hasRoom(): boolean {
    return this.#bySlot.includes(undefined);
  }

  /** Whether there is a slot for this sequence, and memory for all that it can become. */
  hasRoomFor(model: LanguageModel, sequence: Sequence): boolean {
    return this.hasRoom && this.#decoder.hasRoomFor(model, this.#most(model, sequence));
  }

  #most(model: LanguageModel, { prompt, maxTokens }: Sequence): number {
    const capacity = this.#decoder.capacityFor(model);
    return Math.min(capacity, prompt.length + (maxTokens ?? capacity));
  }

  /**
   * Gives a sequence a slot; there must be one.
   * @returns takes it out of the batch at once; harmless when it has ended
   * @throws InputError for a prompt that is empty or leaves no room for a reply, or with ids the model does not have
   */
  add(model: LanguageModel, sequence: Sequence): () => void {
    const { prompt } = sequence;
    const capacity = this.#decoder.capacityFor(model);
    const { vocabulary } = model.config;
    if (prompt.length === 0) throw new InputError("generate: the prompt is empty; it must hold at least one token.");
    if (prompt.length >= capacity)
      throw new InputError(
        `generate: the prompt has ${prompt.length} tokens, which leaves no room for a reply within ${capacity}. Shorten it.`,
      );
    const strange = prompt.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabulary));
    if (strange !== undefined)
      throw new InputError(
        `generate: ${strange} is no token of this model; ids go from 0 to ${vocabulary - 1}. Does the tokenizer belong to the model?`,
      );
    const slot = this.#bySlot.indexOf(undefined);
    const read = this.#decoder.begin(model, slot, prompt, this.#most(model, sequence));
    const history = [...prompt];
    const { sampling, seed, stream, measure } = sequence;
    const running: Running = {
      sequence,
      slot,
      history,
      reply: { slot, history, prompt: prompt.length, sampling, seed, stream, measure },
      read,
      arrival: this.#arrivals++,
      ready: false,
      gone: false,
    };
    this.#bySlot[slot] = running;
    sequence.known?.(read);
    return () => this.#remove(running);
  }

  /** Takes every sequence out. */
  clear(): void {
    for (const one of this.#bySlot) if (one) this.#remove(one);
  }

  #remove(running: Running): void {
    if (running.gone) return;
    running.gone = true;
    this.#bySlot[running.slot] = undefined;
    this.#decoder.clear(running.slot);
    this.#guesser?.clear(running.slot);
  }

  /**
   * One round: the next token of each reply, and pieces of prompts.
   * @param promptsFirst whether no token is decoded while a prompt waits: fastest for all together, but running replies pause
   */
  async step(model: LanguageModel, promptsFirst = false): Promise<void> {
    const all = this.#bySlot.filter((one) => one !== undefined);
    const prompts = all.filter((one) => !one.ready);
    const replies = all.filter((one) => one.ready);
    if (!this.#decoder.reproducible) {
      if (!this.#guesser && prompts.length === 0 && replies.length > 0) {
        await this.#decode(model, replies);
        return;
      }
      const now = promptsFirst && prompts.length > 0 ? [] : replies;
      await this.#run(model, this.#plan(prompts, await this.#next(model, now)));
      return;
    }
    // A prompt alone, then one token for each reply, that of this prompt too.
    if (prompts.length > 0) {
      const one = prompts.reduce((a, b) => (a.arrival < b.arrival ? a : b));
      const n = this.#decoder.pieceLength(one.history.length - one.read);
      await this.#run(model, [pieceOf(one, n)]);
      if (promptsFirst && prompts.some((prompt) => !prompt.gone && !prompt.ready)) return;
    }
    const now = this.#bySlot.filter((one) => one?.ready);
    if (now.length > 0)
      await this.#decode(
        model,
        now.map((one) => one!),
        this.#decoder.slots,
      );
  }

  /** The next tokens of replies: the last one, and what may follow it. */
  async #next(model: LanguageModel, replies: readonly Running[]): Promise<Work[]> {
    const guesser = this.#guesser;
    if (!guesser || replies.length === 0) return replies.map((one) => pieceOf(one, 1));
    const capacity = this.#decoder.capacityFor(model);
    const guesses = await guesser.guess(
      replies.map(({ slot, history, sequence }) => ({
        slot,
        history,
        ...sequence,
        prompt: sequence.prompt.length,
        // Log-probabilities are of tokens that were drawn one at a time.
        most: sequence.measure
          ? 0
          : Math.max(
              0,
              Math.min(this.#decoder.ahead, capacity - history.length - 1, this.#left(sequence, history) - 1),
            ),
      })),
    );
    return replies.flatMap((one, i) => {
      if (one.gone) return [];
      const guess = guesses[i]!;
      const ids = [...one.history.slice(one.read), ...guess.tokens];
      return [guess.tokens.length === 0 ? pieceOf(one, 1) : { one, ids, wanted: ids.length, guess }];
    });
  }

  #left({ maxTokens, prompt }: Sequence, history: readonly number[]): number {
    return (maxTokens ?? Number.POSITIVE_INFINITY) - (history.length - prompt.length);
  }

  /** Replies first; then prompts, the shortest rest first, but the one that waits longest is never left out. */
  #plan(prompts: readonly Running[], replies: readonly Work[]): Work[] {
    const work = [...replies];
    const count = work.reduce((n, { ids }) => n + ids.length, 0);
    const left = prompts.reduce((n, { history, read }) => n + history.length - read, 0);
    if (left === 0) return work;
    // Beside replies a step stays shorter: their readers wait for it between two tokens, and prompts lose little by it.
    const { sizes } = this.#decoder;
    const largest = sizes.at(replies.length > 0 ? -2 : -1) ?? sizes[0]!;
    let room = Math.max(this.#decoder.sizeFor(Math.min(count + left, largest)) - count, 1);
    const oldest = prompts.reduce((a, b) => (a.arrival < b.arrival ? a : b));
    const others = prompts.filter((one) => one !== oldest);
    const rest = (one: Running): number => one.history.length - one.read;
    others.sort((a, b) => rest(a) - rest(b) || a.arrival - b.arrival);
    const fair = Math.min(
      rest(oldest),
      Math.max(Math.ceil(room / 4), room - others.reduce((n, one) => n + rest(one), 0)),
    );
    const give = new Map([[oldest, fair]]);
    room -= fair;
    for (const one of others) {
      const n = Math.min(rest(one), room);
      if (n > 0) give.set(one, n);
      room -= n;
    }
    for (const [one, n] of give) work.push(pieceOf(one, n));
    return work;
  }

  async #run(model: LanguageModel, planned: readonly Work[], size?: number): Promise<void> {
    const piecesOf = (those: readonly Work[]) =>
      those.map(({ one, ids, wanted }) => ({
        slot: one.slot,
        ids,
        wanted,
        reply: wanted > 0 && !this.#guesser ? one.reply : undefined,
      }));
    const work = await prepared(
      planned,
      ({ one }) => one,
      (those) =>
        this.#guesser
          ? this.#decoder.prepareStep(model, piecesOf(those), size)
          : this.#decoder.prepareChoose(model, piecesOf(those), size),
    );
    if (work.length === 0) return;
    const pieces = piecesOf(work);
    if (!this.#guesser) {
      const chosen = await this.#decoder.choose(model, pieces, size);
      for (const [i, { one, ids }] of work.entries()) {
        if (one.gone) continue; // left meanwhile
        one.read += ids.length;
        this.#decoder.settle(one.slot);
        const next = chosen[i];
        if (!next) continue;
        one.ready = true;
        this.#accept(model, one, next);
      }
      return;
    }
    const rows = await this.#decoder.step(model, pieces, size);
    let began = performance.now();
    for (const [i, { one, ids, wanted, guess }] of work.entries()) {
      // Choosing from a large vocabulary takes a while: whoever else needs this thread comes in between.
      if (performance.now() - began > PATIENCE) {
        await turn();
        began = performance.now();
      }
      if (one.gone) continue; // left meanwhile
      if (guess) {
        this.#check(model, one, guess, rows[i]!);
        continue;
      }
      one.read += ids.length;
      this.#decoder.settle(one.slot);
      if (wanted === 0) continue;
      one.ready = true;
      this.#choose(model, one, rows[i]![0]!);
    }
  }

  /** Takes what was guessed right, and one token more. */
  #check(model: LanguageModel, running: Running, guess: Guess, logits: readonly Float32Array[]): void {
    const { sequence, history, slot } = running;
    const sampler = this.#samplerFor(model);
    const position = history.length - sequence.prompt.length;
    const tokens = check(sequence, position, guess, (n) =>
      sampler.distribution(logits[n]!, sequence.sampling, [...history, ...guess.tokens.slice(0, n)]),
    );
    this.guesses.made += guess.tokens.length;
    this.guesses.right += tokens.length - 1;
    for (const token of tokens) {
      if (running.gone) return;
      this.#accept(model, running, { token, logProbability: Number.NaN, entropy: Number.NaN });
    }
    if (running.gone) return;
    // All but the last token are held; what was guessed wrongly is taken back.
    running.read = history.length - 1;
    this.#decoder.rewind(slot, running.read);
    this.#decoder.settle(slot);
  }

  /** The next token of each reply, chosen in the program. */
  async #decode(model: LanguageModel, planned: readonly Running[], size?: number): Promise<void> {
    const stepsOf = (those: readonly Running[]) => those.map(({ reply }) => reply);
    const replies = await prepared(
      planned,
      (one) => one,
      (those) => this.#decoder.prepareDecode(model, stepsOf(those), size),
    );
    if (replies.length === 0) return;
    const chosen = await this.#decoder.decode(model, stepsOf(replies), size);
    for (const [i, one] of replies.entries()) {
      if (one.gone) continue; // left meanwhile
      one.read++;
      this.#decoder.settle(one.slot);
      this.#accept(model, one, chosen[i]!);
    }
  }

  #samplerFor(model: LanguageModel): Sampler {
    const { vocabulary } = model.config;
    if (this.#sampler?.vocabulary !== vocabulary) this.#sampler = new Sampler(vocabulary);
    return this.#sampler;
  }

  #choose(model: LanguageModel, running: Running, logits: Float32Array): void {
    const { sequence, history } = running;
    const position = history.length - sequence.prompt.length;
    const uniform = uniformAt(sequence.seed, sequence.stream, position);
    const sampled = this.#samplerFor(model).sample(logits, sequence.sampling, history, uniform, sequence.measure);
    this.#accept(model, running, sampled);
  }

  #accept(model: LanguageModel, running: Running, sampled: Readonly<Sampled>): void {
    running.history.push(sampled.token);
    const goesOn = running.sequence.accept(sampled);
    if (!goesOn || running.history.length >= this.#decoder.capacityFor(model)) this.#remove(running);
  }
}

/** The next `n` tokens of a sequence. */
function pieceOf(one: Running, n: number): Work {
  const ids = one.history.slice(one.read, one.read + n);
  return { one, ids, wanted: one.read + ids.length === one.history.length ? 1 : 0 };
}

/** Those of `planned` that are still there when what their step needs is compiled: sequences leave meanwhile, and fewer may need another program. */
async function prepared<T>(
  planned: readonly T[],
  of: (one: T) => Running,
  prepare: (those: readonly T[]) => Promise<void> | undefined,
): Promise<readonly T[]> {
  for (let those = planned; ; those = those.filter((one) => !of(one).gone)) {
    const ready = those.length === 0 ? undefined : prepare(those);
    if (!ready) return those;
    await ready;
  }
}
