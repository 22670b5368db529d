import { emptyCache } from "../models/families.ts";
import { type LanguageModel, logits } from "../models/model.ts";
import type { Cache } from "../nn/cache.ts";
import { InputError, StateError } from "../tensor/errors.ts";
import { type Jitted, jit } from "../tensor/jit.ts";
import { take } from "../tensor/ops/indexing.ts";
import type { Precision } from "../tensor/runtime.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";

export interface DecoderOptions {
  /** Sequences that are held at the same time. */
  readonly slots: number;
  /** Tokens of the longest sequence, prompt and reply; default the model's context. */
  readonly capacity?: number | undefined;
  /** Lengths of the pieces that prompts are read in, ascending. A piece is padded to the next one. Default 16, 32, 64, 128, 256. */
  readonly chunks?: readonly number[] | undefined;
  /**
   * How many prompts are read in one call at most. With 1, the bits of a sequence's logits do not depend on what else is held; more is
   * faster for many short prompts. Default 1.
   */
  readonly group?: number | undefined;
  /** Of the matrix products. Default f32: while decoding, reading the weights takes the time, not multiplying them. */
  readonly precision?: Precision | undefined;
}

const CHUNKS = [16, 32, 64, 128, 256];

/** The next tokens of the sequence in a slot. */
export interface Piece {
  readonly slot: number;
  readonly ids: readonly number[];
}

type StepArguments = [
  model: LanguageModel,
  cache: Cache,
  /** i32 (batch, time) each; `end` is one past the last key that is seen, 0 for padding. */
  input: { ids: Tensor<"i32">; positions: Tensor<"i32">; end: Tensor<"i32"> },
  /** i32 (batch): where the last token of each row is in the flattened batch. */
  last: Tensor<"i32">,
  /** i32 (batch): slots; none where rows and slots are the same. */
  rows: Tensor<"i32"> | undefined,
];

/**
 * Runs a language model over a fixed number of cached sequences. Every call is one of few programs: one that reads one token for all slots,
 * and one per length of a piece (two with a `group`). The cache is updated in place.
 *
 * A token that is only padding is written to the place after its sequence's last one, which nobody reads before the real next token is
 * written there.
 */
export class Decoder {
  readonly slots: number;
  readonly chunks: readonly number[];
  readonly group: number;
  readonly #capacity: number | undefined;
  readonly #step: Jitted<StepArguments, { logits: Tensor; cache: Cache }>;
  #held: { cache: Cache; config: string; capacity: number } | undefined;
  /** Tokens in the cache, by slot. */
  readonly #lengths: Int32Array;

  constructor(options: DecoderOptions) {
    const { slots, chunks = CHUNKS, capacity } = options;
    for (const [name, n] of [
      ["slots", slots],
      ["capacity", capacity ?? 1],
      ...chunks.map((n) => ["chunk", n]),
    ] as const)
      if (!(Number.isInteger(n) && (n as number) > 0))
        throw new InputError(`decoder: ${name} is ${n}; it must be a whole number above 0.`);
    this.slots = slots;
    this.chunks = [...chunks].sort((a, b) => a - b);
    this.group = Math.min(options.group ?? 1, slots);
    this.#capacity = capacity;
    this.#lengths = new Int32Array(slots);
    this.#step = jit(
      (model, cache, { ids, positions, end }, last, rows) => {
        const out = model.hidden(ids, { cache, positions, end, rows });
        const [batch, time, width] = out.hidden.shape as [number, number, number];
        // Only the last position of each row: the unembedding is the largest product of a small model.
        const read =
          time === 1 ? out.hidden.reshape(batch, width) : take(out.hidden.reshape(batch * time, width), last);
        return { logits: logits(model, read), cache: out.cache! };
      },
      { donate: [1], precision: options.precision ?? "f32", name: "generate" },
    );
  }

  /** Tokens of the longest sequence with this model. */
  capacityFor(model: LanguageModel): number {
    const { context } = model.config;
    const capacity = this.#capacity ?? context;
    if (capacity > context)
      throw new InputError(`generate: a capacity of ${capacity} tokens, but the model was made for ${context}.`);
    return capacity;
  }

  /** How many programs were compiled so far. */
  get programs(): number {
    return this.#step.programs;
  }

  /** Bytes of the cache that is held now. */
  get cacheBytes(): number {
    return this.#held?.cache.layers.reduce((n, { k, v }) => n + k.bytes + v.bytes, 0) ?? 0;
  }

  /** How many of `left` tokens the next piece holds: all that fit the largest chunk. Depends on nothing else, so that bits do not. */
  pieceLength(left: number): number {
    return Math.min(left, this.chunks.at(-1)!);
  }

  /** Empties a slot. */
  clear(slot: number): void {
    this.#lengths[slot] = 0;
  }

  /**
   * Reads one piece of each of some prompts, at most `group`, each in its own slot.
   * @returns the logits after the last token of each piece, each (vocabulary)
   */
  async prefill(model: LanguageModel, pieces: readonly Piece[]): Promise<Float32Array[]> {
    const rows = pieces.length === 1 ? 1 : this.group;
    if (pieces.length === 0 || pieces.length > rows)
      throw new StateError(`prefill: ${pieces.length} pieces at once; it must be 1 to ${this.group}.`);
    const longest = Math.max(...pieces.map(({ ids }) => ids.length));
    const chunk = this.chunks.find((n) => n >= longest);
    if (chunk === undefined || longest === 0)
      throw new StateError(`prefill: a piece of ${longest} tokens; it must be 1 to ${this.chunks.at(-1)}.`);
    const slots = pieces.map(({ slot }) => slot);
    // Rows that nobody needs pass over slots that are not otherwise in the batch.
    for (let slot = 0; slots.length < rows; slot++) if (!slots.includes(slot)) slots.push(slot);
    const all = await this.#run(
      model,
      slots,
      pieces.map(({ ids }) => ids),
      chunk,
    );
    return pieces.map((_, i) => all[i]!);
  }

  /**
   * Reads one token in each slot that has one.
   * @param tokens by slot; -1 where there is none
   * @returns the logits after them, by slot, each (vocabulary); meaningless for slots without a token
   */
  decode(model: LanguageModel, tokens: Int32Array): Promise<Float32Array[]> {
    const pieces = Array.from(tokens, (id) => (id < 0 ? [] : [id]));
    return this.#run(model, undefined, pieces, 1);
  }

  /** @param slots of the rows; undefined: row i is slot i */
  async #run(
    model: LanguageModel,
    slots: readonly number[] | undefined,
    pieces: readonly (readonly number[])[],
    time: number,
  ): Promise<Float32Array[]> {
    const { capacity } = this.#prepare(model);
    const batch = slots?.length ?? this.slots;
    const ids = new Int32Array(batch * time);
    const positions = new Int32Array(batch * time);
    const end = new Int32Array(batch * time);
    const last = new Int32Array(batch);
    for (let row = 0; row < batch; row++) {
      const slot = slots?.[row] ?? row;
      const piece = pieces[row] ?? [];
      const from = this.#lengths[slot]!;
      if (from + piece.length > capacity)
        throw new StateError(
          `generate: slot ${slot} holds ${from} of ${capacity} tokens, and ${piece.length} more came.`,
        );
      const base = row * time;
      for (let t = 0; t < time; t++) {
        const real = t < piece.length;
        if (real) ids[base + t] = piece[t]!;
        positions[base + t] = Math.min(from + Math.min(t, piece.length), capacity - 1);
        end[base + t] = real ? from + t + 1 : 0;
      }
      last[row] = base + Math.max(piece.length - 1, 0);
    }
    const shape = [batch, time];
    const i32 = (data: Int32Array, s: readonly number[]) => tensor(data, { shape: s }) as Tensor<"i32">;
    const input = { ids: i32(ids, shape), positions: i32(positions, shape), end: i32(end, shape) };
    const at = i32(last, [batch]);
    const rows = slots && i32(Int32Array.from(slots), [batch]);
    const held = this.#held!;
    let result: { logits: Tensor; cache: Cache } | undefined;
    try {
      result = this.#step(model, held.cache, input, at, rows);
      this.#held = { ...held, cache: result.cache };
      for (let row = 0; row < batch; row++) this.#lengths[slots?.[row] ?? row]! += pieces[row]?.length ?? 0;
      const data = (await result.logits.data()) as Float32Array;
      const width = result.logits.shape[1]!;
      return Array.from({ length: batch }, (_, row) => data.subarray(row * width, (row + 1) * width));
    } catch (error) {
      // What the cache holds is not known any more.
      this.release();
      throw error;
    } finally {
      dispose([input, at, rows, result?.logits]);
    }
  }

  #prepare(model: LanguageModel): { capacity: number } {
    const config = JSON.stringify(model.config);
    if (this.#held?.config !== config) {
      if (this.#lengths.some((n) => n > 0))
        throw new StateError("generate: the model changed its form while sequences of another one are held.");
      this.release();
      const capacity = this.capacityFor(model);
      this.#held = { cache: emptyCache(model.config, this.slots, capacity), config, capacity };
    }
    return this.#held;
  }

  /** Gives the memory of the cache back and forgets every sequence. */
  release(): void {
    if (this.#held) dispose(this.#held.cache);
    this.#held = undefined;
    this.#lengths.fill(0);
  }

  /** Gives the cache and the compiled programs back. */
  dispose(): void {
    this.release();
    this.#step.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
