import { join } from "node:path";
import { AdaptiveKl, generalizedAdvantages, spread, whiten } from "../align/advantages.ts";
import {
  type PolicyBatch,
  policyLoss,
  replyLogProbabilities,
  type ValueBatch,
  ValueHead,
  valueLoss,
} from "../align/ppo.ts";
import type { RewardModel } from "../align/reward.ts";
import { loadTree, saveTree } from "../checkpoint/index.ts";
import { shuffled } from "../data/index.ts";
import { Generator, type Reply } from "../generate/batch.ts";
import { loadModel, saveModel } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import type { StageOf } from "../recipe/index.ts";
import { InputError } from "../tensor/errors.ts";
import { jit } from "../tensor/jit.ts";
import { scalar } from "../tensor/ops/creation.ts";
import { takeAlongLast } from "../tensor/ops/indexing.ts";
import { randomKey } from "../tensor/ops/random.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import { trainLoop } from "../train/loop.ts";
import { type LearningRates, Optimizer } from "../train/optimizer.ts";
import { type TrainState, trainStep } from "../train/step.ts";
import { type EncodedPair, makePairs } from "./pairs.ts";
import { loadRewardModel, SLOTS, shortPrompts } from "./reward.ts";
import { folderOfStage, publish, type Workshop } from "./workshop.ts";

const STATE = "state.safetensors";
/** Replies after which a KL twice as large as wished would have doubled the penalty. */
const KL_HORIZON = 128;

interface PPOState {
  readonly actor: TrainState<LanguageModel>;
  readonly critic: TrainState<ValueHead>;
}

/** One round's rollouts in host memory. */
interface Rollouts {
  readonly prompts: readonly (readonly number[])[];
  readonly replies: readonly Reply[];
  /** Row length that holds the longest prompt and reply. */
  readonly length: number;
}

/** Rows of prompt and reply, and where the reply's tokens are predicted: position prompt - 1 + k predicts reply token k. */
function rowsOf(
  { prompts, replies, length }: Rollouts,
  pad: number,
): { ids: Int32Array; targets: Int32Array; last: Int32Array } {
  const ids = new Int32Array(prompts.length * length).fill(pad);
  const targets = new Int32Array(prompts.length * length).fill(-1);
  const last = new Int32Array(prompts.length);
  prompts.forEach((prompt, r) => {
    const reply = replies[r]!.tokens;
    ids.set([...prompt, ...reply], r * length);
    reply.forEach((id, k) => {
      targets[r * length + prompt.length - 1 + k] = id;
    });
    last[r] = prompt.length + reply.length - 1;
  });
  return { ids, targets, last };
}

/** Proximal policy optimisation against a reward model. Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022. */
export async function ppo(workshop: Workshop, stage: StageOf<"ppo">, index: number): Promise<Record<string, number>> {
  const { recipe, run, tokenizer, emit } = workshop;
  const pad = tokenizer.padId ?? 0;
  const sftFolder = folderOfStage(workshop, ["sft"], index);
  const sftStage = recipe.stages.find((s) => s.kind === "sft");
  const pairs = await makePairs(workshop, sftStage?.kind === "sft" ? sftStage.pairs : "auto");
  const usable = (list: readonly EncodedPair[]) =>
    shortPrompts(list, workshop, { promptTokens: stage.prompt_tokens, replyTokens: stage.reply_tokens });
  const prompts = usable(pairs.train);
  const heldOut = usable(pairs.heldOut).slice(0, 2 * SLOTS);
  if (prompts.length === 0 || heldOut.length === 0)
    throw new InputError(
      `${stage.name}: ${prompts.length} prompts to learn from and ${heldOut.length} held-out ones leave room for replies of ${stage.reply_tokens} tokens in a context of ${recipe.model.context}. Lower reply_tokens, raise model.context, or add text.`,
    );
  // Everything of one row length: one program of each kind.
  const length = Math.max(...[...prompts, ...heldOut].map((p) => p.prompt.length)) + stage.reply_tokens;

  // Log-probabilities of rollouts and trainer are compared, so both are computed in f32.
  const precision = "f32" as const;
  const reference = (await loadModel(sftFolder)).model;
  const rewardModel = await loadRewardModel(folderOfStage(workshop, ["reward"], index));
  const adam = (weightDecay: number) =>
    new Optimizer({
      kind: "adamw",
      beta1: recipe.optimizer.beta1,
      beta2: recipe.optimizer.beta2,
      epsilon: recipe.optimizer.epsilon,
      weightDecay,
      clip: recipe.optimizer.clip,
      muonMomentum: recipe.optimizer.muon_momentum,
    });
  const actorOptimizer = adam(0);
  const criticOptimizer = adam(0);
  const actorStep = trainStep<LanguageModel, PolicyBatch>({
    loss: (m, b) => policyLoss(m, b, { clip: stage.clip, temperature: stage.temperature }),
    optimizer: actorOptimizer,
    precision,
    name: "ppo actor",
  });
  const criticStep = trainStep<ValueHead, ValueBatch>({
    loss: (m, b) => valueLoss(m, b, stage.value_clip),
    optimizer: criticOptimizer,
    precision,
    name: "ppo critic",
  });
  const logProbabilities = jit(
    (m: LanguageModel, ids: Tensor<"i32">, targets: Tensor<"i32">) =>
      replyLogProbabilities(m, ids, targets, stage.temperature),
    { precision, name: "ppo reference" },
  );
  const judge = jit(
    (m: RewardModel, head: ValueHead, ids: Tensor<"i32">, last: Tensor<"i32">) => {
      const { scores, hidden } = m.scores(ids);
      const flat = hidden.reshape(-1, hidden.shape[2]!);
      return { reward: takeAlongLast(scores, last), values: head.values(flat), hidden: flat };
    },
    { precision, name: "ppo reward and values" },
  );
  const generator = new Generator({ slots: Math.min(SLOTS, stage.batch), capacity: recipe.model.context, precision });
  const release = () => {
    for (const f of [actorStep, criticStep, logProbabilities, judge]) f.release();
    generator.dispose();
    dispose([reference, rewardModel]);
  };

  const generate = async (model: LanguageModel, list: readonly EncodedPair[], seed: number): Promise<Rollouts> => {
    const prompts = list.map((p) => p.prompt);
    const replies = await generator.run(
      model,
      prompts.map((p) => [...p]),
      {
        maxTokens: stage.reply_tokens,
        temperature: stage.temperature,
        seed,
        endIds: tokenizer.eosId === undefined ? [] : [tokenizer.eosId],
      },
    );
    return { prompts, replies, length };
  };

  /** Scores of a round by the reward model, the critic's values, and log-probabilities under the reference. */
  const assess = async (r: Rollouts, head: ValueHead) => {
    const { ids, targets, last } = rowsOf(r, pad);
    const shape = [r.prompts.length, length];
    const on = {
      ids: tensor<"i32">(ids, { dtype: "i32", shape }),
      targets: tensor<"i32">(targets, { dtype: "i32", shape }),
      last: tensor<"i32">(last),
    };
    const judged = judge(rewardModel, head, on.ids, on.last);
    const referenceLog = logProbabilities(reference, on.ids, on.targets);
    const out = {
      scores: (await judged.reward.data()) as Float32Array,
      values: (await judged.values.data()) as Float32Array,
      reference: (await referenceLog.data()) as Float32Array,
    };
    dispose([judged.reward, judged.values, referenceLog, on.last]);
    return { ...out, hidden: judged.hidden, ids: on.ids, targets: on.targets };
  };

  const meanReward = async (model: LanguageModel, head: ValueHead): Promise<{ reward: number; kl: number }> => {
    let reward = 0;
    let kl = 0;
    for (let at = 0; at < heldOut.length; at += stage.batch) {
      const part = heldOut.slice(at, at + stage.batch);
      const missing = stage.batch - part.length;
      const rollouts = await generate(model, [...part, ...heldOut.slice(0, missing)], recipe.seed + 5);
      const a = await assess(rollouts, head);
      for (let r = 0; r < part.length; r++) {
        reward += a.scores[r]!;
        kl += divergence(rollouts, a.reference, r);
      }
      dispose([a.hidden, a.ids, a.targets]);
    }
    return { reward: reward / heldOut.length, kl: kl / heldOut.length };
  };
  /** Sum over the reply of log policy - log reference. */
  const divergence = (r: Rollouts, reference: Float32Array, row: number): number => {
    const start = row * length + r.prompts[row]!.length - 1;
    return r.replies[row]!.logProbabilities.reduce((sum, lp, k) => sum + lp - reference[start + k]!, 0);
  };

  const fresh = async (): Promise<PPOState> => {
    const actor = (await loadModel(sftFolder)).model;
    const head = new ValueHead(tensor((await rewardModel.score.data()) as Float32Array), scalar(0));
    return {
      actor: { model: actor, optimizer: actorOptimizer.init(actor), key: randomKey(recipe.seed * 1000 + 701) },
      critic: { model: head, optimizer: criticOptimizer.init(head), key: randomKey(recipe.seed * 1000 + 702) },
    };
  };
  const kl = new AdaptiveKl(stage.kl_coefficient, stage.kl_target, KL_HORIZON);
  let state = await fresh();
  let from = 0;
  let before: { reward: number; kl: number } | undefined;
  const newest = run.checkpoints.latest(stage.name);
  if (newest) {
    const { tree, data } = await loadTree(join(newest.path, STATE), state);
    dispose(state);
    state = tree;
    from = newest.step;
    const kept = data as { klCoefficient: number; before: { reward: number; kl: number } };
    kl.coefficient = kept.klCoefficient;
    before = kept.before;
  }

  /** Learning rates fall linearly to 0 over the rounds, as TRL's do. */
  const share = (i: number): number => 1 - i / stage.steps;
  const rates = (i: number): { actor: LearningRates; critic: LearningRates } => ({
    actor: { adamw: scalar(stage.learning_rate! * share(i)), muon: scalar(0) },
    critic: { adamw: scalar(stage.value_learning_rate! * share(i)), muon: scalar(0) },
  });

  /** One round: rollouts, rewards, advantages, then `epochs` passes of updates. */
  const round = async (i: number): Promise<Record<string, number>> => {
    const n = stage.batch;
    const perEpoch = Math.max(1, Math.floor(prompts.length / n));
    const order = shuffled(prompts.length, recipe.seed, 800, Math.floor(i / perEpoch));
    const at = (i % perEpoch) * n;
    const chosen = Array.from({ length: n }, (_, k) => prompts[order[(at + k) % order.length]!]!);
    const rollouts = await generate(state.actor.model, chosen, recipe.seed * 7919 + i + 1);
    const a = await assess(rollouts, state.critic.model);

    const old = new Float32Array(n * length);
    const rewardsOf: Float64Array[] = [];
    const valuesOf: Float64Array[] = [];
    const kls: number[] = [];
    let entropy = 0;
    let tokens = 0;
    let ended = 0;
    rollouts.replies.forEach((reply, r) => {
      const start = r * length + rollouts.prompts[r]!.length - 1;
      const m = reply.tokens.length;
      old.set(reply.logProbabilities, start);
      const rewards = new Float64Array(m);
      for (let k = 0; k < m; k++) rewards[k] = -kl.coefficient * (reply.logProbabilities[k]! - a.reference[start + k]!);
      rewards[m - 1]! += a.scores[r]!;
      rewardsOf.push(rewards);
      valuesOf.push(Float64Array.from({ length: m }, (_, k) => a.values[start + k]!));
      kls.push(divergence(rollouts, a.reference, r));
      for (const e of reply.entropies) entropy += e;
      tokens += m;
      if (reply.finish === "stop") ended++;
    });
    const estimates = rewardsOf.map((rewards, r) =>
      generalizedAdvantages({ rewards, values: valuesOf[r]! }, stage.gamma, stage.lambda),
    );
    const advantages = stage.whiten ? whiten(estimates.map((e) => e.advantages)) : estimates.map((e) => e.advantages);

    const sums: Record<string, number> = {};
    let updates = 0;
    const size = n / stage.minibatches;
    const r = rates(i);
    for (let epoch = 0; epoch < stage.epochs; epoch++) {
      const rows = shuffled(n, recipe.seed, 900 + epoch, i);
      for (let b = 0; b < stage.minibatches; b++) {
        const part = rows.slice(b * size, (b + 1) * size);
        const batch = minibatch(rollouts, part, old, advantages, pad);
        const value = valueBatch(
          a.hidden,
          rollouts,
          part,
          a.values,
          estimates.map((e) => e.returns),
        );
        await actorStep.prepare(state.actor, batch, r.actor);
        await criticStep.prepare(state.critic, value, r.critic);
        const actor = actorStep(state.actor, batch, r.actor);
        const critic = criticStep(state.critic, value, r.critic);
        state = { actor: actor.state, critic: critic.state };
        const metrics = { ...critic.metrics, ...actor.metrics };
        for (const [name, t] of Object.entries(metrics)) {
          if (name === "loss" || name === "gradient_norm") continue;
          sums[name] = (sums[name] ?? 0) + (await t.item());
        }
        const { hidden: _shared, ...own } = value;
        dispose([actor.metrics, critic.metrics, batch, own]);
        updates++;
      }
    }
    dispose([a.hidden, a.ids, a.targets, r]);
    const mean = Object.fromEntries(Object.entries(sums).map(([name, s]) => [name, s / updates]));
    const averageKl = spread(kls).mean;
    const score = spread(a.scores).mean;
    const nonScore = -kl.coefficient * averageKl;
    const { "val/ratio_square": square, ...named } = mean;
    const metrics = {
      "objective/kl": averageKl,
      "objective/entropy": entropy / n,
      "objective/non_score_reward": nonScore,
      "objective/rlhf_reward": nonScore + score,
      "objective/scores": score,
      "objective/kl_coefficient": kl.coefficient,
      ...named,
      "policy/entropy_avg": entropy / Math.max(tokens, 1),
      "val/ratio_var": Math.max((square ?? 1) - (mean["val/ratio"] ?? 1) ** 2, 0),
      "val/num_eos_tokens": ended,
      lr: stage.learning_rate! * share(i),
      episode: (i + 1) * n,
    };
    kl.update(averageKl, n);
    return metrics;
  };

  function minibatch(
    r: Rollouts,
    part: readonly number[],
    old: Float32Array,
    advantages: readonly Float64Array[],
    padId: number,
  ): PolicyBatch {
    const all = rowsOf(
      { prompts: part.map((i) => r.prompts[i]!), replies: part.map((i) => r.replies[i]!), length },
      padId,
    );
    const oldRows = new Float32Array(part.length * length);
    const advantageRows = new Float32Array(part.length * length);
    let count = 0;
    part.forEach((i, row) => {
      oldRows.set(old.subarray(i * length, (i + 1) * length), row * length);
      advantageRows.set(advantages[i]!, row * length + r.prompts[i]!.length - 1);
      count += advantages[i]!.length;
    });
    const shape = [part.length, length];
    return {
      ids: tensor<"i32">(all.ids, { dtype: "i32", shape }),
      targets: tensor<"i32">(all.targets, { dtype: "i32", shape }),
      old: tensor(oldRows, { shape }),
      advantages: tensor(advantageRows, { shape }),
      count: scalar(Math.max(count, 1)),
    };
  }

  function valueBatch(
    hidden: Tensor,
    r: Rollouts,
    part: readonly number[],
    values: Float32Array,
    returns: readonly Float64Array[],
  ): ValueBatch {
    // Rows that are not of this minibatch stay in the batch with mask 0: the hidden states are not copied.
    const size = r.prompts.length * length;
    const target = new Float32Array(size);
    const mask = new Float32Array(size);
    for (const i of part) {
      const start = i * length + r.prompts[i]!.length - 1;
      target.set(returns[i]!, start);
      mask.fill(1, start, start + returns[i]!.length);
    }
    const count = mask.reduce((n, x) => n + x, 0);
    return {
      hidden,
      old: tensor(values.slice()),
      returns: tensor(target),
      mask: tensor(mask),
      count: scalar(Math.max(count, 1)),
    };
  }

  try {
    before ??= await meanReward(state.actor.model, state.critic.model);
    const start = before;
    await trainLoop({
      stage: stage.name,
      from,
      steps: stage.steps,
      unit: "rounds",
      emit,
      signal: workshop.signal,
      logEvery: stage.log_every,
      watch: "loss/policy_avg",
      checkpointEvery: stage.checkpoint_every,
      run: round,
      save: async (step) => {
        await run.checkpoints.save({ stage: stage.name, stageIndex: index, step, keep: recipe.keep }, (folder) =>
          saveTree(join(folder, STATE), state, { step, klCoefficient: kl.coefficient, before: start }),
        );
      },
      model: () => state.actor.model,
      lastGood: () => run.checkpoints.latest(stage.name)?.path,
    });
    const after = await meanReward(state.actor.model, state.critic.model);
    await publish(workshop, stage.name, state.actor.model, saveModel);
    return {
      reward_before: start.reward,
      reward_after: after.reward,
      kl: after.kl,
      kl_target: stage.kl_target,
      rounds: stage.steps,
    };
  } finally {
    dispose(state);
    release();
  }
}
