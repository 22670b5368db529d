import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { explainWrite, writeAll } from "../../runs/atomic.ts";
import { StateError } from "../../tensor/errors.ts";

export interface KeyIndexOptions {
  /** Bytes of keys held in memory before they go to disk. Default 256 MB. */
  readonly memory?: number;
  /** Where the files go, in a folder of their own. Default the system's place for temporary files. */
  readonly folder?: string;
}

/** Words of 32 bits a record has: two of the key, one of the ordinal. */
const RECORD = 3;
const PARTS = 64;

/**
 * Finds equal keys among more than fit in memory: (64-bit key, ordinal) pairs are spread over parts by their first bits, parts go to files when
 * memory is full, and each part is looked through on its own at the end. Ordinals must come in ascending order, below 2^32.
 */
export class KeyIndex {
  readonly #limit: number;
  readonly #folderOption: string;
  #folder: string | undefined;
  readonly #files: (number | undefined)[] = Array.from({ length: PARTS });
  readonly #buffers: Uint32Array[];
  readonly #used = new Uint32Array(PARTS);
  #records = 0;
  #spilled = 0;
  #finished = false;

  constructor(options: KeyIndexOptions = {}) {
    this.#limit = options.memory ?? 256 * 2 ** 20;
    this.#folderOption = options.folder ?? tmpdir();
    this.#buffers = Array.from({ length: PARTS }, () => new Uint32Array(RECORD * 64));
  }

  get records(): number {
    return this.#records;
  }
  /** Bytes that went to disk. */
  get spilledBytes(): number {
    return this.#spilled;
  }

  add(high: number, low: number, ordinal: number): void {
    if (this.#finished) throw new StateError("key index: it is finished; keys cannot be added any more.");
    const part = high >>> 26;
    let used = this.#used[part]!;
    let buffer = this.#buffers[part]!;
    if (used + RECORD > buffer.length) {
      const most = Math.max(Math.floor(this.#limit / 4 / PARTS / RECORD) * RECORD, RECORD * 64);
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
    this.#used[part] = used + RECORD;
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
    for (let part = 0; part < PARTS; part++) {
      let records = this.#buffers[part]!.subarray(0, this.#used[part]!);
      const file = this.#files[part];
      if (file !== undefined) {
        this.#spill(part);
        closeSync(file);
        this.#files[part] = undefined;
        const bytes = readFileSync(this.#path(part));
        records = new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
        rmSync(this.#path(part));
      }
      this.#buffers[part] = new Uint32Array(0);
      firsts(records, found);
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

/** Open addressing over the records themselves: a table of the positions where keys stood first. */
function firsts(records: Uint32Array, found: (first: number, again: number) => void): void {
  const count = records.length / RECORD;
  let size = 16;
  while (size < count * 2) size *= 2;
  const table = new Int32Array(size).fill(-1);
  for (let i = 0; i < records.length; i += RECORD) {
    const high = records[i]!;
    const low = records[i + 1]!;
    let at = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b) >>> 0;
    at = (at ^ (at >>> 15)) & (size - 1);
    for (;;) {
      const known = table[at]!;
      if (known < 0) {
        table[at] = i;
        break;
      }
      if (records[known] === high && records[known + 1] === low) {
        found(records[known + 2]!, records[i + 2]!);
        break;
      }
      at = (at + 1) & (size - 1);
    }
  }
}
