import { jit } from "../tensor/jit.ts";
import {
  type PackedMatrixParts,
  packGated,
  packWeight,
  quantizedEmbedding,
  quantizedLinear,
  type WeightFormat,
} from "../tensor/ops/quantized.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import type { Embedding } from "./embedding.ts";
import type { Linear } from "./linear.ts";
import type { SwiGLU } from "./mlp.ts";

/** A matrix in the layout of src/tensor/ops/quantized.ts: to be multiplied by, not to be trained. */
export class PackedMatrix extends Module implements PackedMatrixParts {
  readonly packed: Tensor;
  readonly scales: Tensor | undefined;
  readonly format: WeightFormat;
  /** (out, in) */
  readonly shape: readonly [number, number];

  constructor(parts: PackedMatrixParts) {
    super();
    this.packed = parts.packed;
    this.scales = parts.scales;
    this.format = parts.format;
    this.shape = parts.shape;
  }

  /** Bytes read by one product. */
  get bytes(): number {
    return this.packed.bytes + (this.scales?.bytes ?? 0);
  }
}

/** A linear map with packed weights. */
export class PackedLinear extends Module {
  readonly matrix: PackedMatrix;
  /** f32 (out) */
  readonly bias: Tensor | undefined;

  constructor(matrix: PackedMatrix, bias?: Tensor) {
    super();
    this.matrix = matrix;
    this.bias = bias;
  }

  /** (..., in) -> (..., out) */
  forward(x: Tensor): Tensor {
    const y = quantizedLinear(x, this.matrix);
    return this.bias ? y.add(this.bias) : y;
  }
}

/** A table of vectors with packed weights. */
export class PackedEmbedding extends Module {
  readonly matrix: PackedMatrix;

  constructor(matrix: PackedMatrix) {
    super();
    this.matrix = matrix;
  }

  /** i32 (...) -> (..., width) */
  forward(ids: Tensor): Tensor {
    return quantizedEmbedding(ids, this.matrix);
  }
}

/** A gated feed-forward part without biases whose gate and up projections are one matrix. */
export class PackedSwiGLU extends Module {
  /** width -> hidden: silu(gate x) * (up x) */
  readonly gateUp: PackedMatrix;
  readonly down: PackedLinear;

  constructor(gateUp: PackedMatrix, down: PackedLinear) {
    super();
    this.gateUp = gateUp;
    this.down = down;
  }

  /** (..., width) -> (..., width) */
  forward(x: Tensor): Tensor {
    return this.down.forward(quantizedLinear(x, this.gateUp, { gated: true }));
  }
}

const pack = jit((w: Tensor, format: WeightFormat) => packWeight(w, format), { name: "packWeight" });
const packPair = jit((gate: Tensor, up: Tensor, format: WeightFormat) => packGated(gate, up, format), {
  name: "packGated",
});

/** Gives the programs that pack weights back; they are compiled again when needed. */
export function releasePackers(): void {
  pack.release();
  packPair.release();
}

/** Packs a matrix. @param w f32 (out, in), which stays as it is */
export function packMatrix(w: Tensor, format: WeightFormat): PackedMatrix {
  return new PackedMatrix({ ...pack(w, format), format, shape: w.shape as [number, number] });
}

/** Packs a linear map; the bias is shared with it. */
export function packLinear(linear: Linear, format: WeightFormat): PackedLinear {
  return new PackedLinear(packMatrix(linear.weight, format), linear.bias);
}

export function packEmbedding(table: Embedding, format: WeightFormat): PackedEmbedding {
  return new PackedEmbedding(packMatrix(table.weight, format));
}

/** Packs a gated feed-forward part, if it has no biases. */
export function packSwiGLU(mlp: SwiGLU, format: WeightFormat): PackedSwiGLU | undefined {
  const { gate, up, down } = mlp;
  if (!("weight" in gate && "weight" in up && "weight" in down) || gate.bias || up.bias) return undefined;
  const shape = gate.weight.shape as [number, number];
  const gateUp = new PackedMatrix({ ...packPair(gate.weight, up.weight, format), format, shape });
  return new PackedSwiGLU(gateUp, packLinear(down, format));
}
