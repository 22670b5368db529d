import { ShapeError } from "../tensor/errors.ts";
import { iota, zeros } from "../tensor/ops/creation.ts";
import { scatter, take } from "../tensor/ops/indexing.ts";
import { broadcastTo, concatenate, reshape } from "../tensor/ops/structure.ts";
import { show } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** Keys and values of one layer, each (slots, capacity, groups, width). */
export interface LayerCache {
  readonly k: Tensor;
  readonly v: Tensor;
}

/**
 * Keys and values of the tokens read so far, for a fixed number of sequences (slots) of a fixed greatest length (capacity). A pass gives a new
 * cache; where the old one is donated to the compiled pass, the rows are written in place.
 */
export class Cache extends Module {
  readonly layers: readonly LayerCache[];

  constructor(layers: readonly LayerCache[]) {
    super();
    this.layers = layers;
  }

  get slots(): number {
    return this.layers[0]!.k.shape[0]!;
  }
  get capacity(): number {
    return this.layers[0]!.k.shape[1]!;
  }
}

export interface CacheShape {
  readonly layers: number;
  readonly slots: number;
  readonly capacity: number;
  /** Heads of keys and values. */
  readonly groups: number;
  readonly width: number;
}

/** A cache that holds nothing. */
export function makeCache({ layers, slots, capacity, groups, width }: CacheShape): Cache {
  const empty = () => zeros([slots, capacity, groups, width]);
  return new Cache(Array.from({ length: layers }, () => ({ k: empty(), v: empty() })));
}

/**
 * Writes new keys or values.
 * @param cached (slots, capacity, groups, width)
 * @param fresh (batch, time, groups, width)
 * @param positions i32 (batch, time): places along the capacity; a token placed outside it is not kept
 * @param rows i32 (batch): slots; default 0, 1, ...
 */
export function writeCache(
  cached: Tensor,
  fresh: Tensor,
  positions: Tensor<"i32">,
  rows: Tensor<"i32"> | undefined,
): Tensor {
  const [b, t] = positions.shape as [number, number];
  const slot = rows ? broadcastTo(reshape(rows, [b, 1, 1]), [b, t, 1]) : iota([b, t, 1], 0);
  return scatter(cached, concatenate([slot, reshape(positions, [b, t, 1])], 2), fresh, "set", {
    update_window_dims: [2, 3],
    inserted_window_dims: [0, 1],
    scatter_dims_to_operand_dims: [0, 1],
    index_vector_dim: 2,
  });
}

/** The cache's rows of a batch: (slots, capacity, groups, width) -> (batch, capacity, groups, width). */
export function readCache(cached: Tensor, batch: number, rows: Tensor<"i32"> | undefined): Tensor {
  if (rows) return take(cached, rows);
  const slots = cached.shape[0]!;
  if (slots < batch)
    throw new ShapeError(
      `attention: a batch of ${batch} does not fit the ${slots} slots of the cache ${show(cached.shape)}. Make a larger cache, or say which slots with context.rows.`,
    );
  return slots === batch ? cached : cached.slice(0, 0, batch);
}
