import { InputError } from "../tensor/errors.ts";
import type { TokenizerConfig } from "./folder.ts";
import { type CountedWords, type Learner, learnerOf, METASPACE, type SymbolIds, type Texts } from "./learner.ts";
import { byteToken } from "./models.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { checkTokenizerFile } from "./schema.ts";
import { counted, type TrainManyOptions, trainByteLevel, watched } from "./train.ts";
import type { Tokenizer } from "./types.ts";

/** The kinds that can be trained. */
export const TRAINABLE = ["bpe", "sentencepiece", "unigram", "wordpiece"] as const;
export type TokenizerKind = (typeof TRAINABLE)[number];

export interface TrainKindOptions extends Omit<TrainManyOptions, "pattern"> {
  readonly kind: TokenizerKind;
  /** For `bpe` only: the splitting expression. */
  readonly pattern?: string;
  /** Part of the text's characters that get a place of their own (the most frequent ones). Default 0.9995; 1 for `wordpiece`. */
  readonly coverage?: number;
  /** Characters with a place of their own at most. Default: no limit but `coverage`. */
  readonly alphabet?: number;
  /** 256 tokens for bytes, so that no character is unknown (`sentencepiece`, `unigram`). Default true for `sentencepiece`. */
  readonly byteFallback?: boolean;
  /** Lower case, and no accents (`wordpiece`). Default true, as BERT's uncased models. */
  readonly lowercase?: boolean;
}

/**
 * Trains a tokenizer of any kind from texts that arrive one by one: `bpe` (byte-level, as GPT-2), `sentencepiece` (BPE on characters with
 * byte fallback, as LLaMA; lines are sentences), `unigram` (as T5), `wordpiece` (as BERT). Texts may be larger than memory: see `LearnerOptions`.
 * @throws InputError when an option does not fit the kind, or `vocabulary` has no room for what must be in it
 */
export async function trainTokenizer(texts: Texts, options: TrainKindOptions): Promise<Tokenizer> {
  const { kind, coverage, alphabet, byteFallback, lowercase, ...rest } = options;
  if (coverage !== undefined && !(coverage > 0 && coverage <= 1))
    throw new InputError(`coverage: ${coverage} is no part of the text. Use more than 0 and at most 1.`);
  const refuse = (name: string, value: unknown): void => {
    if (value !== undefined) throw new InputError(`${name}: a tokenizer of the kind ${kind} has no such option.`);
  };
  if (kind === "bpe") {
    for (const [name, value] of Object.entries({ coverage, alphabet, byteFallback, lowercase })) refuse(name, value);
    return trainByteLevel(texts, rest);
  }
  refuse("pattern", options.pattern);
  if (kind === "wordpiece") {
    refuse("byteFallback", byteFallback);
    return trainWordPiece(texts, options);
  }
  refuse("lowercase", lowercase);
  return kind === "unigram" ? trainUnigramTokenizer(texts, options) : trainSentencePieceBpe(texts, options);
}

/**
 * The characters that get a place: the most frequent ones until `coverage` of the text is covered, `limit` at most; of equally frequent ones
 * the smaller code points first. In the order of code points.
 */
function alphabetOf({ points, counts }: CountedWords, coverage: number, limit = Number.POSITIVE_INFINITY): string[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const ordered = Array.from(points, (point, i) => ({ point, count: counts[i]! }));
  ordered.sort((a, b) => b.count - a.count || a.point - b.point);
  const kept: number[] = [];
  let covered = 0;
  for (const { point, count } of ordered) {
    if (kept.length >= limit || covered >= total * coverage) break;
    kept.push(point);
    covered += count;
  }
  return kept.sort((a, b) => a - b).map((point) => String.fromCodePoint(point));
}

/** Merges over characters. */
async function merge(
  learner: Learner,
  symbols: ReadonlyMap<string, SymbolIds>,
  tokens: readonly string[],
  options: TrainKindOptions,
  prefix: string,
): Promise<{ tokens: string[]; merges: [string, string][] }> {
  const { vocabulary, minFrequency = 0 } = options;
  if (vocabulary < tokens.length) {
    throw new InputError(
      `vocabulary: ${vocabulary} has no room for the ${tokens.length} special tokens, bytes and characters. ` +
        "Ask for more, or for a smaller alphabet.",
    );
  }
  const plan = { tokens, vocabulary, minFrequency, prefix, symbols };
  const model = await watched(learner, options, () => learner.merges(plan));
  const spelled = ({ left, right }: { left: number; right: number }): [string, string] => [
    model.tokens[left]!,
    model.tokens[right]!,
  ];
  return { tokens: model.tokens, merges: model.merges.map(spelled) };
}

const BYTES = Array.from({ length: 256 }, (_, byte) => byteToken(byte));

const added = (contents: readonly string[], idOf: (content: string) => number) =>
  contents.map((content) => ({ id: idOf(content), content, normalized: false, special: true }));

const entries = (tokens: readonly string[]): Record<string, number> =>
  Object.fromEntries(tokens.map((token, id) => [token, id]));

/** `names` first, then those of `more` that are not among them. */
const withSpecial = (names: readonly string[], more: readonly string[] = []): string[] => [
  ...new Set([...names, ...more]),
];

const named = (config: TokenizerConfig | undefined, usual: TokenizerConfig): TokenizerConfig => ({
  ...usual,
  ...config,
});

async function trainSentencePieceBpe(texts: Texts, options: TrainKindOptions): Promise<Tokenizer> {
  const { byteFallback = true, coverage = 0.9995 } = options;
  const learner = learnerOf({ kind: "metaspace", normalizer: null }, options);
  const words = await counted(learner, texts, options);
  const special = withSpecial(["<unk>", "<s>", "</s>"], options.specialTokens);
  const alphabet = alphabetOf(words, coverage, options.alphabet);
  const initial = withSpecial([...special, ...(byteFallback ? BYTES : [])], alphabet);
  const ids = new Map(initial.map((token, id) => [token, id]));
  const symbols = new Map(alphabet.map((c) => [c, { first: ids.get(c), inner: ids.get(c) }]));
  const { tokens, merges } = await merge(learner, symbols, initial, options, "");
  const file = checkTokenizerFile(
    {
      added_tokens: added(special, (token) => ids.get(token)!),
      pre_tokenizer: METASPACE,
      decoder: {
        type: "Sequence",
        decoders: [
          { type: "Replace", pattern: { String: "\u2581" }, content: " " },
          { type: "ByteFallback" },
          { type: "Fuse" },
          { type: "Strip", content: " ", start: 1, stop: 0 },
        ],
      },
      model: {
        type: "BPE",
        unk_token: "<unk>",
        fuse_unk: true,
        byte_fallback: byteFallback,
        vocab: entries(tokens),
        merges,
      },
    },
    "trained tokenizer",
  );
  return new PipelineTokenizer(
    file,
    named(options.config, { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" }),
  );
}

async function trainUnigramTokenizer(texts: Texts, options: TrainKindOptions): Promise<Tokenizer> {
  const { byteFallback = false, coverage = 0.9995, vocabulary } = options;
  const normalizer = {
    type: "Sequence",
    normalizers: [{ type: "Nmt" }, { type: "NFKC" }, { type: "Replace", pattern: { Regex: " {2,}" }, content: " " }],
  } as const;
  const learner = learnerOf({ kind: "metaspace", normalizer }, options);
  const words = await counted(learner, texts, options);
  const special = withSpecial(["<unk>", "<s>", "</s>"], options.specialTokens);
  const fixed = [...special, ...(byteFallback ? BYTES : [])];
  const alphabet = alphabetOf(words, coverage, options.alphabet);
  const plan = { pieces: vocabulary - fixed.length, alphabet };
  const { pieces, scores } = await watched(learner, options, () => learner.unigram(plan));
  const vocab = [
    ...fixed.map((token): [string, number] => [token, 0]),
    ...pieces.flatMap((piece, i): [string, number][] => (fixed.includes(piece) ? [] : [[piece, scores[i]!]])),
  ];
  const file = checkTokenizerFile(
    {
      added_tokens: added(special, (token) => special.indexOf(token)),
      normalizer,
      pre_tokenizer: METASPACE,
      decoder: byteFallback ? { type: "Sequence", decoders: [{ type: "ByteFallback" }, METASPACE] } : METASPACE,
      model: { type: "Unigram", unk_id: 0, vocab, byte_fallback: byteFallback },
    },
    "trained tokenizer",
  );
  return new PipelineTokenizer(
    file,
    named(options.config, { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" }),
  );
}

async function trainWordPiece(texts: Texts, options: TrainKindOptions): Promise<Tokenizer> {
  const { coverage = 1, lowercase = true } = options;
  const normalizer = {
    type: "BertNormalizer",
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase,
  } as const;
  const learner = learnerOf({ kind: "bert", normalizer }, options);
  const words = await counted(learner, texts, options);
  const special = withSpecial(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], options.specialTokens);
  const alphabet = alphabetOf(words, coverage, options.alphabet);
  // Characters inside of words have tokens of their own, in the order of code points.
  const inner = new Set<string>();
  words.points.forEach((point, i) => {
    if (words.inner[i]! > 0) inner.add(String.fromCodePoint(point));
  });
  const within = alphabet.filter((c) => inner.has(c)).map((c) => `##${c}`);
  const initial = withSpecial([...special, ...alphabet], within);
  const ids = new Map(initial.map((token, id) => [token, id]));
  const symbols = new Map(alphabet.map((c) => [c, { first: ids.get(c), inner: ids.get(`##${c}`) }]));
  const { tokens } = await merge(learner, symbols, initial, options, "##");
  const idOf = (token: string): number => special.indexOf(token);
  const item = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
  const text = (id: "A" | "B", type_id: number) => ({ Sequence: { id, type_id } });
  const file = checkTokenizerFile(
    {
      added_tokens: added(special, idOf),
      normalizer,
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single: [item("[CLS]", 0), text("A", 0), item("[SEP]", 0)],
        pair: [item("[CLS]", 0), text("A", 0), item("[SEP]", 0), text("B", 1), item("[SEP]", 1)],
        special_tokens: Object.fromEntries(["[CLS]", "[SEP]"].map((id) => [id, { id, ids: [idOf(id)], tokens: [id] }])),
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab: entries(tokens),
      },
    },
    "trained tokenizer",
  );
  return new PipelineTokenizer(file, named(options.config, { pad_token: "[PAD]", unk_token: "[UNK]" }));
}
