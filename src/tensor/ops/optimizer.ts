import { DTypeError, ShapeError } from "../errors.ts";
import { defineOp } from "../op.ts";
import { sameShape, show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { full, scalar } from "./creation.ts";

/**
 * Many tensors in one call. Inputs: learning rate, gradient scale, step (f32 scalars), then all parameters, all first moments, all second
 * moments, all gradients; outputs: parameters, first moments, second moments. Attribute `decay` says which ones decay.
 */
const adamwOp = defineOp({
  name: "adamw",
  inPlace: (inputs) => Array.from({ length: ((inputs - 3) / 4) * 3 }, (_, i) => [i, 3 + i] as const),
  infer(inputs, { count }) {
    const n = count as number;
    if (inputs.length !== 3 + 4 * n)
      throw new ShapeError(`adamw: ${n} tensors need ${3 + 4 * n} inputs, got ${inputs.length}.`);
    for (let i = 3; i < inputs.length; i++) {
      const p = inputs[3 + ((i - 3) % n)]!;
      if (inputs[i]!.dtype !== p.dtype)
        throw new DTypeError(`adamw: a parameter is ${p.dtype}, its state or gradient ${inputs[i]!.dtype}.`);
      if (!sameShape(inputs[i]!.shape, p.shape))
        throw new ShapeError(
          `adamw: a parameter is ${show(p.shape)}, its state or gradient ${show(inputs[i]!.shape)}.`,
        );
    }
    return inputs.slice(3, 3 + 3 * n).map((x) => ({ dtype: x.dtype, shape: x.shape }));
  },
  decompose([rate, gradientScale, step, ...rest], a) {
    const n = a.count as number;
    const [beta1, beta2, epsilon, decay] = [a.beta1, a.beta2, a.epsilon, a.weight_decay] as [
      number,
      number,
      number,
      number,
    ];
    const correction = (beta: number) => full([], 1, step!.dtype).sub(full([], beta, step!.dtype).pow(step!));
    const [c1, c2] = [correction(beta1), correction(beta2)];
    const updated = (a.decay as readonly boolean[]).map((decays, i) => {
      const [p, m, v, g] = [0, 1, 2, 3].map((k) => rest[k * n + i]!) as [Tensor, Tensor, Tensor, Tensor];
      const scaled = g.mul(gradientScale!);
      const m1 = m.mul(beta1).add(scaled.mul(1 - beta1));
      const v1 = v.mul(beta2).add(scaled.mul(scaled).mul(1 - beta2));
      const direction = m1.div(c1).div(v1.div(c2).sqrt().add(epsilon));
      const update = decays ? direction.add(p.mul(decay)) : direction;
      return [p.sub(update.mul(rate!)), m1, v1] as const;
    });
    return [0, 1, 2].flatMap((k) => updated.map((u) => u[k]!));
  },
  flops: (inputs) => 12 * inputs.slice(3).reduce((n, x) => n + size(x.shape) / 4, 0),
  cases: [
    {
      inputs: [
        { shape: [], values: [0.1] },
        { shape: [], values: [0.5] },
        { shape: [], values: [3] },
        { shape: [3, 5] },
        { shape: [33] },
        { shape: [3, 5] },
        { shape: [33] },
        { shape: [3, 5], low: 0, high: 1 },
        { shape: [33], low: 0, high: 1 },
        { shape: [3, 5] },
        { shape: [33] },
      ],
      attributes: { count: 2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay: [true, false] },
      differentiable: false,
      tolerance: 1e-4,
    },
  ],
});

/** The root of the sum of the squares of all elements of all tensors. */
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
  const all = (pick: (x: AdamWTensor) => Tensor) => list.map(pick);
  const outs = apply(
    adamwOp,
    [
      learningRate,
      gradientScale,
      step.to("f32"),
      ...all((x) => x.parameter),
      ...all((x) => x.m),
      ...all((x) => x.v),
      ...all((x) => x.gradient),
    ],
    {
      count: list.length,
      beta1: c.beta1,
      beta2: c.beta2,
      epsilon: c.epsilon,
      weight_decay: c.weightDecay,
      decay: list.map((x) => x.decays),
    },
  );
  const n = list.length;
  return list.map((_, i) => ({ parameter: outs[i]!, m: outs[n + i]!, v: outs[2 * n + i]! }));
}

/** The Euclidean norm of all tensors taken together. */
export function globalNorm(list: readonly Tensor[]): Tensor {
  return apply1(globalNormOp, list);
}
