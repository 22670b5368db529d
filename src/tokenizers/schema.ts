import { z } from "zod";
import { InputError } from "../tensor/errors.ts";

/**
 * The parts of Hugging Face's `tokenizer.json` that this reader knows, with keys in the order in which `tokenizers` writes them.
 * Every object is strict: an unknown key or kind is an error that names it, because a tokenizer read approximately gives wrong ids
 * without anyone noticing.
 */
const refuseOthers = (what: string, known: readonly string[]) => ({
  error: (issue: { readonly input?: unknown }): string => {
    const type = (issue.input as { readonly type?: unknown } | null | undefined)?.type;
    return `the ${what} ${JSON.stringify(type) ?? "without a type"} is not supported yet; known are ${known.join(", ")}`;
  },
});

const pattern = z.union([z.strictObject({ Regex: z.string() }), z.strictObject({ String: z.string() })]);

const simpleNormalizers = [
  z.strictObject({ type: z.enum(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"]) }),
  z.strictObject({ type: z.literal("Strip"), strip_left: z.boolean(), strip_right: z.boolean() }),
  z.strictObject({ type: z.literal("Prepend"), prepend: z.string() }),
  z.strictObject({ type: z.literal("Replace"), pattern, content: z.string() }),
  z.strictObject({ type: z.literal("Precompiled"), precompiled_charsmap: z.string() }),
  z.strictObject({
    type: z.literal("BertNormalizer"),
    clean_text: z.boolean().default(true),
    handle_chinese_chars: z.boolean().default(true),
    strip_accents: z.boolean().nullable().default(null),
    lowercase: z.boolean().default(true),
  }),
] as const;
const NORMALIZERS =
  "NFC NFD NFKC NFKD Lowercase StripAccents Nmt ByteLevel Strip Prepend Replace Precompiled BertNormalizer Sequence".split(
    " ",
  );
type SimpleNormalizer = z.output<(typeof simpleNormalizers)[number]>;
export type Normalizer = SimpleNormalizer | { readonly type: "Sequence"; readonly normalizers: readonly Normalizer[] };
const normalizer: z.ZodType<Normalizer> = z.lazy(() =>
  z.discriminatedUnion(
    "type",
    [...simpleNormalizers, z.strictObject({ type: z.literal("Sequence"), normalizers: z.array(normalizer) })],
    refuseOthers("normalizer", NORMALIZERS),
  ),
);

const byteLevelKeys = {
  type: z.literal("ByteLevel"),
  add_prefix_space: z.boolean().default(true),
  trim_offsets: z.boolean().default(true),
  use_regex: z.boolean().default(true),
};
/** Older files say `add_prefix_space`, newer ones `prepend_scheme`. */
const metaspace = z
  .strictObject({
    type: z.literal("Metaspace"),
    replacement: z.string().length(1).default("\u2581"),
    str_rep: z.string().optional(),
    add_prefix_space: z.boolean().optional(),
    prepend_scheme: z.enum(["always", "never", "first"]).optional(),
    split: z.boolean().default(true),
  })
  .refine(
    ({ add_prefix_space, prepend_scheme }) =>
      add_prefix_space === undefined ||
      prepend_scheme === undefined ||
      add_prefix_space === (prepend_scheme !== "never"),
    "add_prefix_space says otherwise than prepend_scheme",
  )
  .transform((part) => ({
    type: part.type,
    replacement: part.replacement,
    prepend_scheme: part.prepend_scheme ?? (part.add_prefix_space === false ? ("never" as const) : ("always" as const)),
    split: part.split,
  }));
export type Metaspace = z.output<typeof metaspace>;
const behavior = z.enum(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]);
const simplePreTokenizers = [
  z.strictObject(byteLevelKeys),
  metaspace,
  z.strictObject({ type: z.enum(["BertPreTokenizer", "Whitespace", "WhitespaceSplit"]) }),
  z.strictObject({ type: z.literal("FixedLength"), length: z.int().positive().default(5) }),
  z.strictObject({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) }),
  z.strictObject({ type: z.literal("Punctuation"), behavior: behavior.default("Isolated") }),
  z.strictObject({ type: z.literal("CharDelimiterSplit"), delimiter: z.string() }),
  z.strictObject({ type: z.literal("Split"), pattern, behavior, invert: z.boolean().default(false) }),
] as const;
const PRE_TOKENIZERS =
  "ByteLevel Metaspace BertPreTokenizer Whitespace WhitespaceSplit FixedLength Digits Punctuation CharDelimiterSplit Split Sequence".split(
    " ",
  );
type SimplePreTokenizer = z.output<(typeof simplePreTokenizers)[number]>;
export type PreTokenizer =
  | SimplePreTokenizer
  | { readonly type: "Sequence"; readonly pretokenizers: readonly PreTokenizer[] };
const preTokenizer: z.ZodType<PreTokenizer> = z.lazy(() =>
  z.discriminatedUnion(
    "type",
    [...simplePreTokenizers, z.strictObject({ type: z.literal("Sequence"), pretokenizers: z.array(preTokenizer) })],
    refuseOthers("pre_tokenizer", PRE_TOKENIZERS),
  ),
);

const templateItem = z.union([
  z.strictObject({ SpecialToken: z.strictObject({ id: z.string(), type_id: z.int() }) }),
  z.strictObject({ Sequence: z.strictObject({ id: z.enum(["A", "B"]), type_id: z.int() }) }),
]);
const tokenAndId = z.tuple([z.string(), z.int()]);
const simpleProcessors = [
  z.strictObject(byteLevelKeys),
  z.strictObject({ type: z.literal("BertProcessing"), sep: tokenAndId, cls: tokenAndId }),
  z.strictObject({
    type: z.literal("RobertaProcessing"),
    sep: tokenAndId,
    cls: tokenAndId,
    trim_offsets: z.boolean().default(true),
    add_prefix_space: z.boolean().default(true),
  }),
  z.strictObject({
    type: z.literal("TemplateProcessing"),
    single: z.array(templateItem),
    pair: z.array(templateItem),
    special_tokens: z.record(
      z.string(),
      z.strictObject({ id: z.string(), ids: z.array(z.int()), tokens: z.array(z.string()) }),
    ),
  }),
] as const;
const PROCESSORS = "ByteLevel BertProcessing RobertaProcessing TemplateProcessing Sequence".split(" ");
export type PostProcessor =
  | z.output<(typeof simpleProcessors)[number]>
  | { readonly type: "Sequence"; readonly processors: readonly PostProcessor[] };
const postProcessor: z.ZodType<PostProcessor> = z.lazy(() =>
  z.discriminatedUnion(
    "type",
    [...simpleProcessors, z.strictObject({ type: z.literal("Sequence"), processors: z.array(postProcessor) })],
    refuseOthers("post_processor", PROCESSORS),
  ),
);

const simpleDecoders = [
  z.strictObject(byteLevelKeys),
  metaspace,
  z.strictObject({ type: z.enum(["ByteFallback", "Fuse"]) }),
  z.strictObject({
    type: z.literal("WordPiece"),
    prefix: z.string().default("##"),
    cleanup: z.boolean().default(true),
  }),
  z.strictObject({
    type: z.literal("CTC"),
    pad_token: z.string(),
    word_delimiter_token: z.string(),
    cleanup: z.boolean(),
  }),
  z.strictObject({ type: z.literal("BPEDecoder"), suffix: z.string().default("</w>") }),
  z.strictObject({
    type: z.literal("Strip"),
    content: z.string().length(1),
    start: z.int().nonnegative(),
    stop: z.int().nonnegative(),
  }),
  z.strictObject({ type: z.literal("Replace"), pattern, content: z.string() }),
] as const;
const DECODERS = "ByteLevel Metaspace ByteFallback Fuse WordPiece CTC BPEDecoder Strip Replace Sequence".split(" ");
export type Decoder =
  | z.output<(typeof simpleDecoders)[number]>
  | { readonly type: "Sequence"; readonly decoders: readonly Decoder[] };
const decoder: z.ZodType<Decoder> = z.lazy(() =>
  z.discriminatedUnion(
    "type",
    [...simpleDecoders, z.strictObject({ type: z.literal("Sequence"), decoders: z.array(decoder) })],
    refuseOthers("decoder", DECODERS),
  ),
);

const addedToken = z.strictObject({
  id: z.int().nonnegative(),
  content: z.string().min(1),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean(),
  special: z.boolean().default(false),
});
export type AddedToken = z.output<typeof addedToken>;

/** Ids from here on are no tokens: no model has a table of so many rows. */
const TOO_MANY = 2 ** 24;

const idProblem = (id: unknown): string | undefined =>
  typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= TOO_MANY
    ? `expected a whole number from 0 to ${TOO_MANY - 1}, and found ${shown(id)}`
    : undefined;

/** A value as a message can hold it. */
export function shown(value: unknown): string {
  const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

/** What is wrong with a vocabulary, an object of token: id. Two tokens must not share an id; ids that no token has are allowed. */
export function vocabularyProblem(value: unknown): string | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return `expected an object of token: id, and found ${shown(value)}`;
  const tokens = new Map<number, string>();
  for (const [token, id] of Object.entries(value as Record<string, unknown>)) {
    const problem = idProblem(id);
    if (problem !== undefined) return `the id of ${JSON.stringify(token)}: ${problem}`;
    const other = tokens.get(id as number);
    if (other !== undefined) return `${JSON.stringify(other)} and ${JSON.stringify(token)} both have the id ${id}`;
    tokens.set(id as number, token);
  }
  return tokens.size === 0 ? "the vocabulary is empty" : undefined;
}

function mergesProblem(value: unknown): string | undefined {
  if (!Array.isArray(value)) return `expected an array of "left right" or [left, right], and found ${shown(value)}`;
  const fits = (merge: unknown): boolean =>
    typeof merge === "string"
      ? merge.indexOf(" ") > 0
      : Array.isArray(merge) && merge.length === 2 && merge.every((side) => typeof side === "string");
  const wrong = value.findIndex((merge) => !fits(merge));
  return wrong === -1
    ? undefined
    : `expected "left right" or [left, right] at ${wrong}, and found ${shown(value[wrong])}`;
}

function piecesProblem(value: unknown): string | undefined {
  if (!Array.isArray(value)) return `expected an array of [piece, score], and found ${shown(value)}`;
  const fits = (entry: unknown): boolean =>
    Array.isArray(entry) && entry.length === 2 && typeof entry[0] === "string" && typeof entry[1] === "number";
  const wrong = value.findIndex((entry) => !fits(entry));
  return wrong === -1 ? undefined : `expected [piece, score] at ${wrong}, and found ${shown(value[wrong])}`;
}

const checkedBy = <T>(problem: (value: unknown) => string | undefined) =>
  z.custom<T>((value) => problem(value) === undefined, { error: (issue) => problem(issue.input) ?? "" });

/** Vocabularies are checked by hand: tens of thousands of entries, and keys such as "0" or "__proto__" must stay keys. */
const vocabulary = checkedBy<Record<string, number>>(vocabularyProblem);
const mergeList = checkedBy<(string | [string, string])[]>(mergesProblem);

const byId = (entries: Record<string, number>) => new Map(Object.entries(entries).sort((a, b) => a[1] - b[1]));
const bpe = z.strictObject({
  type: z.literal("BPE").default("BPE"),
  // Zero drops nothing.
  dropout: z
    .union([z.null(), z.literal(0)], "must be null or 0: a tokenizer that drops merges at random is not supported")
    .default(null),
  unk_token: z.string().nullable().default(null),
  continuing_subword_prefix: z.string().nullable().default(null),
  end_of_word_suffix: z.string().nullable().default(null),
  fuse_unk: z.boolean().default(false),
  byte_fallback: z.boolean().default(false),
  ignore_merges: z.boolean().default(false),
  vocab: vocabulary.transform(byId),
  merges: mergeList.transform((merges) =>
    merges.map((merge): [string, string] => {
      if (typeof merge !== "string") return merge;
      const space = merge.indexOf(" ");
      return [merge.slice(0, space), merge.slice(space + 1)];
    }),
  ),
});
const unigram = z.strictObject({
  type: z.literal("Unigram"),
  unk_id: z.int().nonnegative().nullable(),
  vocab: checkedBy<[string, number][]>(piecesProblem),
  byte_fallback: z.boolean().default(false),
});
const wordPiece = z.strictObject({
  type: z.literal("WordPiece"),
  unk_token: z.string(),
  continuing_subword_prefix: z.string(),
  max_input_chars_per_word: z.int().positive(),
  vocab: vocabulary.transform(byId),
});
const wordLevel = z.strictObject({
  type: z.literal("WordLevel"),
  vocab: vocabulary.transform(byId),
  unk_token: z.string(),
});

const truncation = z.strictObject({
  direction: z.enum(["Left", "Right"]).default("Right"),
  max_length: z.int().nonnegative(),
  strategy: z.enum(["LongestFirst", "OnlyFirst", "OnlySecond"]),
  stride: z.int().nonnegative(),
});
const padding = z.strictObject({
  strategy: z.union([z.literal("BatchLongest"), z.strictObject({ Fixed: z.int().nonnegative() })]),
  direction: z.enum(["Left", "Right"]),
  pad_to_multiple_of: z.int().nonnegative().nullable(),
  pad_id: z.int().nonnegative(),
  pad_type_id: z.int().nonnegative(),
  pad_token: z.string(),
});

const tokenizerFile = z.strictObject({
  version: z.literal("1.0").default("1.0"),
  truncation: truncation.nullable().default(null),
  padding: padding.nullable().default(null),
  added_tokens: z.array(addedToken).default([]),
  normalizer: normalizer.nullable().default(null),
  pre_tokenizer: preTokenizer.nullable().default(null),
  post_processor: postProcessor.nullable().default(null),
  decoder: decoder.nullable().default(null),
  // Old files leave the model's type out; only BPE ever did.
  model: z.preprocess(
    (value) => (typeof value === "object" && value !== null && !("type" in value) ? { type: "BPE", ...value } : value),
    z.discriminatedUnion(
      "type",
      [bpe, unigram, wordPiece, wordLevel],
      refuseOthers("model", ["BPE", "Unigram", "WordPiece", "WordLevel"]),
    ),
  ),
});

/** A `tokenizer.json`, every default written. */
export type TokenizerFile = z.output<typeof tokenizerFile>;
export type Truncation = z.output<typeof truncation>;
export type Padding = z.output<typeof padding>;
export type BpePart = z.output<typeof bpe>;
export type UnigramPart = z.output<typeof unigram>;
export type WordPiecePart = z.output<typeof wordPiece>;

/**
 * Checks parsed JSON against the format.
 * @param place file name for messages
 * @throws InputError naming each part that is unknown or malformed
 */
export function checkTokenizerFile(json: unknown, place: string): TokenizerFile {
  if (typeof json !== "object" || json === null || Array.isArray(json))
    throw new InputError(`${place}: expected a JSON object, and found ${shown(json)}.`);
  const result = tokenizerFile.safeParse(json);
  if (result.success) return result.data;
  const problems = result.error.issues.slice(0, 5).map((issue) => {
    const path = issue.path.join(".");
    return path === "" ? issue.message : `${path}: ${issue.message}`;
  });
  throw new InputError(`${place}: this tokenizer cannot be read exactly. ${problems.join("; ")}.`);
}
