import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { bertTokenizer } from "./bert.ts";
import { ByteLevelTokenizer, isByteLevel } from "./byte-level.ts";
import { SPECIAL_TOKEN_KEYS, type TokenizerConfig } from "./folder.ts";
import { tokenizerFromGguf } from "./gguf.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { checkTokenizerFile, type TokenizerFile } from "./schema.ts";
import { Llama2cTokenizer } from "./sentencepiece.ts";
import { parseSentencePiece, SentencePieceTokenizer } from "./sentencepiece-model.ts";
import { tokenizerFromTiktoken } from "./tiktoken.ts";
import type { Tokenizer } from "./types.ts";

/**
 * Reads a tokenizer: a Hugging Face folder (`tokenizer.json`; GPT-2's pair `vocab.json` and `merges.txt`; a SentencePiece `.model`; BERT's
 * `vocab.txt`; a `.tiktoken` file; llama2.c's `tokenizer.bin`; with `tokenizer_config.json`, `special_tokens_map.json` and
 * `chat_template.jinja` where they are there), or one such file, or a GGUF file.
 * @throws InputError when there is none, or when a part of it is not known to this reader
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) throw new InputError(`${path}: there is no such file or folder.`);
  if (!info.isDirectory()) return loadFile(path, await readConfig(dirname(path)));
  const config = await readConfig(path);
  const names = new Set(await readdir(path));
  if (names.has("tokenizer.json")) return loadFile(join(path, "tokenizer.json"), config);
  if (names.has("vocab.json") && names.has("merges.txt")) {
    const merges = await readFile(join(path, "merges.txt"), "utf8");
    const file = gpt2File(
      parseJson(await readFile(join(path, "vocab.json"), "utf8"), join(path, "vocab.json")),
      merges,
    );
    const end = file.added_tokens[0]?.content;
    const defaults = end === undefined ? {} : { bos_token: end, eos_token: end, unk_token: end };
    return new ByteLevelTokenizer(file, { ...defaults, ...config });
  }
  const others = [...names].filter((name) => name.endsWith(".tiktoken") || name.endsWith(".gguf"));
  for (const name of [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    ...others,
    "tokenizer.bin",
  ]) {
    if (names.has(name)) return loadFile(join(path, name), config);
  }
  throw new InputError(
    `${path}: no tokenizer here. Expected tokenizer.json, or vocab.json with merges.txt, or tokenizer.model (SentencePiece), or ` +
      "vocab.txt (BERT), or a .tiktoken or .gguf file, or tokenizer.bin (llama2.c).",
  );
}

/** Bytes; what is larger is no tokenizer, and no string of JavaScript's either. */
const LARGEST = 2 ** 28;

/** One file, by its name. */
async function loadFile(path: string, config: TokenizerConfig): Promise<Tokenizer> {
  const name = basename(path);
  if (name.endsWith(".gguf")) return tokenizerFromGguf(path);
  const { size } = await stat(path);
  if (size > LARGEST) {
    throw new InputError(
      `${path}: ${size} bytes, where a tokenizer's file has at most ${LARGEST}. Is it the model's weights?`,
    );
  }
  if (name.endsWith(".json")) return tokenizerFromJson(parseJson(await readFile(path, "utf8"), path), path, config);
  if (name.endsWith(".model")) {
    const file = await readFile(path);
    return new SentencePieceTokenizer(parseSentencePiece(file, path), config, file);
  }
  if (name.endsWith(".tiktoken")) return tokenizerFromTiktoken(await readFile(path, "utf8"), path, config);
  if (name.endsWith(".txt")) return bertTokenizer(await readFile(path, "utf8"), path, config);
  if (name.endsWith(".bin")) return Llama2cTokenizer.parse(await readFile(path), path);
  throw new InputError(
    `${path}: not a tokenizer by its name. Expected .json, .model, .gguf, .tiktoken, .txt (BERT's vocab.txt) or .bin.`,
  );
}

/**
 * The tokenizer of a parsed `tokenizer.json`, of any kind.
 * @throws InputError naming each part that is not known to this reader
 */
export function tokenizerFromJson(json: unknown, place: string, config: TokenizerConfig = {}): Tokenizer {
  const file = checkTokenizerFile(json, place);
  return isByteLevel(file) ? new ByteLevelTokenizer(file, config) : new PipelineTokenizer(file, config);
}

/**
 * GPT-2's tokenizer from its vocabulary and the text of its `merges.txt` (Radford et al. 2019).
 * @param vocab token: id
 */
export function gpt2File(vocab: unknown, merges: string): TokenizerFile {
  const lines = merges.split("\n").filter((line) => line !== "" && !line.startsWith("#version"));
  const end = (vocab as Record<string, number> | null)?.["<|endoftext|>"];
  const step = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return checkTokenizerFile(
    {
      added_tokens: end === undefined ? [] : [{ id: end, content: "<|endoftext|>", normalized: true, special: true }],
      pre_tokenizer: step,
      post_processor: { ...step, add_prefix_space: true, trim_offsets: false },
      decoder: { ...step, add_prefix_space: true },
      model: { vocab, merges: lines },
    },
    "vocab.json and merges.txt",
  );
}

async function readConfig(folder: string): Promise<TokenizerConfig> {
  const place = join(folder, "tokenizer_config.json");
  const config = asObject(parseJson((await readOptional(place)) ?? "{}", place), place);
  const mapPlace = join(folder, "special_tokens_map.json");
  const map = asObject(parseJson((await readOptional(mapPlace)) ?? "{}", mapPlace), mapPlace);
  const merged: Record<string, unknown> = { ...config };
  for (const key of SPECIAL_TOKEN_KEYS) {
    merged[key] ??= map[key];
    const token = merged[key] as { readonly content?: unknown } | string | null | undefined;
    if (token === undefined || token === null) delete merged[key];
    else if (typeof token !== "string" && typeof token.content !== "string") {
      throw new InputError(`${place}: ${key} is neither a string nor an object with the string "content".`);
    }
  }
  const template =
    (await readOptional(join(folder, "chat_template.jinja"))) ?? chatTemplate(config.chat_template, place);
  if (template === undefined) delete merged.chat_template;
  else merged.chat_template = template;
  return merged as TokenizerConfig;
}

/** The template, or the one named "default" of several. */
function chatTemplate(value: unknown, place: string): string | undefined {
  if (value === undefined || value === null || typeof value === "string") return value ?? undefined;
  const list = Array.isArray(value) ? (value as { readonly name?: unknown; readonly template?: unknown }[]) : [];
  const template = list.find((entry) => entry.name === "default")?.template;
  if (typeof template === "string") return template;
  throw new InputError(`${place}: chat_template is neither a string nor a list with one named "default".`);
}

function asObject(value: unknown, place: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new InputError(`${place}: expected a JSON object.`);
}

function parseJson(text: string, place: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new InputError(`${place}: not valid JSON (${(error as Error).message}).`, { cause: error });
  }
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
