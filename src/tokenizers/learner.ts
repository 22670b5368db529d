import { isUtf8 } from "node:buffer";
import { tmpdir } from "node:os";
import type { CountedWords, NativeText, NativeTrainer } from "../engine/backends/native/text.ts";
import { BackendError, InputError } from "../tensor/errors.ts";
import { joinedToken, lastPlaces, learnMerges } from "./bpe-train.ts";
import { byteLength, decodeUtf8, encodeUtf8, joined, wellFormed } from "./bytes.ts";
import { nativeText, scannerOf, WHOLE_TEXT } from "./native.ts";
import { bertTable } from "./native-pieces.ts";
import { normalizeBy } from "./normalize.ts";
import { cutterOf } from "./pieces.ts";
import { splitterOf } from "./pretokenize.ts";
import type { Metaspace, Normalizer } from "./schema.ts";
import { checkRoom, LONGEST_PIECE, MOST_SEEDS, SHRINK, trainUnigram, type UnigramVocabulary } from "./unigram-train.ts";

export type { CountedWords };

export type Texts = Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;

/** SentencePiece's pre-tokenizer as `tokenizer.json` has it. */
export const METASPACE: Metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };

/** SentencePiece's words end here at the latest, in characters: nothing is learnt of words longer than a page, and they cost time. */
const LONGEST_WORD = 4096;

/** How texts become words. */
export type WordCut =
  /** The matches of an expression. */
  | { readonly kind: "pattern"; readonly pattern: string }
  /** As SentencePiece: each line, normalized, is cut before its spaces, which become U+2581; one stands in front. */
  | { readonly kind: "metaspace"; readonly normalizer: Normalizer | null }
  /** As BERT. */
  | { readonly kind: "bert"; readonly normalizer: Normalizer & { readonly type: "BertNormalizer" } };

/** A character's id at the beginning of a word, and elsewhere. */
export interface SymbolIds {
  readonly first?: number | undefined;
  readonly inner?: number | undefined;
}

export interface MergePlan {
  /** Strings of the ids that exist before the first merge. */
  readonly tokens: readonly string[];
  readonly vocabulary: number;
  readonly minFrequency: number;
  /** What the second part of a merge loses when it is joined to the first ("##" for WordPiece). */
  readonly prefix?: string;
  /** The ids of the 256 bytes, where words are bytes. */
  readonly byteIds?: Int32Array;
  /** Where words are characters: their ids. Characters without one are left out. */
  readonly symbols?: ReadonlyMap<string, SymbolIds>;
}

export interface Merges {
  readonly tokens: string[];
  readonly merges: readonly { readonly left: number; readonly right: number; readonly id: number }[];
}

export interface UnigramPlan {
  /** Pieces wanted, characters included. */
  readonly pieces: number;
  /** In the order of code points. */
  readonly alphabet: readonly string[];
}

export interface LearnerOptions {
  /** Bytes that counting and learning may take, about. Default 2 GiB. */
  readonly memory?: number;
  /** Where words go that do not fit. Default: the system's place for temporary files. */
  readonly folder?: string;
  readonly threads?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Counts the words of texts once, then learns from them once. */
export interface Learner {
  /** @param onBytes called with the bytes of text read so far */
  count(texts: Texts, onBytes?: (bytes: number) => void): Promise<CountedWords>;
  /** Byte-pair merges (Sennrich et al. 2016). */
  merges(plan: MergePlan): Promise<Merges>;
  /** Unigram (Kudo 2018). */
  unigram(plan: UnigramPlan): Promise<UnigramVocabulary>;
  /** Merges learnt, or pieces left. */
  progress(): number;
}

const MEMORY = 2 * 2 ** 30;

/** With the native kernels where they are built, otherwise in TypeScript. */
export function learnerOf(cut: WordCut, options: LearnerOptions): Learner {
  const memory = options.memory ?? MEMORY;
  if (!(memory >= 2 ** 20))
    throw new InputError(`memory: ${memory} bytes are too few to train with. Give at least 1 MB.`);
  const text = nativeText();
  return text === undefined ? new ScriptLearner(cut, memory, options) : new NativeLearner(text, cut, memory, options);
}

/** The words of one text, in TypeScript. */
function wordsBy(cut: WordCut): (text: string, emit: (word: string) => void) => void {
  switch (cut.kind) {
    case "pattern":
      return splitterOf({ type: "Split", pattern: { Regex: cut.pattern }, behavior: "Isolated", invert: false });
    case "bert": {
      const normalize = normalizeBy(cut.normalizer);
      const split = cutterOf({ type: "BertPreTokenizer" });
      return (text, emit) => split(normalize(text), emit, true);
    }
    case "metaspace": {
      const normalize = normalizeBy(cut.normalizer);
      const split = cutterOf(METASPACE);
      const short = (word: string, emit: (word: string) => void): void => {
        const characters = word.length <= LONGEST_WORD ? [word] : [...word];
        for (let at = 0; at < characters.length; at += LONGEST_WORD)
          emit(characters.slice(at, at + LONGEST_WORD).join(""));
      };
      return (text, emit) => {
        for (const line of normalize(text).split("\n")) if (line !== "") split(line, (word) => short(word, emit), true);
      };
    }
  }
}

const asText = (text: string | Uint8Array): string => (typeof text === "string" ? wellFormed(text) : decodeUtf8(text));

/** The reference. It keeps every word: texts whose words are more than the memory are refused. */
class ScriptLearner implements Learner {
  private readonly cut: WordCut;
  private readonly memory: number;
  private readonly signal: AbortSignal | undefined;
  private readonly words = new Map<string, number>();
  private learnt = 0;

  constructor(cut: WordCut, memory: number, { signal }: LearnerOptions) {
    this.cut = cut;
    this.memory = memory;
    this.signal = signal;
  }

  async count(texts: Texts, onBytes?: (bytes: number) => void): Promise<CountedWords> {
    const split = wordsBy(this.cut);
    const { words } = this;
    let bytes = 0;
    let held = 0;
    for await (const each of texts) {
      this.signal?.throwIfAborted();
      split(asText(each), (word) => {
        if (word === "") return;
        const count = words.get(word);
        if (count === undefined) held += 100 + 2 * word.length;
        words.set(word, (count ?? 0) + 1);
      });
      if (held > this.memory) {
        throw new InputError(
          `memory: the distinct words of these texts take more than ${Math.round(this.memory / 1e6)} MB. ` +
            "Without the native kernels all of them are kept: build these (npm run setup), or give more.",
        );
      }
      bytes += byteLength(each);
      onBytes?.(bytes);
    }
    const found = new Map<string, { count: number; inner: number }>();
    for (const [word, count] of words) {
      let first = true;
      for (const character of word) {
        const entry = found.get(character) ?? { count: 0, inner: 0 };
        if (entry.count === 0) found.set(character, entry);
        entry.count += count;
        if (!first) entry.inner += count;
        first = false;
      }
    }
    const characters = [...found].sort(([a], [b]) => a.codePointAt(0)! - b.codePointAt(0)!);
    return {
      distinct: words.size,
      kept: words.size,
      spilled: 0,
      points: Uint32Array.from(characters, ([character]) => character.codePointAt(0)!),
      counts: Float64Array.from(characters, ([, { count }]) => count),
      inner: Float64Array.from(characters, ([, { inner }]) => inner),
    };
  }

  async merges({ tokens, vocabulary, minFrequency, prefix = "", byteIds, symbols }: MergePlan): Promise<Merges> {
    const idsOf = (word: string): Iterable<number> =>
      byteIds
        ? Array.from(encodeUtf8(word), (byte) => byteIds[byte]!)
        : Array.from(word).flatMap((character, i) => symbols?.get(character)?.[i === 0 ? "first" : "inner"] ?? []);
    const encoded = Array.from(this.words.keys(), (word) => Int32Array.from(idsOf(word)));
    const model = learnMerges(encoded, Float64Array.from(this.words.values()), {
      tokens,
      vocabulary,
      minFrequency,
      prefix,
    });
    this.learnt = model.merges.length;
    return { tokens: [...model.tokens], merges: model.merges };
  }

  unigram({ pieces, alphabet }: UnigramPlan): Promise<UnigramVocabulary> {
    return trainUnigram(this.words, {
      pieces,
      alphabet: new Set(alphabet),
      onRound: (left) => {
        this.signal?.throwIfAborted();
        this.learnt = left;
      },
    });
  }

  progress(): number {
    return this.learnt;
  }
}

/** Texts are counted in groups of about this many bytes. */
const GROUP_BYTES = 4 << 20;
/** Words cut in TypeScript go to the kernels when there are so many different ones. */
const GROUP_WORDS = 1 << 18;
const CUTS = { pattern: 0, metaspace: 1, bert: 2 } as const;
const NO_ID = 2 ** 32 - 1;

class NativeLearner implements Learner {
  private readonly text: NativeText;
  private readonly cut: WordCut;
  private readonly memory: number;
  private readonly threads: number;
  private readonly signal: AbortSignal | undefined;
  private readonly trainer: NativeTrainer;
  /** Whether the kernels cannot cut texts that match. */
  private readonly beyond: { test(text: string): boolean } | undefined;

  constructor(
    text: NativeText,
    cut: WordCut,
    memory: number,
    { folder = tmpdir(), threads = 0, signal }: LearnerOptions,
  ) {
    this.text = text;
    this.cut = cut;
    this.memory = memory;
    this.threads = threads;
    this.signal = signal;
    const scanner = cut.kind === "pattern" ? scannerOf(cut.pattern) : WHOLE_TEXT;
    const table = cut.kind === "bert" ? bertTable(cut.normalizer) : undefined;
    this.beyond = scanner === undefined ? { test: () => true } : table?.beyond;
    const map = table?.map ?? new Uint8Array(0);
    this.trainer = text.trainer(CUTS[cut.kind], scanner ?? WHOLE_TEXT, memory, encodeUtf8(folder), map);
  }

  async count(texts: Texts, onBytes?: (bytes: number) => void): Promise<CountedWords> {
    const { text, trainer, cut, beyond } = this;
    const normalize = cut.kind === "metaspace" && cut.normalizer !== null ? normalizeBy(cut.normalizer) : undefined;
    let read = 0;
    let group: (string | Uint8Array)[] = [];
    let size = 0;
    /** The kernels count one group while the next is read. */
    let counting: Promise<unknown> = Promise.resolve();
    const flush = async (): Promise<void> => {
      this.signal?.throwIfAborted();
      const all = joined(group);
      group = [];
      size = 0;
      await counting;
      if (all.bytes.length > 0) {
        counting = this.stoppable(text.trainerCount(trainer, all.bytes, all.ends, this.threads));
        counting.catch(() => {}); // it is waited for
      }
      onBytes?.(read);
    };
    let cutHere: ReturnType<typeof wordsBy> | undefined;
    let here = new Map<string, number>();
    const flushHere = async (): Promise<void> => {
      this.signal?.throwIfAborted();
      const words = joined([...here.keys()]);
      await counting;
      await this.stoppable(text.trainerCountWords(trainer, words.bytes, words.ends, Float64Array.from(here.values())));
      here = new Map();
      onBytes?.(read);
    };
    const give = (part: string | Uint8Array): void => {
      group.push(part);
      size += byteLength(part);
    };
    try {
      for await (const each of texts) {
        read += byteLength(each);
        if (normalize === undefined && beyond === undefined) {
          give(typeof each !== "string" && isUtf8(each) ? each : asText(each));
        } else {
          const whole = asText(each);
          if (normalize !== undefined) give(normalize(whole));
          else if (!beyond?.test(whole)) give(whole);
          else {
            // BERT's words end with the line; what the kernels do not know is cut here.
            cutHere ??= wordsBy(cut);
            for (const line of cut.kind === "bert" ? whole.split("\n") : [whole]) {
              if (!beyond.test(line)) give(line);
              else cutHere(line, (word) => word !== "" && here.set(word, (here.get(word) ?? 0) + 1));
            }
          }
        }
        if (size >= GROUP_BYTES) await flush();
        if (here.size >= GROUP_WORDS) await flushHere();
      }
      if (size > 0) await flush();
      if (here.size > 0) await flushHere();
    } finally {
      // Nothing may be given up while the kernels work on it.
      await counting.catch(() => {});
    }
    await counting;
    return this.stoppable(text.trainerGather(trainer));
  }

  async merges({ tokens, vocabulary, minFrequency, prefix = "", byteIds, symbols }: MergePlan): Promise<Merges> {
    const spelled = joined(tokens);
    const flat = await this.stoppable(
      this.text.trainerMerges(
        this.trainer,
        Float64Array.of(vocabulary, minFrequency),
        encodeUtf8(prefix),
        spelled.bytes,
        spelled.ends,
        byteIds ? Uint32Array.from(byteIds) : symbolTable(symbols ?? new Map()),
      ),
    );
    const all = [...tokens];
    const merges = Array.from({ length: flat.length / 3 }, (_, i) => {
      const left = flat[3 * i]!;
      const right = flat[3 * i + 1]!;
      const id = flat[3 * i + 2]!;
      all[id] ??= joinedToken(all[left]!, all[right]!, prefix);
      return { left, right, id };
    });
    return { tokens: all, merges: lastPlaces(merges) };
  }

  async unigram({ pieces, alphabet }: UnigramPlan): Promise<UnigramVocabulary> {
    checkRoom(pieces, alphabet.length);
    const points = Uint32Array.from(alphabet, (character) => character.codePointAt(0)!);
    // The first model's pieces take up to 2 kB each, most of it in the tree they are found by.
    const seeds = Math.min(MOST_SEEDS, Math.max(8 * pieces, Math.floor(this.memory / 2048)));
    const settings = Float64Array.of(pieces, LONGEST_PIECE, seeds, SHRINK);
    const { bytes, ends, scores } = await this.stoppable(
      this.text.trainerUnigram(this.trainer, points, settings, this.threads),
    );
    const spelled = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return { pieces: Array.from(ends, (end, i) => spelled.toString("utf8", ends[i - 1] ?? 0, end)), scores };
  }

  progress(): number {
    return this.text.trainerProgress(this.trainer);
  }

  /** Learning ends soon after the signal. */
  private async stoppable<T>(work: Promise<T>): Promise<T> {
    const stop = (): void => this.text.trainerStop(this.trainer);
    this.signal?.addEventListener("abort", stop, { once: true });
    try {
      if (this.signal?.aborted) stop();
      return await work;
    } catch (error) {
      this.signal?.throwIfAborted();
      throw error instanceof Error ? new BackendError(error.message, { cause: error }) : error;
    } finally {
      this.signal?.removeEventListener("abort", stop);
    }
  }
}

/** Code point, first id, inner id of each character. */
function symbolTable(symbols: ReadonlyMap<string, SymbolIds>): Uint32Array {
  const table = new Uint32Array(3 * symbols.size);
  let at = 0;
  for (const [character, { first = NO_ID, inner = NO_ID }] of symbols) {
    table.set([character.codePointAt(0)!, first, inner], at);
    at += 3;
  }
  return table;
}
