import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp } from "../op.ts";
import { sameShape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { full, scalar } from "./creation.ts";

/**
 * Many tensors in one call. Inputs: learning rate, gradient scale, 1 - beta1^t, 1 - beta2^t (scalars), then parameter, first moment,
 * second moment and gradient of each; outputs: parameter and moments of each. Attribute `decay` says which ones decay.
 */
const adamwOp = defineOp({
  name: "adamw",
  inPlace: (inputs) =>
    Array.from({ length: ((inputs - 4) / 4) * 3 }, (_, i) => [i, 4 + Math.floor(i / 3) * 4 + (i % 3)] as const),
  infer(inputs, { decay }) {
    const groups = (decay as readonly boolean[]).length;
    if (inputs.length !== 4 + 4 * groups)
      throw new ShapeError(`adamw: ${groups} tensors need ${4 + 4 * groups} inputs, got ${inputs.length}.`);
    for (let i = 4; i < inputs.length; i++) {
      const p = inputs[4 + Math.floor((i - 4) / 4) * 4]!;
      if (inputs[i]!.dtype !== p.dtype)
        throw new DTypeError(`adamw: a parameter is ${p.dtype}, its state or gradient ${inputs[i]!.dtype}.`);
      if (!sameShape(inputs[i]!.shape, p.shape))
        throw new ShapeError(
          `adamw: a parameter is ${show(p.shape)}, its state or gradient ${show(inputs[i]!.shape)}.`,
        );
    }
    return inputs
      .slice(4)
      .filter((_, i) => i % 4 !== 3)
      .map((x) => ({ dtype: x.dtype, shape: x.shape }));
  },
  decompose([rate, gradientScale, c1, c2, ...rest], a) {
    const [beta1, beta2, epsilon, weightDecay] = [a.beta1, a.beta2, a.epsilon, a.weight_decay] as [
      number,
      number,
      number,
      number,
    ];
    return (a.decay as readonly boolean[]).flatMap((decays, i) => {
      const [p, m, v, g] = rest.slice(4 * i, 4 * i + 4) as [Tensor, Tensor, Tensor, Tensor];
      const scaled = g.mul(gradientScale!);
      const m1 = m.mul(beta1).add(scaled.mul(1 - beta1));
      const v1 = v.mul(beta2).add(scaled.mul(scaled).mul(1 - beta2));
      const direction = m1.div(c1!).div(v1.div(c2!).sqrt().add(epsilon));
      const update = decays ? direction.add(p.mul(weightDecay)) : direction;
      return [p.sub(update.mul(rate!)), m1, v1];
    });
  },
  flops: (inputs) => 12 * inputs.slice(4).reduce((n, x) => n + size(x.shape) / 4, 0),
  cases: [
    {
      inputs: [
        { shape: [], values: [0.1] },
        { shape: [], values: [0.5] },
        { shape: [], values: [0.1] },
        { shape: [], values: [0.05] },
        { shape: [3, 5] },
        { shape: [3, 5] },
        { shape: [3, 5], low: 0, high: 1 },
        { shape: [3, 5] },
        { shape: [33] },
        { shape: [33] },
        { shape: [33], low: 0, high: 1 },
        { shape: [33] },
      ],
      attributes: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay: [true, false] },
      differentiable: false,
      tolerance: 1e-4,
    },
  ],
});

const globalNormOp = defineOp({
  name: "global_norm",
  infer: (inputs) => {
    if (inputs.length === 0) throw new ShapeError("global_norm: needs at least one tensor.");
    return [{ dtype: inputs[0]!.dtype, shape: [] }];
  },
  decompose: (inputs) => [
    inputs
      .map((x) => x.square().sum())
      .reduce((a, b) => a.add(b))
      .sqrt(),
  ],
  flops: (inputs) => 2 * inputs.reduce((n, x) => n + size(x.shape), 0),
  cases: [
    {
      inputs: [
        { shape: [2], values: [3, 0] },
        { shape: [1, 1], values: [4] },
      ],
      outputs: [[5]],
    },
    { inputs: [{ shape: [700] }, { shape: [3, 5] }], tolerance: 1e-4 },
  ],
});

export interface AdamWConstants {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

export interface AdamWTensor {
  readonly parameter: Tensor;
  readonly m: Tensor;
  readonly v: Tensor;
  readonly gradient: Tensor;
  readonly decays: boolean;
}

/**
 * One AdamW step over many tensors. Loshchilov & Hutter 2019, algorithm 2, with the decay scaled by the learning rate as in PyTorch.
 * @param step i32 scalar, 1 for the first update
 * @param gradientScale scalar the gradients are multiplied by first (clipping)
 */
export function adamwUpdate(
  list: readonly AdamWTensor[],
  c: AdamWConstants,
  learningRate: Tensor,
  step: Tensor,
  gradientScale: Tensor = scalar(1),
): { parameter: Tensor; m: Tensor; v: Tensor }[] {
  const t = step.to("f32");
  const correction = (beta: number) => full([], 1).sub(full([], beta).pow(t));
  const outs = apply(
    adamwOp,
    [
      learningRate,
      gradientScale,
      correction(c.beta1),
      correction(c.beta2),
      ...list.flatMap((x) => [x.parameter, x.m, x.v, x.gradient]),
    ],
    {
      beta1: c.beta1,
      beta2: c.beta2,
      epsilon: c.epsilon,
      weight_decay: c.weightDecay,
      decay: list.map((x) => x.decays),
    },
  );
  return list.map((_, i) => ({ parameter: outs[3 * i]!, m: outs[3 * i + 1]!, v: outs[3 * i + 2]! }));
}

/** The Euclidean norm of all tensors taken together. */
export function globalNorm(list: readonly Tensor[]): Tensor {
  return apply1(globalNormOp, list);
}
