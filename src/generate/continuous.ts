import type { LanguageModel } from "../models/model.ts";
import { InputError } from "../tensor/errors.ts";
import type { Decoder } from "./decoder.ts";
import { type Sampled, Sampler, type SamplingParameters, uniformAt } from "./sampler.ts";

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
  /** Takes the next token. @returns whether the sequence goes on */
  accept(sampled: Readonly<Sampled>): boolean;
}

interface Running {
  readonly sequence: Sequence;
  readonly slot: number;
  /** Prompt and reply so far. */
  readonly history: number[];
  /** How many of `history` the cache holds. */
  read: number;
  gone: boolean;
}

/**
 * Continuous batching (Yu et al. 2022, "Orca"): sequences join and leave between any two steps, and what is left of the batch goes on.
 * What a sequence becomes does not depend on its company: its draws are its own, and with a decoder of group 1 so are the bits of its logits.
 */
export class ContinuousBatch {
  readonly #decoder: Decoder;
  readonly #bySlot: (Running | undefined)[];
  /** Those whose prompts are not read yet; the next one to read from is in front. */
  readonly #prompts: Running[] = [];
  #sampler: Sampler | undefined;

  constructor(decoder: Decoder) {
    this.#decoder = decoder;
    this.#bySlot = Array.from({ length: decoder.slots }, () => undefined);
  }

  /** Sequences in the batch. */
  get size(): number {
    return this.#bySlot.reduce((n, one) => n + (one ? 1 : 0), 0);
  }
  get hasRoom(): boolean {
    return this.#bySlot.includes(undefined);
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
    const running: Running = { sequence, slot, history: [...prompt], read: 0, gone: false };
    this.#bySlot[slot] = running;
    this.#prompts.push(running);
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
    const at = this.#prompts.indexOf(running);
    if (at >= 0) this.#prompts.splice(at, 1);
  }

  /**
   * One round: reads a piece of one or more prompts if any is waiting, then one token for each sequence whose prompt is read.
   * @param promptsFirst whether no token is decoded while a prompt waits: fastest for all together, but running replies pause
   */
  async step(model: LanguageModel, promptsFirst = false): Promise<void> {
    if (this.#prompts.length > 0) {
      await this.#readPrompts(model);
      if (promptsFirst && this.#prompts.length > 0) return;
    }
    const tokens = new Int32Array(this.#decoder.slots).fill(-1);
    const ready = this.#bySlot.filter(
      (one) => one !== undefined && one.read === one.history.length - 1 && !this.#isPrompt(one),
    );
    if (ready.length === 0) return;
    for (const one of ready) tokens[one!.slot] = one!.history.at(-1)!;
    const rows = await this.#decoder.decode(model, tokens);
    for (const one of ready) {
      one!.read++;
      this.#choose(model, one!, rows[one!.slot]!);
    }
  }

  #isPrompt(one: Running): boolean {
    return this.#prompts.includes(one);
  }

  async #readPrompts(model: LanguageModel): Promise<void> {
    const turn = this.#prompts.slice(0, this.#decoder.group);
    const pieces = turn.map((one) => ({
      slot: one.slot,
      ids: one.history.slice(one.read, one.read + this.#decoder.pieceLength(one.history.length - one.read)),
    }));
    const rows = await this.#decoder.prefill(model, pieces);
    for (const [i, one] of turn.entries()) {
      one.read += pieces[i]!.ids.length;
      const at = this.#prompts.indexOf(one);
      if (at < 0) continue; // left meanwhile
      this.#prompts.splice(at, 1);
      if (one.read < one.history.length) this.#prompts.push(one);
      else this.#choose(model, one, rows[i]!);
    }
  }

  #choose(model: LanguageModel, running: Running, logits: Float32Array): void {
    if (running.gone) return;
    const { sequence, history } = running;
    const { vocabulary } = model.config;
    if (this.#sampler?.vocabulary !== vocabulary) this.#sampler = new Sampler(vocabulary);
    const position = history.length - sequence.prompt.length;
    const uniform = uniformAt(sequence.seed, sequence.stream, position);
    const sampled = this.#sampler.sample(logits, sequence.sampling, history, uniform, sequence.measure);
    history.push(sampled.token);
    const goesOn = sequence.accept(sampled);
    if (!goesOn || history.length >= this.#decoder.capacityFor(model)) this.#remove(running);
  }
}
