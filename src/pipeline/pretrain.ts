import { type SequenceBatch, type StepWindows, windowsAt } from "../data/index.ts";
import { initModel } from "../models/families.ts";
import { gptConfig } from "../models/gpt/config.ts";
import { llamaConfig } from "../models/llama/config.ts";
import type { LanguageModel, ModelConfig } from "../models/model.ts";
import type { StageOf } from "../recipe/index.ts";
import { type Jitted, jit } from "../tensor/jit.ts";
import { scalar } from "../tensor/ops/creation.ts";
import { linearCrossEntropy } from "../tensor/ops/loss.ts";
import type { Precision } from "../tensor/runtime.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import { Optimizer } from "../train/optimizer.ts";
import { type StepLoss, type TrainState, trainStep } from "../train/step.ts";
import { stageKeys, type Workshop } from "./workshop.ts";

/** The model's config as the recipe and the tokenizer decide it. */
export function modelConfig({ recipe, tokenizer }: Pick<Workshop, "recipe" | "tokenizer">): ModelConfig {
  const m = recipe.model;
  const tokens = {
    ...(tokenizer.bosId === undefined ? {} : { begin: tokenizer.bosId }),
    ...(tokenizer.eosId === undefined ? {} : { end: [tokenizer.eosId] }),
    ...(tokenizer.padId === undefined ? {} : { padding: tokenizer.padId }),
  };
  const sizes = {
    vocabulary: tokenizer.vocabularySize,
    context: m.context,
    layers: m.layers,
    width: m.width,
    heads: m.heads,
    mlpWidth: m.mlp_width,
    epsilon: m.norm_epsilon,
    tieEmbeddings: m.tie_embeddings,
    tokens,
  };
  return m.family === "gpt"
    ? gptConfig.parse({
        family: "gpt",
        ...sizes,
        dropout: { embedding: m.dropout, attention: m.dropout, residual: m.dropout },
      })
    : llamaConfig.parse({
        family: "llama",
        ...sizes,
        kvHeads: m.kv_heads,
        headWidth: m.width / m.heads,
        rotary: { theta: m.rope_theta },
        attentionDropout: m.dropout,
      });
}

/** Rows of text as a step takes them. */
export interface TextBatch {
  readonly ids: Tensor<"i32">;
  /** -1 where the target does not count. */
  readonly targets: Tensor<"i32">;
  /** Start of each token's own document in its row, and its position counted from there. */
  readonly first: Tensor<"i32">;
  readonly positions: Tensor<"i32">;
  /** f32 scalar: targets that count, in the whole step. */
  readonly count: Tensor;
}

export function textBatch(batch: SequenceBatch): TextBatch {
  const shape = [batch.rows, batch.length];
  const i32 = (data: Int32Array) => tensor<"i32">(data, { dtype: "i32", shape });
  let count = 0;
  const targets = batch.targets.map((t, i) => {
    if (batch.weights[i] === 0) return -1;
    count++;
    return t;
  });
  return {
    ids: i32(batch.inputs),
    targets: i32(targets),
    first: i32(batch.first),
    positions: i32(batch.first.map((start, i) => (i % batch.length) - start)),
    count: scalar(Math.max(count, 1)),
  };
}

/** Cross-entropy in nats averaged over the targets that count; each token attends within its own document. */
export const textLoss: StepLoss<LanguageModel, TextBatch> = (model, batch, key) => {
  const { hidden } = model.hidden(batch.ids, {
    training: true,
    key: key as Tensor<"i32">,
    first: batch.first,
    positions: batch.positions,
  });
  const rows = hidden.reshape(batch.ids.size, hidden.shape[2]!);
  const losses = linearCrossEntropy(rows, model.unembedding, batch.targets.reshape(batch.ids.size));
  return [losses.sum().div(batch.count), {}];
};

/** Sum of the losses of a batch, without dropout. */
export function evaluationStep(precision: Precision): Jitted<[LanguageModel, TextBatch], Tensor> {
  return jit(
    (model: LanguageModel, batch: TextBatch) => {
      const { hidden } = model.hidden(batch.ids, { first: batch.first, positions: batch.positions });
      const rows = hidden.reshape(batch.ids.size, hidden.shape[2]!);
      return linearCrossEntropy(rows, model.unembedding, batch.targets.reshape(batch.ids.size)).sum();
    },
    { precision, name: "evaluate" },
  );
}

/** Mean loss in nats per target over batches. */
export async function meanLoss(
  step: (model: LanguageModel, batch: TextBatch) => Tensor,
  model: LanguageModel,
  batches: Iterable<SequenceBatch>,
): Promise<{ loss: number; total: number; count: number }> {
  let total = 0;
  let count = 0;
  for (const host of batches) {
    const batch = textBatch(host);
    const sum = step(model, batch);
    for (const w of host.weights) count += w;
    total += await sum.item();
    dispose([batch, sum]);
  }
  return { loss: total / Math.max(count, 1), total, count };
}

export function optimizerOf(workshop: Workshop): Optimizer {
  const o = workshop.recipe.optimizer;
  return new Optimizer({
    kind: o.kind,
    beta1: o.beta1,
    beta2: o.beta2,
    epsilon: o.epsilon,
    weightDecay: o.weight_decay,
    clip: o.clip,
    muonMomentum: o.muon_momentum,
  });
}

/** Fresh weights and everything else a stage starts with. */
export function freshState(workshop: Workshop, optimizer: Optimizer, salt: number): TrainState<LanguageModel> {
  const { init, key } = stageKeys(workshop, salt);
  const model = initModel(modelConfig(workshop), init);
  dispose(init);
  return { model, optimizer: optimizer.init(model), key };
}

export interface PretrainParts {
  readonly windows: StepWindows;
  readonly rows: number;
  readonly step: ReturnType<typeof trainStep<LanguageModel, TextBatch>>;
}

export function pretrainParts(workshop: Workshop, stage: StageOf<"pretrain">, optimizer: Optimizer): PretrainParts {
  const { recipe, tokens } = workshop;
  const length = recipe.model.context;
  const rows = Math.floor(stage.batch_tokens / length);
  return {
    rows,
    windows: tokens.windows(rows, length),
    step: trainStep<LanguageModel, TextBatch>({
      loss: textLoss,
      optimizer,
      accumulate: stage.accumulate,
      precision: recipe.precision,
      name: stage.name,
    }),
  };
}

/** Share of the asked minutes that steps may fill; the rest is for measuring, samples and checkpoints. */
const SHARE_FOR_STEPS = 0.93;
const TRIAL_SECONDS = 4;

/**
 * How many steps fit into the asked minutes, from a few trial steps on weights that are thrown away. The run keeps the number, so
 * that going on later is exact.
 */
export async function stepsForMinutes(
  workshop: Workshop,
  parts: PretrainParts,
  optimizer: Optimizer,
  minutes: number,
): Promise<number> {
  let state = freshState(workshop, optimizer, 0);
  const rates = { adamw: scalar(0), muon: scalar(0) };
  const times: number[] = [];
  const begun = performance.now();
  while (times.length < 3 || (performance.now() - begun < TRIAL_SECONDS * 1000 && times.length < 40)) {
    const batch = textBatch(parts.windows.at(times.length));
    const at = performance.now();
    await parts.step.prepare(state, batch, rates);
    const result = parts.step(state, batch, rates);
    state = result.state;
    await result.metrics.loss!.item();
    times.push(performance.now() - at);
    dispose([batch, result.metrics]);
  }
  dispose([state, rates]);
  // The first step compiles.
  const sorted = times.slice(1).sort((a, b) => a - b);
  const median = sorted[sorted.length >> 1]!;
  return Math.max(1, Math.floor((minutes * 60_000 * SHARE_FOR_STEPS) / median));
}

/** A part of the held-out windows that is the same every time, for measuring during training. */
export function someHeldOut(workshop: Workshop, rows: number, batches: number): SequenceBatch[] {
  const all = [...heldOutWindows(workshop, rows)];
  if (all.length <= batches) return all;
  return Array.from({ length: batches }, (_, i) => all[Math.floor((i * all.length) / batches)]!);
}

/** All held-out text: each token is predicted once, with at least half a window before it where there is that much. */
export function* heldOutWindows(workshop: Workshop, rows: number): Generator<SequenceBatch> {
  const source = workshop.tokens.heldOut;
  const length = workshop.recipe.model.context;
  const stride = Math.max(1, length >> 1);
  const last = source.length - 1; // the last token has nothing after it
  const windows: { start: number; from: number }[] = [];
  for (let done = 0; done < last; ) {
    const start = done === 0 ? 0 : Math.min(Math.max(done - (length - stride), 0), last - length);
    windows.push({ start, from: done });
    done = start + length;
  }
  for (let at = 0; at < windows.length; at += rows) {
    const part = windows.slice(at, at + rows);
    // The last batch repeats a window with weight 0, so that all batches have one shape.
    while (part.length < rows) part.push({ start: part[0]!.start, from: part[0]!.start + length });
    const batch = windowsAt(
      source,
      part.map((w) => w.start),
      length,
    );
    part.forEach(({ start, from }, row) => {
      batch.weights.fill(0, row * length, row * length + from - start);
    });
    yield batch;
  }
}

/** Nats over all held-out tokens to bits per byte of text. */
export function bitsPerByte(totalNats: number, bytes: number): number {
  return totalNats / Math.LN2 / bytes;
}
