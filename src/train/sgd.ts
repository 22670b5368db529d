import type { Tensor } from "../tensor/tensor.ts";
import { leaves, withTensors } from "../tensor/tree.ts";

export interface SGDConfig {
  readonly momentum: number;
  /** Of all parameters, added to the gradient. */
  readonly weightDecay: number;
}

/**
 * One update of stochastic gradient descent with momentum inside a traced step, as PyTorch's: v = momentum v + g + decay p; p = p - rate v.
 * Sutskever et al. 2013.
 * @param velocity in the order of the parameters; zeros before the first step
 * @param rate f32 scalar
 */
export function sgdUpdate<M>(
  model: M,
  velocity: readonly Tensor[],
  gradients: M,
  rate: Tensor,
  { momentum, weightDecay }: SGDConfig,
): { model: M; velocity: readonly Tensor[] } {
  const g = leaves(gradients);
  const parameters = leaves(model).map(({ tensor }) => tensor);
  const next = parameters.map((p, i) => velocity[i]!.mul(momentum).add(g[i]!.tensor).add(p.mul(weightDecay)));
  return {
    model: withTensors(
      model,
      parameters.map((p, i) => p.sub(next[i]!.mul(rate))),
    ),
    velocity: next,
  };
}
