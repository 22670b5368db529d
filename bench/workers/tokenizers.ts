// Encoding and training of tokenizers: our side, and the pure-JavaScript peers.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { gunzipSync } from "node:zlib";
import { InputError } from "../../src/tensor/errors.ts";
import { tokenBytes } from "../../src/tokenizers/bytes.ts";
import {
  ByteLevelTokenizer,
  checkTokenizerFile,
  encodeMany,
  loadTokenizer,
  type Tokenizer,
  TRAINABLE,
  tokenizerFromTiktoken,
  trainByteLevelBpe,
  trainTokenizer,
} from "../../src/tokenizers/index.ts";
import { root } from "../environment.ts";
import type { Prepare, Ready } from "../worker.ts";

export interface TokenizerParameters {
  readonly task: "encode" | "ids" | "train" | "templates";
  /** The JSON array of texts; or the folder of templates. */
  readonly file: string;
  /** A splitting expression by name, or the path of a tokenizer; for training, the kind. */
  readonly pattern: string;
  /** The expression itself, for peers; null: GPT-2's own. */
  readonly expression: string | null;
  readonly threads: number;
  readonly vocabulary: number;
}

/** GPT-2's vocabulary, in the order of ids. */
async function gpt2(): Promise<{ tokens: string[]; merges: string[] }> {
  const file = gunzipSync(await readFile(join(root, "test", "golden", "tokenizers", "gpt2-merges.txt.gz"))).toString();
  const merges = file.split("\n").slice(1).filter(Boolean);
  const alphabet = trainByteLevelBpe([], { vocabulary: 256 });
  const bytes = Array.from({ length: 256 }, (_, id) => alphabet.idToToken(id)!);
  return { tokens: [...bytes, ...merges.map((merge) => merge.replace(" ", ""))], merges };
}

/** GPT-2's merges with another splitting expression; those of tiktoken as a file of ranks. */
async function tokenizerOf({ pattern, expression }: TokenizerParameters): Promise<Tokenizer> {
  if (pattern.includes("/")) return loadTokenizer(pattern);
  const { tokens, merges } = await gpt2();
  if (pattern === "cl100k" && expression !== null) {
    const ranks = tokens.map((token, id) => `${Buffer.from(tokenBytes(token)!).toString("base64")} ${id}`).join("\n");
    return tokenizerFromTiktoken(ranks, "GPT-2's ranks", {}, { pattern: expression, specialTokens: {} });
  }
  const level = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: expression === null };
  const cut = { type: "Split", pattern: { Regex: expression }, behavior: "Isolated", invert: false };
  return new ByteLevelTokenizer(
    checkTokenizerFile(
      {
        pre_tokenizer: expression === null ? level : { type: "Sequence", pretokenizers: [cut, level] },
        decoder: level,
        model: { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges },
      },
      "GPT-2",
    ),
  );
}

const littleEndian = (ids: ArrayLike<number>): Buffer => {
  const array = ids instanceof Uint32Array ? ids : Uint32Array.from(ids);
  return Buffer.from(array.buffer, array.byteOffset, array.byteLength);
};

/** How many ids, and a hash of all of them. */
function summary(all: readonly ArrayLike<number>[]): string {
  const hash = createHash("sha256");
  let count = 0;
  for (const ids of all) {
    hash.update(littleEndian(ids));
    count += ids.length;
  }
  return `${count} ${hash.digest("hex").slice(0, 16)}`;
}

/** A short hash of each text's ids. */
const each = (all: readonly ArrayLike<number>[]): string[] =>
  all.map((ids) => createHash("sha256").update(littleEndian(ids)).digest("hex").slice(0, 12));

export const prepare: Prepare<TokenizerParameters> = async ({ variant, parameters }) => {
  const texts = JSON.parse(await readFile(parameters.file, "utf8")) as string[];
  if (parameters.task === "train") return training(texts, parameters);
  const { about, encode } = variant === "auto" ? await native(parameters) : await javaScript(variant);
  return {
    about,
    async step() {
      const start = performance.now();
      const all = await encode(texts);
      const seconds = (performance.now() - start) / 1000;
      return { seconds, output: parameters.task === "ids" ? each(all) : summary(all) };
    },
  };
};

async function native(parameters: TokenizerParameters) {
  const tokenizer = await tokenizerOf(parameters);
  const { threads } = parameters;
  // What a text spells is found by `tokenizers` in a vocabulary of pieces whatever it is told; so both sides find it.
  const allowedSpecial = parameters.pattern.endsWith(".json") ? "all" : "none";
  const options = { threads, addSpecialTokens: false, allowedSpecial } as const;
  return {
    about: `native, ${threads} threads`,
    encode: (texts: readonly string[]) => encodeMany(tokenizer, texts, options),
  };
}

/** Packages of npm, in a folder outside: HOWDAH_NODE_PEERS. Their GPT-2 comes with them. */
async function javaScript(name: string) {
  const folder = process.env.HOWDAH_NODE_PEERS;
  if (!folder)
    throw new InputError("HOWDAH_NODE_PEERS does not name a folder with js-tiktoken and gpt-tokenizer in it.");
  const load = async (path: string): Promise<unknown> =>
    import(pathToFileURL(createRequire(join(folder, "package.json")).resolve(path)).href);
  interface Encoder {
    encode(text: string, options: object, disallowed?: object): number[];
  }
  const js = name === "js-tiktoken";
  const encoder = js
    ? ((await load("js-tiktoken")) as { getEncoding(name: string): Encoder }).getEncoding("gpt2")
    : ((await load("gpt-tokenizer/encoding/r50k_base")) as Encoder);
  // Special tokens spelled out in a text are text.
  const plain = (text: string) =>
    js ? encoder.encode(text, [], []) : encoder.encode(text, { disallowedSpecial: new Set<string>() });
  return {
    about: name,
    encode: async (texts: readonly string[]) => texts.map(plain),
  };
}

/** What training gave: how many ids, a hash of their strings, and the tokens that the first 200 texts take. */
export interface Trained {
  readonly size: number;
  readonly hash: string;
  readonly tokens: number;
}

function training(texts: readonly string[], { pattern, threads, vocabulary }: TokenizerParameters): Ready {
  const kind = TRAINABLE.find((name) => name === pattern);
  if (kind === undefined) throw new InputError(`No tokenizer of the kind ${pattern} is trained here.`);
  // Every character has a place, as with tokenizers' trainers of merges; Unigram's keeps the usual part of them.
  const options = { kind, vocabulary, threads, ...(kind === "sentencepiece" ? { coverage: 1 } : {}) };
  return {
    about: `native, ${threads} threads`,
    async step() {
      const start = performance.now();
      const tokenizer = await trainTokenizer(texts, options);
      const seconds = (performance.now() - start) / 1000;
      const hash = createHash("sha256");
      for (let id = 0; id < tokenizer.vocabularySize; id++) hash.update(`${tokenizer.idToToken(id)!}\n`);
      const encoded = await encodeMany(tokenizer, texts.slice(0, 200), { threads, addSpecialTokens: false });
      const tokens = encoded.reduce((sum, ids) => sum + ids.length, 0);
      const output: Trained = { size: tokenizer.vocabularySize, hash: hash.digest("hex").slice(0, 16), tokens };
      return { seconds, output };
    },
  };
}
