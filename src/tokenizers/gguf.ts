import { InputError } from "../tensor/errors.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { aroundEach } from "./encoding.ts";
import type { TokenizerConfig } from "./folder.ts";
import { CUTS } from "./gguf-cuts.ts";
import { readGgufMetadata, type Value } from "./gguf-metadata.ts";
import { byteToken } from "./models.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { GPT2_PATTERN } from "./pretokenize.ts";
import { checkTokenizerFile, shown } from "./schema.ts";
import { PIECE, SentencePieceTokenizer } from "./sentencepiece-model.ts";
import type { Tokenizer } from "./types.ts";

const KINDS = "bert, gemma4, gpt2, llama, t5";

/**
 * The tokenizer inside a GGUF file: byte-level BPE ("gpt2"), SentencePiece BPE ("llama"), Unigram ("t5"), WordPiece ("bert"), and BPE on
 * characters ("gemma4"). Ids are llama.cpp's, but for text that spells special tokens, which counts as text unless `allowedSpecial` says otherwise.
 * @throws InputError naming the kind, the way of cutting text, or the field that is not known or does not fit
 */
export async function tokenizerFromGguf(path: string): Promise<Tokenizer> {
  const fields = await readGgufMetadata(path);
  const kind = fields.get("tokenizer.ggml.model");
  if (kind === undefined || kind === "none" || kind === "no_vocab")
    throw new InputError(`${path}: there is no tokenizer in this GGUF file.`);
  const make = typeof kind === "string" && Object.hasOwn(MAKERS, kind) ? MAKERS[kind] : undefined;
  if (make === undefined) {
    throw new InputError(
      `${path}: the tokenizer ${JSON.stringify(kind)} of this GGUF file is not supported; known are ${KINDS}.`,
    );
  }
  const parts = new Parts(path, fields);
  try {
    return make(parts);
  } catch (error) {
    if (!(error instanceof InputError) || error.message.startsWith(path)) throw error;
    throw new InputError(`${path}: ${error.message}`, { cause: error });
  }
}

/** The fields `tokenizer.ggml.*` of a file, checked. */
class Parts {
  readonly strings: readonly string[];
  /** A value of PIECE for each token; undefined where the file has none. */
  readonly types: Uint8Array | undefined;
  private readonly fields: ReadonlyMap<string, Value>;
  private readonly path: string;

  constructor(path: string, fields: ReadonlyMap<string, Value>) {
    this.path = path;
    this.fields = fields;
    // Tokens without text keep their place, under llama.cpp's name for them.
    this.strings = this.list("tokens", "string").map((token, id) => (token === "" ? `[EMPTY_${id}]` : token));
    if (this.strings.length === 0) this.refuse("tokens", "is empty");
    const places = new Map<string, number>();
    this.strings.forEach((token, id) => {
      if (places.has(token))
        this.refuse("tokens", `has ${JSON.stringify(token)} twice, as ${places.get(token)} and as ${id}`);
      places.set(token, id);
    });
    const types = this.optionalList("token_type", "number");
    this.types = types && Uint8Array.from(types);
    const known: readonly number[] = Object.values(PIECE);
    const strange = types?.findIndex((type) => !known.includes(type)) ?? -1;
    if (strange !== -1) this.refuse("token_type", `has the unknown type ${types![strange]} at ${strange}`);
  }

  refuse(name: string, what: string): never {
    throw new InputError(`${this.path}: tokenizer.ggml.${name} of this GGUF file ${what}.`);
  }

  private get(name: string): Value | undefined {
    return this.fields.get(`tokenizer.ggml.${name}`);
  }

  has(name: string): boolean {
    return this.get(name) !== undefined;
  }

  /** A field that is a list, and as long as the tokens unless they are yet to come. */
  list(name: string, of: "string"): string[];
  list(name: string, of: "number"): number[];
  list(name: string, of: "string" | "number"): (string | number)[] {
    const value = this.get(name);
    if (value === undefined) this.refuse(name, "is missing");
    if (!Array.isArray(value)) this.refuse(name, `is ${shown(value)}, where an array is expected`);
    const wrong = value.findIndex((item) => typeof item !== of);
    if (wrong !== -1) this.refuse(name, `has ${shown(value[wrong]!)} at ${wrong}, where a ${of} is expected`);
    return value as (string | number)[];
  }

  /** Numbers for each token, where the file has them. */
  optionalList(name: string, of: "number"): number[] | undefined {
    if (!this.has(name)) return undefined;
    const list = this.list(name, of);
    if (list.length !== this.strings.length)
      this.refuse(name, `has ${list.length} entries for ${this.strings.length} tokens`);
    return list;
  }

  flag(name: string, usual: boolean): boolean {
    const value = this.get(name) ?? usual;
    if (typeof value !== "boolean") this.refuse(name, `is ${shown(value)}, where true or false is expected`);
    return value;
  }

  text(name: string): string | undefined {
    const value = this.get(name);
    if (value !== undefined && typeof value !== "string")
      this.refuse(name, `is ${shown(value)}, where a string is expected`);
    return value;
  }

  /** A token's id; undefined where neither the file nor its kind has one. */
  id(name: string, usual?: number): number | undefined {
    const value = this.get(`${name}_token_id`);
    if (value === undefined) return usual !== undefined && usual < this.strings.length ? usual : undefined;
    const id = Number(value);
    // -1, as signed or as unsigned, is what converters write for none.
    if (id === -1 || id === 2 ** 32 - 1) return undefined;
    if (Number.isInteger(id) && this.strings[id] !== undefined) return id;
    return this.refuse(`${name}_token_id`, `is ${shown(value)}, which is none of the ${this.strings.length} tokens`);
  }

  /** The same, where a tokenizer cannot be without it. */
  required(name: string, usual?: number): number {
    return this.id(name, usual) ?? this.refuse(`${name}_token_id`, "is missing");
  }

  /** Ids put before and after a text. */
  frame(bos: { readonly id: number | undefined; readonly usual: boolean }, eos: typeof bos) {
    const adds = (name: "bos" | "eos", { id, usual }: typeof bos): number[] => {
      if (!this.flag(`add_${name}_token`, usual)) return [];
      return [id ?? this.refuse(`add_${name}_token`, `says that a token is added, and there is no ${name}_token_id`)];
    };
    return { before: adds("bos", bos), after: adds("eos", eos) };
  }

  config(ids: Readonly<Record<"bos" | "eos" | "unk" | "pad", number | undefined>>): TokenizerConfig {
    const template = this.fields.get("tokenizer.chat_template");
    const entries = Object.entries(ids).map(([name, id]) => [
      `${name}_token`,
      id === undefined ? undefined : this.strings[id],
    ]);
    entries.push(["chat_template", typeof template === "string" ? template : undefined]);
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined)) as TokenizerConfig;
  }

  /** Tokens found in text before all else: user-defined ones always, control tokens and the unknown one where they are allowed. */
  get added() {
    const special = (id: number) => this.types?.[id] === PIECE.control || this.types?.[id] === PIECE.unknown;
    return this.strings.flatMap((content, id) =>
      special(id) || this.types?.[id] === PIECE.userDefined
        ? [{ id, content, normalized: false, special: special(id), ...this.stripping(content) }]
        : [],
    );
  }

  /** White space that belongs to a token beside it. The file does not say so: llama.cpp knows it by the model's name. */
  stripping(content: string): { readonly lstrip: boolean; readonly rstrip: boolean } {
    const name = String(this.fields.get("general.name") ?? "").toLowerCase();
    const architecture = String(this.fields.get("general.architecture") ?? "");
    const pre = this.text("pre") ?? "";
    const masks =
      ["jina-v2-de", "jina-v2-es", "jina-v2-code"].some((other) => pre.includes(other)) ||
      ["nomic-bert-moe", "jina-bert-v3"].some((other) => architecture.includes(other));
    const phi3 = !masks && (name.includes("phi-3") || name.includes("phi3"));
    const modern = !masks && !phi3 && name.includes("modern-bert");
    return {
      lstrip: (masks && content === "<mask>") || (modern && content === "[MASK]"),
      rstrip: phi3 && !["<unk>", "<s>", "<|endoftext|>"].includes(content),
    };
  }

  /** Merges as pairs. A token may hold a space, but does not begin with one. */
  get merges(): [string, string][] {
    return this.list("merges", "string").map((merge, i) => {
      const space = merge.indexOf(" ", 1);
      if (space === -1 || space === merge.length - 1)
        this.refuse("merges", `has ${shown(merge)} at ${i}, where two tokens with a space between them are expected`);
      return [merge.slice(0, space), merge.slice(space + 1)];
    });
  }

  get vocabulary(): Record<string, number> {
    return Object.fromEntries(this.strings.map((token, id) => [token, id]));
  }

  /** A post-processor that puts ids around each text. */
  around({ before, after }: { readonly before: readonly number[]; readonly after: readonly number[] }) {
    return aroundEach(before, after, (id) => this.strings[id]!, 0);
  }

  /** @throws InputError naming the file and the part */
  checked(file: unknown) {
    return checkTokenizerFile(file, this.path);
  }
}

const MAKERS: Readonly<Record<string, (parts: Parts) => Tokenizer>> = {
  gpt2: byteLevel,
  llama: (parts) => pieces(parts, "bpe"),
  t5: (parts) => pieces(parts, "unigram"),
  bert: wordPieces,
  gemma4: gemma,
};

function byteLevel(parts: Parts): Tokenizer {
  const pre = parts.text("pre") ?? "default";
  if (SPACED.has(pre)) return gemma(parts);
  const cut = CUTS.get(pre);
  if (cut === undefined) {
    parts.refuse("pre", `is ${JSON.stringify(pre)}, a way of cutting text that is not known here`);
  }
  // Without one of its own, a file's beginning and end are GPT-2's in llama.cpp; here they are none.
  const ids = { bos: parts.id("bos"), eos: parts.id("eos"), unk: parts.id("unknown"), pad: parts.id("padding") };
  const step = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const splits = cut.patterns.map((pattern) => ({
    type: "Split",
    pattern: { Regex: pattern },
    behavior: "Isolated",
    invert: false,
  }));
  const last = cut.patterns.at(-1) === GPT2_PATTERN;
  const pretokenizers = [...(last ? splits.slice(0, -1) : splits), { ...step, use_regex: last }];
  const file = parts.checked({
    added_tokens: parts.added,
    pre_tokenizer: pretokenizers.length === 1 ? pretokenizers[0] : { type: "Sequence", pretokenizers },
    decoder: { ...step, use_regex: true },
    post_processor: parts.around(parts.frame({ id: ids.bos, usual: cut.bos }, { id: ids.eos, usual: false })),
    model: { vocab: parts.vocabulary, merges: parts.merges, ignore_merges: cut.whole },
  });
  return new ByteLevelTokenizer(file, parts.config(ids));
}

/** BPE on characters, spaces written as U+2581, with bytes for what is in no token: ways of cutting that are not byte-level. */
const SPACED = new Set(["gemma4", "granite-embed-multi-311m", "sarvam-moe"]);

function gemma(parts: Parts): Tokenizer {
  const ids = { bos: parts.id("bos"), eos: parts.id("eos"), unk: parts.id("unknown"), pad: parts.id("padding") };
  const { vocabulary } = parts;
  for (let byte = 0; byte < 256; byte++) {
    const token = byteToken(byte);
    if (!Object.hasOwn(vocabulary, token)) parts.refuse("tokens", `lacks ${token}, one of 256 tokens for bytes`);
  }
  const file = parts.checked({
    added_tokens: parts.added,
    normalizer: { type: "Replace", pattern: { String: " " }, content: "\u2581" },
    pre_tokenizer: { type: "Split", pattern: { Regex: "[^\\n]+|[\\n]+" }, behavior: "Isolated", invert: false },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "\u2581" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
      ],
    },
    post_processor: parts.around(
      parts.text("pre") === "sarvam-moe"
        ? parts.frame({ id: ids.bos, usual: false }, { id: ids.eos, usual: false })
        : // llama.cpp adds it whatever the file says: files were made that say otherwise by mistake.
          {
            ...parts.frame({ id: ids.bos, usual: true }, { id: ids.eos, usual: false }),
            before: [parts.required("bos")],
          },
    ),
    model: { type: "BPE", vocab: vocabulary, merges: parts.merges, byte_fallback: true },
  });
  return new PipelineTokenizer(file, parts.config(ids));
}

function pieces(parts: Parts, type: "bpe" | "unigram"): Tokenizer {
  const { types, strings } = parts;
  if (types === undefined) return parts.refuse("token_type", "is missing");
  const unigram = type === "unigram";
  const ids = unigram
    ? { bos: parts.id("bos"), eos: parts.id("eos", 1), unk: parts.id("unknown", 2), pad: parts.id("padding", 0) }
    : { bos: parts.id("bos", 1), eos: parts.id("eos", 2), unk: parts.id("unknown", 0), pad: parts.id("padding") };
  const { before, after } = parts.frame({ id: ids.bos, usual: !unigram }, { id: ids.eos, usual: unigram });
  const removeExtraWhitespaces = unigram && parts.flag("remove_extra_whitespaces", false);
  const scores = parts.optionalList("scores", "number");
  if (scores === undefined) return parts.refuse("scores", "is missing");
  return new SentencePieceTokenizer(
    {
      type,
      pieces: strings,
      scores: Float32Array.from(scores),
      types,
      charsmap: Uint8Array.from(
        unigram && parts.has("precompiled_charsmap") ? parts.list("precompiled_charsmap", "number") : [],
      ),
      addDummyPrefix: parts.flag("add_space_prefix", !unigram) || removeExtraWhitespaces,
      removeExtraWhitespaces,
      escapeWhitespaces: true,
      whitespaceAsSuffix: false,
      byteFallback: types.includes(PIECE.byte),
      unknownSurface: " \u2047 ",
      unknownId: ids.unk,
      bosId: ids.bos ?? -1,
      eosId: ids.eos ?? -1,
      padId: ids.pad ?? -1,
      addBos: before.length > 0,
      addEos: after.length > 0,
      added: parts.added.map((token) => ({ ...token, single_word: false })),
    },
    parts.config(ids),
  );
}

/** BERT's: the file has "\u2581word" for a token that begins a word, and "ing" for one that goes on. */
function wordPieces(parts: Parts): Tokenizer {
  const prefix = "##";
  const special = (token: string, id: number) =>
    parts.types?.[id] === PIECE.control || parts.types?.[id] === PIECE.unknown || /^\[.*\]$/s.test(token);
  const vocab = new Map<string, number>();
  parts.strings.forEach((token, id) => {
    const written = special(token, id) ? token : token.startsWith("\u2581") ? token.slice(1) : prefix + token;
    if (vocab.has(written)) parts.refuse("tokens", `has two tokens for ${JSON.stringify(written)}`);
    vocab.set(written, id);
  });
  const ids = {
    bos: parts.required("bos", parts.id("cls", 101)),
    eos: parts.id("eos"),
    unk: parts.required("unknown", 100),
    pad: parts.id("padding", 0),
  };
  // The key is misspelt in many files.
  const end = parts.required("seperator", parts.id("separator", 102));
  const lowercase = parts.flag("normalizer.lowercase", true);
  const file = parts.checked({
    added_tokens: parts.added,
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: parts.flag("normalizer.strip_accents", lowercase),
      lowercase,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    decoder: { type: "WordPiece", prefix, cleanup: true },
    post_processor: parts.around({ before: [ids.bos], after: [end] }),
    model: {
      type: "WordPiece",
      unk_token: parts.strings[ids.unk],
      continuing_subword_prefix: prefix,
      // As many as llama.cpp allows.
      max_input_chars_per_word: 2 ** 31 - 1,
      vocab: Object.fromEntries(vocab),
    },
  });
  return new PipelineTokenizer(file, parts.config({ ...ids }));
}
