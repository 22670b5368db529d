import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { bertTokenizer } from "./bert.ts";
import { ByteLevelTokenizer, isByteLevel } from "./byte-level.ts";
import { SPECIAL_TOKEN_KEYS, type TokenizerConfig } from "./folder.ts";
import { tokenizerFromGguf } from "./gguf.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { readTokenizerBytes, readTokenizerText } from "./read-file.ts";
import { checkTokenizerFile, type TokenizerFile, vocabularyProblem } from "./schema.ts";
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
    const places = { vocab: join(path, "vocab.json"), merges: join(path, "merges.txt") };
    const vocab = parseJson(await readTokenizerText(places.vocab), places.vocab);
    const file = gpt2File(vocab, await readTokenizerText(places.merges), places);
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
  for (const [name, other] of [
    ["vocab.json", "merges.txt"],
    ["merges.txt", "vocab.json"],
  ] as const)
    if (names.has(name)) throw new InputError(`${path}: ${name} is here, and ${other}, which belongs to it, is not.`);
  throw new InputError(
    `${path}: no tokenizer here. Expected tokenizer.json, or vocab.json with merges.txt, or tokenizer.model (SentencePiece), or ` +
      "vocab.txt (BERT), or a .tiktoken or .gguf file, or tokenizer.bin (llama2.c).",
  );
}

/** One file, by its name. */
async function loadFile(path: string, config: TokenizerConfig): Promise<Tokenizer> {
  const name = basename(path);
  if (name.endsWith(".gguf")) return tokenizerFromGguf(path);
  if (name.endsWith(".json")) return tokenizerFromJson(parseJson(await readTokenizerText(path), path), path, config);
  if (name.endsWith(".model")) {
    const file = await readTokenizerBytes(path);
    return within(path, () => new SentencePieceTokenizer(parseSentencePiece(file, path), config, file));
  }
  if (name.endsWith(".tiktoken")) return tokenizerFromTiktoken(await readTokenizerText(path), path, config);
  if (name === "merges.txt") throw new InputError(`${path}: only half of a tokenizer. Name the folder that it is in.`);
  if (name.endsWith(".txt")) return bertTokenizer(await readTokenizerText(path), path, config);
  if (name.endsWith(".bin")) return Llama2cTokenizer.parse(await readTokenizerBytes(path), path);
  throw new InputError(
    `${path}: not a tokenizer by its name. Expected .json, .model, .gguf, .tiktoken, .txt (BERT's vocab.txt) or .bin.`,
  );
}

/** What `make` gives; an error about the parts of a file says which file it was. */
function within<T>(place: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof InputError) || error.message.startsWith(place)) throw error;
    throw new InputError(`${place}: ${error.message}`, { cause: error });
  }
}

/**
 * The tokenizer of a parsed `tokenizer.json`, of any kind.
 * @throws InputError naming each part that is not known to this reader
 */
export function tokenizerFromJson(json: unknown, place: string, config: TokenizerConfig = {}): Tokenizer {
  const keys = typeof json === "object" && json !== null && !Array.isArray(json) ? Object.keys(json) : [];
  if (!keys.includes("model") && keys.length > 0 && keys.every((key) => typeof (json as Vocabulary)[key] === "number"))
    throw new InputError(
      `${place}: only a vocabulary, half of a tokenizer. Name the folder that it and merges.txt are in.`,
    );
  const file = checkTokenizerFile(json, place);
  return within(place, () =>
    isByteLevel(file) ? new ByteLevelTokenizer(file, config) : new PipelineTokenizer(file, config),
  );
}

type Vocabulary = Readonly<Record<string, number>>;

/**
 * GPT-2's tokenizer from its vocabulary and the text of its `merges.txt` (Radford et al. 2019).
 * @param vocab token: id
 * @param places names of the two files, for messages
 * @throws InputError naming the file, and the token or the line, that is wrong
 */
export function gpt2File(
  vocab: unknown,
  merges: string,
  places: { readonly vocab: string; readonly merges: string } = { vocab: "vocab.json", merges: "merges.txt" },
): TokenizerFile {
  const problem = vocabularyProblem(vocab);
  if (problem !== undefined) throw new InputError(`${places.vocab}: ${problem}.`);
  const known = vocab as Vocabulary;
  const pairs: [string, string][] = [];
  merges.split("\n").forEach((ended, i) => {
    const line = ended.replace(/\r$/, "");
    if (line === "" || line.startsWith("#version")) return;
    const [left, right, ...more] = line.split(" ");
    const wrong = (what: string): InputError => new InputError(`${places.merges}:${i + 1}: ${what}`);
    if (!left || !right || more.length > 0) {
      throw wrong(`expected two tokens with one space between them, and found ${JSON.stringify(line)}.`);
    }
    const missing = [left, right, left + right].find((token) => !Object.hasOwn(known, token));
    if (missing !== undefined)
      throw wrong(
        `${JSON.stringify(missing)} is not in the vocabulary. Do ${places.vocab} and this file belong together?`,
      );
    pairs.push([left, right]);
  });
  const end = Object.hasOwn(known, "<|endoftext|>") ? known["<|endoftext|>"] : undefined;
  const step = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  return checkTokenizerFile(
    {
      added_tokens: end === undefined ? [] : [{ id: end, content: "<|endoftext|>", normalized: true, special: true }],
      pre_tokenizer: step,
      post_processor: { ...step, add_prefix_space: true, trim_offsets: false },
      decoder: { ...step, add_prefix_space: true },
      model: { vocab, merges: pairs },
    },
    places.vocab,
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
    return await readTokenizerText(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
