import { basename } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { ByteLevelTokenizer } from "./byte-level.ts";
import { BYTE_TO_CHARACTER } from "./bytes.ts";
import type { TokenizerConfig } from "./folder.ts";
import { checkTokenizerFile } from "./schema.ts";

/** Splitting expressions and special tokens of OpenAI's encodings, which their files of ranks do not hold. */
const GPT2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s";
export const CL100K_PATTERN =
  "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
export const O200K_PATTERN =
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export interface TiktokenEncoding {
  /** In the dialect of Rust's fancy-regex. */
  readonly pattern: string;
  readonly specialTokens: Readonly<Record<string, number>>;
}

const END = "<|endoftext|>";
const FIM = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"] as const;
const ENCODINGS: Readonly<Record<string, TiktokenEncoding>> = {
  gpt2: { pattern: GPT2, specialTokens: { [END]: 50256 } },
  r50k_base: { pattern: GPT2, specialTokens: { [END]: 50256 } },
  p50k_base: { pattern: GPT2, specialTokens: { [END]: 50256 } },
  cl100k_base: {
    pattern: CL100K_PATTERN,
    specialTokens: { [END]: 100257, [FIM[0]]: 100258, [FIM[1]]: 100259, [FIM[2]]: 100260, "<|endofprompt|>": 100276 },
  },
  o200k_base: { pattern: O200K_PATTERN, specialTokens: { [END]: 199999, "<|endofprompt|>": 200018 } },
};

/**
 * A tokenizer from a file of ranks (`base64 rank` a line). The file's name says which encoding it is (cl100k_base.tiktoken, ...), since the
 * splitting expression and the special tokens are not in it; or `encoding` does.
 * @throws InputError when the name is not known, a line is malformed, or a byte is missing
 */
export function tokenizerFromTiktoken(
  text: string,
  place: string,
  config: TokenizerConfig = {},
  encoding: TiktokenEncoding | undefined = ENCODINGS[basename(place, ".tiktoken")],
): ByteLevelTokenizer {
  if (encoding === undefined) {
    throw new InputError(
      `${place}: a file of ranks does not say how text is cut, and its name is none of ${Object.keys(ENCODINGS).join(", ")}. ` +
        "Rename it to the encoding it is.",
    );
  }
  const vocab = new Map<string, number>();
  const lineOf = new Map<number, number>();
  text.split("\n").forEach((line, i) => {
    if (line.trim() === "") return;
    const found = /^(\S+) (\d+)\s*$/.exec(line);
    const bytes = Buffer.from(found?.[1] ?? "", "base64");
    const rank = Number(found?.[2]);
    if (bytes.length === 0 || bytes.toString("base64") !== found?.[1] || rank >= 2 ** 24) {
      const end = line.length > 80 ? "..." : "";
      throw new InputError(
        `${place}:${i + 1}: expected a token in base64, a space and its rank, and found ${JSON.stringify(line.slice(0, 80) + end)}.`,
      );
    }
    const token = Array.from(bytes, (byte) => BYTE_TO_CHARACTER[byte]!).join("");
    const earlier = vocab.has(token) ? lineOf.get(vocab.get(token)!)! : lineOf.get(rank);
    if (earlier !== undefined)
      throw new InputError(
        `${place}:${i + 1}: this ${vocab.has(token) ? "token" : "rank"} stands in line ${earlier} already.`,
      );
    vocab.set(token, rank);
    lineOf.set(rank, i + 1);
  });
  if (vocab.size === 0) throw new InputError(`${place}: it is empty. Expected lines of a base64 token and its rank.`);
  const missing = BYTE_TO_CHARACTER.findIndex((character) => !vocab.has(character));
  if (missing !== -1) throw new InputError(`${place}: byte ${missing} has no rank. Is the file cut short?`);
  // Any two neighbours that make a token may merge, at that token's rank.
  const merges: [string, string][] = [];
  const ranks: number[] = [];
  for (const [token, rank] of [...vocab].sort((a, b) => a[1] - b[1])) {
    for (let at = 1; at < token.length; at++) {
      if (!vocab.has(token.slice(0, at)) || !vocab.has(token.slice(at))) continue;
      merges.push([token.slice(0, at), token.slice(at)]);
      ranks.push(rank);
    }
  }
  const step = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const file = checkTokenizerFile(
    {
      added_tokens: Object.entries(encoding.specialTokens).map(([content, id]) => ({
        id,
        content,
        normalized: false,
        special: true,
      })),
      pre_tokenizer: {
        type: "Sequence",
        pretokenizers: [
          { type: "Split", pattern: { Regex: encoding.pattern }, behavior: "Isolated", invert: false },
          step,
        ],
      },
      decoder: step,
      model: { vocab: Object.fromEntries(vocab), merges, ignore_merges: true },
    },
    place,
  );
  const end = END in encoding.specialTokens ? { bos_token: END, eos_token: END } : {};
  return new ByteLevelTokenizer(file, { ...end, ...config }, { ranks, source: text, name: basename(place) });
}
