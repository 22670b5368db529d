// Text for measuring tokenizers: files of a person's choice, mixed by a fixed seed and repeated up to a size, and texts that are hard.
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { InputError } from "../src/tensor/errors.ts";
import { root } from "./environment.ts";
import { mulberry32 } from "./random.ts";

const BINARY = new Set([
  ".zip",
  ".gz",
  ".png",
  ".jpg",
  ".bin",
  ".onnx",
  ".th",
  ".gguf",
  ".model",
  ".xz",
  ".parquet",
  ".so",
  ".pyc",
]);
/** Longer files are cut into documents of this many characters. */
const LONGEST = 200_000;

async function texts(path: string, into: string[]): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info === undefined) throw new InputError(`--text: there is no ${path}.`);
  if (info.isDirectory()) {
    for (const name of (await readdir(path)).sort()) await texts(join(path, name), into);
    return;
  }
  if (BINARY.has(extname(path))) return;
  const text = new TextDecoder().decode(await readFile(path));
  for (let at = 0; at < text.length; at += LONGEST)
    into.push(text.slice(at, at + LONGEST).replace(/\p{Surrogate}/gu, "\ufffd"));
}

/** Emoji, NULs, a million characters without a space in two scripts, every kind of code point, and bytes that are no UTF-8. */
export function hardTexts(seed: number): string[] {
  const next = mulberry32(seed);
  const many = (count: number, make: () => string): string => Array.from({ length: count }, make).join("");
  const emoji = ["😀", "😂", "🦙", "👩‍👩‍👧‍👦", "🇨🇳", "🏳️‍🌈", "é", "e\u0301"];
  const point = (): string => {
    const c = 32 + Math.floor(next() * (0x10ffff - 32));
    return c >= 0xd800 && c <= 0xdfff ? "\ufffd" : String.fromCodePoint(c);
  };
  const low = (): string => String.fromCodePoint(32 + Math.floor(next() * 0x2fe0));
  return [
    many(100_000, () => emoji[Math.floor(next() * emoji.length)]!),
    "thequickbrown\0foxjumps".repeat(47_000),
    "天地玄黄宇宙洪荒日月盈昃".repeat(29_000),
    "a".repeat(1_000_000),
    many(100_000, point),
    many(300_000, low),
    new TextDecoder().decode(Uint8Array.from({ length: 1_000_000 }, () => Math.floor(next() * 256))),
    " \n\t \r\n".repeat(50_000),
  ];
}

export interface Corpus {
  /** A JSON array of strings. */
  readonly file: string;
  readonly documents: number;
  readonly bytes: number;
}

/** Writes about `megabytes` of the texts under `paths` (and the hard ones, if asked) as one JSON file, the same for the same arguments. */
export async function corpus(
  paths: readonly string[],
  megabytes: number,
  hard: boolean,
  name: string,
): Promise<Corpus> {
  const all: string[] = [];
  for (const path of paths) await texts(path, all);
  if (all.length === 0) throw new InputError(`--text: no text under ${paths.join(", ")}.`);
  const next = mulberry32(7);
  const documents = hard ? hardTexts(11) : [];
  let bytes = documents.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  while (bytes < megabytes * 1e6) {
    const text = all[Math.floor(next() * all.length)]!;
    documents.push(text);
    bytes += Buffer.byteLength(text);
  }
  const folder = join(root, "build", "bench-text");
  await mkdir(folder, { recursive: true });
  const file = join(folder, `${name}.json`);
  await writeFile(file, JSON.stringify(documents));
  return { file, documents: documents.length, bytes };
}
