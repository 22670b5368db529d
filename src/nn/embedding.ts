import { embedding } from "../tensor/ops/nn.ts";
import { normal } from "../tensor/ops/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";

/** A table of vectors, looked up by number. */
export class Embedding extends Module {
  /** (classes, width) */
  readonly weight: Tensor;

  constructor(weight: Tensor) {
    super();
    this.weight = weight;
  }

  /** i32 (...) -> (..., width) */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }
}

export function initEmbedding(key: Tensor, classes: number, width: number, deviation: number): Embedding {
  return new Embedding(normal(key, [classes, width]).mul(deviation));
}
