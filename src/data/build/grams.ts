import { closeSync, existsSync, mkdirSync, openSync, readSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { StateError } from "../../tensor/errors.ts";
import { PartFile } from "./part-file.ts";

/**
 * An index that tells a search which parts of a file cannot hold what it looks for (Cox 2012, "Regular expression matching with a trigram index"; here
 * with a signature a block, as in Bloom 1970). A file of documents is cut at lines into blocks; of each block 2^16 bits say which runs of three characters
 * are in it, by their hashes. What is looked for is in a block only if all its runs are: the others are passed over without being read.
 *
 * Characters of scripts that are written without spaces count by themselves and in pairs: a Chinese word is one or two of them.
 */
const BITS = 2 ** 16;
const BLOCK = 128 * 1024;
const MAGIC = 0x31474748; // "HGG1"
const HEADER = 24;
const ENTRY = 8 + BITS / 8;

let folded: Uint16Array | undefined;
/** Code units such that two that a search without case takes for the same are the same; 0 for white space. Surrogates stand for one another. */
export function foldTable(): Uint16Array {
  if (folded) return folded;
  folded = new Uint16Array(65536);
  for (let unit = 0; unit < 65536; unit++) {
    const c = String.fromCharCode(unit);
    const upper = c.toUpperCase();
    const lower = (upper.length === 1 ? upper : c).toLowerCase();
    folded[unit] = unit >= 0xd800 && unit < 0xe000 ? 0xd800 : lower.length === 1 ? lower.charCodeAt(0) : unit;
    if (/\s/u.test(c)) folded[unit] = 0;
  }
  return folded;
}

/** From the first of the scripts that are written without spaces on; those below U+2E80 have letters. */
const unspaced = (unit: number) => unit >= 0x2e80 && unit < 0xac00;

const mix = (a: number, b: number, c: number): number => {
  const h = Math.imul(Math.imul(a ^ 0x9e37, 0x85ebca6b) + b, 0x9e3779b1) ^ Math.imul(c + 0x7f4a, 0xc2b2ae35);
  return Math.imul(h ^ (h >>> 15), 0x2c1b3c6d) >>> 16;
};

/** Calls `take` with the hash of every run of a text. */
function eachGram(text: string, take: (gram: number) => void): void {
  const fold = foldTable();
  let [a, b] = [0, 0]; // the two before
  for (let i = 0; i < text.length; i++) {
    const c = fold[text.charCodeAt(i)]!;
    if (c !== 0) {
      if (unspaced(c)) take(mix(c, 0, 0));
      if (b !== 0 && unspaced(b)) take(mix(b, c, 0));
      if (a !== 0 && b !== 0 && !unspaced(a)) take(mix(a, b, c));
    }
    a = b;
    b = c;
  }
}

/** Hashes of the runs that a text must have that holds this one; none where it is too short to tell. */
export function gramsOf(text: string): number[] {
  const grams = new Set<number>();
  eachGram(text, (gram) => grams.add(gram));
  return [...grams];
}

/** Where the index of a file of a corpus lies. @param path relative to the corpus's folder, with forward slashes */
export const indexPath = (path: string): string => `work/index/${path.replaceAll("/", "-")}.grams`;

interface Stored {
  readonly text?: string;
  readonly id?: string;
  readonly title?: string;
  readonly url?: string;
  readonly meta?: { readonly title?: string; readonly url?: string };
}

/** Indexes a file of documents, unless that was done: a block of it in memory at a time. `tick` is called after each, with its bytes. */
export async function indexFile(folder: string, path: string, tick: (bytes: number) => void): Promise<boolean> {
  const out = join(folder, indexPath(path));
  if (existsSync(out)) return false;
  mkdirSync(dirname(out), { recursive: true });
  const { size } = statSync(join(folder, path));
  using file = new PartFile(out);
  const header = Buffer.alloc(HEADER);
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(BITS, 4);
  header.writeDoubleLE(size, 8);
  file.write(header);
  const entry = Buffer.alloc(ENTRY);
  let begin = 0;
  const close = async (end: number) => {
    entry.writeDoubleLE(begin, 0);
    file.write(entry);
    entry.fill(0);
    tick(end - begin);
    begin = end;
    await new Promise(setImmediate);
  };
  const set = (gram: number) => {
    entry[8 + (gram >> 3)]! |= 1 << (gram & 7);
  };
  let at = 0;
  for (const line of lines(join(folder, path))) {
    if (at - begin >= BLOCK) await close(at);
    at += line.length + 1;
    const d = JSON.parse(line.toString("utf8")) as Stored;
    for (const field of [d.text, d.id, d.title ?? d.meta?.title, d.url ?? d.meta?.url])
      if (typeof field === "string") eachGram(field, set);
  }
  if (at > begin) await close(at);
  file.finish();
  return true;
}

function* lines(path: string): Generator<Buffer> {
  const file = openSync(path, "r");
  try {
    const chunk = Buffer.alloc(2 ** 20);
    let rest: Buffer[] = [];
    for (;;) {
      const n = readSync(file, chunk);
      if (n === 0) break;
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0 && end < n; end = chunk.indexOf(10, start)) {
        yield Buffer.concat([...rest, chunk.subarray(start, end)]);
        rest = [];
        start = end + 1;
      }
      if (start < n) rest.push(Buffer.from(chunk.subarray(start, n)));
    }
    if (rest.length > 0)
      throw new StateError(`${path}: the last line has no end. Remove the work folder and build again.`);
  } finally {
    closeSync(file);
  }
}

/** A part of a file, in bytes: from the beginning of a line to the end of one. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/**
 * The parts of a file that may hold all of `grams`, in order, neighbours as one; undefined where there is no index of the file as it is.
 * @param size of the file now
 */
export function candidates(folder: string, path: string, size: number, grams: readonly number[]): Span[] | undefined {
  const place = join(folder, indexPath(path));
  let file: number;
  try {
    file = openSync(place, "r");
  } catch {
    return undefined; // a corpus of an older version, or one whose job has not come so far
  }
  try {
    const header = Buffer.alloc(HEADER);
    readSync(file, header, 0, HEADER, 0);
    if (header.readUInt32LE(0) !== MAGIC || header.readUInt32LE(4) !== BITS || header.readDoubleLE(8) !== size)
      return undefined;
    const many = Buffer.alloc(ENTRY * 64);
    const spans: { from: number; to: number }[] = [];
    let open: { from: number; to: number } | undefined;
    for (let at = HEADER; ; ) {
      const n = readSync(file, many, 0, many.length, at);
      if (n < ENTRY) break;
      for (let i = 0; i + ENTRY <= n; i += ENTRY) {
        const from = many.readDoubleLE(i);
        const may = grams.every((gram) => (many[i + 8 + (gram >> 3)]! >> (gram & 7)) & 1);
        if (may && !open) {
          open = { from, to: size };
          spans.push(open);
        } else if (!may && open) {
          open.to = from;
          open = undefined;
        }
      }
      at += n - (n % ENTRY);
    }
    return spans;
  } finally {
    closeSync(file);
  }
}
