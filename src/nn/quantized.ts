import { jit } from "../tensor/jit.ts";
import { fromHost, scalar, uninitialized } from "../tensor/ops/creation.ts";
import {
  PANEL,
  type PackedMatrixParts,
  packedShape,
  packGated,
  packWeight,
  quantizedEmbedding,
  quantizedLinear,
  type WeightFormat,
} from "../tensor/ops/quantized.ts";
import { dynamicUpdateSlice } from "../tensor/ops/structure.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose, Module } from "../tensor/tree.ts";
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
const packPart = jit(
  (whole: Parts, rows: readonly Tensor[], format: WeightFormat, panel: Tensor<"i32">) => {
    const [w, up] = rows as [Tensor, Tensor?];
    const part = up ? packGated(w, up, format) : packWeight(w, format);
    const put = (x: Tensor, y: Tensor) =>
      dynamicUpdateSlice(x, y, [panel, ...y.shape.slice(1).map(() => scalar(0, "i32"))]);
    return {
      packed: put(whole.packed, part.packed),
      scales: whole.scales && put(whole.scales, part.scales!),
      done: panel.add(1),
    };
  },
  { donate: [0], name: "packRows" },
);
interface Parts {
  readonly packed: Tensor;
  readonly scales: Tensor | undefined;
}

/** Gives the programs that pack weights back; they are compiled again when needed. */
export function releasePackers(): void {
  pack.release();
  packPair.release();
  packPart.release();
}

/** How a matrix, or a gate and what it gates, becomes a packed one. The weights are f32 (out, in). */
export type Packer = (
  weights: readonly [Tensor] | readonly [gate: Tensor, up: Tensor],
  format: WeightFormat,
) => PackedMatrix;

/** Packs matrices that are in memory; they stay as they are. */
export const packTensors: Packer = ([w, up], format) => {
  const parts = up ? packPair(w, up, format) : pack(w, format);
  return new PackedMatrix({ ...parts, format, shape: w.shape as [number, number] });
};

/** Elements that are packed at a time, so that a matrix of any size needs little memory beside its packed form. */
const PART = 2 ** 19;

/**
 * Packs a matrix, or a gate and what it gates, that is never whole in memory.
 * @param shape (out, in)
 * @param read rows `from` to `to` of the matrix, or of both, row-major
 */
export async function packRows(
  shape: readonly [number, number],
  format: WeightFormat,
  read: (from: number, to: number) => Promise<readonly Float32Array[]>,
): Promise<PackedMatrix> {
  const [out, inner] = shape;
  const upload = (data: readonly Float32Array[], rows: number): Tensor[] =>
    data.map((part) => {
      if (part.length === rows * inner) return fromHost("f32", [rows, inner], part);
      const padded = new Float32Array(rows * inner);
      padded.set(part);
      return fromHost("f32", [rows, inner], padded);
    });
  const panels = Math.ceil(out / PANEL);
  const perPart = Math.min(panels, Math.max(1, Math.floor(PART / inner / PANEL)));
  let whole: Parts | undefined;
  try {
    for (let next = 0; next < panels; next += perPart) {
      // The last part begins earlier rather than being another program.
      const first = Math.min(next, panels - perPart);
      const rows = upload(await read(first * PANEL, Math.min(out, (first + perPart) * PANEL)), perPart * PANEL);
      const kinds = rows.length;
      if (!whole) {
        const room = packedShape(format, kinds * panels * PANEL, inner);
        whole = {
          packed: uninitialized(room.packed, format === "bf16" ? "bf16" : "u8"),
          scales: room.scales && uninitialized(room.scales, "bf16"),
        };
      }
      const panel = tensor(Int32Array.of(kinds * first), { shape: [] }) as Tensor<"i32">;
      const { done, ...parts } = packPart(whole, rows, format, panel);
      whole = parts;
      dispose([rows, panel]);
      // Reading ahead would fill the memory that parts are for.
      await done.item();
      done.dispose();
    }
  } catch (error) {
    dispose(whole);
    throw error;
  }
  return new PackedMatrix({ ...whole!, format, shape });
}

/** Packs a matrix. @param w f32 (out, in), which stays as it is */
export function packMatrix(w: Tensor, format: WeightFormat, pack: Packer = packTensors): PackedMatrix {
  return pack([w], format);
}

/** Packs a linear map; the bias is shared with it. */
export function packLinear(linear: Linear, format: WeightFormat, pack?: Packer): PackedLinear {
  return new PackedLinear(packMatrix(linear.weight, format, pack), linear.bias);
}

export function packEmbedding(table: Embedding, format: WeightFormat, pack?: Packer): PackedEmbedding {
  return new PackedEmbedding(packMatrix(table.weight, format, pack));
}

/** Packs a gated feed-forward part, if it has no biases. */
export function packSwiGLU(mlp: SwiGLU, format: WeightFormat, pack: Packer = packTensors): PackedSwiGLU | undefined {
  const { gate, up, down } = mlp;
  if (!("weight" in gate && "weight" in up && "weight" in down) || gate.bias || up.bias) return undefined;
  return new PackedSwiGLU(pack([gate.weight, up.weight], format), packLinear(down, format, pack));
}
