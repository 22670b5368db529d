import { InputError } from "../tensor/errors.ts";
import { shuffled } from "./random.ts";
import { emptyBatch, type SequenceBatch } from "./windows.ts";

/** One example: its ids, and for each id whether it is to be learnt (1) or only read (0). */
export interface Example {
  readonly ids: ArrayLike<number>;
  readonly mask: ArrayLike<number>;
}

/** What was done with examples longer than a row. */
export interface Packed {
  readonly batch: SequenceBatch;
  /** For each example, the row and the position where it starts. */
  readonly places: readonly { readonly row: number; readonly start: number }[];
  /** Examples whose end did not fit and was cut off. */
  readonly truncated: number;
}

/**
 * Puts whole examples into rows, several in one, so that little is padding: each goes into the first row with room, longest first.
 * `first` keeps attention within an example, the mask keeps the loss on what is to be learnt, and no target crosses from one example
 * to the next. An example longer than a row loses its end.
 * @param length tokens in a row; an example of n ids takes n - 1 positions (the last id is only a target)
 */
export function packExamples(examples: readonly Example[], length: number, pad = 0): Packed {
  const sizes = examples.map((example) => checkedSize(example, length));
  const order = examples.map((_, i) => i).sort((a, b) => sizes[b]! - sizes[a]! || a - b);
  const used: number[] = [];
  const places: { row: number; start: number }[] = new Array(examples.length);
  for (const i of order) {
    let row = used.findIndex((filled) => filled + sizes[i]! <= length);
    if (row === -1) row = used.push(0) - 1;
    places[i] = { row, start: used[row]! };
    used[row] = used[row]! + sizes[i]!;
  }
  const batch = emptyBatch(used.length, length, pad);
  for (const [i, example] of examples.entries()) place(batch, example, places[i]!.row, places[i]!.start, sizes[i]!);
  for (const [row, filled] of used.entries()) leaveAlone(batch, row, filled);
  return { batch, places, truncated: examples.filter((example) => example.ids.length - 1 > length).length };
}

/** One example a row, padded at the end to `length`. */
export function padExamples(examples: readonly Example[], length: number, pad = 0): SequenceBatch {
  const batch = emptyBatch(examples.length, length, pad);
  examples.forEach((example, row) => {
    const size = checkedSize(example, length);
    place(batch, example, row, 0, size);
    leaveAlone(batch, row, size);
  });
  return batch;
}

function checkedSize({ ids, mask }: Example, length: number): number {
  if (ids.length !== mask.length)
    throw new InputError(`An example has ${ids.length} ids but a mask of ${mask.length}.`);
  if (ids.length < 2)
    throw new InputError(`An example of ${ids.length} ids has nothing to predict; it needs at least 2.`);
  return Math.min(ids.length - 1, length);
}

function place(batch: SequenceBatch, { ids, mask }: Example, row: number, start: number, size: number): void {
  const at = row * batch.length + start;
  for (let i = 0; i < size; i++) {
    batch.inputs[at + i] = ids[i]!;
    batch.targets[at + i] = ids[i + 1]!;
    batch.weights[at + i] = mask[i + 1]! === 0 ? 0 : 1;
    batch.first[at + i] = start;
  }
}

/** Padding from `filled` on: each position sees only itself, so that no softmax is empty and nothing else sees it. */
function leaveAlone(batch: SequenceBatch, row: number, filled: number): void {
  for (let i = filled; i < batch.length; i++) batch.first[row * batch.length + i] = i;
}

/**
 * Row lengths for examples of many sizes: a job then compiles one program for each, not one for each size.
 * @returns ascending, powers of two times `smallest`, the last at least the longest example (or `longest`)
 */
export function bucketLengths(sizes: readonly number[], smallest: number, longest: number): number[] {
  const need = Math.min(
    longest,
    sizes.reduce((most, size) => Math.max(most, size - 1), smallest),
  );
  const lengths: number[] = [];
  for (let length = smallest; ; length *= 2) {
    lengths.push(Math.min(length, longest));
    if (length >= need) return lengths;
  }
}

/**
 * Batches of padded examples, each of one of the given lengths and exactly `rows` rows, in an order that depends on (seed, epoch).
 * A bucket's last batch is filled with examples it has already shown, with weight 0.
 * @param lengths from `bucketLengths`
 */
export function bucketBatches(
  examples: readonly Example[],
  lengths: readonly number[],
  rows: number,
  seed: number,
  epoch: number,
  pad = 0,
): SequenceBatch[] {
  const buckets = new Map<number, Example[]>(lengths.map((length) => [length, []]));
  for (const i of shuffled(examples.length, seed, epoch, 0)) {
    const example = examples[i]!;
    const length = lengths.find((each) => example.ids.length - 1 <= each) ?? lengths.at(-1)!;
    buckets.get(length)!.push(example);
  }
  const batches: SequenceBatch[] = [];
  for (const [length, members] of buckets) {
    for (let at = 0; at < members.length; at += rows) {
      const part = members.slice(at, at + rows);
      const filler = Array.from({ length: rows - part.length }, (_, i): Example => {
        const again = members[i % members.length]!;
        return { ids: again.ids, mask: new Uint8Array(again.mask.length) };
      });
      batches.push(padExamples([...part, ...filler], length, pad));
    }
  }
  return shuffled(batches.length, seed, epoch, 1).map((i) => batches[i]!);
}
