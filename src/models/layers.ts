import type { LayerCache } from "../nn/cache.ts";
import type { Context } from "../nn/context.ts";
import type { Embedding } from "../nn/embedding.ts";
import type { Linear } from "../nn/linear.ts";
import type { PackedEmbedding, PackedLinear } from "../nn/quantized.ts";
import { InputError, ShapeError, StateError } from "../tensor/errors.ts";
import { linear } from "../tensor/ops/dot.ts";
import type { Pages } from "../tensor/ops/paged.ts";
import { quantizedLinear } from "../tensor/ops/quantized.ts";
import { splitKey } from "../tensor/ops/random.ts";
import { show } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { scope } from "../tensor/trace.ts";
import type { HiddenStates } from "./model.ts";

/**
 * What every language model checks before it starts.
 * @returns the length of the rows
 */
export function checkIds(
  ids: Tensor,
  context: Context,
  config: { readonly context: number; readonly layers: number },
): number {
  if (ids.rank !== 2 || ids.dtype !== "i32")
    throw new ShapeError(`language model: ids must be i32 (batch, time), got ${ids.dtype}${show(ids.shape)}.`);
  const [batch, time] = ids.shape as [number, number];
  // With a cache, the tokens of a row may belong to several sequences.
  if (time > config.context && !context.cache)
    throw new InputError(
      `language model: the rows hold ${time} tokens, but this model was made for at most ${config.context} (config.context). Cut the rows.`,
    );
  const { cache, positions } = context;
  if (positions && (positions.shape[1] !== time || (positions.shape[0] !== batch && positions.shape[0] !== 1)))
    throw new ShapeError(
      `language model: positions must be (batch, time) as the ids ${show(ids.shape)}, got ${show(positions.shape)}.`,
    );
  if (cache && cache.layers.length !== config.layers)
    throw new ShapeError(`language model: the cache has ${cache.layers.length} layers, the model ${config.layers}.`);
  return time;
}

/** Random keys for dropout, one per layer; none outside training. */
export function layerKeys(
  context: Context,
  layers: number,
): { embedding: Tensor<"i32">; layers: Tensor<"i32">[] } | undefined {
  if (!context.training || !context.key) return undefined;
  const [embedding, ...rest] = splitKey(context.key, layers + 1) as [Tensor<"i32">, ...Tensor<"i32">[]];
  return { embedding, layers: rest };
}

/** Training with dropout and without a key would silently be training without dropout. */
export function needKey(context: Context, rates: readonly number[]): void {
  if (context.training && !context.key && rates.some((rate) => rate > 0))
    throw new StateError(
      "language model: training with dropout needs context.key, a random key. Make one with randomKey(seed).",
    );
}

/** A block of a decoder: (batch, time, width) to the same, and the pages of its keys and values where there is a cache. */
interface Block<C> {
  forward(x: Tensor, context: C, cache?: LayerCache): [y: Tensor, pages: Pages | undefined];
}

/** Block after block, then the final norm. @param x (batch, time, width) @param keys a random key for each block, where there is dropout */
export function throughBlocks<C extends Context>(
  { h, norm }: { readonly h: readonly Block<C>[]; readonly norm: { forward(x: Tensor): Tensor } },
  x: Tensor,
  context: C,
  keys: readonly Tensor<"i32">[] | undefined,
): HiddenStates {
  const layers: Pages[] = [];
  h.forEach((block, i) => {
    const [y, next] = scope(`h.${i}`, () => block.forward(x, { ...context, key: keys?.[i] }, context.cache?.layer(i)));
    x = y;
    if (next) layers.push(next);
  });
  const hidden = scope("norm", () => norm.forward(x));
  return context.cache ? { hidden, cache: context.cache.after(layers) } : { hidden };
}

type Table = Linear | PackedLinear | Embedding | PackedEmbedding;

/** The matrix of a layer as training needs it. @throws StateError where it is packed */
export function trainable(table: Table): Tensor {
  if ("weight" in table) return table.weight;
  throw new StateError(
    `language model: the weights are ${table.matrix.format}, which can be read but not trained. Load the model without a weight format.`,
  );
}

/** hidden (..., width) times a head or a tied table -> (..., vocabulary) */
export function unembedBy(table: Table, hidden: Tensor): Tensor {
  return "weight" in table ? linear(hidden, table.weight) : quantizedLinear(hidden, table.matrix);
}
