import { zeros } from "../tensor/ops/creation.ts";
import { linear } from "../tensor/ops/dot.ts";
import { normal } from "../tensor/ops/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** x W^T + b, with the weight as PyTorch stores it. */
export class Linear extends Module {
  /** (out, in) */
  readonly weight: Tensor;
  /** (out) */
  readonly bias: Tensor | undefined;

  constructor(weight: Tensor, bias?: Tensor) {
    super();
    this.weight = weight;
    this.bias = bias;
  }

  /** (..., in) -> (..., out) */
  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias);
  }
}

/** Weights from a normal distribution of this deviation; biases 0. */
export function initLinear(
  key: Tensor,
  sizes: { readonly in: number; readonly out: number; readonly bias: boolean; readonly deviation: number },
): Linear {
  const weight = normal(key, [sizes.out, sizes.in]).mul(sizes.deviation);
  return new Linear(weight, sizes.bias ? zeros([sizes.out]) : undefined);
}
