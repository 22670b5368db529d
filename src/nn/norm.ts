import { ones, zeros } from "../tensor/ops/creation.ts";
import { layerNorm, rmsNorm } from "../tensor/ops/norm.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** Ba et al. 2016, over the last axis. */
export class LayerNorm extends Module {
  /** (width) */
  readonly scale: Tensor;
  /** (width) */
  readonly bias: Tensor;
  readonly epsilon: number;

  constructor(scale: Tensor, bias: Tensor, epsilon: number) {
    super();
    this.scale = scale;
    this.bias = bias;
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.scale, this.bias, this.epsilon);
  }
}

/** Zhang & Sennrich 2019, over the last axis. */
export class RMSNorm extends Module {
  /** (width) */
  readonly scale: Tensor;
  readonly epsilon: number;

  constructor(scale: Tensor, epsilon: number) {
    super();
    this.scale = scale;
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.scale, this.epsilon);
  }
}

export function initLayerNorm(width: number, epsilon: number): LayerNorm {
  return new LayerNorm(ones([width]), zeros([width]), epsilon);
}

export function initRMSNorm(width: number, epsilon: number): RMSNorm {
  return new RMSNorm(ones([width]), epsilon);
}
