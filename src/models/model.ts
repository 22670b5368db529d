import type { Cache } from "../nn/cache.ts";
import type { Context } from "../nn/context.ts";
import { ShapeError } from "../tensor/errors.ts";
import { linear } from "../tensor/ops/dot.ts";
import { crossEntropy, linearCrossEntropy } from "../tensor/ops/loss.ts";
import { sameShape, show } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { scope } from "../tensor/trace.ts";
import { leaves, type Module } from "../tensor/tree.ts";
import type { GPTConfig } from "./gpt/config.ts";
import type { LlamaConfig } from "./llama/config.ts";

export type ModelConfig = GPTConfig | LlamaConfig;

export interface HiddenStates {
  /** (batch, time, width), after the final norm. */
  readonly hidden: Tensor;
  /** With the new keys and values, if the context had a cache. */
  readonly cache?: Cache;
}

/** What training, generation and evaluation ask of an autoregressive Transformer. */
export interface LanguageModel extends Module {
  readonly config: ModelConfig;
  /**
   * (vocabulary, width): logits are `hidden . unembedding^T`. The embedding itself where the two are tied.
   * @throws StateError where the weights are packed (`packModel`): those cannot be trained
   */
  readonly unembedding: Tensor;
  /** Hidden states (..., width) to logits (..., vocabulary); left out, the product with `unembedding`. */
  unembed?(hidden: Tensor): Tensor;
  /** Whether the weights are packed: read, not trained. */
  readonly isPacked?: boolean;
  /** @param ids i32 (batch, time) */
  hidden(ids: Tensor<"i32">, context?: Context): HiddenStates;
}

/** Rows of tokens and what should follow each of them. */
export interface LanguageModelBatch {
  /** i32 (batch, time) */
  readonly ids: Tensor<"i32">;
  /** i32 (batch, time): the token that follows each one, or a negative number where it does not count. */
  readonly targets: Tensor<"i32">;
  readonly positions?: Tensor<"i32"> | undefined;
  /** The interval of keys that each token sees, as in `Context`. */
  readonly first?: Tensor<"i32"> | undefined;
  readonly end?: Tensor<"i32"> | undefined;
}

/** hidden (..., width) -> (..., vocabulary) */
export function logits(model: LanguageModel, hidden: Tensor): Tensor {
  return scope("head", () => model.unembed?.(hidden) ?? linear(hidden, model.unembedding));
}

/** Minus the log-probability of each target, (batch * time); 0 where the target does not count. */
function tokenLosses(model: LanguageModel, batch: LanguageModelBatch, context: Context): Tensor {
  const { ids, targets } = batch;
  if (!sameShape(ids.shape, targets.shape) || ids.rank !== 2)
    throw new ShapeError(
      `language model loss: ids and targets must both be (batch, time), got ${show(ids.shape)} and ${show(targets.shape)}.`,
    );
  const { hidden } = model.hidden(ids, {
    ...context,
    positions: batch.positions ?? context.positions,
    first: batch.first ?? context.first,
    end: batch.end ?? context.end,
  });
  const width = hidden.shape[2]!;
  const rows = hidden.reshape(ids.size, width);
  if (model.isPacked) return scope("loss", () => crossEntropy(logits(model, rows), targets.reshape(ids.size)));
  return scope("loss", () => linearCrossEntropy(rows, model.unembedding, targets.reshape(ids.size)));
}

/** Mean cross-entropy in nats over the targets that count; 0 if none does. */
export function languageModelLoss(model: LanguageModel, batch: LanguageModelBatch, context: Context = {}): Tensor {
  const losses = tokenLosses(model, batch, context);
  const counted = batch.targets.greaterEqual(0).to(losses.dtype).sum();
  return losses.sum().div(counted.maximum(1));
}

/** log p(target | the tokens before it), (batch, time); 0 where the target is negative. */
export function tokenLogProbabilities(model: LanguageModel, batch: LanguageModelBatch, context: Context = {}): Tensor {
  return tokenLosses(model, batch, context)
    .neg()
    .reshape(...batch.ids.shape);
}

/** Numbers of a model that its config alone does not show. Tied weights count once. */
export function parameterCount(model: unknown): number {
  return leaves(model).reduce((n, { tensor }) => n + tensor.size, 0);
}

/**
 * Floating-point operations of training on one token, forward and backward: 6 per parameter that is multiplied, and 12 * layers * width * context
 * of attention over a full row (Chowdhery et al. 2022, appendix B). Look-up tables are not multiplied, unless they are the head as well.
 */
export function trainingFlopsPerToken(model: LanguageModel, context: number = model.config.context): number {
  const { config } = model;
  const tables = leaves(model).filter(({ path }) => path === "tokens.weight" || path === "positions.weight");
  const multiplied = parameterCount(model) - tables.reduce((n, { tensor }) => n + tensor.size, 0);
  const tied = config.tieEmbeddings ? model.unembedding.size : 0;
  const attended = config.family === "gpt" ? config.width : config.heads * config.headWidth;
  return 6 * (multiplied + tied) + 12 * config.layers * attended * context;
}
