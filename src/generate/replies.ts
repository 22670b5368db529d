import { type LanguageModel, logits } from "../models/model.ts";
import type { Cache } from "../nn/cache.ts";
import { HowdahError } from "../tensor/errors.ts";
import { type Jitted, jit } from "../tensor/jit.ts";
import { uninitialized } from "../tensor/ops/creation.ts";
import { sampleSettings, sampleToken, wordsOf } from "../tensor/ops/sample.ts";
import type { Bound, Compiled, Precision } from "../tensor/runtime.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose, tensors } from "../tensor/tree.ts";
import type { Sampled, SamplingParameters } from "./sampler.ts";

/** A reply whose next token is to be chosen by the program. */
export interface ReplyStep {
  readonly slot: number;
  /** Prompt and reply so far; the last token is the one that is read. Nobody but the reply's owner may change it. */
  readonly history: readonly number[];
  /** Tokens of the prompt: draws are counted from there. */
  readonly prompt: number;
  readonly sampling: SamplingParameters;
  readonly seed: number;
  readonly stream: number;
  readonly measure: boolean;
}

interface State {
  /** i32 (rows) each: the tokens that are read, and their places; -1 in rows without a reply. */
  readonly token: Tensor<"i32">;
  readonly position: Tensor<"i32">;
}
interface Fixed {
  /** i32 (1, rows): slots. */
  readonly rows: Tensor<"i32">;
  /** i32 (rows, words) */
  readonly settings: Tensor<"i32">;
}
type History = Tensor<"i32"> | undefined;
type Results = State & { readonly measures: Tensor; readonly history: History; readonly cache: Cache };

type Chosen = State & { readonly measures: Tensor };

/**
 * Steps that follow one another. What a step chose is one of two sets of tensors that take turns: a step reads one and writes the other, so that
 * the program is bound to its arguments twice, and a token costs one call.
 */
class Chain {
  readonly fixed: Fixed;
  /** i32 (rows, longest), where a reply has a repetition penalty. */
  readonly history: History;
  readonly sets: [Chosen, Chosen];
  readonly #bound: [Bound | undefined, Bound | undefined] = [undefined, undefined];
  /** The cache that these read and write. */
  #cache: FlatCache | undefined;

  constructor(fixed: Fixed, history: History, first: Chosen) {
    const like = <T extends Tensor>(x: T) => uninitialized(x.shape, x.dtype) as T;
    const { token, position, measures } = first;
    this.fixed = fixed;
    this.history = history;
    this.sets = [first, { token: like(token), position: like(position), measures: like(measures) }];
  }

  /** Queues the step after the one that chose set `from`. */
  run(from: 0 | 1, cache: FlatCache, bind: (from: Chosen, to: Chosen) => Bound): void {
    if (this.#cache !== cache) this.#release();
    this.#cache = cache;
    this.#bound[from] ??= bind(this.sets[from], this.sets[from === 0 ? 1 : 0]);
    this.#bound[from].run();
  }

  #release(): void {
    for (const i of [0, 1] as const) {
      this.#bound[i]?.release();
      this.#bound[i] = undefined;
    }
  }

  dispose(): void {
    this.#release();
    dispose([this.sets, this.fixed, this.history]);
  }
}

/** A step that was queued. */
export interface Queued {
  readonly replies: readonly ReplyStep[];
  readonly size: number;
  readonly chosen: Chosen;
  readonly chain: Chain;
  /** The tokens that were chosen, once they are known. */
  tokens?: Int32Array;
}

/** The cache's tensors, in the order of the tree. */
export type FlatCache = readonly Tensor[];

/**
 * One token for each of some replies as one program: look-up, layers, logits and choice. What it chooses can be read by the next step before
 * anybody here has seen it, so that the processor need not wait for this thread between two tokens.
 */
export class ReplyProgram {
  readonly #step: Jitted<[LanguageModel, Cache, State, Fixed, History], Results>;
  /** The program of the last call, and the tensors of its model: walking trees takes as long as a small model's step. */
  #bound: { readonly key: string; readonly program: Pick<Compiled, "run" | "bind"> } | undefined;
  #model: { readonly of: WeakRef<LanguageModel>; readonly tensors: readonly Tensor[] } | undefined;

  constructor(precision: Precision) {
    this.#step = jit(
      (model, cache, { token, position }, { rows, settings }, history) => {
        const n = token.shape[0]!;
        const line = (x: Tensor<"i32">) => x.reshape(1, n) as Tensor<"i32">;
        const out = model.hidden(line(token), { positions: line(position), rows, cache });
        const next = sampleToken(
          logits(model, out.hidden.reshape(n, out.hidden.shape[2]!)),
          token,
          position,
          settings,
          history,
        );
        return { ...next, cache: out.cache! };
      },
      { donate: [1, 4], precision, name: "reply" },
    );
  }

  get programs(): number {
    return this.#step.programs;
  }

  /** Forgets the model and the form of the cache. */
  unbind(): void {
    this.#bound = undefined;
    this.#model = undefined;
  }

  /** Compiles the program of such a step while the event loop goes on. @param like the form of the cache */
  prepare(
    model: LanguageModel,
    like: Cache,
    replies: readonly ReplyStep[],
    size: number,
    capacity: number,
  ): Promise<void> {
    const state = stateOf(replies, size);
    const fixed = fixedOf(replies, size);
    const history = historyOf(replies, size, capacity);
    try {
      return this.#step.prepare(model, like, state, fixed, history);
    } finally {
      dispose([state, fixed, history]);
    }
  }

  /**
   * Queues a step.
   * @param cache consumed
   * @param like the form of the cache
   * @param size rows of the step, at least as many as replies
   * @param before the step whose choices are read; without one, the last tokens of the replies' histories are
   */
  queue(
    model: LanguageModel,
    { flat, like }: { readonly flat: FlatCache; readonly like: Cache },
    replies: readonly ReplyStep[],
    size: number,
    capacity: number,
    before?: Queued,
  ): { queued: Queued; cache: FlatCache } {
    const fixed = before?.chain.fixed ?? fixedOf(replies, size);
    const { token, position } = before?.chosen ?? stateOf(replies, size);
    const history = before ? before.chain.history : historyOf(replies, size, capacity);
    try {
      const key = keyOf(replies, size, capacity);
      if (this.#model?.of.deref() !== model) {
        this.#bound = undefined;
        this.#model = { of: new WeakRef(model), tensors: tensors(model) };
      }
      if (this.#bound?.key !== key)
        this.#bound = { key, program: this.#step.flat(model, like, { token, position }, fixed, history) };
      const { program } = this.#bound;
      const weights = this.#model.tensors;
      const given = (state: State) => [
        ...weights,
        ...flat,
        state.token,
        state.position,
        fixed.rows,
        fixed.settings,
        ...(history ? [history] : []),
      ];
      if (before) {
        const { chain } = before;
        const from = before.chosen === chain.sets[0] ? 0 : 1;
        const results = (to: Chosen) => [to.token, to.position, to.measures, ...(history ? [history] : []), ...flat];
        chain.run(from, flat, (read, written) => program.bind(given(read), results(written)));
        const chosen = chain.sets[from === 0 ? 1 : 0];
        return { queued: { replies, size, chosen, chain }, cache: flat };
      }
      const [next, place, measures, ...rest] = program.run(given({ token, position })) as [
        Tensor<"i32">,
        Tensor<"i32">,
        Tensor,
        ...Tensor[],
      ];
      const kept = history ? (rest.shift() as Tensor<"i32">) : undefined;
      const chosen = { token: next, position: place, measures };
      const chain = new Chain(fixed, kept, chosen);
      return { queued: { replies, size, chosen, chain }, cache: rest };
    } catch (error) {
      if (!before) dispose(fixed);
      throw error;
    } finally {
      if (!before) dispose([token, position]);
    }
  }

  /** What a step chose. @throws HowdahError "not_finite" for logits that hold NaN, or nothing but minus infinity */
  async read(queued: Queued): Promise<Sampled[]> {
    const chosen = await readChoice(queued.replies, queued.chosen);
    queued.tokens = Int32Array.from(chosen, ({ token }) => token);
    return chosen;
  }

  release(): void {
    this.unbind();
    this.#step.release();
  }
}

/** Whether a queued step is the one these replies ask for: the same ones, each with the token that was chosen for it. */
export function answers(queued: Queued, before: Queued, replies: readonly ReplyStep[], size: number): boolean {
  return (
    queued.size === size &&
    queued.replies.length === replies.length &&
    replies.every((r, i) => queued.replies[i] === r && r.history.at(-1) === before.tokens?.[i])
  );
}

/** Frees a step and those before it; no later step reads what it chose. */
export function forget(queued: Queued): void {
  queued.chain.dispose();
}

export const i32 = (data: Int32Array, shape: readonly number[]) => tensor(data, { shape }) as Tensor<"i32">;

function stateOf(replies: readonly ReplyStep[], size: number): State {
  const token = new Int32Array(size).fill(-1);
  const position = new Int32Array(size).fill(-1);
  for (const [i, { history }] of replies.entries()) {
    token[i] = history.at(-1)!;
    position[i] = history.length - 1;
  }
  return { token: i32(token, [size]), position: i32(position, [size]) };
}

function fixedOf(replies: readonly ReplyStep[], size: number): Fixed {
  const rows = new Int32Array(size);
  for (const [i, { slot }] of replies.entries()) rows[i] = slot;
  return { rows: i32(rows, [1, size]), settings: settingsOf(replies, size) };
}

function settingsOf(replies: readonly ReplyStep[], size: number): Tensor<"i32"> {
  const settings = new Int32Array(size * sampleSettings.words);
  for (const [i, { sampling, seed, stream, prompt, measure }] of replies.entries()) {
    const { temperature, topP = 1, minP = 0, repetitionPenalty = 1, topK = 0 } = sampling;
    const words = [temperature, topP, minP, repetitionPenalty].flatMap(wordsOf);
    words.push(topK, seed, Math.floor(seed / 2 ** 32), stream, prompt, measure ? 1 : 0);
    settings.set(words, i * sampleSettings.words);
  }
  return i32(settings, [size, sampleSettings.words]);
}

const remembers = (replies: readonly ReplyStep[]): boolean =>
  replies.some(({ sampling }) => (sampling.repetitionPenalty ?? 1) !== 1);

/** Tells the programs of steps of one model from each other. */
export const keyOf = (replies: readonly ReplyStep[], size: number, capacity: number): string =>
  `${size} ${remembers(replies) ? capacity : ""}`;

function historyOf(replies: readonly ReplyStep[], size: number, capacity: number): History {
  if (!remembers(replies)) return undefined;
  const all = new Int32Array(size * capacity);
  for (const [i, { history }] of replies.entries()) all.set(history, i * capacity);
  return i32(all, [size, capacity]);
}

/** All that `sampleToken` is told of some rows. */
export interface Choice extends State {
  readonly settings: Tensor<"i32">;
  readonly history: History;
}

/** How the next tokens of replies are chosen. @param size rows, at least as many as replies */
export function choiceOf(replies: readonly ReplyStep[], size: number, capacity: number): Choice {
  return {
    ...stateOf(replies, size),
    settings: settingsOf(replies, size),
    history: historyOf(replies, size, capacity),
  };
}

/** What was chosen for replies, the first rows. @throws HowdahError "not_finite" for logits that hold NaN, or nothing but minus infinity */
export async function readChoice(
  replies: readonly ReplyStep[],
  { token, measures }: { readonly token: Tensor; readonly measures: Tensor },
): Promise<Sampled[]> {
  const wanted = replies.some((r) => r.measure);
  const [tokens, numbers] = (await Promise.all([token.data(), wanted ? measures.data() : undefined])) as [
    Int32Array,
    Float32Array | undefined,
  ];
  return replies.map((_, i) => {
    if (tokens[i]! < 0)
      throw new HowdahError(
        "not_finite",
        "The model's logits are not finite, so no token can be chosen. Its weights are damaged or its training diverged.",
      );
    return {
      token: tokens[i]!,
      logProbability: numbers?.[2 * i] ?? Number.NaN,
      entropy: numbers?.[2 * i + 1] ?? Number.NaN,
    };
  });
}
