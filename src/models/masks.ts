import { InputError, ShapeError } from "../tensor/errors.ts";

/** The interval of keys that each token sees, row-major (batch, time); see `Context`. */
export interface Intervals {
  readonly first: Int32Array;
  readonly end: Int32Array;
}

/**
 * What a causal model sees of padded rows: for the mask of Hugging Face's `attention_mask`, with ones for tokens and zeros for padding at the left,
 * the right or both.
 * @param mask row-major (batch, time)
 * @throws InputError for a mask with a hole, which no interval describes
 */
export function causalIntervals(mask: ArrayLike<number>, batch: number, time: number): Intervals {
  return intervals(mask, batch, time, true);
}

/** The same for an encoder, whose tokens see all tokens of their row. */
export function bidirectionalIntervals(mask: ArrayLike<number>, batch: number, time: number): Intervals {
  return intervals(mask, batch, time, false);
}

function intervals(mask: ArrayLike<number>, batch: number, time: number, causal: boolean): Intervals {
  if (mask.length !== batch * time)
    throw new ShapeError(`attention_mask: ${mask.length} elements for a batch of ${batch} rows of ${time}.`);
  const first = new Int32Array(batch * time);
  const end = new Int32Array(batch * time);
  for (let b = 0; b < batch; b++) {
    const seen = (t: number) => mask[b * time + t] !== 0;
    let from = 0;
    while (from < time && !seen(from)) from++;
    let to = from;
    while (to < time && seen(to)) to++;
    for (let t = to; t < time; t++)
      if (seen(t))
        throw new InputError(
          `attention_mask: row ${b} has a hole before token ${t}. Only padding at the left and at the right is supported.`,
        );
    first.fill(from, b * time, (b + 1) * time);
    for (let t = 0; t < time; t++) end[b * time + t] = causal ? Math.min(t + 1, to) : to;
  }
  return { first, end };
}
