// A training step of an LSTM: forward and backward over whole sequences against given outputs, SGD with momentum.
import { readFile } from "node:fs/promises";
import { readSafetensors } from "../../src/checkpoint/index.ts";
import { LSTM, RecurrentWeights } from "../../src/nn/index.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { scalar, zeros } from "../../src/tensor/ops/creation.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { leaves } from "../../src/tensor/tree.ts";
import { sgdUpdate } from "../../src/train/index.ts";
import type { Prepare } from "../worker.ts";

export interface LSTMParameters {
  readonly layers: number;
  readonly width: number;
  readonly time: number;
  readonly batch: number;
  readonly momentum: number;
  readonly rate: number;
  /** A safetensors file with PyTorch's names. */
  readonly weights: string;
  /** f32 (2, time, batch, width): inputs, and the outputs to learn. */
  readonly data: string;
}

interface State {
  readonly model: LSTM;
  readonly velocity: readonly Tensor[];
}

export const prepare: Prepare<LSTMParameters> = async ({ parameters: p, variant }, backend) => {
  const stored = await readSafetensors(p.weights);
  const layer = (i: number) => {
    const part = (name: string) => stored.get(`${name}_l${i}`)!;
    return new RecurrentWeights(part("weight_ih"), part("weight_hh"), part("bias_ih"), part("bias_hh"));
  };
  const model = new LSTM(Array.from({ length: p.layers }, (_, i) => layer(i)));
  const bytes = await readFile(p.data);
  const numbers = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const half = numbers.length / 2;
  const shape = [p.time, p.batch, p.width];
  const batch = { x: tensor(numbers.slice(0, half), { shape }), y: tensor(numbers.slice(half), { shape }) };
  const precision = variant as Precision;
  const train = jit(
    (state: State, { x, y }: typeof batch, rate: Tensor) => {
      const [loss, gradients] = valueAndGrad(state.model, (m) => m.forward(x)[0].sub(y).square().mean());
      const config = { momentum: p.momentum, weightDecay: 0 };
      return { state: sgdUpdate(state.model, state.velocity, gradients, rate, config), loss };
    },
    { donate: [0], precision, name: "LSTM step" },
  );
  let state: State = { model, velocity: leaves(model).map(({ tensor }) => zeros(tensor.shape)) };
  const rate = scalar(p.rate);
  const bf16 = precision === "bf16" || (precision === "auto" && backend.facts.bf16);
  return {
    about: bf16 ? "bf16" : "f32",
    async step() {
      const result = train(state, batch, rate);
      state = result.state;
      using loss = result.loss;
      return { output: await loss.item() };
    },
  };
};
