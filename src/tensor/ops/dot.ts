import { DTypeError, ShapeError } from "../errors.ts";
import type { Attributes } from "../graph.ts";
import { defineOp, type Op } from "../op.ts";
import { broadcastShapes, type Shape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply1 } from "../trace.ts";
import { broadcastTo, inversePermutation, reshape, transpose } from "./structure.ts";

export interface DotDimensions {
  readonly lhs_batch: readonly number[];
  readonly rhs_batch: readonly number[];
  readonly lhs_contract: readonly number[];
  readonly rhs_contract: readonly number[];
}

const dims = (a: Attributes): DotDimensions => a as unknown as DotDimensions;

function free(shape: Shape, batch: readonly number[], contract: readonly number[]): number[] {
  return shape.map((_, i) => i).filter((i) => !batch.includes(i) && !contract.includes(i));
}

/** Sums of products over the contracted axes; the result has the batch axes, the free ones of the left, the free ones of the right. */
export const dotGeneralOp: Op = defineOp({
  name: "dot_general",
  infer([a, b], attributes) {
    const d = dims(attributes);
    if (a!.dtype !== b!.dtype)
      throw new DTypeError(
        `matmul: the operands have different dtypes: ${a!.dtype}${show(a!.shape)} x ${b!.dtype}${show(b!.shape)}. Convert one with .to(...).`,
      );
    if (a!.dtype === "bool")
      throw new DTypeError(
        `matmul: does not work on bool: ${show(a!.shape)} x ${show(b!.shape)}. Convert both with .to("f32").`,
      );
    const pairs = (x: readonly number[], y: readonly number[], what: string) =>
      x.forEach((i, n) => {
        const j = y[n]!;
        if (a!.shape[i] !== b!.shape[j])
          throw new ShapeError(
            `matmul: the ${what} sizes differ: ${show(a!.shape)} x ${show(b!.shape)}, ${a!.shape[i]} against ${b!.shape[j]}.`,
          );
      });
    pairs(d.lhs_batch, d.rhs_batch, "batch");
    pairs(d.lhs_contract, d.rhs_contract, "inner");
    const shape = [
      ...d.lhs_batch.map((i) => a!.shape[i]!),
      ...free(a!.shape, d.lhs_batch, d.lhs_contract).map((i) => a!.shape[i]!),
      ...free(b!.shape, d.rhs_batch, d.rhs_contract).map((i) => b!.shape[i]!),
    ];
    return [{ dtype: a!.dtype, shape }];
  },
  gradient({ inputs: [a, b], cotangents: [g], attributes, wanted }) {
    const d = dims(attributes);
    const nb = d.lhs_batch.length;
    const aFree = free(a!.shape, d.lhs_batch, d.lhs_contract);
    const bFree = free(b!.shape, d.rhs_batch, d.rhs_contract);
    const batch = Array.from({ length: nb }, (_, i) => i);
    const gA = aFree.map((_, i) => nb + i);
    const gB = bFree.map((_, i) => nb + aFree.length + i);
    let da: Tensor | undefined;
    let db: Tensor | undefined;
    if (wanted[0]) {
      // g (batch, aFree, bFree) . b over bFree -> (batch, aFree, contract in the order it has in b)
      const raw = dotGeneral(g!, b!, {
        lhs_batch: batch,
        rhs_batch: d.rhs_batch,
        lhs_contract: gB,
        rhs_contract: bFree,
      });
      const inB = [...d.rhs_contract].sort((x, y) => x - y);
      const order = [...d.lhs_batch, ...aFree, ...inB.map((j) => d.lhs_contract[d.rhs_contract.indexOf(j)]!)];
      da = transpose(raw, inversePermutation(order));
    }
    if (wanted[1]) {
      // a . g over aFree -> (batch, contract in the order it has in a, bFree)
      const raw = dotGeneral(a!, g!, {
        lhs_batch: d.lhs_batch,
        rhs_batch: batch,
        lhs_contract: aFree,
        rhs_contract: gA,
      });
      const inA = [...d.lhs_contract].sort((x, y) => x - y);
      const order = [...d.rhs_batch, ...inA.map((i) => d.rhs_contract[d.lhs_contract.indexOf(i)]!), ...bFree];
      db = transpose(raw, inversePermutation(order));
    }
    return [da, db];
  },
  batch([a, b], batched, attributes, n) {
    const d = dims(attributes);
    const up = (axes: readonly number[], by: boolean) => axes.map((i) => i + (by ? 1 : 0));
    if (batched[0] && batched[1])
      return [
        dotGeneral(a!, b!, {
          lhs_batch: [0, ...up(d.lhs_batch, true)],
          rhs_batch: [0, ...up(d.rhs_batch, true)],
          lhs_contract: up(d.lhs_contract, true),
          rhs_contract: up(d.rhs_contract, true),
        }),
      ];
    // One side only: the mapped axis is a free axis there, and moves to the front of the result.
    const [l, r] = [batched[0]!, batched[1]!];
    const y = dotGeneral(a!, b!, {
      lhs_batch: up(d.lhs_batch, l),
      rhs_batch: up(d.rhs_batch, r),
      lhs_contract: up(d.lhs_contract, l),
      rhs_contract: up(d.rhs_contract, r),
    });
    const nb = d.lhs_batch.length;
    const at = l ? nb : nb + (a!.rank - nb - d.lhs_contract.length);
    if (y.shape[at] !== n) throw new ShapeError("vmap: internal: the mapped axis of dot_general was lost.");
    return [transpose(y, [at, ...y.shape.map((_, i) => i).filter((i) => i !== at)])];
  },
  flops([a, b], [y], attributes) {
    const d = dims(attributes);
    return 2 * size(y!.shape) * d.lhs_contract.reduce((k, i) => k * a!.shape[i]!, 1) * (b ? 1 : 0);
  },
  cases: [
    {
      inputs: [
        { shape: [2, 2], values: [1, 2, 3, 4] },
        { shape: [2, 2], values: [5, 6, 7, 8] },
      ],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0] },
      outputs: [[19, 22, 43, 50]],
    },
    {
      inputs: [{ shape: [7, 5] }, { shape: [9, 5] }],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [1] },
    },
    {
      inputs: [{ shape: [5, 7] }, { shape: [5, 9] }],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0] },
    },
    {
      inputs: [{ shape: [3, 2, 4, 5] }, { shape: [2, 5, 3, 6] }],
      attributes: { lhs_batch: [0, 1], rhs_batch: [2, 0], lhs_contract: [3], rhs_contract: [1] },
    },
    {
      inputs: [{ shape: [3, 4, 5] }, { shape: [5, 3, 2] }],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [0, 2], rhs_contract: [1, 0] },
    },
    {
      inputs: [{ shape: [4, 0] }, { shape: [0, 3] }],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0] },
    },
    {
      inputs: [{ shape: [65, 130] }, { shape: [130, 70] }],
      attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0] },
      tolerance: 1e-4,
    },
  ],
});

export function dotGeneral(a: Tensor, b: Tensor, d: DotDimensions): Tensor {
  return apply1(dotGeneralOp, [a, b], { ...d });
}

/**
 * Matrix product over the last two axes, as NumPy's `matmul`: leading axes broadcast; a vector on either side loses its axis.
 * A matrix on the right of a batch is one product, not a batch of them.
 */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (a.rank === 0 || b.rank === 0)
    throw new ShapeError("matmul: needs at least one axis on each side; multiply scalars with mul.");
  if (a.shape[a.rank - 1] !== b.shape[b.rank === 1 ? 0 : b.rank - 2])
    throw new ShapeError(
      `matmul: the inner sizes differ: ${show(a.shape)} x ${show(b.shape)}, ${a.shape[a.rank - 1]} against ${b.shape[b.rank === 1 ? 0 : b.rank - 2]}.`,
    );
  if (b.rank <= 2)
    return dotGeneral(a, b, { lhs_batch: [], rhs_batch: [], lhs_contract: [a.rank - 1], rhs_contract: [0] });
  if (a.rank === 1) {
    const y = matmul(reshape(a, [1, a.shape[0]!]), b);
    return reshape(y, [...y.shape.slice(0, -2), y.shape[y.rank - 1]!]);
  }
  const lead = broadcastShapes("matmul", a.shape.slice(0, -2), b.shape.slice(0, -2));
  const x = broadcastTo(a, [...lead, ...a.shape.slice(-2)]);
  const y = broadcastTo(b, [...lead, ...b.shape.slice(-2)]);
  const batch = lead.map((_, i) => i);
  const r = lead.length;
  return dotGeneral(x, y, { lhs_batch: batch, rhs_batch: batch, lhs_contract: [r + 1], rhs_contract: [r] });
}

/** x (..., in) times weight (out, in) transposed, plus bias (out): how PyTorch stores a linear layer. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const y = dotGeneral(x, weight, { lhs_batch: [], rhs_batch: [], lhs_contract: [x.rank - 1], rhs_contract: [1] });
  return bias ? y.add(bias) : y;
}
