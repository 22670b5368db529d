import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { initRewardModel, type PairBatch, pairLoss, RewardModel } from "../align/reward.ts";
import { loadTree, saveTree } from "../checkpoint/index.ts";
import { shuffled } from "../data/index.ts";
import { readPreferences } from "../data/jsonl.ts";
import { Generator } from "../generate/batch.ts";
import { loadModel, saveModel } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import type { StageOf } from "../recipe/index.ts";
import { removeLeftovers, writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import { jit } from "../tensor/jit.ts";
import { scalar, zeros } from "../tensor/ops/creation.ts";
import { tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import { encodeChat } from "../tokenizers/index.ts";
import { Optimizer } from "../train/optimizer.ts";
import { trainStep } from "../train/step.ts";
import { type EncodedPair, makePairs } from "./pairs.ts";
import { trainStage } from "./stage.ts";
import { folderOfStage, progressOf, stageKeys, type Workshop } from "./workshop.ts";

/** Two replies to one prompt, the better one first, as whole rows of ids. */
export interface PreferencePair {
  readonly chosen: readonly number[];
  readonly rejected: readonly number[];
}

/** Sequences generated at once. */
export const SLOTS = 64;

/** Replies of a model to prompts, cut at `maxTokens`, the end token included where the model wrote it. */
export async function replies(
  workshop: Workshop,
  model: LanguageModel,
  prompts: readonly (readonly number[])[],
  o: { maxTokens: number; temperature: number; seed: number; onProgress?: (done: number) => void },
): Promise<number[][]> {
  const { context } = workshop.recipe.model;
  if (prompts.length === 0)
    throw new InputError(
      `No prompt of the data leaves room for a reply of ${o.maxTokens} tokens in a context of ${context}: raise model.context, or shorten the replies.`,
    );
  const generator = new Generator({
    slots: Math.min(SLOTS, prompts.length),
    capacity: context,
    precision: "f32",
  });
  try {
    let done = 0;
    const result = await generator.run(model, prompts, {
      maxTokens: o.maxTokens,
      temperature: o.temperature,
      seed: o.seed,
      measure: false,
      endIds: workshop.tokenizer.eosId === undefined ? [] : [workshop.tokenizer.eosId],
      signal: workshop.signal,
      onReply: () => o.onProgress?.(++done),
    });
    return result.map((r) => [...r.tokens]);
  } finally {
    generator.dispose();
  }
}

/** The text's own reply against another one, both cut to the same longest length so that length alone does not tell them apart. */
export function preferences(
  pairs: readonly EncodedPair[],
  rejected: readonly (readonly number[])[],
  maxTokens: number,
): PreferencePair[] {
  return pairs.flatMap((p, i) => {
    const other = rejected[i]!;
    const own = p.reply.slice(0, maxTokens);
    if (own.length === other.length && own.every((id, k) => id === other[k])) return [];
    return [{ chosen: [...p.prompt, ...own], rejected: [...p.prompt, ...other] }];
  });
}

/** Pairs `from..from + count` (wrapping around) as one batch, rows padded on the right to `length`. */
export function pairBatch(
  list: readonly PreferencePair[],
  indices: readonly number[],
  length: number,
  pad: number,
): PairBatch {
  const rows = indices.flatMap((i) => [list[i]!.chosen, list[i]!.rejected]);
  const ids = new Int32Array(rows.length * length).fill(pad);
  rows.forEach((row, r) => {
    ids.set(row.slice(0, length), r * length);
  });
  return {
    ids: tensor<"i32">(ids, { dtype: "i32", shape: [rows.length, length] }),
    last: tensor<"i32">(Int32Array.from(rows, (r) => Math.min(r.length, length) - 1)),
    pairs: scalar(indices.length),
  };
}

export interface RewardSettings {
  readonly examples: number;
  readonly promptTokens: number;
  readonly replyTokens: number;
  readonly temperature: number;
  readonly rejected: "sample" | "shuffled";
  readonly file?: string | undefined;
}

const keptReplies = z.array(z.array(z.number().int().nonnegative()));

/**
 * Replies that the run sampled under this name before, or new ones, which it then keeps in `samples/NAME.json`: a run that goes on does
 * not sample again.
 */
async function sampledOnce(
  workshop: Workshop,
  name: string,
  sample: () => Promise<readonly (readonly number[])[]>,
): Promise<readonly (readonly number[])[]> {
  const folder = join(workshop.run.path, "samples");
  const path = join(folder, `${name}.json`);
  await removeLeftovers(folder);
  if (existsSync(path)) {
    const kept = keptReplies.safeParse(JSON.parse(readFileSync(path, "utf8")));
    if (!kept.success) throw new InputError(`${path} does not hold sampled replies; remove it to sample anew.`);
    return kept.data;
  }
  const made = await sample();
  writeFileAtomic(path, JSON.stringify(made));
  return made;
}

/** Pairs whose prompt is short enough for the stage and leaves room for a reply. */
export function shortPrompts(
  pairs: readonly EncodedPair[],
  { recipe }: Pick<Workshop, "recipe">,
  limits: { readonly promptTokens: number; readonly replyTokens: number },
): EncodedPair[] {
  const longest = Math.min(limits.promptTokens, recipe.model.context - limits.replyTokens);
  return pairs.filter((p) => p.prompt.length <= longest);
}

/** Makes the preference pairs of a stage: training and held-out. Sampled replies are kept in the run under `name`. */
export async function preferencePairs(
  workshop: Workshop,
  name: string,
  sftFolder: string,
  train: readonly EncodedPair[],
  heldOut: readonly EncodedPair[],
  s: RewardSettings,
  report: (done: number, total: number) => void,
): Promise<{ train: PreferencePair[]; heldOut: PreferencePair[] }> {
  const chosen = shortPrompts(train, workshop, s).slice(0, s.examples);
  const measured = shortPrompts(heldOut, workshop, s).slice(0, Math.max(Math.floor(s.examples / 4), 64));
  const all = [...chosen, ...measured];
  let other: readonly (readonly number[])[];
  if (s.rejected === "shuffled") {
    const order = shuffled(all.length, workshop.recipe.seed, 31, 0);
    other = all.map((_, i) => all[order[i] === i ? (i + 1) % all.length : order[i]!]!.reply.slice(0, s.replyTokens));
  } else {
    other = await sampledOnce(workshop, name, async () => {
      const { model } = await loadModel(sftFolder);
      try {
        return await replies(
          workshop,
          model,
          all.map((p) => p.prompt),
          {
            maxTokens: s.replyTokens,
            temperature: s.temperature,
            seed: workshop.recipe.seed + 77,
            onProgress: (done) => report(done, all.length),
          },
        );
      } finally {
        dispose(model);
      }
    });
  }
  if (other.length !== all.length)
    throw new InputError(
      `${name}: the run holds ${other.length} sampled replies for ${all.length} prompts. The text or the pairs have changed since they were sampled; start a new run.`,
    );
  const n = chosen.length;
  return {
    train: preferences(chosen, other.slice(0, n), s.replyTokens),
    heldOut: preferences(measured, other.slice(n), s.replyTokens),
  };
}

async function pairsFromFile(
  workshop: Workshop,
  file: string,
): Promise<{ train: PreferencePair[]; heldOut: PreferencePair[] }> {
  const { tokenizer, recipe } = workshop;
  const all = (await readPreferences(file)).flatMap((p): PreferencePair[] => {
    const row = (reply: string) => encodeChat(tokenizer, [...p.prompt, { role: "assistant", content: reply }]).ids;
    const [chosen, rejected] = [row(p.chosen), row(p.rejected)];
    return Math.max(chosen.length, rejected.length) <= recipe.model.context ? [{ chosen, rejected }] : [];
  });
  const order = shuffled(all.length, recipe.seed, 41, 0);
  const cut = Math.floor(all.length * 0.9);
  return { train: order.slice(0, cut).map((i) => all[i]!), heldOut: order.slice(cut).map((i) => all[i]!) };
}

/** Trains a reward model on preference pairs. Also used for the judge, on other pairs. */
export async function trainRewardModel(
  workshop: Workshop,
  stage: StageOf<"reward">,
  index: number,
  o: { name: string; trunkFolder: string; pairs: { train: PreferencePair[]; heldOut: PreferencePair[] }; salt: number },
): Promise<{ model: RewardModel; accuracy: number; margin: number; steps: number }> {
  const { recipe, tokenizer } = workshop;
  const { train, heldOut } = o.pairs;
  if (train.length < stage.batch || heldOut.length === 0)
    throw new InputError(
      `${o.name}: ${train.length} pairs to learn from and ${heldOut.length} to measure on are too few for a batch of ${stage.batch}. Add text, or lower the stage's batch.`,
    );
  const length = Math.max(...[...train, ...heldOut].flatMap((p) => [p.chosen.length, p.rejected.length]));
  const optimizer = new Optimizer({
    kind: "adamw",
    beta1: recipe.optimizer.beta1,
    beta2: recipe.optimizer.beta2,
    epsilon: recipe.optimizer.epsilon,
    weightDecay: recipe.optimizer.weight_decay,
    clip: recipe.optimizer.clip,
    muonMomentum: recipe.optimizer.muon_momentum,
  });
  const step = trainStep<RewardModel, PairBatch>({
    loss: (model, batch) => pairLoss(model, batch),
    optimizer,
    accumulate: stage.accumulate,
    precision: recipe.precision,
    name: o.name,
  });
  const score = jit((model: RewardModel, batch: PairBatch) => pairLoss(model, batch)[1], {
    precision: recipe.precision,
    name: `${o.name} evaluate`,
  });
  const perEpoch = Math.max(1, Math.floor(train.length / stage.batch));
  const steps = Math.max(1, Math.round(perEpoch * stage.epochs));
  const measure = async (model: RewardModel): Promise<Record<string, number>> => {
    const sums = { accuracy: 0, margin: 0 };
    for (let at = 0; at < heldOut.length; at += stage.batch) {
      const indices = Array.from({ length: Math.min(stage.batch, heldOut.length - at) }, (_, i) => at + i);
      const batch = pairBatch(heldOut, indices, length, tokenizer.padId ?? 0);
      const metrics = score(model, batch);
      sums.accuracy += (await metrics.accuracy!.item()) * indices.length;
      sums.margin += (await metrics.margin!.item()) * indices.length;
      dispose([batch, metrics]);
    }
    return { heldout_accuracy: sums.accuracy / heldOut.length, heldout_margin: sums.margin / heldOut.length };
  };
  const { model, heldout } = await trainStage<RewardModel, PairBatch>(workshop, {
    stage: { ...stage, name: o.name },
    index,
    steps,
    fresh: async () => {
      const { model: trunk, config } = await loadModel(o.trunkFolder);
      const { init, key } = stageKeys(workshop, o.salt);
      const fresh = initRewardModel(trunk, config.width, init);
      dispose(init);
      return { model: fresh, optimizer: optimizer.init(fresh), key };
    },
    step,
    batch: (i) => {
      const order = shuffled(train.length, recipe.seed, o.salt + 300, Math.floor(i / perEpoch));
      const at = (i % perEpoch) * stage.batch;
      return pairBatch(train, order.slice(at, at + stage.batch), length, tokenizer.padId ?? 0);
    },
    schedule: { kind: stage.schedule, warmup: stage.warmup, decay: stage.decay, final: stage.final_learning_rate },
    learningRate: stage.learning_rate!,
    logEvery: stage.log_every,
    evaluateEvery: stage.evaluate_every,
    evaluate: measure,
    checkpointEvery: stage.checkpoint_every,
    release: () => {
      step.release();
      score.release();
    },
  });
  return { model, accuracy: heldout.heldout_accuracy!, margin: heldout.heldout_margin!, steps };
}

const SCORE = "score.safetensors";

/** A reward model on disk: its trunk as a Hugging Face folder, its score beside it. */
export async function saveRewardModel(workshop: Workshop, name: string, model: RewardModel): Promise<void> {
  await workshop.run.saveModel(name, async (folder) => {
    await saveModel(model.trunk, folder);
    await workshop.tokenizer.save(folder);
    await saveTree(join(folder, SCORE), { score: model.score });
  });
}

export async function loadRewardModel(folder: string): Promise<RewardModel> {
  const { model, config } = await loadModel(folder);
  const like = { score: zeros([config.width]) };
  const { tree } = await loadTree(join(folder, SCORE), like);
  dispose(like);
  return new RewardModel(model, tree.score);
}

/** The stage of a recipe. */
export async function reward(
  workshop: Workshop,
  stage: StageOf<"reward">,
  index: number,
): Promise<Record<string, number>> {
  const sftFolder = folderOfStage(workshop, ["sft"], index);
  const sftStage = workshop.recipe.stages.find((s) => s.kind === "sft");
  const encoded = await makePairs(workshop, sftStage?.kind === "sft" ? sftStage.pairs : "auto");
  const pairs = stage.pairs
    ? await pairsFromFile(workshop, stage.pairs)
    : await preferencePairs(
        workshop,
        stage.name,
        sftFolder,
        encoded.train,
        encoded.heldOut,
        {
          examples: stage.examples,
          promptTokens: stage.prompt_tokens,
          replyTokens: stage.reply_tokens,
          temperature: stage.temperature,
          rejected: stage.rejected,
        },
        progressOf(workshop, stage.name, "samples"),
      );
  const { model, accuracy, margin, steps } = await trainRewardModel(workshop, stage, index, {
    name: stage.name,
    trunkFolder: sftFolder,
    pairs,
    salt: 501,
  });
  await saveRewardModel(workshop, stage.name, model);
  dispose(model);
  return { accuracy, margin, pairs: pairs.train.length, heldout_pairs: pairs.heldOut.length, steps };
}
