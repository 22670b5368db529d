import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { gradientByDecomposition } from "../grad.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type OpCase } from "../op.ts";
import { sameShape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply } from "../trace.ts";
import { relu } from "./nn.ts";
import { reshape } from "./structure.ts";

const like = (x: Aval): Aval => ({ dtype: x.dtype, shape: x.shape });

/** All axes but the last. */
const rows = (x: Tensor): number[] => x.shape.slice(0, -1).map((_, i) => i);

function decomposition(inputs: readonly Tensor[], attributes: Attributes): Tensor[] {
  const [x, scale, bias, residual] = inputs;
  const mean = x!.mean(rows(x!));
  const centred = x!.sub(mean);
  const variance = centred.square().mean(rows(x!));
  let y = centred
    .mul(
      variance
        .add(attributes.epsilon as number)
        .rsqrt()
        .mul(scale!),
    )
    .add(bias!);
  if (residual) y = y.add(residual);
  return [attributes.relu ? relu(y) : y, mean, variance];
}

const gradCase = (relu: boolean, residual: boolean): OpCase => ({
  inputs: [
    { shape: [2, 3, 5] },
    { shape: [2, 3, 5] },
    { shape: [5] },
    { shape: [5], low: -0.1, high: 0.1 },
    { shape: [5], low: 0.4, high: 0.6 },
    ...(relu ? [{ shape: [2, 3, 5], low: -1, high: 1 }] : []),
  ],
  attributes: { epsilon: 1e-5, relu, residual },
  tolerance: 1e-4,
  // Rectified places are where they are.
  ...(relu ? { differentiable: false } : {}),
});

/** Gradients of batch norm with respect to x, scale, bias and, if there was one, the residual. */
const batchNormGradOp = defineOp({
  name: "batch_norm_grad",
  infer: ([, x, scale], { residual }) => [like(x!), like(scale!), like(scale!), ...(residual ? [like(x!)] : [])],
  decompose([dy, x, scale, mean, variance, y], { epsilon, relu: rectified, residual }) {
    const g = rectified ? dy!.mul(y!.greater(0).to(dy!.dtype)) : dy!;
    const rstd = variance!.add(epsilon as number).rsqrt();
    const normal = x!.sub(mean!).mul(rstd);
    const [dscale, dbias] = [g.mul(normal).sum(rows(x!)), g.sum(rows(x!))];
    const share = scale!.size / x!.size;
    const dx = g
      .sub(dbias.mul(share))
      .sub(normal.mul(dscale.mul(share)))
      .mul(scale!.mul(rstd));
    return [dx, dscale, dbias, ...(residual ? [g] : [])];
  },
  cases: [gradCase(false, false), gradCase(true, false), gradCase(true, true)],
});

const forwardCase = (shape: number[], relu: boolean, residual: boolean): OpCase => {
  const c = shape[shape.length - 1]!;
  return {
    inputs: [{ shape }, { shape: [c] }, { shape: [c] }, ...(residual ? [{ shape }] : [])],
    attributes: { epsilon: 1e-5, relu, residual },
    tolerance: 1e-4,
    ...(relu ? { differentiable: false } : {}),
  };
};

/** Channels of mean 0 and variance 1 over all rows, scaled and shifted, plus a residual and rectified if so said; also mean and variance. Ioffe & Szegedy 2015. */
const batchNormOp = defineOp({
  name: "batch_norm",
  infer(inputs, attributes) {
    const [x, scale, bias, residual] = inputs;
    if (inputs.some((a) => !isFloat(a.dtype) || a.dtype !== x!.dtype))
      throw new DTypeError(
        `batch_norm: needs floating-point tensors of one dtype, got ${inputs.map((a) => `${a.dtype}${show(a.shape)}`).join(", ")}.`,
      );
    const channels = [x!.shape[x!.shape.length - 1] ?? 0];
    if (x!.shape.length < 2 || size(x!.shape) === 0)
      throw new ShapeError(`batch_norm: needs (rows..., channels), not empty, got ${show(x!.shape)}.`);
    for (const [what, a] of [
      ["scale", scale!],
      ["bias", bias!],
    ] as const)
      if (!sameShape(a.shape, channels))
        throw new ShapeError(`batch_norm: the ${what} must be ${show(channels)}, got ${show(a.shape)}.`);
    if (Boolean(attributes.residual) !== Boolean(residual) || (residual && !sameShape(residual.shape, x!.shape)))
      throw new ShapeError(
        `batch_norm: the residual must be ${show(x!.shape)} as x, got ${show(residual?.shape ?? [])}.`,
      );
    return [like(x!), like(scale!), like(scale!)];
  },
  gradient(c) {
    if (c.cotangents[1] || c.cotangents[2] || !c.cotangents[0]) return gradientByDecomposition(c);
    const [x, scale] = c.inputs;
    const [y, mean, variance] = c.outputs;
    return apply(
      batchNormGradOp,
      [c.cotangents[0], x!, scale!, mean!, variance!, ...(c.attributes.relu ? [y!] : [])],
      c.attributes,
    );
  },
  decompose: decomposition,
  flops: ([x]) => 8 * size(x!.shape),
  cases: [
    forwardCase([3, 4, 5], false, false),
    forwardCase([37, 20], true, false),
    forwardCase([2, 3, 3, 16], true, true),
    // More than one block of rows.
    { ...forwardCase([3000, 16], false, true), differentiable: false },
  ],
});

export interface BatchNormOptions {
  readonly epsilon?: number;
  /** Added to the normalised values, of x's shape. */
  readonly residual?: Tensor | undefined;
  /** Whether negative values become 0 at the end. */
  readonly relu?: boolean;
}

/**
 * Batch normalisation with the statistics of this very batch, in training: (x - mean) / sqrt(variance + epsilon) * scale + bias, then the
 * residual and the rectifier. The variance is the mean of squared distances, not corrected for the number of rows.
 * @param x (..., channels)
 * @param scale (channels)
 * @param bias (channels)
 */
export function batchNorm(
  x: Tensor,
  scale: Tensor,
  bias: Tensor,
  { epsilon = 1e-5, residual, relu: rectified = false }: BatchNormOptions = {},
): { y: Tensor; mean: Tensor; variance: Tensor } {
  const inputs = [x, scale, bias, ...(residual ? [residual] : [])];
  const [y, mean, variance] = apply(batchNormOp, inputs, {
    epsilon,
    relu: rectified,
    residual: residual !== undefined,
  }) as [Tensor, Tensor, Tensor];
  return { y, mean, variance };
}

/** The same with statistics gathered before, as after training. */
export function batchNormWith(
  x: Tensor,
  scale: Tensor,
  bias: Tensor,
  statistics: { readonly mean: Tensor; readonly variance: Tensor },
  { epsilon = 1e-5, residual, relu: rectified = false }: BatchNormOptions = {},
): Tensor {
  const factor = scale.mul(statistics.variance.add(epsilon).rsqrt());
  const lead = x.shape.map((n, i) => (i === x.rank - 1 ? n : 1));
  const shift = bias.sub(statistics.mean.mul(factor));
  let y = x.mul(reshape(factor, lead)).add(reshape(shift, lead));
  if (residual) y = y.add(residual);
  return rectified ? relu(y) : y;
}
