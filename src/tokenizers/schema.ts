import { z } from "zod";
import { InputError } from "../tensor/errors.ts";

/**
 * The parts of Hugging Face's `tokenizer.json` that this reader knows, with keys in the order in which `tokenizers` writes them.
 * Every object is strict: an unknown key or kind is an error that names it, because a tokenizer read approximately gives wrong ids
 * without anyone noticing.
 */
export const refuseOthers = (what: string, known: readonly string[]) => ({
  error: (issue: { readonly input?: unknown }): string => {
    const type = (issue.input as { readonly type?: unknown } | null | undefined)?.type;
    return `the ${what} ${JSON.stringify(type) ?? "without a type"} is not supported yet; known are ${known.join(", ")}`;
  },
});

const unicodeForm = z.strictObject({ type: z.enum(["NFC", "NFD", "NFKC", "NFKD"]) });
const NORMALIZERS = ["NFC", "NFD", "NFKC", "NFKD", "Sequence"];
const normalizer = z.discriminatedUnion(
  "type",
  [
    unicodeForm,
    z.strictObject({
      type: z.literal("Sequence"),
      normalizers: z.array(z.discriminatedUnion("type", [unicodeForm], refuseOthers("normalizer", NORMALIZERS))),
    }),
  ],
  refuseOthers("normalizer", NORMALIZERS),
);

const byteLevelPreTokenizer = z.strictObject({
  type: z.literal("ByteLevel"),
  add_prefix_space: z.boolean().default(true),
  trim_offsets: z.boolean().default(true),
  use_regex: z.boolean().default(true),
});
const digits = z.strictObject({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) });
const split = z.strictObject({
  type: z.literal("Split"),
  pattern: z.union([z.strictObject({ Regex: z.string() }), z.strictObject({ String: z.string() })]),
  behavior: z.enum(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]),
  invert: z.boolean().default(false),
});
const PRE_TOKENIZERS = ["ByteLevel", "Digits", "Split", "Sequence"];
const preTokenizerStep = z.discriminatedUnion(
  "type",
  [byteLevelPreTokenizer, digits, split],
  refuseOthers("pre_tokenizer", PRE_TOKENIZERS),
);
const preTokenizer = z.discriminatedUnion(
  "type",
  [
    byteLevelPreTokenizer,
    digits,
    split,
    z.strictObject({ type: z.literal("Sequence"), pretokenizers: z.array(preTokenizerStep) }),
  ],
  refuseOthers("pre_tokenizer", PRE_TOKENIZERS),
);

const byteLevelProcessor = z.strictObject({
  type: z.literal("ByteLevel"),
  add_prefix_space: z.boolean().default(true),
  trim_offsets: z.boolean().default(true),
  use_regex: z.boolean().default(true),
});
const templateItem = z.union([
  z.strictObject({ SpecialToken: z.strictObject({ id: z.string(), type_id: z.int() }) }),
  z.strictObject({ Sequence: z.strictObject({ id: z.enum(["A", "B"]), type_id: z.int() }) }),
]);
const template = z.strictObject({
  type: z.literal("TemplateProcessing"),
  single: z.array(templateItem),
  pair: z.array(templateItem),
  special_tokens: z.record(
    z.string(),
    z.strictObject({ id: z.string(), ids: z.array(z.int()), tokens: z.array(z.string()) }),
  ),
});
const PROCESSORS = ["ByteLevel", "TemplateProcessing", "Sequence"];
const postProcessor = z.discriminatedUnion(
  "type",
  [
    byteLevelProcessor,
    template,
    z.strictObject({
      type: z.literal("Sequence"),
      processors: z.array(
        z.discriminatedUnion("type", [byteLevelProcessor, template], refuseOthers("post_processor", PROCESSORS)),
      ),
    }),
  ],
  refuseOthers("post_processor", PROCESSORS),
);

const decoder = z.discriminatedUnion(
  "type",
  [
    z.strictObject({
      type: z.literal("ByteLevel"),
      add_prefix_space: z.boolean().default(true),
      trim_offsets: z.boolean().default(true),
      use_regex: z.boolean().default(true),
    }),
  ],
  refuseOthers("decoder", ["ByteLevel"]),
);

export const addedToken = z.strictObject({
  id: z.int().nonnegative(),
  content: z.string().min(1),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean(),
  special: z.boolean().default(false),
});

/** Vocabularies are checked by hand: tens of thousands of entries, and keys such as "0" or "__proto__" must stay keys. */
export const vocabulary = z.custom<Record<string, number>>(
  (value) =>
    typeof value === "object" && value !== null && Object.values(value).every((id) => Number.isInteger(id) && id >= 0),
  "must be an object of token: id",
);
export const mergeList = z.custom<(string | [string, string])[]>(
  (value) =>
    Array.isArray(value) &&
    value.every((merge: unknown) =>
      typeof merge === "string"
        ? merge.indexOf(" ") > 0
        : Array.isArray(merge) && merge.length === 2 && merge.every((side) => typeof side === "string"),
    ),
  'must be an array of "left right" or [left, right]',
);

const bpe = z.strictObject({
  type: z.literal("BPE").default("BPE"),
  dropout: z.null("must be null: a tokenizer that drops merges at random is not supported").default(null),
  unk_token: z.string().nullable().default(null),
  continuing_subword_prefix: z.literal(["", null], "must be empty: prefixes are not supported yet").default(null),
  end_of_word_suffix: z.literal(["", null], "must be empty: suffixes are not supported yet").default(null),
  fuse_unk: z.boolean().default(false),
  byte_fallback: z.literal(false, "must be false: byte fallback (SentencePiece) is not supported yet").default(false),
  ignore_merges: z.boolean().default(false),
  vocab: vocabulary.transform((entries) => new Map(Object.entries(entries).sort((a, b) => a[1] - b[1]))),
  merges: mergeList.transform((merges) =>
    merges.map((merge): [string, string] => {
      if (typeof merge !== "string") return merge;
      const space = merge.indexOf(" ");
      return [merge.slice(0, space), merge.slice(space + 1)];
    }),
  ),
});

/** Byte-level BPE. file.ts has the other kinds. */
export const tokenizerFile = z.strictObject({
  version: z.literal("1.0").default("1.0"),
  truncation: z.null("must be null: truncation kept in the tokenizer is not supported").default(null),
  padding: z.null("must be null: padding kept in the tokenizer is not supported").default(null),
  added_tokens: z.array(addedToken).default([]),
  normalizer: normalizer.nullable().default(null),
  pre_tokenizer: preTokenizer.nullable().default(null),
  post_processor: postProcessor.nullable().default(null),
  decoder: decoder.nullable().default(null),
  model: z.preprocess((value, context) => {
    const type = (value as { readonly type?: unknown } | null)?.type;
    if (type !== undefined && type !== "BPE") {
      context.addIssue({
        code: "custom",
        message: `the model ${JSON.stringify(type)} is not supported yet; known is BPE`,
      });
      return z.NEVER;
    }
    return value;
  }, bpe),
});

/** A `tokenizer.json`, every default written. */
export type TokenizerFile = z.output<typeof tokenizerFile>;
export type Normalizer = z.output<typeof normalizer>;
export type PreTokenizer = z.output<typeof preTokenizer>;
export type PostProcessor = z.output<typeof postProcessor>;
export type AddedToken = z.output<typeof addedToken>;

/**
 * Checks parsed JSON against the format.
 * @param place file name for messages
 * @throws InputError naming each part that is unknown or malformed
 */
export function checkTokenizerFile(json: unknown, place: string): TokenizerFile {
  const result = tokenizerFile.safeParse(json);
  if (result.success) return result.data;
  const problems = result.error.issues.slice(0, 5).map((issue) => {
    const path = issue.path.join(".");
    return path === "" ? issue.message : `${path}: ${issue.message}`;
  });
  throw new InputError(`${place}: this tokenizer cannot be read exactly. ${problems.join("; ")}.`);
}
