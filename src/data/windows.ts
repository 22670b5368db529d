import { InputError } from "../tensor/errors.ts";
import { uniform } from "./random.ts";
import type { TokenSource } from "./token-file.ts";

/**
 * Rows of ids for language modelling. All arrays are (rows, length), flat.
 */
export interface SequenceBatch {
  readonly rows: number;
  readonly length: number;
  readonly inputs: Int32Array;
  /** The id that comes after each input. Where the weight is 0 it is a valid id without meaning. */
  readonly targets: Int32Array;
  /** 1 where the target counts in the loss, else 0. */
  readonly weights: Float32Array;
  /** For each position, the first position of its row that it may attend to: the start of its document. */
  readonly first: Int32Array;
}

/** Everything needed to go on with the same batches: kept in checkpoints. */
export interface WindowCursor {
  readonly seed: number;
  readonly step: number;
}

export interface WindowOptions {
  readonly rows: number;
  /** Tokens in a row. */
  readonly length: number;
  readonly seed: number;
  /** Keep attention within documents. Default true. */
  readonly separate?: boolean;
}

/** Batches by the number of the step: what is at a step depends on nothing that was read before. */
export interface StepWindows {
  at(step: number): SequenceBatch;
}

/**
 * Batches of windows at random places, with replacement: row r of step s starts at a place that depends only on (seed, s, r), so a
 * run that goes on from a cursor sees the batches it would have seen.
 */
export class RandomWindows {
  private readonly source: TokenSource;
  private readonly options: WindowOptions;
  private step: number;

  /** @throws InputError when the text is shorter than a window */
  constructor(source: TokenSource, options: WindowOptions, cursor?: WindowCursor) {
    if (source.length < options.length + 1) {
      throw new InputError(
        `The text has ${source.length} tokens, fewer than the ${options.length + 1} of one window. Add text, or choose a smaller context.`,
      );
    }
    if (cursor !== undefined && cursor.seed !== options.seed) {
      throw new InputError(`The cursor was made with the seed ${cursor.seed}, not ${options.seed}.`);
    }
    this.source = source;
    this.options = options;
    this.step = cursor?.step ?? 0;
  }

  get cursor(): WindowCursor {
    return { seed: this.options.seed, step: this.step };
  }

  next(): SequenceBatch {
    return this.at(this.step++);
  }

  /** The batch of a step. */
  at(step: number): SequenceBatch {
    const { rows, length, seed } = this.options;
    const places = this.source.length - length; // the last target is one past the window
    const starts = Array.from({ length: rows }, (_, row) => Math.floor(uniform(seed, step, row) * places));
    return windowsAt(this.source, starts, length, this.options.separate ?? true);
  }
}

/**
 * Windows that start at given positions.
 * @param starts one position a row, each at most `source.length - length - 1`
 */
export function windowsAt(
  source: TokenSource,
  starts: readonly number[],
  length: number,
  separate = true,
): SequenceBatch {
  const batch = emptyBatch(starts.length, length);
  starts.forEach((start, row) => {
    const ids = source.read(start, length + 1);
    batch.inputs.set(ids.subarray(0, length), row * length);
    batch.targets.set(ids.subarray(1), row * length);
    batch.weights.fill(1, row * length, (row + 1) * length);
    if (!separate) return; // first stays 0: the whole row
    // Index of the first document that starts after the window's first token.
    let low = 0;
    let high = source.starts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (source.starts[middle]! <= start) low = middle + 1;
      else high = middle;
    }
    for (; low < source.starts.length && source.starts[low]! < start + length; low++) {
      batch.first.fill(source.starts[low]! - start, row * length + source.starts[low]! - start, (row + 1) * length);
    }
  });
  return batch;
}

/** All of a source as windows side by side, each token predicted once, for measuring a loss. The last is cut off where it ends. */
export function* evaluationWindows(
  source: TokenSource,
  rows: number,
  length: number,
  separate = true,
): Generator<SequenceBatch> {
  const last = source.length - 1; // the last token has nothing after it
  for (let start = 0; start < last; start += rows * length) {
    const batch = emptyBatch(rows, length);
    for (let row = 0; row < rows; row++) {
      const at = start + row * length;
      const count = Math.max(0, Math.min(length, last - at));
      if (count > 0) {
        const part = windowsAt(source, [at], count, separate);
        batch.inputs.set(part.inputs, row * length);
        batch.targets.set(part.targets, row * length);
        batch.weights.set(part.weights, row * length);
        batch.first.set(part.first, row * length);
      }
      for (let i = count; i < length; i++) batch.first[row * length + i] = i;
    }
    yield batch;
  }
}

export function emptyBatch(rows: number, length: number, pad = 0): SequenceBatch {
  const size = rows * length;
  return {
    rows,
    length,
    inputs: new Int32Array(size).fill(pad),
    targets: new Int32Array(size).fill(pad),
    weights: new Float32Array(size),
    first: new Int32Array(size),
  };
}
