import { ShapeError, StateError } from "../tensor/errors.ts";
import { iota, uninitialized } from "../tensor/ops/creation.ts";
import type { Pages, PageType, Places } from "../tensor/ops/paged.ts";
import { broadcastTo, reshape } from "../tensor/ops/structure.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import type { Context } from "./context.ts";

/** Positions of a page: as many keys as four vectors of the widest processors hold. */
export const PAGE = 64;

/** Keys and values of one layer: its pages, and which of them belong to which sequence. */
export interface LayerCache {
  readonly pages: Pages;
  /** i32 (slots, blocks) */
  readonly table: Tensor<"i32">;
}

/**
 * Keys and values of the tokens read so far, in pages (Kwon et al. 2023): row s of the table names the pages of the sequence in slot s, in the
 * order of its positions. Sequences may share pages. A pass gives a new cache; where the old one is donated to the compiled pass, new
 * keys and values are written in place.
 */
export class Cache extends Module {
  readonly layers: readonly Pages[];
  /** i32 (slots, blocks) */
  readonly table: Tensor<"i32">;

  constructor(layers: readonly Pages[], table: Tensor<"i32">) {
    super();
    this.layers = layers;
    this.table = table;
  }

  get slots(): number {
    return this.table.shape[0]!;
  }
  /** Positions of the longest sequence. */
  get capacity(): number {
    return this.table.shape[1]! * this.layers[0]!.k.shape[3]!;
  }

  layer(index: number): LayerCache {
    return { pages: this.layers[index]!, table: this.table };
  }

  /** The cache after a pass, with what the pass wrote. */
  after(layers: readonly Pages[]): Cache {
    return new Cache(layers, this.table);
  }

  /** The same pages with another table. */
  with(table: Tensor<"i32">): Cache {
    return new Cache(this.layers, table);
  }
}

export interface CacheShape {
  readonly layers: number;
  readonly slots: number;
  readonly capacity: number;
  /** Heads of keys and values. */
  readonly groups: number;
  readonly width: number;
  /** What keys and values are rounded to. Default f32. */
  readonly type?: PageType | undefined;
  /** How many pages there are; default as many as all slots need at the same time. */
  readonly pages?: number | undefined;
}

/** Pages that hold nothing, and a table that gives each slot pages of its own as far as there are enough. */
export function makeCache(shape: CacheShape): Cache {
  const { layers, slots, capacity, groups, width, type = "f32" } = shape;
  const blocks = Math.ceil(capacity / PAGE);
  const pages = shape.pages ?? slots * blocks;
  const empty = (): Pages => ({
    k: uninitialized([pages, groups, width, PAGE], type),
    v: uninitialized([pages, groups, PAGE, width], type),
    ...(type === "i8"
      ? { kScale: uninitialized([pages, groups, PAGE]), vScale: uninitialized([pages, groups, PAGE]) }
      : {}),
  });
  const table = Int32Array.from({ length: slots * blocks }, (_, i) => (i < pages ? i : -1));
  return new Cache(Array.from({ length: layers }, empty), tensor(table, { shape: [slots, blocks] }) as Tensor<"i32">);
}

/** Bytes that one page takes in all layers. */
export function pageBytes({ layers, groups, width, type = "f32" }: Omit<CacheShape, "slots" | "capacity">): number {
  const bytes = { f32: 4, bf16: 2, i8: 1 }[type];
  return 2 * layers * groups * PAGE * (width * bytes + (type === "i8" ? 4 : 0));
}

/**
 * Where the tokens of a batch are in the cache.
 * @param positions i32 (batch, time), or (1, time) for all rows; default 0, 1, ...
 * @param rows slots, i32 (batch) or (batch, time); default 0, 1, ...
 */
export function placesIn(
  table: Tensor<"i32">,
  [batch, time]: readonly [number, number],
  { positions, rows, first, end }: Pick<Context, "positions" | "rows" | "first" | "end">,
): Places {
  if (first || end)
    throw new StateError(
      "attention: with a cache, a token sees the keys of its sequence up to its own position; leave out context.first and context.end, and give padding the position -1.",
    );
  const slots = table.shape[0]!;
  if (!rows && slots < batch)
    throw new ShapeError(
      `attention: a batch of ${batch} does not fit the ${slots} slots of the cache. Make a larger cache, or say which slots with context.rows.`,
    );
  const slot = rows ? (rows.rank === 1 ? reshape(rows, [batch, 1]) : rows) : iota([batch, 1], 0);
  const flat = (x: Tensor) => reshape(broadcastTo(x, [batch, time]), [batch * time]);
  return { table, sequence: flat(slot), position: flat(positions ?? iota([1, time], 1)) };
}
