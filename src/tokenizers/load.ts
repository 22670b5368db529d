import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { SPECIAL_TOKEN_KEYS, type TokenizerConfig } from "./folder.ts";
import { checkTokenizerFile, type TokenizerFile } from "./schema.ts";
import { Llama2cTokenizer } from "./sentencepiece.ts";
import type { Tokenizer } from "./types.ts";

/**
 * Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, or GPT-2's pair `vocab.json` and `merges.txt`, or llama2.c's
 * `tokenizer.bin`; with `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` where they are there.
 * @throws InputError when there is none, or when a part of it is not known to this reader
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const text = await readOptional(join(folder, "tokenizer.json"));
  if (text !== undefined) {
    const place = join(folder, "tokenizer.json");
    const file = checkTokenizerFile(parseJson(text, place), place);
    return new ByteLevelTokenizer(file, await readConfig(folder));
  }
  const vocab = await readOptional(join(folder, "vocab.json"));
  const merges = await readOptional(join(folder, "merges.txt"));
  if (vocab !== undefined && merges !== undefined) {
    const file = gpt2File(parseJson(vocab, join(folder, "vocab.json")), merges);
    const end = file.added_tokens[0]?.content;
    const defaults = end === undefined ? {} : { bos_token: end, eos_token: end, unk_token: end };
    return new ByteLevelTokenizer(file, { ...defaults, ...(await readConfig(folder)) });
  }
  const llama2c = await readOptionalBytes(join(folder, "tokenizer.bin"));
  if (llama2c !== undefined) return Llama2cTokenizer.parse(llama2c, join(folder, "tokenizer.bin"));
  throw new InputError(
    `${folder}: no tokenizer here. Expected tokenizer.json, or vocab.json with merges.txt, or tokenizer.bin (llama2.c).`,
  );
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

async function readOptionalBytes(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

const readOptional = async (path: string): Promise<string | undefined> =>
  (await readOptionalBytes(path))?.toString("utf8");
