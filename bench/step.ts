import { type NativeBackend, useBackend } from "../src/engine/index.ts";
import type { GPT, GPTConfig } from "../src/models/index.ts";
import { scalar } from "../src/tensor/ops/creation.ts";
import { linearCrossEntropy } from "../src/tensor/ops/loss.ts";
import { randomKey } from "../src/tensor/ops/random.ts";
import type { Precision } from "../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../src/tensor/tensor.ts";
import { Optimizer, type TrainState, trainStep } from "../src/train/index.ts";
import { BATCHES, type GPTWork, training } from "./works.ts";

export function configOf(work: GPTWork): GPTConfig {
  const { vocabulary, context, layers, width, heads } = work;
  return {
    family: "gpt",
    vocabulary,
    context,
    layers,
    width,
    heads,
    mlpWidth: 4 * width,
    activation: "gelu_tanh",
    dropout: { embedding: 0, attention: 0, residual: 0 },
    epsilon: training.normEpsilon,
    tieEmbeddings: true,
    tokens: {},
  };
}

export interface Trainer {
  /** One update; the loss before it. */
  step(): Promise<number>;
}

/** Our training step on a work's batches, from these weights, on the given backend. The model is consumed. */
export function trainer(
  work: GPTWork,
  model: GPT,
  data: Int32Array<ArrayBuffer>,
  backend: NativeBackend,
  precision: Precision,
): Trainer {
  useBackend(backend);
  const { batch, context, width } = work;
  const optimizer = new Optimizer({
    kind: "adamw",
    beta1: training.beta1,
    beta2: training.beta2,
    epsilon: training.epsilon,
    weightDecay: training.decay,
    clip: training.clip,
    muonMomentum: 0.95,
  });
  type Batch = { readonly ids: Tensor<"i32">; readonly targets: Tensor<"i32"> };
  const once = trainStep<GPT, Batch>({
    optimizer,
    precision,
    loss: (m, b) => {
      const { hidden } = m.hidden(b.ids);
      const rows = batch * context;
      return [linearCrossEntropy(hidden.reshape(rows, width), m.unembedding, b.targets.reshape(rows)).mean(), {}];
    },
  });
  const part = (k: number) =>
    tensor(data.slice(k * batch * context, (k + 1) * batch * context), { dtype: "i32", shape: [batch, context] });
  const all = Array.from({ length: BATCHES }, (_, k): Batch => ({ ids: part(2 * k), targets: part(2 * k + 1) }));
  const rates = { adamw: scalar(training.rate), muon: scalar(0) };
  let state: TrainState<GPT> = { model, optimizer: optimizer.init(model), key: randomKey(2) };
  let at = 0;
  return {
    async step() {
      const given = all[at++ % BATCHES]!;
      await once.prepare(state, given, rates);
      const result = once(state, given, rates);
      state = result.state;
      const loss = await result.metrics.loss!.item();
      for (const t of Object.values(result.metrics)) t.dispose();
      return loss;
    },
  };
}
