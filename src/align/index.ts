export { AdaptiveKl, generalizedAdvantages, spread, type TokenRewards, whiten } from "./advantages.ts";
export { type PolicyBatch, policyLoss, replyLogProbabilities, type ValueBatch, ValueHead, valueLoss } from "./ppo.ts";
export { initRewardModel, type PairBatch, pairLoss, RewardModel } from "./reward.ts";
