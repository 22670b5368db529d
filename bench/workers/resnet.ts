// A training step of a CIFAR ResNet: forward and backward with the batch's statistics, SGD with momentum.
import { readFile } from "node:fs/promises";
import { loadResNet, type ResNet, type ResNetStatistics } from "../../src/models/index.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { scalar, zeros } from "../../src/tensor/ops/creation.ts";
import { crossEntropy } from "../../src/tensor/ops/loss.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { leaves } from "../../src/tensor/tree.ts";
import { sgdUpdate } from "../../src/train/index.ts";
import type { Prepare } from "../worker.ts";

export interface ResNetParameters {
  readonly batch: number;
  readonly batches: number;
  readonly size: number;
  readonly channels: number;
  readonly momentum: number;
  readonly decay: number;
  readonly rate: number;
  /** A safetensors file with PyTorch's names. */
  readonly weights: string;
  /** f32 (batches, batch, size, size, channels), then i32 (batches, batch). */
  readonly data: string;
}

interface State {
  readonly model: ResNet;
  readonly statistics: ResNetStatistics;
  readonly velocity: readonly Tensor[];
}

export const prepare: Prepare<ResNetParameters> = async ({ parameters: p, variant }, backend) => {
  const { model, statistics } = await loadResNet(p.weights);
  const bytes = await readFile(p.data);
  const pixels = p.batch * p.size * p.size * p.channels;
  const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, p.batches * pixels);
  const classes = new Int32Array(bytes.buffer, bytes.byteOffset + numbers.byteLength, p.batches * p.batch);
  const all = Array.from({ length: p.batches }, (_, k) => ({
    images: tensor(numbers.slice(k * pixels, (k + 1) * pixels), { shape: [p.batch, p.size, p.size, p.channels] }),
    labels: tensor(classes.slice(k * p.batch, (k + 1) * p.batch), { shape: [p.batch] }),
  }));
  const precision = variant as Precision;
  const train = jit(
    (state: State, batch: (typeof all)[number], rate: Tensor) => {
      const [loss, gradients, statistics] = valueAndGrad(state.model, (m) => {
        const [logits, next] = m.forward(batch.images, state.statistics, { training: true });
        return [crossEntropy(logits, batch.labels).mean(), next] as const;
      });
      const config = { momentum: p.momentum, weightDecay: p.decay };
      const { model, velocity } = sgdUpdate(state.model, state.velocity, gradients, rate, config);
      return { state: { model, statistics, velocity }, loss };
    },
    { donate: [0], precision, name: "ResNet step" },
  );
  let state: State = { model, statistics, velocity: leaves(model).map(({ tensor }) => zeros(tensor.shape)) };
  const rate = scalar(p.rate);
  let at = 0;
  const bf16 = precision === "bf16" || (precision === "auto" && backend.facts.bf16);
  return {
    about: bf16 ? "bf16" : "f32",
    async step() {
      const result = train(state, all[at++ % all.length]!, rate);
      state = result.state;
      using loss = result.loss;
      return { output: await loss.item() };
    },
  };
};
