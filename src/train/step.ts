import { scan } from "../tensor/control.ts";
import { ShapeError } from "../tensor/errors.ts";
import { valueAndGrad } from "../tensor/grad.ts";
import { type Jitted, jit } from "../tensor/jit.ts";
import { arange, scalar, zeros } from "../tensor/ops/creation.ts";
import { foldIn } from "../tensor/ops/random.ts";
import type { Precision } from "../tensor/runtime.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { tensors, withTensors, zipTree } from "../tensor/tree.ts";
import type { LearningRates, Optimizer, OptimizerState } from "./optimizer.ts";

/** Everything a training step carries on: saved whole, so that a resumed run ends with the same bits. */
export interface TrainState<M> {
  readonly model: M;
  readonly optimizer: OptimizerState;
  /** Random key of the stage; each step folds its number in. */
  readonly key: Tensor;
}

export type Metrics = { readonly [name: string]: Tensor };

/**
 * What a stage minimises. The batch may be one part of a step's batch, so the loss must be a sum over rows divided by a number that
 * does not depend on the part (such as the count of all targets, given in the batch); metrics add up over parts likewise.
 */
export type StepLoss<M, B> = (model: M, batch: B, key: Tensor) => readonly [loss: Tensor, metrics: Metrics];

export interface StepOptions<M, B> {
  readonly loss: StepLoss<M, B>;
  readonly optimizer: Optimizer;
  /** Into how many parts along its first axis the batch is split; memory falls, the result stays. */
  readonly accumulate?: number;
  readonly precision?: Precision;
  readonly name?: string;
}

export type StepResult<M> = { state: TrainState<M>; metrics: Metrics };

/** A compiled training step: a pure function from state, batch and learning rates to the next state and metrics. The old state is consumed. */
export function trainStep<M, B>(o: StepOptions<M, B>): Jitted<[TrainState<M>, B, LearningRates], StepResult<M>> {
  const step = (state: TrainState<M>, batch: B, rates: LearningRates): StepResult<M> => {
    const key = foldIn(state.key, state.optimizer.step);
    const { loss, metrics, gradients } = lossAndGradients(o, state.model, batch, key);
    const { model, state: optimizer, norm } = o.optimizer.update(state.model, state.optimizer, gradients, rates);
    return { state: { model, optimizer, key: state.key }, metrics: { loss, gradient_norm: norm, ...metrics } };
  };
  return jit(step, { donate: [0], precision: o.precision ?? "auto", name: o.name ?? "train step" });
}

function lossAndGradients<M, B>(
  o: StepOptions<M, B>,
  model: M,
  batch: B,
  key: Tensor,
): { loss: Tensor; metrics: Metrics; gradients: M } {
  const parts = o.accumulate ?? 1;
  if (parts === 1) {
    const [loss, gradients, metrics] = valueAndGrad(model, (m) => o.loss(m, batch, key));
    return { loss, metrics, gradients };
  }
  const all = tensors(batch);
  const split = all.map((t) => {
    if (t.rank === 0) return undefined;
    if (t.shape[0]! % parts !== 0)
      throw new ShapeError(`accumulate: a batch of ${t.shape[0]} rows does not divide into ${parts} parts.`);
    return t.reshape(parts, t.shape[0]! / parts, ...t.shape.slice(1));
  });
  const moving = { rows: split.filter((t) => t !== undefined), part: arange(parts) };
  const onePart = (slices: readonly Tensor[]) => {
    let at = 0;
    return withTensors(
      batch,
      all.map((t, i) => (split[i] ? slices[at++]! : t)),
    );
  };
  const first = {
    gradients: withTensors(
      model,
      tensors(model).map((t) => zeros(t.shape, t.dtype)),
    ),
    loss: scalar(0),
  };
  const [sum, perPart] = scan(
    (carry: { gradients: M; loss: Tensor }, { rows, part }: { rows: readonly Tensor[]; part: Tensor }) => {
      // Each part drops out other units: with one key for all they would drop the same ones.
      const own = foldIn(key, part);
      const [loss, gradients, metrics] = valueAndGrad(model, (m) => o.loss(m, onePart(rows), own));
      const added = zipTree(carry.gradients, [gradients], ([a, b]) => a!.add(b!));
      return [{ gradients: added, loss: carry.loss.add(loss) }, metrics] as const;
    },
    first,
    moving,
  );
  return {
    loss: sum.loss,
    gradients: sum.gradients,
    metrics: Object.fromEntries(Object.entries(perPart).map(([name, t]) => [name, t.sum(0)])),
  };
}
