import { isUtf8 } from "node:buffer";
import type { NativeBpeTrainer } from "../engine/backends/native/text.ts";
import { type BpeModel, initialVocabulary, lastPlaces, trainBpe } from "./bpe-train.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { decodeUtf8, encodeUtf8, wellFormed } from "./bytes.ts";
import type { TokenizerConfig } from "./folder.ts";
import { nativeText, scannerOf, WHOLE_TEXT } from "./native.ts";
import { GPT2_PATTERN, type Splitter, splitterOf } from "./pretokenize.ts";
import { checkTokenizerFile } from "./schema.ts";

export interface TrainTokenizerOptions {
  /** Ids wanted in all: special tokens, 256 bytes, merges. Fewer come out when the text runs out of repeating pairs. */
  readonly vocabulary: number;
  /** Take ids 0, 1, ... in this order. */
  readonly specialTokens?: readonly string[];
  /** A pair seen less often than this is not merged. Default 0. */
  readonly minFrequency?: number;
  /** Regular expression (Oniguruma's syntax) whose matches are the words that merges stay within. Default: GPT-2's. */
  readonly pattern?: string;
  /** Names (among `specialTokens`) of the tokens that begin and end a text and fill a batch, and the chat template. */
  readonly config?: TokenizerConfig;
}

/** Counts words of texts that arrive in parts; each text is split on its own, so give whole documents or lines. */
export class WordCounter {
  readonly counts = new Map<string, number>();
  private readonly split: Splitter;

  constructor(split: Splitter) {
    this.split = split;
  }

  add(text: string): void {
    this.split(wellFormed(text), (word) => this.counts.set(word, (this.counts.get(word) ?? 0) + 1));
  }
}

/**
 * Trains a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019) in plain TypeScript. The result is what Hugging
 * Face `tokenizers` learns from the same texts, ties included. `trainByteLevel` does the same with the native kernels.
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export function trainByteLevelBpe(texts: Iterable<string>, options: TrainTokenizerOptions): ByteLevelTokenizer {
  const { specialTokens = [], vocabulary, minFrequency = 0 } = options;
  const counter = new WordCounter(splitterOf(splitStep(options)));
  for (const text of texts) counter.add(text);
  return tokenizerOf(trainBpe(counter.counts, { vocabulary, specialTokens, minFrequency }), options);
}

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true } as const;

const splitStep = ({ pattern = GPT2_PATTERN }: TrainTokenizerOptions) =>
  ({ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false }) as const;

function tokenizerOf({ tokens, merges }: BpeModel, options: TrainTokenizerOptions): ByteLevelTokenizer {
  const { pattern = GPT2_PATTERN, specialTokens = [] } = options;
  const file = checkTokenizerFile(
    {
      added_tokens: specialTokens.map((content, id) => ({ id, content, normalized: false, special: true })),
      pre_tokenizer:
        pattern === GPT2_PATTERN
          ? BYTE_LEVEL
          : { type: "Sequence", pretokenizers: [splitStep(options), { ...BYTE_LEVEL, use_regex: false }] },
      post_processor: { ...BYTE_LEVEL, add_prefix_space: true, trim_offsets: false },
      decoder: { ...BYTE_LEVEL, add_prefix_space: true },
      model: {
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: merges.map(({ left, right }) => [tokens[left], tokens[right]]),
      },
    },
    "trained tokenizer",
  );
  return new ByteLevelTokenizer(file, options.config);
}

export interface TrainingProgress {
  readonly phase: "counting" | "merging";
  /** Bytes of text read, in UTF-8. */
  readonly bytes: number;
  /** Merges learnt so far. */
  readonly merges: number;
}

export interface TrainManyOptions extends TrainTokenizerOptions {
  /** Threads that count words; default HOWDAH_THREADS, or every core. */
  readonly threads?: number;
  /** Called now and then. */
  readonly onProgress?: (progress: TrainingProgress) => void;
}

/** Texts are counted in groups of about this many bytes. */
const GROUP_BYTES = 16 << 20;

/**
 * Trains the same tokenizer as `trainByteLevelBpe` from texts that arrive one by one (strings or UTF-8), with the native kernels where they
 * are built. Memory holds each distinct word once with its count, and never more of the text than 16 MB and the longest single text.
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export async function trainByteLevel(
  texts: Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>,
  options: TrainManyOptions,
): Promise<ByteLevelTokenizer> {
  const { specialTokens = [], vocabulary, minFrequency = 0, onProgress, threads = 0, pattern = GPT2_PATTERN } = options;
  const text = nativeText();
  const first = initialVocabulary(vocabulary, specialTokens);
  let bytes = 0;
  const scanner = scannerOf(pattern);
  if (text === undefined || scanner === undefined) {
    const counter = new WordCounter(splitterOf(splitStep(options)));
    for await (const each of texts) {
      counter.add(typeof each === "string" ? each : decodeUtf8(each));
      bytes += byteLength(each);
      onProgress?.({ phase: "counting", bytes, merges: 0 });
    }
    if (text === undefined) {
      return tokenizerOf(trainBpe(counter.counts, { vocabulary, specialTokens, minFrequency }), options);
    }
    const trainer = text.bpeTrainer(WHOLE_TEXT);
    const words = joined([...counter.counts.keys()].map(encodeUtf8));
    text.bpeCountWords(trainer, words.bytes, words.ends, Float64Array.from(counter.counts.values()));
    return learn(trainer);
  }
  const trainer = text.bpeTrainer(scanner);
  let group: Uint8Array[] = [];
  let size = 0;
  const count = async (): Promise<void> => {
    const all = joined(group);
    group = [];
    size = 0;
    await text.bpeCount(trainer, all.bytes, all.ends, threads);
    bytes += all.bytes.length;
    onProgress?.({ phase: "counting", bytes, merges: 0 });
  };
  for await (const each of texts) {
    const encoded = typeof each === "string" || !isUtf8(each) ? encodeUtf8(asText(each)) : each;
    group.push(encoded);
    size += encoded.length;
    if (size >= GROUP_BYTES) await count();
  }
  if (size > 0) await count();
  return learn(trainer);

  async function learn(trained: NativeBpeTrainer): Promise<ByteLevelTokenizer> {
    const spelled = joined(first.tokens.map(encodeUtf8));
    const timer = setInterval(() => onProgress?.({ phase: "merging", bytes, merges: text!.bpeProgress(trained) }), 500);
    try {
      const flat = await text!.bpeLearn(
        trained,
        Uint32Array.from(first.byteIds),
        spelled.bytes,
        spelled.ends,
        vocabulary,
        minFrequency,
      );
      const { tokens } = first;
      const merges = Array.from({ length: flat.length / 3 }, (_, i) => {
        const [left, right, id] = flat.subarray(3 * i, 3 * i + 3) as unknown as [number, number, number];
        tokens[id] ??= tokens[left]! + tokens[right]!;
        return { left, right, id };
      });
      return tokenizerOf({ tokens, merges: lastPlaces(merges) }, options);
    } finally {
      clearInterval(timer);
    }
  }
}

const asText = (text: string | Uint8Array): string => (typeof text === "string" ? text : decodeUtf8(text));
const byteLength = (text: string | Uint8Array): number =>
  typeof text === "string" ? Buffer.byteLength(text) : text.length;

/** Arrays one after another, and where each ends. */
export function joined(parts: readonly Uint8Array[]): { readonly bytes: Uint8Array; readonly ends: Float64Array } {
  const ends = new Float64Array(parts.length);
  let at = 0;
  parts.forEach((part, i) => {
    at += part.length;
    ends[i] = at;
  });
  const bytes = new Uint8Array(at);
  parts.forEach((part, i) => {
    bytes.set(part, ends[i]! - part.length);
  });
  return { bytes, ends };
}
