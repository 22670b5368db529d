import type { LanguageModel } from "../models/model.ts";
import { minimum, where } from "../tensor/ops/elementwise.ts";
import { linearCrossEntropy } from "../tensor/ops/loss.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import type { Metrics } from "../train/step.ts";

/** Rollouts as the trainer sees them: rows of prompt and reply, padded on the right. All (batch, time) but for the scalars. */
export interface PolicyBatch {
  readonly ids: Tensor<"i32">;
  /** The token after each position where it belongs to the reply, -1 elsewhere. */
  readonly targets: Tensor<"i32">;
  /** Log-probabilities under the policy that wrote the reply. */
  readonly old: Tensor;
  readonly advantages: Tensor;
  /** f32 scalar: reply tokens in the whole minibatch. */
  readonly count: Tensor;
}

export interface PolicyLossOptions {
  /** How far the probability ratio may move for credit. */
  readonly clip: number;
  /** Of the rollouts: log-probabilities are those of the distribution that was sampled from. */
  readonly temperature: number;
}

/**
 * log p(target | the tokens before it) at a temperature, (batch, time); 0 where the target is negative. Dividing the hidden states by the
 * temperature divides the logits by it.
 */
export function replyLogProbabilities(
  model: LanguageModel,
  ids: Tensor<"i32">,
  targets: Tensor,
  temperature: number,
): Tensor {
  const { hidden } = model.hidden(ids);
  const rows = hidden.mul(1 / temperature).reshape(ids.size, hidden.shape[2]!);
  return linearCrossEntropy(rows, model.unembedding, targets.reshape(ids.size))
    .neg()
    .reshape(...ids.shape);
}

/**
 * The clipped surrogate: -min(ratio A, clip(ratio, 1 - e, 1 + e) A), averaged over reply tokens. Schulman et al. 2017, equation 7.
 * Metrics add up over parts of a minibatch and are named as TRL names them.
 */
export function policyLoss(
  model: LanguageModel,
  batch: PolicyBatch,
  { clip, temperature }: PolicyLossOptions,
): readonly [Tensor, Metrics] {
  const counted = batch.targets.greaterEqual(0);
  const mask = (x: Tensor): Tensor => where(counted, x, 0);
  const share = (x: Tensor): Tensor => mask(x).sum().div(batch.count);
  const now = replyLogProbabilities(model, batch.ids, batch.targets, temperature);
  const difference = mask(now.sub(batch.old));
  const ratio = difference.exp();
  const plain = ratio.mul(batch.advantages).neg();
  const limited = ratio
    .maximum(1 - clip)
    .minimum(1 + clip)
    .mul(batch.advantages)
    .neg();
  const loss = share(minimum(plain.neg(), limited.neg()).neg());
  return [
    loss,
    {
      "loss/policy_avg": loss,
      // The k3 estimate of KL(old || new): (ratio - 1) - log ratio. Schulman 2020, "Approximating KL divergence".
      "policy/approxkl_avg": share(ratio.sub(1).sub(difference)),
      "policy/clipfrac_avg": share(limited.greater(plain).to("f32")),
      "val/ratio": share(ratio),
      "val/ratio_square": share(ratio.square()),
    },
  ];
}

/**
 * The critic: a linear value on the reward model's hidden states. It shares the reward model's trunk, whose forward pass is needed for
 * the score anyway, so a fourth model costs one vector; it starts as the score itself, as in Ouyang et al. 2022.
 */
export class ValueHead extends Module {
  /** (width) */
  readonly value: Tensor;
  /** Scalar. */
  readonly bias: Tensor;

  constructor(value: Tensor, bias: Tensor) {
    super();
    this.value = value;
    this.bias = bias;
  }

  /** @param hidden (tokens, width) @returns (tokens) */
  values(hidden: Tensor): Tensor {
    return hidden.matmul(this.value.expandDims(1)).squeeze(1).add(this.bias);
  }
}

export interface ValueBatch {
  /** (tokens, width) */
  readonly hidden: Tensor;
  /** (tokens): the value when the rollout was made, the return, and 1 where the row counts. */
  readonly old: Tensor;
  readonly returns: Tensor;
  readonly mask: Tensor;
  readonly count: Tensor;
}

/** Half the larger squared error of the value and of the value kept within `clip` of the old one. Schulman et al. 2017; as in TRL. */
export function valueLoss(head: ValueHead, batch: ValueBatch, clip: number): readonly [Tensor, Metrics] {
  const v = head.values(batch.hidden);
  const limited = batch.old.add(v.sub(batch.old).maximum(-clip).minimum(clip));
  const plain = v.sub(batch.returns).square();
  const clipped = limited.sub(batch.returns).square();
  const share = (x: Tensor): Tensor => x.mul(batch.mask).sum().div(batch.count);
  const loss = share(plain.maximum(clipped)).mul(0.5);
  return [loss, { "loss/value_avg": loss, "val/clipfrac_avg": share(clipped.greater(plain).to("f32")) }];
}
