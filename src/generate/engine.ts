import type { LanguageModel } from "../models/model.ts";
import { InputError, StateError } from "../tensor/errors.ts";
import type { Tokenizer } from "../tokenizers/types.ts";
import { ReplyChannel } from "./channel.ts";
import { ContinuousBatch, type Sequence } from "./continuous.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";
import type { PageCounts } from "./pages.ts";
import { checkSampling } from "./sampler.ts";
import { DraftGuesser, type Guesser, lookUpGuesser } from "./speculative.ts";
import { ReplyText } from "./text.ts";
import { turn } from "./turn.ts";
import type { ReplyChunk, ReplyRequest } from "./types.ts";

export interface EngineOptions extends Partial<DecoderOptions> {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  /** Ids that end a reply; default the model's and the tokenizer's end tokens. */
  readonly endIds?: readonly number[] | undefined;
  /** How long the cache's memory is kept when nobody asks for anything. Default 60. */
  readonly idleSeconds?: number | undefined;
  /** Speculative decoding: a smaller model with the same tokenizer guesses tokens, or they are looked up in the text itself. Default neither. */
  readonly draft?: LanguageModel | undefined;
  readonly lookUp?: boolean | undefined;
}

/** What an engine does and holds now, and what it has done so far. */
export interface EngineStatus {
  readonly running: number;
  readonly waiting: number;
  readonly programs: number;
  /** Of the pages that are held or kept, in bytes. */
  readonly cacheBytes: number;
  readonly pages: PageCounts;
  /** Tokens of prompts, and how many of them had been read before. */
  readonly prefixTokens: { readonly asked: number; readonly found: number };
  /** Tokens that were guessed ahead, and that were right. */
  readonly guesses: { readonly made: number; readonly right: number };
}

/** Tokens guessed ahead where there is somebody to guess. */
const AHEAD = 4;

/** Sequences at the same time, unless told otherwise: as many as the server runs. */
const SLOTS = 8;
/** Not too long, so that a long prompt does not hold up the replies that are being written. */
const CHUNKS = [16, 64, 128, 256];

interface Waiting {
  readonly sequence: Sequence;
  readonly fail: (reason: unknown) => void;
  leave: (() => void) | undefined;
}

/**
 * Serves one model to many: requests wait in order of arrival for a slot of one continuous batch, and each ends, is stopped or goes away on
 * its own. Nothing here blocks the JavaScript thread for longer than choosing one token per slot.
 */
export class ReplyEngine {
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  readonly #decoder: Decoder;
  readonly #guesser: Guesser | undefined;
  readonly #batch: ContinuousBatch;
  readonly #endIds: ReadonlySet<number>;
  readonly #waiting: Waiting[] = [];
  readonly #running = new Set<Waiting>();
  readonly #idleSeconds: number;
  #loop: Promise<void> | undefined;
  #idleTimer: NodeJS.Timeout | undefined;
  #closed = false;

  /** @throws InputError when tokenizer and model do not belong together */
  constructor(options: EngineOptions) {
    const { model, tokenizer } = options;
    if (tokenizer.vocabularySize > model.config.vocabulary)
      throw new InputError(
        `generate: the tokenizer has ${tokenizer.vocabularySize} tokens, the model ${model.config.vocabulary}. They do not belong together.`,
      );
    this.model = model;
    this.tokenizer = tokenizer;
    const { draft, lookUp, slots = SLOTS, chunks = CHUNKS, prefixes = true } = options;
    const ahead = draft || lookUp ? (options.ahead ?? AHEAD) : 0;
    if (options.reproducible && ahead > 0)
      throw new InputError(
        "generate: tokens guessed ahead are checked in steps of several sizes, which reproducible decoding rules out. Leave out one of the two.",
      );
    // Packed weights round what they multiply anyway; so may attention where keys and values are rounded too.
    const rounds = model.isPacked && (options.cache ?? "f32") !== "f32" && !options.reproducible;
    const all = { ...options, precision: options.precision ?? (rounds ? "auto" : "f32"), slots, chunks };
    this.#decoder = new Decoder({ ...all, prefixes, ahead });
    this.#decoder.capacityFor(model);
    this.#guesser = draft ? new DraftGuesser(draft, model, all) : lookUp ? lookUpGuesser : undefined;
    this.#batch = new ContinuousBatch(this.#decoder, this.#guesser);
    this.#endIds = new Set(options.endIds ?? endIdsOf(model, tokenizer));
    this.#idleSeconds = options.idleSeconds ?? 60;
  }

  /** Prompt and reply together, in tokens. */
  get capacity(): number {
    return this.#decoder.capacityFor(this.model);
  }
  /** Requests that hold a slot, and that wait for one. */
  get running(): number {
    return this.#batch.size;
  }
  get waiting(): number {
    return this.#waiting.length;
  }
  get programs(): number {
    return this.#decoder.programs + (this.#guesser?.programs ?? 0);
  }
  get cacheBytes(): number {
    return this.#decoder.cacheBytes;
  }
  get status(): EngineStatus {
    const { running, waiting, programs, cacheBytes } = this;
    const { pages, prefixTokens } = this.#decoder;
    const { guesses } = this.#batch;
    return {
      running,
      waiting,
      programs,
      cacheBytes,
      pages,
      prefixTokens: { ...prefixTokens },
      guesses: { ...guesses },
    };
  }

  /** Compiles all programs, so that no request waits for that. Call it before the first request. */
  async warm(): Promise<void> {
    await this.#decoder.warm(this.model);
    await this.#guesser?.warm();
  }

  /**
   * Writes one reply. Nothing happens before the first chunk is asked for; leaving the loop over the chunks, or aborting, gives the slot back.
   * @throws InputError for a wrong request; the signal's reason when it is aborted
   */
  async *reply(request: ReplyRequest, signal?: AbortSignal): AsyncGenerator<ReplyChunk, void, undefined> {
    if (this.#closed) throw new StateError("This model was taken away. Ask for the list of models again.");
    signal?.throwIfAborted();
    const channel = new ReplyChannel();
    const waiting: Waiting = {
      sequence: this.#sequence(request, channel),
      fail: (reason) => channel.fail(reason),
      leave: undefined,
    };
    const abort = (): void => {
      this.#drop(waiting);
      channel.fail(signal?.reason);
    };
    signal?.addEventListener("abort", abort, { once: true });
    this.#waiting.push(waiting);
    this.#start();
    try {
      for (;;) {
        const chunk = await channel.take();
        yield chunk;
        if (chunk.finish) return;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#drop(waiting);
    }
  }

  #sequence(request: ReplyRequest, channel: ReplyChannel): Sequence {
    checkSampling(request);
    const { prompt, maxTokens, stop = [], seed = Math.floor(Math.random() * 2 ** 32) } = request;
    if (!(Number.isInteger(maxTokens) && maxTokens > 0))
      throw new InputError(`generate: max tokens is ${maxTokens}; it must be a whole number above 0.`);
    if (!Number.isSafeInteger(seed)) throw new InputError(`generate: the seed is ${seed}; it must be a whole number.`);
    if (stop.includes("")) throw new InputError("generate: a stop string is empty.");
    const most = Math.min(maxTokens, this.capacity - prompt.length);
    const text = new ReplyText(this.tokenizer, prompt, stop);
    let count = 0;
    return {
      prompt,
      sampling: request,
      seed,
      stream: 0,
      measure: false,
      maxTokens: most,
      known: (tokens) => channel.begin(tokens),
      accept: ({ token }) => {
        count++;
        const ended = this.#endIds.has(token);
        // A vocabulary may be padded with rows that are no token's: they have no text.
        const piece = ended || this.tokenizer.idToToken(token) === undefined ? "" : text.push(token);
        const finish = ended || text.stopped ? "stop" : count >= most ? "length" : undefined;
        channel.push(finish ? piece + text.end() : piece, token, finish);
        return finish === undefined;
      },
    };
  }

  #drop(waiting: Waiting): void {
    const at = this.#waiting.indexOf(waiting);
    if (at >= 0) this.#waiting.splice(at, 1);
    this.#running.delete(waiting);
    waiting.leave?.();
  }

  #start(): void {
    clearTimeout(this.#idleTimer);
    this.#loop ??= this.#run().finally(() => {
      this.#loop = undefined;
      if (this.#waiting.length > 0) this.#start();
      else this.#rest();
    });
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0 || this.#batch.size > 0) {
      try {
        while (this.#waiting[0] && this.#batch.hasRoomFor(this.model, this.#waiting[0].sequence))
          this.#admit(this.#waiting.shift()!);
        await this.#batch.step(this.model);
      } catch (error) {
        // The device failed: every reply in the batch is lost, those that wait may still work.
        const lost = [...this.#running];
        this.#batch.clear();
        this.#running.clear();
        for (const one of lost) one.fail(error);
      }
      await turn();
    }
  }

  #admit(one: Waiting): void {
    try {
      one.leave = this.#batch.add(this.model, one.sequence);
      this.#running.add(one);
    } catch (error) {
      one.fail(error);
    }
  }

  #rest(): void {
    if (this.#closed) {
      this.#decoder.dispose();
      this.#guesser?.dispose();
      return;
    }
    this.#idleTimer = setTimeout(() => {
      this.#decoder.release();
      this.#guesser?.release();
    }, this.#idleSeconds * 1000);
    this.#idleTimer.unref();
  }

  /** Takes no new request, waits for those under way, and gives everything back but the model. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#idleTimer);
    while (this.#loop) await this.#loop;
    this.#decoder.dispose();
    this.#guesser?.dispose();
  }
}

/** What ends a reply: the end tokens of the model's config, and the tokenizer's. */
export function endIdsOf(model: LanguageModel, tokenizer: Tokenizer): number[] {
  const ids = new Set(model.config.tokens.end ?? []);
  if (tokenizer.eosId !== undefined) ids.add(tokenizer.eosId);
  return [...ids];
}
