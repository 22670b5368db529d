import type { LanguageModel } from "../models/model.ts";
import { jit } from "../tensor/jit.ts";
import { full } from "../tensor/ops/creation.ts";
import { logistic, where } from "../tensor/ops/elementwise.ts";
import { takeAlongLast } from "../tensor/ops/indexing.ts";
import { normal } from "../tensor/ops/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import type { Metrics } from "../train/step.ts";

/** A language model that gives a score instead of the next token. Ouyang et al. 2022, section 3.5. */
export class RewardModel<M extends LanguageModel = LanguageModel> extends Module {
  readonly trunk: M;
  /** (width): the score is its product with the last hidden state. */
  readonly score: Tensor;

  constructor(trunk: M, score: Tensor) {
    super();
    this.trunk = trunk;
    this.score = score;
  }

  /**
   * The score of the text up to each position.
   * @param ids (batch, time)
   * @returns scores (batch, time) and the hidden states (batch, time, width) they were read from
   */
  scores(ids: Tensor<"i32">): { scores: Tensor; hidden: Tensor } {
    const { hidden } = this.trunk.hidden(ids);
    const scores = hidden.matmul(this.score.expandDims(1)).squeeze(2);
    return { scores, hidden };
  }

  /** The score at the last token of each row: (batch). Rows are padded on the right, so what follows does not matter. */
  rewards(ids: Tensor<"i32">, last: Tensor<"i32">): Tensor {
    return takeAlongLast(this.scores(ids).scores, last);
  }
}

/** A reward model on a trained trunk, with a small random score. */
export function initRewardModel<M extends LanguageModel>(trunk: M, width: number, key: Tensor): RewardModel<M> {
  const once = jit((k: Tensor) => normal(k, [width]).mul(1 / Math.sqrt(width + 1)), { name: "initRewardModel" });
  const score = once(key);
  once.release();
  return new RewardModel(trunk, score);
}

/** Pairs side by side: row 2i is the chosen reply to a prompt, row 2i + 1 the rejected one. */
export interface PairBatch {
  /** (2 pairs, time) */
  readonly ids: Tensor<"i32">;
  /** (2 pairs): position of the last token. */
  readonly last: Tensor<"i32">;
  /** f32 scalar: pairs in the whole step, of which this batch may be a part. */
  readonly pairs: Tensor;
}

/**
 * -log sigmoid(r(chosen) - r(rejected)), averaged. Bradley & Terry 1952; Ouyang et al. 2022, equation 1. The scores' own level is not
 * determined by it; a small weight on their sum keeps it near 0.
 */
export function pairLoss(model: RewardModel, batch: PairBatch, centre = 0.01): readonly [Tensor, Metrics] {
  const r = model.rewards(batch.ids, batch.last).reshape(-1, 2);
  const chosen = r.slice(1, 0, 1).squeeze(1);
  const rejected = r.slice(1, 1, 2).squeeze(1);
  const margin = chosen.sub(rejected);
  // log(1 + exp(-m)) without overflow: max(-m, 0) + log(1 + exp(-|m|)).
  const loss = margin.neg().maximum(0).add(margin.abs().neg().exp().add(1).log());
  const level = chosen.add(rejected).square();
  const share = (x: Tensor): Tensor => x.sum().div(batch.pairs);
  return [
    share(loss.add(level.mul(centre))),
    {
      accuracy: share(where(margin.greater(0), full(margin.shape, 1), 0)),
      margin: share(margin),
      reward_chosen: share(chosen),
      reward_rejected: share(rejected),
      probability: share(logistic(margin)),
    },
  ];
}
