import { InputError } from "../tensor/errors.ts";
import { joinedToken, lastPlaces, learnMerges } from "./bpe-train.ts";
import { decodeUtf8, encodeUtf8, wellFormed } from "./bytes.ts";
import type { TokenizerConfig } from "./folder.ts";
import { nativeText, WHOLE_TEXT } from "./native.ts";
import { normalizeBy } from "./normalize.ts";
import { cutterOf } from "./pieces.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { checkTokenizerFile } from "./schema.ts";
import { joined, type TrainingProgress, type TrainManyOptions, trainByteLevel } from "./train.ts";
import type { Tokenizer } from "./types.ts";
import { trainUnigram } from "./unigram-train.ts";

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

type Texts = Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;

/**
 * Trains a tokenizer of any kind from texts that arrive one by one: `bpe` (byte-level, as GPT-2), `sentencepiece` (BPE on characters with
 * byte fallback, as LLaMA), `unigram` (as T5), `wordpiece` (as BERT). Memory holds each distinct word once with its count.
 * @throws InputError when an option does not fit the kind, or `vocabulary` has no room for what must be in it
 */
export async function trainTokenizer(texts: Texts, options: TrainKindOptions): Promise<Tokenizer> {
  const { kind, coverage, alphabet, byteFallback, lowercase, ...rest } = options;
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

/** Words and how often they occur, after the normalizer and the pre-tokenizer. */
async function countWords(
  texts: Texts,
  normalize: (text: string) => string,
  cut: ReturnType<typeof cutterOf>,
  onProgress: ((progress: TrainingProgress) => void) | undefined,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let bytes = 0;
  for await (const each of texts) {
    const text = typeof each === "string" ? wellFormed(each) : decodeUtf8(each);
    cut(
      normalize(text),
      (word) => {
        if (word !== "") counts.set(word, (counts.get(word) ?? 0) + 1);
      },
      true,
    );
    bytes += typeof each === "string" ? Buffer.byteLength(each) : each.length;
    onProgress?.({ phase: "counting", bytes, merges: 0 });
  }
  return counts;
}

/**
 * The characters that get a place: the most frequent ones until `coverage` of the text is covered, `limit` at most; of equally frequent ones
 * the smaller code points first. In the order of code points.
 */
function alphabetOf(words: ReadonlyMap<string, number>, coverage: number, limit = Number.POSITIVE_INFINITY): string[] {
  if (!(coverage > 0 && coverage <= 1))
    throw new InputError(`coverage: ${coverage} is no part of the text. Use more than 0 and at most 1.`);
  const counts = new Map<string, number>();
  let total = 0;
  for (const [word, count] of words) {
    for (const character of word) {
      counts.set(character, (counts.get(character) ?? 0) + count);
      total += count;
    }
  }
  const ordered = [...counts].sort((a, b) => b[1] - a[1] || a[0].codePointAt(0)! - b[0].codePointAt(0)!);
  const kept: string[] = [];
  let covered = 0;
  for (const [character, count] of ordered) {
    if (kept.length >= limit || covered >= total * coverage) break;
    kept.push(character);
    covered += count;
  }
  return kept.sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
}

/** Merges over symbols that the caller chose, by the native kernels where they are built. */
async function merge(
  words: ReadonlyMap<string, number>,
  symbolsOf: (word: string) => number[],
  tokens: readonly string[],
  { vocabulary, minFrequency = 0, onProgress }: TrainKindOptions,
  prefix: string,
): Promise<{ tokens: string[]; merges: [string, string][] }> {
  if (vocabulary < tokens.length) {
    throw new InputError(
      `vocabulary: ${vocabulary} has no room for the ${tokens.length} special tokens, bytes and characters. ` +
        "Ask for more, or for a smaller alphabet.",
    );
  }
  const encoded = Array.from(words.keys(), symbolsOf);
  const counts = Float64Array.from(words.values());
  const named = (all: readonly string[], merges: readonly { left: number; right: number; id: number }[]) => ({
    tokens: [...all],
    merges: lastPlaces(merges).map(({ left, right }): [string, string] => [all[left]!, all[right]!]),
  });
  const text = nativeText();
  if (text === undefined) {
    const model = learnMerges(
      encoded.map((ids) => Int32Array.from(ids)),
      counts,
      { tokens, vocabulary, minFrequency, prefix },
    );
    return named(model.tokens, model.merges);
  }
  let total = 0;
  const ends = Float64Array.from(encoded, (ids) => {
    total += ids.length;
    return total;
  });
  const symbols = new Uint32Array(total);
  encoded.forEach((ids, i) => {
    symbols.set(ids, ends[i]! - ids.length);
  });
  const spelled = joined(tokens.map(encodeUtf8));
  const trainer = text.bpeTrainer(WHOLE_TEXT);
  const timer = setInterval(() => onProgress?.({ phase: "merging", bytes: 0, merges: text.bpeProgress(trainer) }), 500);
  try {
    const limits = Float64Array.of(vocabulary, minFrequency);
    const flat = await text.bpeLearnSymbols(
      trainer,
      symbols,
      ends,
      counts,
      spelled.bytes,
      spelled.ends,
      limits,
      new Uint8Array(encodeUtf8(prefix)),
    );
    const all = [...tokens];
    const merges = Array.from({ length: flat.length / 3 }, (_, i) => {
      const left = flat[3 * i]!;
      const right = flat[3 * i + 1]!;
      const id = flat[3 * i + 2]!;
      all[id] ??= joinedToken(all[left]!, all[right]!, prefix);
      return { left, right, id };
    });
    return named(all, merges);
  } finally {
    clearInterval(timer);
  }
}

const BYTES = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
const METASPACE = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true } as const;

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
  const words = await countWords(texts, (text) => text, cutterOf(METASPACE), options.onProgress);
  const special = withSpecial(["<unk>", "<s>", "</s>"], options.specialTokens);
  const initial = withSpecial(
    [...special, ...(byteFallback ? BYTES : [])],
    alphabetOf(words, coverage, options.alphabet),
  );
  const ids = new Map(initial.map((token, id) => [token, id]));
  const symbols = (word: string): number[] => [...word].flatMap((character) => ids.get(character) ?? []);
  const { tokens, merges } = await merge(words, symbols, initial, options, "");
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
  const words = await countWords(texts, normalizeBy(normalizer), cutterOf(METASPACE), options.onProgress);
  const special = withSpecial(["<unk>", "<s>", "</s>"], options.specialTokens);
  const fixed = [...special, ...(byteFallback ? BYTES : [])];
  const { pieces, scores } = await trainUnigram(words, {
    pieces: vocabulary - fixed.length,
    alphabet: new Set(alphabetOf(words, coverage, options.alphabet)),
    onRound: (merges) => options.onProgress?.({ phase: "merging", bytes: 0, merges }),
  });
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
  const cut = cutterOf({ type: "BertPreTokenizer" });
  const words = await countWords(texts, normalizeBy(normalizer), cut, options.onProgress);
  const special = withSpecial(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], options.specialTokens);
  const alphabet = new Set(alphabetOf(words, coverage, options.alphabet));
  // Characters inside of words have tokens of their own, in the order of code points.
  const inner = new Set<string>();
  for (const word of words.keys()) for (const c of [...word].slice(1)) if (alphabet.has(c)) inner.add(c);
  const within = [...inner].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!).map((c) => `##${c}`);
  const initial = withSpecial([...special, ...alphabet], within);
  const ids = new Map(initial.map((token, id) => [token, id]));
  const symbols = (word: string): number[] =>
    [...word].flatMap((c, i) => (alphabet.has(c) ? [ids.get(i === 0 ? c : `##${c}`)!] : []));
  const { tokens } = await merge(words, symbols, initial, options, "##");
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
