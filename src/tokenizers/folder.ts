import { rm } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../runs/atomic.ts";
import type { TokenizerFile } from "./schema.ts";

/** What a token looks like in `tokenizer_config.json`: its text, or an object with its text in `content`. */
export type ConfiguredToken = string | { readonly content: string } | null;

/** `tokenizer_config.json` of a Hugging Face folder. Keys that are not listed are kept as they are. */
export interface TokenizerConfig {
  readonly bos_token?: ConfiguredToken;
  readonly eos_token?: ConfiguredToken;
  readonly pad_token?: ConfiguredToken;
  readonly unk_token?: ConfiguredToken;
  /** Jinja source. */
  readonly chat_template?: string;
  readonly [key: string]: unknown;
}

export const SPECIAL_TOKEN_KEYS = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;

export function specialTokenName(
  config: TokenizerConfig,
  key: (typeof SPECIAL_TOKEN_KEYS)[number],
): string | undefined {
  const token = config[key];
  return token === undefined || token === null ? undefined : typeof token === "string" ? token : token.content;
}

/** Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`. */
export async function writeTokenizerFolder(
  folder: string,
  file: TokenizerFile,
  config: TokenizerConfig,
): Promise<void> {
  const names: Record<string, string> = {};
  for (const key of SPECIAL_TOKEN_KEYS) {
    const name = specialTokenName(config, key);
    if (name !== undefined) names[key] = name;
  }
  const written = { tokenizer_class: "PreTrainedTokenizerFast", clean_up_tokenization_spaces: false, ...config };
  writeFileAtomic(join(folder, "tokenizer.json"), prettyJson(file));
  writeFileAtomic(join(folder, "special_tokens_map.json"), prettyJson(names));
  writeFileAtomic(join(folder, "tokenizer_config.json"), prettyJson(written));
  // The template is in tokenizer_config.json; an older file beside it would be read first.
  await rm(join(folder, "chat_template.jinja"), { force: true });
}

/**
 * JSON as `tokenizers` prints it: two spaces, one entry a line. Maps become objects in their own order, which plain objects
 * cannot do for keys like "10" (a vocabulary has such tokens, and goes by id).
 */
export function prettyJson(value: unknown, indent = ""): string {
  if (value === null || typeof value !== "object") return JSON.stringify(value) ?? "null";
  const inner = `${indent}  `;
  const isArray = Array.isArray(value);
  const lines: string[] = isArray
    ? value.map((item: unknown) => inner + prettyJson(item, inner))
    : [...(value instanceof Map ? (value as Map<string, unknown>) : Object.entries(value))]
        .filter(([, item]) => item !== undefined)
        .map(([key, item]) => `${inner}${JSON.stringify(key)}: ${prettyJson(item, inner)}`);
  const [open, close] = isArray ? "[]" : "{}";
  return lines.length === 0 ? `${open}${close}` : `${open}\n${lines.join(",\n")}\n${indent}${close}`;
}
