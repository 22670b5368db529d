import { scan } from "../tensor/control.ts";
import { zeros } from "../tensor/ops/creation.ts";
import { linear } from "../tensor/ops/dot.ts";
import { splitKey, uniform } from "../tensor/ops/random.ts";
import { lstm } from "../tensor/ops/recurrent.ts";
import { sliceAxis } from "../tensor/ops/structure.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** Weights of one recurrent layer with `gates` gates, as PyTorch stores them. */
export class RecurrentWeights extends Module {
  /** (gates * hidden, in): PyTorch's `weight_ih` */
  readonly input: Tensor;
  /** (gates * hidden, hidden): `weight_hh` */
  readonly hidden: Tensor;
  /** (gates * hidden): `bias_ih` */
  readonly inputBias: Tensor;
  /** (gates * hidden): `bias_hh` */
  readonly hiddenBias: Tensor;

  constructor(input: Tensor, hidden: Tensor, inputBias: Tensor, hiddenBias: Tensor) {
    super();
    this.input = input;
    this.hidden = hidden;
    this.inputBias = inputBias;
    this.hiddenBias = hiddenBias;
  }

  get width(): number {
    return this.hidden.shape[1]!;
  }
}

/** State of one LSTM layer, (batch, hidden) each. */
export interface LSTMState {
  readonly h: Tensor;
  readonly c: Tensor;
}

/** Long short-term memory, layer on layer. Hochreiter & Schmidhuber 1997; gates input, forget, cell, output as in PyTorch. */
export class LSTM extends Module {
  readonly layers: readonly RecurrentWeights[];

  constructor(layers: readonly RecurrentWeights[]) {
    super();
    this.layers = layers;
  }

  /**
   * @param x (time, batch, in)
   * @param states one per layer; default zeros
   * @returns the last layer's outputs (time, batch, hidden), and each layer's state after the last step
   */
  forward(x: Tensor, states?: readonly LSTMState[]): [y: Tensor, states: readonly LSTMState[]] {
    const [time, batch] = x.shape as [number, number];
    let y = x;
    const last = this.layers.map((layer, i): LSTMState => {
      const none = () => zeros([batch, layer.width], x.dtype);
      const { h, c } = states?.[i] ?? { h: none(), c: none() };
      // The input's part of all steps is one product.
      const gates = linear(y, layer.input, layer.inputBias.add(layer.hiddenBias));
      const all = lstm(gates, layer.hidden, h, c);
      y = all.h;
      const end = (t: Tensor) => sliceAxis(t, 0, time - 1, time).reshape(batch, layer.width);
      return { h: end(all.h), c: end(all.c) };
    });
    return [y, last];
  }
}

/** Gated recurrent units, layer on layer. Cho et al. 2014; gates reset, update, new, and the reset gate after the product, as in PyTorch. */
export class GRU extends Module {
  readonly layers: readonly RecurrentWeights[];

  constructor(layers: readonly RecurrentWeights[]) {
    super();
    this.layers = layers;
  }

  /**
   * @param x (time, batch, in)
   * @param states (batch, hidden), one per layer; default zeros
   * @returns the last layer's outputs (time, batch, hidden), and each layer's state after the last step
   */
  forward(x: Tensor, states?: readonly Tensor[]): [y: Tensor, states: readonly Tensor[]] {
    const batch = x.shape[1]!;
    let y = x;
    const last = this.layers.map((layer, i) => {
      const n = layer.width;
      const gates = linear(y, layer.input, layer.inputBias);
      const [end, ys] = scan(
        (h: Tensor, step: Tensor) => {
          const own = linear(h, layer.hidden, layer.hiddenBias);
          const part = (t: Tensor, k: number) => sliceAxis(t, 1, k * n, (k + 1) * n);
          const reset = part(step, 0).add(part(own, 0)).sigmoid();
          const update = part(step, 1).add(part(own, 1)).sigmoid();
          const fresh = part(step, 2)
            .add(reset.mul(part(own, 2)))
            .tanh();
          const next = fresh.add(update.mul(h.sub(fresh)));
          return [next, next] as const;
        },
        states?.[i] ?? zeros([batch, n], x.dtype),
        gates,
      );
      y = ys;
      return end;
    });
    return [y, last];
  }
}

export interface RecurrentSizes {
  readonly in: number;
  readonly hidden: number;
  readonly layers: number;
}

/** Uniform in +-1 / sqrt(hidden), PyTorch's choice. */
function initLayers(key: Tensor, gates: number, { in: from, hidden, layers }: RecurrentSizes): RecurrentWeights[] {
  const bound = 1 / Math.sqrt(hidden);
  return splitKey(key, layers).map((k, i) => {
    const [a, b, c, d] = splitKey(k, 4) as [Tensor, Tensor, Tensor, Tensor];
    const draw = (key: Tensor, shape: number[]) =>
      uniform(key, shape)
        .mul(2 * bound)
        .sub(bound);
    return new RecurrentWeights(
      draw(a, [gates * hidden, i === 0 ? from : hidden]),
      draw(b, [gates * hidden, hidden]),
      draw(c, [gates * hidden]),
      draw(d, [gates * hidden]),
    );
  });
}

export function initLSTM(key: Tensor, sizes: RecurrentSizes): LSTM {
  return new LSTM(initLayers(key, 4, sizes));
}

export function initGRU(key: Tensor, sizes: RecurrentSizes): GRU {
  return new GRU(initLayers(key, 3, sizes));
}
