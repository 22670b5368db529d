// Normalisation over the last axis.
import { gradientByDecomposition } from "../grad.ts";
import type { Attributes } from "../graph.ts";
import { defineOp } from "../op.ts";
import { size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { like, needFloat, needShape } from "./checks.ts";
import { reshape } from "./structure.ts";

const layerNormDecomposition = ([x, scale, bias]: readonly Tensor[], { epsilon }: Attributes): Tensor[] => {
  const mean = x!.mean(-1, { keep: true });
  const centred = x!.sub(mean);
  const rstd = centred
    .square()
    .mean(-1, { keep: true })
    .add(epsilon as number)
    .rsqrt();
  const lead = x!.shape.slice(0, -1);
  return [centred.mul(rstd).mul(scale!).add(bias!), reshape(mean, lead), reshape(rstd, lead)];
};
/** Gradients of layer norm with respect to x, scale and bias. */
const layerNormGradOp = defineOp({
  name: "layer_norm_grad",
  infer: ([, x, scale]) => [like(x!), like(scale!), like(scale!)],
  decompose([dy, x, scale, mean, rstd]) {
    const keep = [...mean!.shape, 1];
    const normal = x!.sub(reshape(mean!, keep)).mul(reshape(rstd!, keep));
    const g = dy!.mul(scale!);
    const dx = g
      .sub(g.mean(-1, { keep: true }))
      .sub(normal.mul(g.mul(normal).mean(-1, { keep: true })))
      .mul(reshape(rstd!, keep));
    const rows = x!.shape.slice(0, -1).map((_, i) => i);
    return [dx, dy!.mul(normal).sum(rows), dy!.sum(rows)];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 8] },
        { shape: [3, 8] },
        { shape: [8] },
        { shape: [3], low: -0.1, high: 0.1 },
        { shape: [3], low: 0.9, high: 1.1 },
      ],
    },
  ],
});
/** Rows of mean 0 and variance 1, scaled and shifted; also the mean and 1 / deviation of each row. Ba et al. 2016. */
const layerNormOp = defineOp({
  name: "layer_norm",
  infer([x, scale, bias]) {
    needFloat("layer_norm", x, scale, bias);
    const width = [x!.shape[x!.shape.length - 1] ?? 0];
    needShape("layer_norm", "the scale", scale!, width);
    needShape("layer_norm", "the bias", bias!, width);
    const lead = { dtype: x!.dtype, shape: x!.shape.slice(0, -1) };
    return [like(x!), lead, lead];
  },
  gradient(c) {
    if (c.cotangents[1] || c.cotangents[2] || !c.cotangents[0]) return gradientByDecomposition(c);
    const [x, scale] = c.inputs;
    return apply(layerNormGradOp, [c.cotangents[0], x!, scale!, c.outputs[1]!, c.outputs[2]!]);
  },
  decompose: layerNormDecomposition,
  flops: ([x]) => 8 * size(x!.shape),
  cases: [
    { inputs: [{ shape: [3, 37] }, { shape: [37] }, { shape: [37] }], attributes: { epsilon: 1e-5 }, tolerance: 1e-4 },
    {
      inputs: [{ shape: [2, 3, 16] }, { shape: [16] }, { shape: [16] }],
      attributes: { epsilon: 1e-5 },
      tolerance: 1e-4,
    },
  ],
});

/** Gradients of RMS norm with respect to x and scale. */
const rmsNormGradOp = defineOp({
  name: "rms_norm_grad",
  infer: ([, x, scale]) => [like(x!), like(scale!)],
  decompose([dy, x, scale, rstd]) {
    const r = reshape(rstd!, [...rstd!.shape, 1]);
    const normal = x!.mul(r);
    const g = dy!.mul(scale!);
    const dx = g.sub(normal.mul(g.mul(normal).mean(-1, { keep: true }))).mul(r);
    return [dx, dy!.mul(normal).sum(x!.shape.slice(0, -1).map((_, i) => i))];
  },
  cases: [{ inputs: [{ shape: [3, 8] }, { shape: [3, 8] }, { shape: [8] }, { shape: [3], low: 0.9, high: 1.1 }] }],
});
/** Rows over their root mean square, scaled; also 1 / root of each row. Zhang & Sennrich 2019. */
const rmsNormOp = defineOp({
  name: "rms_norm",
  infer([x, scale]) {
    needFloat("rms_norm", x, scale);
    needShape("rms_norm", "the scale", scale!, [x!.shape[x!.shape.length - 1] ?? 0]);
    return [like(x!), { dtype: x!.dtype, shape: x!.shape.slice(0, -1) }];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    return apply(rmsNormGradOp, [c.cotangents[0], c.inputs[0]!, c.inputs[1]!, c.outputs[1]!]);
  },
  decompose([x, scale], { epsilon }) {
    const rstd = x!
      .square()
      .mean(-1, { keep: true })
      .add(epsilon as number)
      .rsqrt();
    return [x!.mul(rstd).mul(scale!), reshape(rstd, x!.shape.slice(0, -1))];
  },
  flops: ([x]) => 5 * size(x!.shape),
  cases: [{ inputs: [{ shape: [3, 37] }, { shape: [37] }], attributes: { epsilon: 1e-5 }, tolerance: 1e-4 }],
});

/** (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis. Ba et al. 2016. */
export function layerNorm(x: Tensor, scale: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  return apply1(layerNormOp, [x, scale, bias], { epsilon });
}

/** x / sqrt(mean(x^2) + epsilon) * scale over the last axis. Zhang & Sennrich 2019. */
export function rmsNorm(x: Tensor, scale: Tensor, epsilon = 1e-6): Tensor {
  return apply1(rmsNormOp, [x, scale], { epsilon });
}
