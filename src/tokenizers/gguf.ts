import { open } from "node:fs/promises";
import { InputError } from "../tensor/errors.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { GPT2_PATTERN } from "./pretokenize.ts";
import { refuseMistaken } from "./read-file.ts";
import { checkTokenizerFile } from "./schema.ts";
import { PIECE, SentencePieceTokenizer } from "./sentencepiece-model.ts";
import type { Tokenizer } from "./types.ts";

type Value = number | bigint | boolean | string | Value[];

/** A GGUF file's metadata is read up to here; a vocabulary of a million tokens takes less. */
const LARGEST_METADATA = 512 << 20;
const FIRST_READ = 4 << 20;

/**
 * The metadata of a GGUF file (version 2 or 3). Only the head of the file is read.
 * @throws InputError when it is not GGUF, or cut short
 */
export async function readGgufMetadata(path: string): Promise<Map<string, Value>> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    for (let length = Math.min(size, FIRST_READ); ; length = Math.min(size, length * 4)) {
      const head = Buffer.alloc(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await file.read(head, filled, length - filled, filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      try {
        return parseMetadata(head.subarray(0, filled), path);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        if (length === size || length > LARGEST_METADATA) {
          throw new InputError(`${path}: the GGUF file ends in the middle of its metadata.`, { cause: error });
        }
      }
    }
  } finally {
    await file.close();
  }
}

/** @throws RangeError when more of the file is needed */
function parseMetadata(bytes: Buffer, path: string): Map<string, Value> {
  if (bytes.length < 8 || bytes.toString("latin1", 0, 4) !== "GGUF") {
    refuseMistaken(bytes, path);
    throw new InputError(
      bytes.length === 0
        ? `${path}: it is empty. Copy or download it again.`
        : `${path}: not a GGUF file: it begins with ${JSON.stringify(bytes.toString("latin1", 0, 4))}, where "GGUF" is expected.`,
    );
  }
  const version = bytes.readUInt32LE(4);
  if (version !== 2 && version !== 3)
    throw new InputError(`${path}: GGUF version ${version} is not supported; known are 2 and 3.`);
  let at = 8;
  const long = (): number => {
    const value = Number(bytes.readBigUInt64LE(at));
    at += 8;
    return value;
  };
  const string = (): string => {
    const length = long();
    if (at + length > bytes.length) throw new RangeError("more is needed");
    at += length;
    return bytes.toString("utf8", at - length, at);
  };
  const value = (kind: number): Value => {
    const took = (width: number): number => {
      at += width;
      return at - width;
    };
    switch (kind) {
      case 0:
        return bytes.readUInt8(took(1));
      case 1:
        return bytes.readInt8(took(1));
      case 2:
        return bytes.readUInt16LE(took(2));
      case 3:
        return bytes.readInt16LE(took(2));
      case 4:
        return bytes.readUInt32LE(took(4));
      case 5:
        return bytes.readInt32LE(took(4));
      case 6:
        return bytes.readFloatLE(took(4));
      case 7:
        return bytes.readUInt8(took(1)) !== 0;
      case 8:
        return string();
      case 9: {
        const inner = bytes.readUInt32LE(took(4));
        const length = long();
        const list: Value[] = [];
        for (let i = 0; i < length; i++) list.push(value(inner));
        return list;
      }
      case 10:
        return bytes.readBigUInt64LE(took(8));
      case 11:
        return bytes.readBigInt64LE(took(8));
      case 12:
        return bytes.readDoubleLE(took(8));
      default:
        throw new InputError(`${path}: the GGUF metadata has a value of the unknown kind ${kind}.`);
    }
  };
  long(); // tensors
  const count = long();
  const fields = new Map<string, Value>();
  for (let i = 0; i < count; i++) {
    const key = string();
    const kind = bytes.readUInt32LE(at);
    at += 4;
    fields.set(key, value(kind));
  }
  return fields;
}

const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** `tokenizer.ggml.pre`: how text is cut. */
const PRE_TOKENIZERS: Readonly<Record<string, { readonly pattern: string; readonly whole: boolean }>> = {
  "gpt-2": { pattern: GPT2_PATTERN, whole: false },
  "llama-bpe": { pattern: LLAMA3, whole: true },
  llama3: { pattern: LLAMA3, whole: true },
  qwen2: { pattern: LLAMA3.replace("{1,3}", ""), whole: false },
};

/**
 * The tokenizer inside a GGUF file: byte-level BPE ("gpt2") or SentencePiece BPE ("llama").
 * @throws InputError naming the kind, or the way of cutting text, that is not known
 */
export async function tokenizerFromGguf(path: string): Promise<Tokenizer> {
  const fields = await readGgufMetadata(path);
  const field = (name: string): Value | undefined => fields.get(`tokenizer.ggml.${name}`);
  const number = (name: string): number => {
    const value = field(name);
    return typeof value === "number" ? value : -1;
  };
  const kind = field("model");
  const tokens = field("tokens");
  if (kind === undefined || !Array.isArray(tokens))
    throw new InputError(`${path}: there is no tokenizer in this GGUF file.`);
  const strings = tokens.map(String);
  const types = Array.isArray(field("token_type")) ? (field("token_type") as Value[]).map(Number) : [];
  const template = fields.get("tokenizer.chat_template");
  const nameOf = (id: number) => (strings[id] === undefined ? undefined : strings[id]);
  const config = Object.fromEntries(
    Object.entries({
      bos_token: nameOf(number("bos_token_id")),
      eos_token: nameOf(number("eos_token_id")),
      unk_token: nameOf(number("unknown_token_id")),
      pad_token: nameOf(number("padding_token_id")),
      chat_template: typeof template === "string" ? template : undefined,
    }).filter(([, value]) => value !== undefined),
  );
  if (kind === "llama") {
    const scores = field("scores");
    if (!Array.isArray(scores) || scores.length !== strings.length || types.length !== strings.length) {
      throw new InputError(`${path}: the GGUF file lacks scores or types of its tokens.`);
    }
    return new SentencePieceTokenizer(
      {
        type: "bpe",
        pieces: strings,
        scores: Float32Array.from(scores.map(Number)),
        types: Uint8Array.from(types),
        charsmap: new Uint8Array(0),
        addDummyPrefix: field("add_space_prefix") !== false,
        removeExtraWhitespaces: false,
        escapeWhitespaces: true,
        whitespaceAsSuffix: false,
        byteFallback: types.includes(PIECE.byte),
        unknownSurface: " \u2047 ",
        bosId: number("bos_token_id"),
        eosId: number("eos_token_id"),
        padId: number("padding_token_id"),
        addBos: field("add_bos_token") !== false,
        addEos: field("add_eos_token") === true,
      },
      config,
    );
  }
  if (kind !== "gpt2") {
    throw new InputError(
      `${path}: the tokenizer ${JSON.stringify(kind)} of this GGUF file is not supported yet; known are gpt2 and llama.`,
    );
  }
  const pre = field("pre") ?? "gpt-2";
  const cut = typeof pre === "string" && Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined;
  if (cut === undefined) {
    throw new InputError(
      `${path}: text is cut in the way ${JSON.stringify(pre)}, which is not known here; known are ${Object.keys(PRE_TOKENIZERS).join(", ")}.`,
    );
  }
  const merges = field("merges");
  if (!Array.isArray(merges)) throw new InputError(`${path}: the GGUF file lacks the merges of its tokenizer.`);
  const step = {
    type: "ByteLevel",
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: cut.pattern === GPT2_PATTERN,
  };
  const special = strings.flatMap((content, id) =>
    types[id] === PIECE.control || types[id] === PIECE.userDefined
      ? [{ id, content, normalized: false, special: types[id] === PIECE.control }]
      : [],
  );
  const bos = number("bos_token_id");
  const file = checkTokenizerFile(
    {
      added_tokens: special,
      pre_tokenizer: step.use_regex
        ? step
        : {
            type: "Sequence",
            pretokenizers: [
              { type: "Split", pattern: { Regex: cut.pattern }, behavior: "Isolated", invert: false },
              step,
            ],
          },
      decoder: step,
      post_processor:
        field("add_bos_token") === true && strings[bos] !== undefined
          ? {
              type: "TemplateProcessing",
              single: [{ SpecialToken: { id: strings[bos], type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
              pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 0 } }],
              special_tokens: { [strings[bos]]: { id: strings[bos], ids: [bos], tokens: [strings[bos]] } },
            }
          : null,
      model: {
        vocab: Object.fromEntries(strings.map((token, id) => [token, id])),
        merges: merges.map(String),
        ignore_merges: cut.whole,
      },
    },
    path,
  );
  return new ByteLevelTokenizer(file, config);
}
