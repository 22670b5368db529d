import type { LanguageModel } from "../models/model.ts";
import { InputError } from "../tensor/errors.ts";
import { ContinuousBatch, type Sequence } from "./continuous.ts";
import { Decoder, type DecoderOptions } from "./decoder.ts";
import { checkSampling, type SamplingParameters } from "./sampler.ts";
import { turn } from "./turn.ts";

export interface GenerateOptions extends SamplingParameters {
  /** Most tokens of a reply. It also ends where the capacity does. */
  readonly maxTokens: number;
  /** A whole number; the draws of prompt i depend on it and i. */
  readonly seed: number;
  /** Ids that end a reply. */
  readonly endIds?: readonly number[] | undefined;
  /** Whether log-probabilities and entropies are wanted. Default true. */
  readonly measure?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called as replies end, in the order they end in. */
  readonly onReply?: ((index: number, reply: Reply) => void) | undefined;
}

export interface Reply {
  /** With the end token, if it ended with one. */
  readonly tokens: number[];
  /** One per token, as in `Sampled`; empty if not measured. */
  readonly logProbabilities: Float32Array;
  readonly entropies: Float32Array;
  /** `stop`: by an end token; `length`: by `maxTokens` or the capacity. */
  readonly finish: "stop" | "length";
}

/**
 * Continues lists of prompts, as many at once as there are slots; when a reply ends, the next prompt takes its slot. Compiled programs and the
 * cache stay for the next call, also when the model's weights (not its form) are others by then.
 */
export class Generator {
  readonly #decoder: Decoder;

  constructor(options: DecoderOptions) {
    this.#decoder = new Decoder(options);
  }

  /** Programs compiled so far. */
  get programs(): number {
    return this.#decoder.programs;
  }

  /**
   * Continues every prompt.
   * @returns replies in the order of the prompts
   * @throws InputError for a prompt or parameter that is wrong; the signal's reason when it is aborted
   */
  async run(model: LanguageModel, prompts: readonly (readonly number[])[], options: GenerateOptions): Promise<Reply[]> {
    checkSampling(options);
    const { maxTokens, seed, endIds = [], measure = true, signal } = options;
    if (!(Number.isInteger(maxTokens) && maxTokens > 0))
      throw new InputError(`generate: max tokens is ${maxTokens}; it must be a whole number above 0.`);
    if (!Number.isSafeInteger(seed)) throw new InputError(`generate: the seed is ${seed}; it must be a whole number.`);
    const capacity = this.#decoder.capacityFor(model);
    const batch = new ContinuousBatch(this.#decoder);
    const replies: Reply[] = new Array(prompts.length);
    let next = 0;
    const sequenceOf = (index: number): Sequence => {
      const prompt = prompts[index]!;
      const most = Math.min(maxTokens, capacity - prompt.length);
      const tokens: number[] = [];
      const logProbabilities = new Float32Array(measure ? Math.max(most, 0) : 0);
      const entropies = new Float32Array(logProbabilities.length);
      return {
        prompt,
        sampling: options,
        seed,
        stream: index,
        measure,
        maxTokens,
        accept: ({ token, logProbability, entropy }) => {
          if (measure) {
            logProbabilities[tokens.length] = logProbability;
            entropies[tokens.length] = entropy;
          }
          tokens.push(token);
          const stopped = endIds.includes(token);
          if (!stopped && tokens.length < most) return true;
          const n = measure ? tokens.length : 0;
          const reply: Reply = {
            tokens,
            logProbabilities: logProbabilities.slice(0, n),
            entropies: entropies.slice(0, n),
            finish: stopped ? "stop" : "length",
          };
          replies[index] = reply;
          options.onReply?.(index, reply);
          return false;
        },
      };
    };
    let waiting = prompts.length > 0 ? sequenceOf(next++) : undefined;
    try {
      while (waiting || batch.size > 0) {
        signal?.throwIfAborted();
        while (waiting && batch.hasRoomFor(model, waiting)) {
          batch.add(model, waiting);
          waiting = next < prompts.length ? sequenceOf(next++) : undefined;
        }
        await batch.step(model, true);
        await turn();
      }
    } finally {
      batch.clear();
    }
    return replies;
  }

  /** Gives the cache back; programs stay. */
  releaseCache(): void {
    this.#decoder.release();
  }
  dispose(): void {
    this.#decoder.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Continues a list of prompts once. For more than once, keep a `Generator`: it keeps its compiled programs. */
export async function generateBatch(
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions & Partial<DecoderOptions>,
): Promise<Reply[]> {
  const longest = prompts.reduce((n, prompt) => Math.max(n, prompt.length), 1);
  const capacity = options.capacity ?? Math.min(model.config.context, longest + options.maxTokens);
  using generator = new Generator({ ...options, capacity, slots: options.slots ?? Math.min(prompts.length || 1, 32) });
  return await generator.run(model, prompts, options);
}
