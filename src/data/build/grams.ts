import { closeSync, openSync, readSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { makeFolder } from "../../runs/atomic.ts";
import { StateError } from "../../tensor/errors.ts";
import { PartFile } from "./part-file.ts";

/**
 * An index that tells a search which parts of a file cannot hold what it looks for (Cox 2012, "Regular expression matching with a trigram index"; here
 * with a signature a block, as in Bloom 1970). A file of documents is cut at lines into blocks; of each block up to 2^16 bits say which runs of three
 * characters are in it, by their hashes; fewer of a shorter one. What is looked for is in a block only if all its runs are: the others are passed over without being read.
 *
 * Characters of scripts that are written without spaces count by themselves and in pairs: a Chinese word is one or two of them.
 */
const BITS = 2 ** 16;
const LEAST_BITS = 2 ** 10;
const BLOCK = 128 * 1024;
const MAGIC = 0x32474748; // "HGG2"
/** The magic number, how long the file of documents is. */
const HEADER = 16;
/** Of a block: where it begins, and its number of bits; then come the bits. */
const ENTRY = 16;

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
export const unspaced = (unit: number) => unit >= 0x2e80 && unit < 0xac00;

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
  const { size } = statSync(join(folder, path));
  if (candidates(folder, path, size, []) !== undefined) return false;
  makeFolder(dirname(out));
  using file = new PartFile(out);
  const header = Buffer.alloc(HEADER);
  header.writeUInt32LE(MAGIC, 0);
  header.writeDoubleLE(size, 8);
  file.write(header);
  const entry = Buffer.alloc(ENTRY);
  const bits = new Uint8Array(BITS / 8);
  let begin = 0;
  const close = async (end: number) => {
    // About a bit a byte of a short block: folded in half, a set of bits is that of the hashes' remainders.
    let count = BITS;
    for (; count > LEAST_BITS && count >= 2 * (end - begin); count /= 2)
      for (let i = 0; i < count / 16; i++) bits[i]! |= bits[i + count / 16]!;
    entry.writeDoubleLE(begin, 0);
    entry.writeDoubleLE(count, 8);
    file.write(entry);
    file.write(bits.subarray(0, count / 8));
    bits.fill(0);
    tick(end - begin);
    begin = end;
    await new Promise(setImmediate);
  };
  const set = (gram: number) => {
    bits[gram >> 3]! |= 1 << (gram & 7);
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

/** What is read of an index at a time: one for all calls, none of which waits in between. */
const chunk = Buffer.allocUnsafeSlow(2 ** 18);

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
    let held = readSync(file, chunk, 0, chunk.length, null);
    if (held < HEADER || chunk.readUInt32LE(0) !== MAGIC || chunk.readDoubleLE(8) !== size) return undefined;
    const spans: { from: number; to: number }[] = [];
    let open: { from: number; to: number } | undefined;
    for (let at = HEADER; ; ) {
      const bits = at + ENTRY <= held ? chunk.readDoubleLE(at + 8) : 0;
      if (bits === 0 || at + ENTRY + bits / 8 > held) {
        // The rest of the chunk to its beginning, and more behind it.
        chunk.copyWithin(0, at, held);
        const more = readSync(file, chunk, held - at, chunk.length - (held - at), null);
        if (more === 0) break;
        held += more - at;
        at = 0;
        continue;
      }
      const from = chunk.readDoubleLE(at);
      const begin = at + ENTRY;
      const may = grams.every((gram) => {
        const bit = gram % bits;
        return (chunk[begin + (bit >> 3)]! >> (bit & 7)) & 1;
      });
      if (may && !open) {
        open = { from, to: size };
        spans.push(open);
      } else if (!may && open) {
        open.to = from;
        open = undefined;
      }
      at = begin + bits / 8;
    }
    return spans;
  } finally {
    closeSync(file);
  }
}
