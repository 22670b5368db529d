import { cacheShape, emptyCache } from "../models/families.ts";
import { type LanguageModel, logits } from "../models/model.ts";
import { type Cache, PAGE, pageBytes } from "../nn/cache.ts";
import { InputError, StateError } from "../tensor/errors.ts";
import { type Jitted, jit } from "../tensor/jit.ts";
import { take } from "../tensor/ops/indexing.ts";
import type { PageType } from "../tensor/ops/paged.ts";
import { sampleToken } from "../tensor/ops/sample.ts";
import type { Precision } from "../tensor/runtime.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose, tensors, withTensors } from "../tensor/tree.ts";
import { type PageCounts, PagePool, type PrefixNode } from "./pages.ts";
import {
  answers,
  type Choice,
  choiceOf,
  type FlatCache,
  forget,
  i32,
  keyOf,
  type Queued,
  ReplyProgram,
  type ReplyStep,
  readChoice,
} from "./replies.ts";
import type { Sampled } from "./sampler.ts";
import { turn } from "./turn.ts";

export interface DecoderOptions {
  /** Sequences that are held at the same time. */
  readonly slots: number;
  /** Tokens of the longest sequence, prompt and reply; default the model's context. */
  readonly capacity?: number | undefined;
  /** Sizes in tokens of the steps that read prompts, ascending. Default 16, 32, 64, 128, 256. */
  readonly chunks?: readonly number[] | undefined;
  /**
   * Whether the bits of a sequence's logits must not depend on what else is held: then each prompt is read alone, and decoding always uses one
   * program. Without it, prompts and replies share steps of several sizes, and the order of sums inside a product may change with the
   * size. Default false.
   */
  readonly reproducible?: boolean | undefined;
  /** Of the matrix products. Default f32: while decoding, reading the weights takes the time, not multiplying them. */
  readonly precision?: Precision | undefined;
  /** What keys and values are rounded to. Default f32. */
  readonly cache?: PageType | undefined;
  /** Tokens that all sequences together can hold; default `slots` times the capacity. Memory is taken as it is needed. */
  readonly cacheTokens?: number | undefined;
  /** Whether texts that begin alike share what was read of them. Default false. */
  readonly prefixes?: boolean | undefined;
  /** Most tokens of a reply that may be guessed ahead and checked in one step. Default 0. */
  readonly ahead?: number | undefined;
}

const CHUNKS = [16, 32, 64, 128, 256];
/** A step costs about as much before its first token (weights are read) as this many tokens cost: that much padding is cheaper than a step more. */
const WORTH = 16;

/** The next tokens of the sequence in a slot. */
export interface Piece {
  readonly slot: number;
  readonly ids: readonly number[];
  /** After how many of its last tokens logits are wanted. Default 1. */
  readonly wanted?: number | undefined;
}

type StepArguments = [
  model: LanguageModel,
  cache: Cache,
  /** i32 (1, tokens) each: tokens of any mixture of sequences; the position of padding is -1. */
  input: { ids: Tensor<"i32">; positions: Tensor<"i32">; rows: Tensor<"i32"> },
  /** i32 (rows): the tokens after which logits are wanted. */
  wanted: Tensor<"i32">,
];

/** A sequence that is held. */
interface Held {
  /** In the order of its positions. */
  readonly pages: number[];
  readonly ids: number[];
  /** Pages of its own or shared that are in the tree of texts. */
  readonly known: PrefixNode[];
  /** Pages that it may still take. */
  promised: number;
}

/**
 * Runs a language model over cached sequences. One step takes the next tokens of any of them, one or many each, as one flat batch (as in
 * Orca, Yu et al. 2022, and Sarathi, Agrawal et al. 2023), so that every call is one of few programs: one per size of a step. Keys and values
 * are in pages that are given to sequences as they grow, and updated in place.
 */
export class Decoder {
  readonly slots: number;
  /** Sizes of steps in tokens, ascending. */
  readonly sizes: readonly number[];
  readonly reproducible: boolean;
  readonly ahead: number;
  readonly #options: DecoderOptions;
  readonly #step: Jitted<StepArguments, { logits: Tensor; cache: Cache }>;
  readonly #choose: Jitted<[...StepArguments, Choice], { token: Tensor; measures: Tensor; cache: Cache }>;
  #held: { cache: Cache; config: string; capacity: number; pool: PagePool } | undefined;
  /** The model whose keys and values the pages hold. */
  #model: WeakRef<LanguageModel> | undefined;
  readonly #sequences: (Held | undefined)[];
  #promised = 0;
  readonly #replies: ReplyProgram;
  /** The last step of `decode`, and the one that was queued after it. */
  #last: { step: Queued; next: Queued | undefined } | undefined;
  /** The tensors of the cache where `decode` has made them; those of `#held` are used up then, and give the form alone. */
  #flat: FlatCache | undefined;
  /** Which programs of the model are compiled. */
  readonly #ready = new Set<string>();
  /** Whether the cache's table of pages is not what sequences hold. */
  #stale = true;

  constructor(options: DecoderOptions) {
    const { slots, chunks = CHUNKS, capacity, cacheTokens, ahead = 0 } = options;
    for (const [name, n] of [
      ["slots", slots],
      ["capacity", capacity ?? 1],
      ["cache tokens", cacheTokens ?? 1],
      ["tokens ahead", ahead + 1],
      ...chunks.map((n) => ["chunk", n]),
    ] as const)
      if (!(Number.isInteger(n) && (n as number) > 0))
        throw new InputError(`decoder: ${name} is ${n}; it must be a whole number above 0.`);
    this.slots = slots;
    this.ahead = ahead;
    this.reproducible = options.reproducible ?? false;
    this.#options = options;
    const few = this.reproducible ? [] : [1, 4].flatMap((n) => (n < slots ? [n, n * (ahead + 1)] : []));
    this.sizes = [...new Set([...few, slots, slots * (ahead + 1), ...chunks])].sort((a, b) => a - b);
    this.#sequences = new Array(slots);
    this.#replies = new ReplyProgram(options.precision ?? "f32");
    const read = (...[model, cache, input, wanted]: StepArguments): { logits: Tensor; cache: Cache } => {
      const out = model.hidden(input.ids, { ...input, cache });
      const [, tokens, width] = out.hidden.shape as [number, number, number];
      const flat = out.hidden.reshape(tokens, width);
      // Only where they are wanted: the unembedding is the largest product of a small model.
      return { logits: logits(model, take(flat, wanted)), cache: out.cache! };
    };
    const how = { donate: [1], precision: options.precision ?? "f32" } as const;
    this.#step = jit(read, { ...how, name: "generate" });
    this.#choose = jit(
      (model, cache, input, wanted, { token, position, settings, history }) => {
        const out = read(model, cache, input, wanted);
        const { token: next, measures } = sampleToken(out.logits, token, position, settings, history);
        return { token: next, measures, cache: out.cache };
      },
      { ...how, name: "generate and choose" },
    );
  }

  /** Tokens of the longest sequence with this model. */
  capacityFor(model: LanguageModel): number {
    const { context } = model.config;
    const capacity = this.#options.capacity ?? context;
    if (capacity > context)
      throw new InputError(`generate: a capacity of ${capacity} tokens, but the model was made for ${context}.`);
    return capacity;
  }

  /** How many programs were compiled so far. */
  get programs(): number {
    return this.#step.programs + this.#choose.programs + this.#replies.programs;
  }

  /** Bytes of the pages that sequences hold or that are kept for later ones. */
  get cacheBytes(): number {
    const { held, kept } = this.pages;
    return this.#held && this.#model ? (held + kept) * this.#pageBytes(this.#held) : 0;
  }
  #pageBytes({ cache }: { cache: Cache }): number {
    const { k } = cache.layers[0]!;
    const [, groups, width] = k.shape as [number, number, number];
    return pageBytes({ layers: cache.layers.length, groups, width, type: this.#options.cache });
  }

  get pages(): PageCounts {
    return this.#held?.pool.counts ?? { total: 0, held: 0, kept: 0 };
  }
  /** Tokens of prompts so far, and how many of them were found among those that were read before. */
  get prefixTokens(): { readonly asked: number; readonly found: number } {
    return this.#held?.pool.tokens ?? { asked: 0, found: 0 };
  }

  /** The size of the step that is best for `n` tokens: with a little padding, or with fewer tokens than there are. */
  sizeFor(n: number): number {
    const up = this.sizes.find((size) => size >= n);
    if (up === undefined) return this.sizes.at(-1)!;
    const down = this.sizes.findLast((size) => size <= n);
    return up - n <= WORTH || down === undefined ? up : down;
  }

  /** How many of `left` tokens of a prompt the next piece holds when it is read alone. */
  pieceLength(left: number): number {
    return Math.min(left, this.sizeFor(left));
  }

  /** Whether a sequence of at most `tokens` tokens would find pages. */
  hasRoomFor(model: LanguageModel, tokens: number): boolean {
    const { pool } = this.#prepare(model);
    return Math.ceil(tokens / PAGE) <= pool.available - this.#promised;
  }

  /**
   * Gives a slot to a sequence.
   * @param ids its prompt
   * @param most tokens that it can grow to
   * @returns how many tokens of the prompt are known already and need not be read; at least one is left
   */
  begin(model: LanguageModel, slot: number, ids: readonly number[], most: number): number {
    const { pool } = this.#prepare(model);
    if (this.#sequences[slot]) throw new StateError(`generate: slot ${slot} is in use.`);
    const known = this.#options.prefixes ? pool.find(ids, ids.length - 1) : [];
    const promised = Math.ceil(most / PAGE) - known.length;
    if (promised > pool.available - this.#promised) {
      for (const { page } of known) pool.release(page);
      throw new StateError(
        `generate: a sequence of ${most} tokens needs ${promised} pages, and ${pool.available - this.#promised} are left.`,
      );
    }
    this.#promised += promised;
    this.#stale = true;
    this.#sequences[slot] = {
      pages: known.map(({ page }) => page),
      ids: ids.slice(0, known.length * PAGE),
      known,
      promised,
    };
    return known.length * PAGE;
  }

  /** Empties a slot. What was read of its text may still be found by others. */
  clear(slot: number): void {
    const held = this.#sequences[slot];
    if (!held) return;
    this.#sequences[slot] = undefined;
    this.#promised -= held.promised;
    // Back to front, so that the end of a text is given up before its beginning.
    for (const page of held.pages.reverse()) this.#held?.pool.release(page);
  }

  holds(slot: number): boolean {
    return this.#sequences[slot] !== undefined;
  }

  /** How many tokens of the sequence in a slot are those of another text. */
  sharedLength(slot: number, ids: readonly number[]): number {
    const mine = this.#sequences[slot]?.ids ?? [];
    let n = 0;
    while (n < mine.length && mine[n] === ids[n]) n++;
    return n;
  }

  /** Tokens of the sequence in a slot. */
  lengthOf(slot: number): number {
    return this.#sequences[slot]?.ids.length ?? 0;
  }

  /** Takes back the last tokens of a sequence, down to `length`; they may not be known to others. */
  rewind(slot: number, length: number): void {
    const held = this.#sequences[slot];
    if (held) held.ids.length = Math.min(length, held.ids.length);
  }

  /** Says that the tokens of a sequence are there to stay, so that other texts may share its full pages. */
  settle(slot: number): void {
    const [held, pool] = [this.#sequences[slot], this.#held?.pool];
    if (!held || !pool || !this.#options.prefixes) return;
    for (let block = held.known.length; (block + 1) * PAGE <= held.ids.length; block++)
      held.known.push(pool.remember(held.pages[block]!, held.known.at(-1), held.ids, block * PAGE));
  }

  /**
   * Compiles what `step` needs for such pieces while the event loop goes on. Nothing is read, and sequences may come and go meanwhile; `choose`
   * and `decode` have their own. Whoever does not ask for it waits for the compiler in the call.
   * @returns a promise where there is something to compile
   */
  prepareStep(model: LanguageModel, pieces: readonly Piece[], size?: number): Promise<void> | undefined {
    const { tokens, rows } = this.#sizeOf(pieces, size);
    if (tokens === undefined) return undefined; // refused when it is read
    return this.#once(model, `step ${tokens} ${rows}`, (cache) => {
      const like = inputLike(tokens, rows);
      try {
        return this.#step.prepare(model, cache, like.input, like.wanted);
      } finally {
        dispose(like);
      }
    });
  }

  prepareChoose(
    model: LanguageModel,
    pieces: readonly (Piece & { readonly reply?: ReplyStep | undefined })[],
    size?: number,
  ): Promise<void> | undefined {
    const replies = pieces.flatMap(({ reply }) => reply ?? []);
    const { tokens, rows } = this.#sizeOf(pieces.map(wantedByReply), size);
    if (tokens === undefined) return undefined; // refused when it is read
    return this.#once(model, `choose ${tokens} ${keyOf(replies, rows, this.capacityFor(model))}`, (cache, capacity) => {
      const like = inputLike(tokens, rows);
      const choice = choiceOf(replies, rows, capacity);
      try {
        return this.#choose.prepare(model, cache, like.input, like.wanted, choice);
      } finally {
        dispose([like, choice]);
      }
    });
  }

  prepareDecode(model: LanguageModel, replies: readonly ReplyStep[], size?: number): Promise<void> | undefined {
    const rows = size ?? this.sizes.find((n) => n >= replies.length);
    if (rows === undefined) return undefined;
    return this.#once(model, `decode ${keyOf(replies, rows, this.capacityFor(model))}`, (cache, capacity) =>
      this.#replies.prepare(model, cache, replies, rows, capacity),
    );
  }

  #once(
    model: LanguageModel,
    key: string,
    prepare: (cache: Cache, capacity: number) => Promise<void>,
  ): Promise<void> | undefined {
    const { cache, capacity } = this.#prepare(model);
    if (this.#ready.has(key)) return undefined;
    return prepare(cache, capacity).then(() => {
      if (this.#model?.deref() === model) this.#ready.add(key);
    });
  }

  /** Of a step: how many tokens and rows of logits there are, and how many there is room for. `tokens` is undefined where there is no step so large. */
  #sizeOf(pieces: readonly Piece[], size?: number) {
    const count = pieces.reduce((n, { ids }) => n + ids.length, 0);
    const wanted = pieces.reduce((n, piece) => n + (piece.wanted ?? 1), 0);
    const tokens = size ?? this.sizes.find((n) => n >= count);
    return { count, wanted, tokens, rows: tokens === undefined ? 0 : this.#rowsFor(tokens, wanted) };
  }

  /**
   * Reads the next tokens of some sequences.
   * @param size of the step; default the smallest that holds them
   * @returns per piece its wanted logits, in the order of its tokens, each (vocabulary)
   */
  async step(model: LanguageModel, pieces: readonly Piece[], size?: number): Promise<Float32Array[][]> {
    const { capacity, pool } = this.#prepare(model);
    const { input, wanted } = this.#batchOf(pieces, size, capacity, pool);
    let result: { logits: Tensor; cache: Cache } | undefined;
    try {
      result = this.#step(model, this.#cacheNow(capacity), input, wanted);
      this.#held = { ...this.#held!, cache: result.cache };
      const data = (await result.logits.data()) as Float32Array;
      const width = result.logits.shape[1]!;
      let next = 0;
      return pieces.map((piece) =>
        Array.from({ length: piece.wanted ?? 1 }, () => data.subarray(next * width, ++next * width)),
      );
    } catch (error) {
      // What the cache holds is not known any more.
      this.release();
      throw error;
    } finally {
      dispose([input, wanted, result?.logits]);
    }
  }

  /**
   * Reads the next tokens of some sequences and chooses, in the same program, the next token of those that have a reply.
   * @param size of the step; default the smallest that holds them
   * @returns per piece what was chosen
   */
  async choose(
    model: LanguageModel,
    pieces: readonly (Piece & { readonly reply?: ReplyStep | undefined })[],
    size?: number,
  ): Promise<(Sampled | undefined)[]> {
    const { capacity, pool } = this.#prepare(model);
    const replies = pieces.flatMap(({ reply }) => reply ?? []);
    const { input, wanted, rows } = this.#batchOf(pieces.map(wantedByReply), size, capacity, pool);
    const choice = choiceOf(replies, rows, capacity);
    let result: { token: Tensor; measures: Tensor; cache: Cache } | undefined;
    try {
      result = this.#choose(model, this.#cacheNow(capacity), input, wanted, choice);
      this.#held = { ...this.#held!, cache: result.cache };
      const chosen = await readChoice(replies, result);
      let next = 0;
      return pieces.map(({ reply }) => reply && chosen[next++]);
    } catch (error) {
      // What the cache holds is not known any more.
      this.release();
      throw error;
    } finally {
      dispose([input, wanted, choice, result?.token, result?.measures]);
    }
  }

  /** Pieces as one batch, whose tokens sequences hold from now on. */
  #batchOf(
    pieces: readonly Piece[],
    size: number | undefined,
    capacity: number,
    pool: PagePool,
  ): { input: StepArguments[2]; wanted: Tensor<"i32">; rows: number } {
    this.#forgetReplies();
    const { count, wanted: wantedCount, tokens, rows } = this.#sizeOf(pieces, size);
    if (tokens === undefined || count === 0)
      throw new StateError(`generate: a step of ${count} tokens; it must be 1 to ${this.sizes.at(-1)}.`);
    if (wantedCount > rows)
      throw new StateError(
        `generate: logits after ${wantedCount} tokens of a step are wanted; a decoder of ${this.slots} slots with ${this.ahead} tokens ahead gives at most ${rows}.`,
      );
    const ids = new Int32Array(tokens);
    const positions = new Int32Array(tokens).fill(-1);
    const slots = new Int32Array(tokens);
    const wanted = new Int32Array(rows);
    let at = 0;
    let row = 0;
    for (const piece of pieces) {
      const held = this.#sequences[piece.slot];
      const from = held?.ids.length ?? 0;
      if (!held || from + piece.ids.length > capacity)
        throw new StateError(
          `generate: slot ${piece.slot} holds ${from} of ${capacity} tokens, and ${piece.ids.length} more came.`,
        );
      for (const id of piece.ids) {
        ids[at] = id;
        positions[at] = held.ids.length;
        slots[at++] = piece.slot;
        held.ids.push(id);
      }
      this.#grow(held, held.ids.length, pool);
      for (let i = piece.wanted ?? 1; i > 0; i--) wanted[row++] = at - i;
    }
    return {
      input: { ids: i32(ids, [1, tokens]), positions: i32(positions, [1, tokens]), rows: i32(slots, [1, tokens]) },
      wanted: i32(wanted, [rows]),
      rows,
    };
  }

  /**
   * Reads the last token of each reply and chooses the next one, in one program. The step after it is queued before this one has been read.
   * @param size rows of the step; default the smallest that holds the replies
   * @returns what was chosen, in the order of the replies
   */
  async decode(model: LanguageModel, replies: readonly ReplyStep[], size?: number): Promise<Sampled[]> {
    const { capacity, pool } = this.#prepare(model);
    const rows = size ?? this.sizes.find((n) => n >= replies.length);
    if (rows === undefined || replies.length === 0)
      throw new StateError(`generate: ${replies.length} replies in a step; it must be 1 to ${this.sizes.at(-1)}.`);
    const sequences = replies.map(({ slot, history }) => {
      const held = this.#sequences[slot];
      if (!held || held.ids.length !== history.length - 1 || history.length > capacity)
        throw new StateError(
          `generate: slot ${slot} holds ${held?.ids.length ?? "no"} tokens of a text of ${history.length}, with room for ${capacity}.`,
        );
      return held;
    });
    try {
      const last = this.#last;
      let step = last?.next;
      if (!last || !step || !answers(step, last.step, replies, rows)) {
        this.#forgetReplies();
        for (const held of sequences) this.#grow(held, held.ids.length + 1, pool);
        step = this.#queue(model, replies, rows, capacity);
      }
      for (const [i, held] of sequences.entries()) held.ids.push(replies[i]!.history.at(-1)!);
      this.#last = { step, next: undefined };
      // Asked for before the next step is queued: what is read comes after all that was queued before it.
      const chosen = this.#replies.read(step);
      // Until it is awaited below.
      chosen.catch(() => undefined);
      const room = (held: Held) =>
        held.ids.length < capacity && (held.ids.length < held.pages.length * PAGE || held.promised > 0);
      if (sequences.every(room)) {
        for (const held of sequences) this.#grow(held, held.ids.length + 1, pool);
        this.#last.next = this.#queue(model, replies, rows, capacity, step);
      }
      return await chosen;
    } catch (error) {
      // What the cache holds is not known any more.
      this.release();
      throw error;
    }
  }

  /**
   * Compiles the programs of all sizes that one sequence can fill. No slot may be in use.
   * @param logits whether those of `step`, in place of `choose` and `decode`; default where tokens are guessed ahead
   */
  async warm(model: LanguageModel, logits = this.ahead > 0): Promise<void> {
    const { capacity, pool } = this.#prepare(model);
    const asked = pool.tokens.asked;
    for (const size of this.sizes) {
      if (size >= capacity) continue;
      const history = new Array<number>(size).fill(0);
      this.begin(model, 0, history, size + 1);
      const how = { prompt: size, sampling: { temperature: 0 }, seed: 0, stream: 0, measure: false };
      const piece = { slot: 0, ids: history, reply: { slot: 0, history, ...how } };
      if (logits) {
        // After a prompt one row of logits is wanted, to check guesses one after each of them: other programs where slots are fewer.
        for (const wanted of new Set([1, Math.min(size, this.ahead + 1)])) {
          const asks = [{ ...piece, wanted }];
          await this.prepareStep(model, asks, size);
          await this.step(model, asks, size);
          this.rewind(0, 0);
        }
      } else {
        await this.prepareChoose(model, [piece], size);
        await this.choose(model, [piece], size);
      }
      await turn();
      if (size <= this.slots && !logits) {
        const reply = { slot: 0, history: [...history, 0], ...how };
        await this.prepareDecode(model, [reply], size);
        await this.decode(model, [reply], size);
        await turn();
      }
      this.#forgetReplies();
      this.clear(0);
    }
    pool.tokens.asked = asked;
  }

  #queue(model: LanguageModel, replies: readonly ReplyStep[], rows: number, capacity: number, before?: Queued): Queued {
    if (this.#stale || !this.#flat) this.#flat = tensors(this.#cacheNow(capacity));
    const cache = { flat: this.#flat, like: this.#held!.cache };
    const { queued, cache: after } = this.#replies.queue(model, cache, replies, rows, capacity, before);
    this.#flat = after;
    return queued;
  }

  #forgetReplies(): void {
    if (this.#last) forget(this.#last.step);
    this.#last = undefined;
  }

  /** Gives a sequence pages for `length` tokens. */
  #grow(held: Held, length: number, pool: PagePool): void {
    while (held.pages.length * PAGE < length) {
      held.pages.push(pool.take());
      held.promised--;
      this.#promised--;
      this.#stale = true;
    }
  }

  #unflatten(): void {
    if (!this.#flat) return;
    this.#held = { ...this.#held!, cache: withTensors(this.#held!.cache, this.#flat) };
    this.#flat = undefined;
  }

  /** The cache with the table of what sequences hold now. */
  #cacheNow(capacity: number): Cache {
    this.#unflatten();
    const held = this.#held!;
    if (!this.#stale) return held.cache;
    const before = held.cache.table;
    this.#held = { ...held, cache: held.cache.with(this.#table(capacity)) };
    before.dispose();
    this.#stale = false;
    return this.#held.cache;
  }

  #rowsFor(tokens: number, wanted: number): number {
    const rows = Math.min(tokens, this.slots);
    return wanted <= rows ? rows : Math.min(tokens, this.slots * (this.ahead + 1));
  }

  #table(capacity: number): Tensor<"i32"> {
    const blocks = Math.ceil(capacity / PAGE);
    const table = new Int32Array(this.slots * blocks);
    for (const [slot, held] of this.#sequences.entries()) if (held) table.set(held.pages, slot * blocks);
    return tensor(table, { shape: [this.slots, blocks] }) as Tensor<"i32">;
  }

  #prepare(model: LanguageModel): { cache: Cache; capacity: number; pool: PagePool } {
    if (this.#held && this.#model?.deref() === model) return this.#held;
    this.#forgetReplies();
    const config = JSON.stringify(model.config);
    if (this.#held?.config !== config) {
      if (this.#sequences.some((held) => held))
        throw new StateError("generate: the model changed its form while sequences of another one are held.");
      this.release();
      const capacity = this.capacityFor(model);
      const blocks = Math.ceil(capacity / PAGE);
      const { cacheTokens } = this.#options;
      const most = this.slots * blocks;
      // One sequence of full length at the least.
      const pages = cacheTokens === undefined ? most : Math.min(most, Math.max(blocks, Math.ceil(cacheTokens / PAGE)));
      const cache = emptyCache(model.config, this.slots, capacity, { type: this.#options.cache, pages });
      this.#held = { cache, config, capacity, pool: new PagePool(pages, PAGE) };
    }
    this.#held.pool.forgetAll();
    this.#model = new WeakRef(model);
    this.#ready.clear();
    return this.#held;
  }

  /** Gives the memory of the cache back and forgets every sequence. */
  release(): void {
    this.#forgetReplies();
    this.#unflatten();
    this.#replies.unbind();
    this.#stale = true;
    if (this.#held) dispose(this.#held.cache);
    this.#held = undefined;
    this.#model = undefined;
    this.#sequences.fill(undefined);
    this.#promised = 0;
  }

  /** Gives the cache and the compiled programs back. */
  dispose(): void {
    this.release();
    this.#ready.clear();
    this.#step.release();
    this.#choose.release();
    this.#replies.release();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Logits are wanted after the pieces that a reply follows. */
const wantedByReply = <P extends { readonly reply?: ReplyStep | undefined }>(piece: P) => ({
  ...piece,
  wanted: piece.reply ? 1 : 0,
});

/** Of the form of a step's arguments. */
function inputLike(tokens: number, rows: number): { input: StepArguments[2]; wanted: Tensor<"i32"> } {
  const line = () => i32(new Int32Array(tokens), [1, tokens]);
  return { input: { ids: line(), positions: line(), rows: line() }, wanted: i32(new Int32Array(rows), [rows]) };
}

/** Bytes of a model's cache for `tokens` tokens. */
export function cacheBytesOf(model: LanguageModel, tokens: number, type?: PageType): number {
  return Math.ceil(tokens / PAGE) * pageBytes({ ...cacheShape(model.config), type });
}
