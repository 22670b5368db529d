import { readdirSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { hashBits } from "./random.ts";
import { TokenFile, type TokenSource } from "./token-file.ts";
import { type SequenceBatch, windowsAt } from "./windows.ts";

/** Token shards of a folder as one source: read where they are needed, never held. */
export class Shards implements TokenSource {
  readonly length: number;
  readonly starts: readonly number[];
  readonly files: readonly TokenFile[];
  readonly #begins: readonly number[];

  /**
   * @param prefix of the shards' names: `shard` for training, `holdout` for what is kept back
   * @throws InputError when there are none, or one is damaged
   */
  constructor(
    folder: string,
    options: { readonly prefix?: string; readonly vocabulary?: number; readonly verify?: boolean } = {},
  ) {
    const { prefix = "shard", ...rest } = options;
    const names = list(folder).filter((name) => name.startsWith(`${prefix}-`) && name.endsWith(".bin"));
    if (names.length === 0)
      throw new InputError(
        `${folder}: there are no token shards (${prefix}-00000.bin, ...). Make them with \`howdah data build\`.`,
      );
    this.files = names.sort().map((name) => new TokenFile(join(folder, name), rest));
    const begins: number[] = [];
    const starts: number[] = [];
    let at = 0;
    for (const file of this.files) {
      begins.push(at);
      for (const s of file.starts) starts.push(at + s);
      at += file.length;
    }
    this.#begins = begins;
    this.starts = starts;
    this.length = at;
  }

  read(start: number, count: number): Int32Array {
    const out = new Int32Array(count);
    let done = 0;
    let k = this.#begins.findLastIndex((b) => b <= start);
    while (done < count) {
      const file = this.files[k];
      if (!file)
        throw new InputError(`token shards: tokens ${start} to ${start + count} of ${this.length} were asked for.`);
      const from = start + done - this.#begins[k]!;
      const n = Math.min(count - done, file.length - from);
      out.set(file.read(from, n), done);
      done += n;
      k++;
    }
    return out;
  }

  close(): void {
    for (const file of this.files) file.close();
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    throw new InputError(`${folder}: this folder cannot be read (${(error as Error).message}).`, { cause: error });
  }
}

/**
 * A permutation of 0 .. n - 1 that is computed, not stored: four Feistel rounds over the next even power of two, walked until it falls inside
 * (Black & Rogaway 2002, "cycle walking").
 */
export function permuted(i: number, n: number, ...seeds: readonly number[]): number {
  const half = Math.max(1, Math.ceil(Math.log2(Math.max(n, 2)) / 2));
  const size = 2 ** half;
  let x = i;
  do {
    let left = Math.floor(x / size);
    let right = x % size;
    for (let round = 0; round < 4; round++)
      [left, right] = [right, (left ^ hashBits(...seeds, round, right)) & (size - 1)];
    x = left * size + right;
  } while (x >= n);
  return x;
}

export interface EpochOptions {
  readonly rows: number;
  /** Tokens in a row. */
  readonly length: number;
  readonly seed: number;
  /** Which of several readers this is: they see disjoint rows that together are everything. Default 0 of 1. */
  readonly reader?: number;
  readonly readers?: number;
  /** Keep attention within documents. Default true. */
  readonly separate?: boolean;
}

/** Everything needed to go on with the same batches. */
export interface EpochCursor {
  readonly seed: number;
  readonly step: number;
}

/**
 * Batches that see every token once an epoch: the text is cut into windows that do not overlap, in an order that depends on (seed, epoch) alone. A reader
 * goes on from a cursor to the same bits, and several readers share an epoch without talking to each other.
 */
export class EpochWindows {
  readonly #source: TokenSource;
  readonly #options: Required<EpochOptions>;
  /** Windows there are. */
  readonly windows: number;
  /** Batches of one reader in an epoch; windows that fill none are left out. */
  readonly batchesPerEpoch: number;
  #step: number;

  /** @throws InputError when an epoch holds less than one batch for each reader */
  constructor(source: TokenSource, options: EpochOptions, cursor?: EpochCursor) {
    const { reader = 0, readers = 1, separate = true } = options;
    if (!(Number.isInteger(readers) && readers >= 1 && Number.isInteger(reader) && reader >= 0 && reader < readers))
      throw new InputError(`token shards: reader ${reader} of ${readers}; readers are counted from 0.`);
    if (cursor !== undefined && cursor.seed !== options.seed)
      throw new InputError(`The cursor was made with the seed ${cursor.seed}, not ${options.seed}.`);
    this.#source = source;
    this.#options = { ...options, reader, readers, separate };
    this.windows = Math.floor((source.length - 1) / options.length);
    this.batchesPerEpoch = Math.floor(this.windows / (options.rows * readers));
    if (this.batchesPerEpoch < 1)
      throw new InputError(
        `token shards: ${source.length} tokens are ${Math.max(this.windows, 0)} windows of ${options.length}, fewer than the ${options.rows * readers} that ${readers} readers take at a time.`,
      );
    this.#step = cursor?.step ?? 0;
  }

  get cursor(): EpochCursor {
    return { seed: this.#options.seed, step: this.#step };
  }

  /** Which windows the next batch holds. */
  places(step = this.#step): number[] {
    const { rows, readers, reader, seed } = this.#options;
    const epoch = Math.floor(step / this.batchesPerEpoch);
    const within = step % this.batchesPerEpoch;
    return Array.from({ length: rows }, (_, r) =>
      permuted((within * rows + r) * readers + reader, this.windows, seed, epoch),
    );
  }

  next(): SequenceBatch {
    return this.at(this.#step++);
  }

  /** The batch of a step: a pure function of it. */
  at(step: number): SequenceBatch {
    const { length, separate } = this.#options;
    const starts = this.places(step).map((window) => window * length);
    return windowsAt(this.#source, starts, length, separate);
  }
}
