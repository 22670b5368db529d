import { type BpeModel, initialVocabulary, trainBpe } from "./bpe-train.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { wellFormed } from "./bytes.ts";
import type { TokenizerConfig } from "./folder.ts";
import { type CountedWords, type Learner, type LearnerOptions, learnerOf, type Texts } from "./learner.ts";
import { GPT2_PATTERN, splitterOf } from "./pretokenize.ts";
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

/**
 * Trains a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019) in plain TypeScript. The result is what Hugging
 * Face `tokenizers` learns from the same texts, ties included. `trainByteLevel` does the same with the native kernels.
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export function trainByteLevelBpe(texts: Iterable<string>, options: TrainTokenizerOptions): ByteLevelTokenizer {
  const { specialTokens = [], vocabulary, minFrequency = 0 } = options;
  const counts = new Map<string, number>();
  const split = splitterOf(splitStep(options));
  for (const text of texts) split(wellFormed(text), (word) => counts.set(word, (counts.get(word) ?? 0) + 1));
  return tokenizerOf(trainBpe(counts, { vocabulary, specialTokens, minFrequency }), options);
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
  readonly phase: "counting" | "learning";
  /** Bytes of text read, in UTF-8. */
  readonly bytes: number;
  /** Merges learnt so far; for Unigram, pieces left, which become fewer. */
  readonly learnt: number;
}

export interface TrainManyOptions extends TrainTokenizerOptions, LearnerOptions {
  /** Called now and then. */
  readonly onProgress?: (progress: TrainingProgress) => void;
  /** Called when the words are counted. */
  readonly onCounted?: (words: CountedWords) => void;
}

/**
 * Trains the same tokenizer as `trainByteLevelBpe` from texts that arrive one by one (strings or UTF-8), with the native kernels where they
 * are built. Texts may be larger than memory: see `LearnerOptions`.
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export async function trainByteLevel(texts: Texts, options: TrainManyOptions): Promise<ByteLevelTokenizer> {
  const { specialTokens = [], vocabulary, minFrequency = 0, pattern = GPT2_PATTERN } = options;
  const { tokens, byteIds } = initialVocabulary(vocabulary, specialTokens);
  const learner = learnerOf({ kind: "pattern", pattern }, options);
  await counted(learner, texts, options);
  const model = await watched(learner, options, () => learner.merges({ tokens, vocabulary, minFrequency, byteIds }));
  return tokenizerOf(model, options);
}

type Watch = Pick<TrainManyOptions, "onProgress" | "onCounted">;

/** The counting, told to those who asked. */
export async function counted(learner: Learner, texts: Texts, { onProgress, onCounted }: Watch): Promise<CountedWords> {
  const words = await learner.count(texts, (bytes) => onProgress?.({ phase: "counting", bytes, learnt: 0 }));
  onCounted?.(words);
  return words;
}

/** The same for the learning. */
export async function watched<T>(learner: Learner, { onProgress }: Watch, learn: () => Promise<T>): Promise<T> {
  const timer = setInterval(() => onProgress?.({ phase: "learning", bytes: 0, learnt: learner.progress() }), 500);
  try {
    return await learn();
  } finally {
    clearInterval(timer);
  }
}
