import { closeSync, mkdtempSync, openSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { explainWrite, readFull, writeAll } from "../../runs/atomic.ts";
import { StateError } from "../../tensor/errors.ts";

export interface KeyIndexOptions {
  /** Bytes of keys held in memory before they go to disk. Default 256 MB. */
  readonly memory?: number;
  /** Where the files go, in a folder of their own. Default the system's place for temporary files. */
  readonly folder?: string;
  /** Keys of 96 bits, for so many that two of 64 might be equal by chance. */
  readonly wide?: boolean;
}

/** Parts are told apart by this many bits of the key. */
const PART_BITS = 6;
const PARTS = 2 ** PART_BITS;

/**
 * Finds equal keys among more than fit in memory: (key, ordinal) pairs are spread over parts by their first bits, parts go to files when
 * memory is full, and each part is looked through on its own at the end, one that is too large for memory in parts of its own.
 * Ordinals must come in ascending order, below 2^32.
 */
export class KeyIndex {
  /** Words of 32 bits a record has: two or three of the key, one of the ordinal. */
  readonly #words: number;
  /** Of the bits that tell parts apart, in the key's first word. */
  readonly #shift: number;
  readonly #limit: number;
  readonly #folderOption: string;
  #folder: string | undefined;
  readonly #files: (number | undefined)[] = Array.from({ length: PARTS });
  readonly #buffers: Uint32Array[];
  readonly #used = new Uint32Array(PARTS);
  #records = 0;
  #spilled = 0;
  #finished = false;

  /** @param shift bits of the key that are the same in all records */
  constructor(options: KeyIndexOptions = {}, shift = 0) {
    this.#words = options.wide ? 4 : 3;
    this.#shift = shift;
    this.#limit = options.memory ?? 256 * 2 ** 20;
    this.#folderOption = options.folder ?? tmpdir();
    this.#buffers = Array.from({ length: PARTS }, () => new Uint32Array(this.#words * 64));
  }

  get records(): number {
    return this.#records;
  }
  /** Bytes that went to disk. */
  get spilledBytes(): number {
    return this.#spilled;
  }

  /** @param more the rest of a wide key */
  add(high: number, low: number, ordinal: number, more = 0): void {
    const words = this.#words;
    if (this.#finished) throw new StateError("key index: it is finished; keys cannot be added any more.");
    const part = (high << this.#shift) >>> (32 - PART_BITS);
    let used = this.#used[part]!;
    let buffer = this.#buffers[part]!;
    if (used + words > buffer.length) {
      const most = Math.max(Math.floor(this.#limit / 4 / PARTS / words) * words, words * 64);
      if (buffer.length >= most) {
        this.#spill(part);
        used = 0;
      } else {
        const larger = new Uint32Array(Math.min(buffer.length * 2, most));
        larger.set(buffer);
        this.#buffers[part] = larger;
        buffer = larger;
      }
    }
    buffer[used] = high;
    buffer[used + 1] = low;
    buffer[used + 2] = ordinal;
    if (words === 4) buffer[used + 3] = more;
    this.#used[part] = used + words;
    this.#records++;
  }

  #path(part: number): string {
    this.#folder ??= mkdtempSync(join(this.#folderOption, "howdah-keys-"));
    return join(this.#folder, `${part}.keys`);
  }

  #spill(part: number): void {
    const used = this.#used[part]!;
    if (used === 0) return;
    const file = this.#files[part] ?? openSync(this.#path(part), "w");
    this.#files[part] = file;
    const buffer = this.#buffers[part]!;
    const bytes = Buffer.from(buffer.buffer, buffer.byteOffset, used * 4);
    spillTo(file, bytes, undefined, this.#path(part));
    this.#spilled += bytes.length;
    this.#used[part] = 0;
  }

  /** Calls back for every key that was there before, with the ordinal it was there with first. Within a part in ascending order. */
  duplicates(found: (first: number, again: number) => void): void {
    this.#finished = true;
    const words = this.#words;
    for (let part = 0; part < PARTS; part++) {
      const file = this.#files[part];
      if (file === undefined) firsts([this.#buffers[part]!.subarray(0, this.#used[part]!)], words, found);
      else this.#spill(part);
      this.#buffers[part] = new Uint32Array(0);
      if (file === undefined) continue;
      closeSync(file);
      this.#files[part] = undefined;
      const path = this.#path(part);
      // Looked through at once, a part takes twice its size where no key is there twice.
      if (statSync(path).size * 2 <= this.#limit || this.#shift + 2 * PART_BITS > 32)
        firsts(chunksOf(path, words), words, found);
      else {
        const options = { memory: this.#limit / 2, folder: this.#folder!, wide: words === 4 };
        using parts = new KeyIndex(options, this.#shift + PART_BITS);
        for (const records of chunksOf(path, words))
          for (let i = 0; i < records.length; i += words)
            parts.add(records[i]!, records[i + 1]!, records[i + 2]!, records[i + words - 1]!);
        parts.duplicates(found);
      }
      rmSync(path);
    }
    this.dispose();
  }

  /** Takes the files away. */
  dispose(): void {
    this.#finished = true;
    for (const file of this.#files) if (file !== undefined) closeSync(file);
    this.#files.fill(undefined);
    if (this.#folder) rmSync(this.#folder, { recursive: true, force: true });
    this.#folder = undefined;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Writes to a temporary file. @param at where in the file; undefined: after what was written last. @throws DiskError */
export function spillTo(file: number, bytes: Uint8Array, at: number | undefined, path: string): void {
  try {
    writeAll(file, bytes, at);
  } catch (error) {
    throw explainWrite(error, path, "It is a temporary file; make room and run the same command again.");
  }
}

/** The records of a file, some megabytes at a time; each is good until the next is asked for. */
function* chunksOf(path: string, words: number): Generator<Uint32Array> {
  const file = openSync(path, "r");
  try {
    const buffer = new Uint32Array(words * 2 ** 16);
    for (;;) {
      const bytes = readFull(file, new Uint8Array(buffer.buffer));
      if (bytes > 0) yield buffer.subarray(0, bytes / 4);
      if (bytes < buffer.byteLength) return;
    }
  } finally {
    closeSync(file);
  }
}

/** Open addressing over the records whose keys stood there first. Memory goes by different keys, not by records. */
function firsts(chunks: Iterable<Uint32Array>, words: number, found: (first: number, again: number) => void): void {
  let known = new Uint32Array(words * 16);
  let used = 0;
  let table = new Int32Array(32).fill(-1);
  const home = (high: number, low: number): number => {
    const at = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b) >>> 0;
    return (at ^ (at >>> 15)) & (table.length - 1);
  };
  const grow = () => {
    const larger = new Uint32Array(known.length * 2);
    larger.set(known);
    known = larger;
    table = new Int32Array(table.length * 2).fill(-1);
    for (let i = 0; i < used; i += words) {
      let at = home(known[i]!, known[i + 1]!);
      while (table[at]! >= 0) at = (at + 1) & (table.length - 1);
      table[at] = i / words;
    }
  };
  for (const records of chunks)
    for (let i = 0; i < records.length; i += words) {
      const high = records[i]!;
      const low = records[i + 1]!;
      const last = records[i + words - 1]!;
      for (let at = home(high, low); ; at = (at + 1) & (table.length - 1)) {
        const there = table[at]! * words;
        if (there < 0) {
          table[at] = used / words;
          for (let k = 0; k < words; k++) known[used + k] = records[i + k]!;
          used += words;
          if (used === known.length) grow();
          break;
        }
        // The third word of a short record is its ordinal; of a long one the fourth is a part of the key.
        if (known[there] === high && known[there + 1] === low && (words === 3 || known[there + 3] === last)) {
          found(known[there + 2]!, records[i + 2]!);
          break;
        }
      }
    }
}
