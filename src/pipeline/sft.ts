import { packExamples, type SequenceBatch, shuffled } from "../data/index.ts";
import { loadModel, saveModel } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import type { StageOf } from "../recipe/index.ts";
import { InputError } from "../tensor/errors.ts";
import { randomKey } from "../tensor/ops/random.ts";
import { dispose } from "../tensor/tree.ts";
import { trainStep } from "../train/step.ts";
import { exampleOf, makePairs } from "./pairs.ts";
import { evaluationStep, meanLoss, optimizerOf, type TextBatch, textBatch, textLoss } from "./pretrain.ts";
import { trainStage } from "./stage.ts";
import { folderOfStage, publish, type Workshop } from "./workshop.ts";

/** Rows of a packed batch, cut or filled to `rows` with rows that do not count. */
export function rowsOf(batch: SequenceBatch, from: number, rows: number): SequenceBatch {
  const { length } = batch;
  const part = <A extends Int32Array | Float32Array>(a: A): A => a.slice(from * length, (from + rows) * length) as A;
  const there = Math.min(rows, batch.rows - from);
  const out = {
    rows,
    length,
    inputs: new Int32Array(rows * length),
    targets: new Int32Array(rows * length),
    weights: new Float32Array(rows * length),
    first: Int32Array.from({ length: rows * length }, (_, i) => i % length),
  };
  if (there > 0) {
    out.inputs.set(part(batch.inputs).subarray(0, there * length));
    out.targets.set(part(batch.targets).subarray(0, there * length));
    out.weights.set(part(batch.weights).subarray(0, there * length));
    out.first.set(part(batch.first).subarray(0, there * length));
  }
  return out;
}

/** Supervised tuning on replies. @returns what the report says of the stage */
export async function sft(workshop: Workshop, stage: StageOf<"sft">, index: number): Promise<Record<string, number>> {
  const { recipe } = workshop;
  const pairs = await makePairs(workshop, stage.pairs);
  const length = recipe.model.context;
  if (pairs.train.length === 0 || pairs.heldOut.length === 0)
    throw new InputError(
      `${stage.name}: ${pairs.train.length} pairs to learn from and ${pairs.heldOut.length} held-out ones fit into a context of ${length} tokens. Add text, raise data.holdout, or raise model.context.`,
    );
  const examples = pairs.train.map(exampleOf);
  const heldOut = packExamples(pairs.heldOut.map(exampleOf), length).batch;

  // Each epoch packs the examples in a new order; a step takes the next rows.
  const packed = new Map<number, SequenceBatch>();
  const epoch = (e: number): SequenceBatch => {
    let batch = packed.get(e);
    if (!batch) {
      batch = packExamples(
        shuffled(examples.length, recipe.seed, 100 + e, 0).map((i) => examples[i]!),
        length,
      ).batch;
      // Packing sorts by length: shuffle the rows.
      batch = reorder(batch, shuffled(batch.rows, recipe.seed, 200 + e, 0));
      packed.clear();
      packed.set(e, batch);
    }
    return batch;
  };
  const perEpoch = Math.max(1, Math.floor(epoch(0).rows / stage.batch));
  const steps = stage.steps ?? Math.max(1, Math.round(perEpoch * stage.epochs));

  const optimizer = optimizerOf(workshop);
  const step = trainStep<LanguageModel, TextBatch>({
    loss: textLoss,
    optimizer,
    accumulate: stage.accumulate,
    precision: recipe.precision,
    name: stage.name,
  });
  const evaluate = evaluationStep(recipe.precision);
  const batches = (): SequenceBatch[] =>
    Array.from({ length: Math.ceil(heldOut.rows / stage.batch) }, (_, i) =>
      rowsOf(heldOut, i * stage.batch, stage.batch),
    );
  const folder = folderOfStage(workshop, ["pretrain", "sft"], index);
  const base = (await loadModel(folder)).model;
  const before = (await meanLoss(evaluate, base, batches())).loss;
  const { model, heldout } = await trainStage<LanguageModel, TextBatch>(workshop, {
    stage,
    index,
    steps,
    fresh: async () => ({
      model: base,
      optimizer: optimizer.init(base),
      key: randomKey(recipe.seed * 1000 + 17 + index),
    }),
    step,
    batch: (i) => {
      const at = i % perEpoch;
      return textBatch(rowsOf(epoch(Math.floor(i / perEpoch)), at * stage.batch, stage.batch));
    },
    schedule: { kind: stage.schedule, warmup: stage.warmup, decay: stage.decay, final: stage.final_learning_rate },
    learningRate: stage.learning_rate!,
    muonLearningRate: (recipe.optimizer.muon_learning_rate * stage.learning_rate!) / pretrainRate(workshop),
    logEvery: stage.log_every,
    evaluateEvery: stage.evaluate_every,
    evaluate: async (m) => ({ heldout_loss: (await meanLoss(evaluate, m, batches())).loss }),
    checkpointEvery: stage.checkpoint_every,
    release: () => {
      step.release();
      evaluate.release();
    },
  });
  await publish(workshop, stage.name, model, saveModel);
  dispose(model);
  return { loss_before: before, loss_after: heldout.heldout_loss!, pairs: pairs.train.length, steps };
}

/** The peak learning rate of pre-training, which Muon's own is in proportion to. */
export function pretrainRate(workshop: Workshop): number {
  const stage = workshop.recipe.stages.find((s) => s.kind === "pretrain");
  return stage?.kind === "pretrain" ? stage.learning_rate! : 1e-3;
}

function reorder(batch: SequenceBatch, order: readonly number[]): SequenceBatch {
  const { rows, length } = batch;
  const move = <A extends Int32Array | Float32Array>(a: A): A => {
    const out = a.slice() as A;
    order.forEach((from, to) => {
      out.set(a.subarray(from * length, (from + 1) * length), to * length);
    });
    return out;
  };
  return {
    rows,
    length,
    inputs: move(batch.inputs),
    targets: move(batch.targets),
    weights: move(batch.weights),
    first: move(batch.first),
  };
}
