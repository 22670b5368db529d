import { batchNorm, batchNormWith } from "../tensor/ops/batch-norm.ts";
import { conv2d, type Padding } from "../tensor/ops/convolution.ts";
import { ones, zeros } from "../tensor/ops/creation.ts";
import { normal } from "../tensor/ops/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** A convolution over images with channels last, with the weight as PyTorch stores it. */
export class Conv2d extends Module {
  /** (out, in / groups, height, width) */
  readonly weight: Tensor;
  /** (out) */
  readonly bias: Tensor | undefined;
  readonly stride: number;
  readonly padding: Padding;
  readonly groups: number;

  constructor(
    weight: Tensor,
    options: {
      readonly bias?: Tensor;
      readonly stride?: number;
      readonly padding?: Padding;
      readonly groups?: number;
    } = {},
  ) {
    super();
    this.weight = weight;
    this.bias = options.bias;
    this.stride = options.stride ?? 1;
    this.padding = options.padding ?? 0;
    this.groups = options.groups ?? 1;
  }

  /** (batch, height, width, in) -> (batch, places, places, out) */
  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, {
      stride: this.stride,
      padding: this.padding,
      groups: this.groups,
      channels: "last",
      ...(this.bias ? { bias: this.bias } : {}),
    });
  }
}

/** Normal with deviation sqrt(2 / (in * window area)), for layers that a rectifier follows. He et al. 2015, equation 10. */
export function initConv2d(
  key: Tensor,
  sizes: {
    readonly in: number;
    readonly out: number;
    readonly window: number;
    readonly stride?: number;
    readonly padding?: Padding;
  },
): Conv2d {
  const { in: from, out, window, ...rest } = sizes;
  const deviation = Math.sqrt(2 / (from * window * window));
  return new Conv2d(normal(key, [out, from, window, window]).mul(deviation), rest);
}

/** Running estimates of a batch norm's mean and variance, (channels) each. Not parameters: a training step takes them and gives new ones. */
export interface RunningStatistics {
  readonly mean: Tensor;
  readonly variance: Tensor;
}

export interface BatchNormPass {
  /** With the batch's own statistics, and the running ones moved towards them; else with the running ones, which stay. */
  readonly training: boolean;
  /** Added to the normalised values. */
  readonly residual?: Tensor | undefined;
  /** Whether negative values become 0 at the end. */
  readonly relu?: boolean;
}

/** Ioffe & Szegedy 2015, over all axes but the last. */
export class BatchNorm extends Module {
  /** (channels) */
  readonly scale: Tensor;
  /** (channels) */
  readonly bias: Tensor;
  readonly epsilon: number;
  /** How much of a new batch's statistics enters the running ones. */
  readonly momentum: number;

  constructor(scale: Tensor, bias: Tensor, options: { readonly epsilon?: number; readonly momentum?: number } = {}) {
    super();
    this.scale = scale;
    this.bias = bias;
    this.epsilon = options.epsilon ?? 1e-5;
    this.momentum = options.momentum ?? 0.1;
  }

  /** (..., channels) -> (..., channels), and the running statistics afterwards. As PyTorch, they take the variance corrected by n / (n - 1). */
  forward(
    x: Tensor,
    running: RunningStatistics,
    { training, residual, relu = false }: BatchNormPass,
  ): [y: Tensor, running: RunningStatistics] {
    const options = { epsilon: this.epsilon, residual, relu };
    if (!training) return [batchNormWith(x, this.scale, this.bias, running, options), running];
    const { y, mean, variance } = batchNorm(x, this.scale, this.bias, options);
    const rows = x.size / this.scale.size;
    const move = (old: Tensor, fresh: Tensor, factor: number) =>
      old.mul(1 - this.momentum).add(fresh.stopGradient().mul(this.momentum * factor));
    return [
      y,
      {
        mean: move(running.mean, mean, 1),
        variance: move(running.variance, variance, rows / Math.max(1, rows - 1)),
      },
    ];
  }
}

export function initBatchNorm(channels: number): BatchNorm {
  return new BatchNorm(ones([channels]), zeros([channels]));
}

export function initStatistics(channels: number): RunningStatistics {
  return { mean: zeros([channels]), variance: ones([channels]) };
}
