import { trainBpe } from "./bpe-train.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { wellFormed } from "./bytes.ts";
import type { TokenizerConfig } from "./folder.ts";
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
 * Trains a byte-level BPE tokenizer (Sennrich et al. 2016; bytes as in Radford et al. 2019). The result is what Hugging Face
 * `tokenizers` learns from the same texts, ties included.
 * @throws InputError when `vocabulary` has no room for the special tokens and the 256 bytes
 */
export function trainByteLevelBpe(texts: Iterable<string>, options: TrainTokenizerOptions): ByteLevelTokenizer {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true } as const;
  const { pattern = GPT2_PATTERN, specialTokens = [], vocabulary, minFrequency = 0 } = options;
  const splitStep = { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false } as const;
  const counter = new WordCounter(splitterOf(splitStep));
  for (const text of texts) counter.add(text);

  const { tokens, merges } = trainBpe(counter.counts, { vocabulary, specialTokens, minFrequency });
  const file = checkTokenizerFile(
    {
      added_tokens: specialTokens.map((content, id) => ({ id, content, normalized: false, special: true })),
      pre_tokenizer:
        pattern === GPT2_PATTERN
          ? byteLevel
          : { type: "Sequence", pretokenizers: [splitStep, { ...byteLevel, use_regex: false }] },
      post_processor: { ...byteLevel, add_prefix_space: true, trim_offsets: false },
      decoder: { ...byteLevel, add_prefix_space: true },
      model: {
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: merges.map(({ left, right }) => [tokens[left], tokens[right]]),
      },
    },
    "trained tokenizer",
  );
  return new ByteLevelTokenizer(file, options.config);
}
