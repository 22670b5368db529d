// Losses of a classifier, from logits or from hidden states.
import { ShapeError } from "../errors.ts";
import { gradientByDecomposition } from "../grad.ts";
import { defineOp } from "../op.ts";
import { show, size } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply, apply1 } from "../trace.ts";
import { like, needFloat, needIndices, needShape } from "./checks.ts";
import { iota } from "./creation.ts";
import { where } from "./elementwise.ts";
import { takeAlongLast } from "./indexing.ts";
import { logSumExp } from "./reduction.ts";
import { broadcastTo, reshape } from "./structure.ts";

/**
 * Loss and log-normaliser per row from logits; a negative target gives 0 for both. A target that names no class ends the run with an
 * error on a backend with kernels of its own; decomposed, as on the reference backend, its loss is NaN.
 */
function crossEntropyDecomposition(logits: Tensor, targets: Tensor): Tensor[] {
  const lse = logSumExp(logits, -1);
  const counted = targets.greaterEqual(0);
  const chosen = takeAlongLast(logits, where(counted, targets, 0));
  const loss = where(targets.less(logits.shape[1]!), lse.sub(chosen), Number.NaN);
  return [where(counted, loss, 0), where(counted, lse, 0)];
}
/** Gradient of cross-entropy with respect to the logits. */
const crossEntropyGradOp = defineOp({
  name: "cross_entropy_grad",
  inPlace: [[0, 0]],
  infer: ([logits]) => [like(logits!)],
  decompose([logits, targets, lse, dloss]) {
    const [n, v] = logits!.shape as [number, number];
    const p = logits!.sub(reshape(lse!, [n, 1])).exp();
    const target = broadcastTo(reshape(targets!, [n, 1]), [n, v]);
    const hit = target.equal(iota([n, v], 1));
    // Not a product with 0: the log-normaliser of an ignored row is 0, so its exponentials may overflow.
    return [where(target.greaterEqual(0), p.sub(hit.to(p.dtype)).mul(reshape(dloss!, [n, 1])), 0)];
  },
  cases: [
    {
      inputs: [
        { shape: [3, 7] },
        { shape: [3], values: [2, -1, 6], dtype: "i32" },
        { shape: [3], low: 1.8, high: 2.2 },
        { shape: [3] },
      ],
    },
  ],
});
/** -log softmax(logits) at the target, and the log of the sum of exponentials, per row. */
const crossEntropyOp = defineOp({
  name: "cross_entropy",
  infer([logits, targets]) {
    needFloat("cross_entropy", logits);
    needIndices("cross_entropy", "the targets", targets!);
    if (logits!.shape.length !== 2)
      throw new ShapeError(`cross_entropy: logits must be (rows, classes), got ${show(logits!.shape)}.`);
    needShape("cross_entropy", "the targets", targets!, [logits!.shape[0]!]);
    const row = { dtype: logits!.dtype, shape: [logits!.shape[0]!] };
    return [row, row];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    return [apply1(crossEntropyGradOp, [c.inputs[0]!, c.inputs[1]!, c.outputs[1]!, c.cotangents[0]]), undefined];
  },
  decompose: ([logits, targets]) => crossEntropyDecomposition(logits!, targets!),
  flops: ([x]) => 5 * size(x!.shape),
  cases: [
    {
      inputs: [
        { shape: [1, 2], values: [0, 0] },
        { shape: [1], values: [1], dtype: "i32" },
      ],
      outputs: [[Math.LN2], [Math.LN2]],
    },
    { inputs: [{ shape: [5, 33] }, { shape: [5], values: [0, 32, -1, 7, 8], dtype: "i32" }] },
  ],
});

const headLogits = (h: Tensor, w: Tensor): Tensor => h.matmul(w.transpose());
/** Gradients of the head's cross-entropy with respect to hidden states and weights. */
const linearCrossEntropyGradOp = defineOp({
  name: "linear_cross_entropy_grad",
  infer: ([h, w]) => [like(h!), like(w!)],
  decompose([h, w, targets, lse, dloss]) {
    const logits = headLogits(h!, w!);
    const dlogits = apply1(crossEntropyGradOp, [logits, targets!, lse!, dloss!]);
    return [dlogits.matmul(w!), dlogits.transpose().matmul(h!)];
  },
  flops: ([h, w]) => 6 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [
        { shape: [3, 4] },
        { shape: [7, 4] },
        { shape: [3], values: [2, -1, 6], dtype: "i32" },
        { shape: [3], low: 1.8, high: 2.2 },
        { shape: [3] },
      ],
    },
  ],
});
/** Cross-entropy of hidden . weight^T per row, without holding the logits. */
const linearCrossEntropyOp = defineOp({
  name: "linear_cross_entropy",
  infer([h, w, targets]) {
    needFloat("linear_cross_entropy", h, w);
    needIndices("linear_cross_entropy", "the targets", targets!);
    if (h!.shape.length !== 2 || w!.shape.length !== 2 || h!.shape[1] !== w!.shape[1])
      throw new ShapeError(
        `linear_cross_entropy: hidden states (rows, width) and weights (classes, width) do not fit: ${show(h!.shape)}, ${show(w!.shape)}.`,
      );
    needShape("linear_cross_entropy", "the targets", targets!, [h!.shape[0]!]);
    const row = { dtype: h!.dtype, shape: [h!.shape[0]!] };
    return [row, row];
  },
  gradient(c) {
    if (c.cotangents[1] || !c.cotangents[0]) return gradientByDecomposition(c);
    const [h, w, targets] = c.inputs;
    const [dh, dw] = apply(linearCrossEntropyGradOp, [h!, w!, targets!, c.outputs[1]!, c.cotangents[0]]);
    return [dh, dw, undefined];
  },
  decompose([h, w, targets]) {
    return crossEntropyDecomposition(headLogits(h!, w!), targets!);
  },
  flops: ([h, w]) => 2 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [{ shape: [5, 4] }, { shape: [33, 4] }, { shape: [5], values: [0, 32, -1, 7, 8], dtype: "i32" }],
    },
  ],
});

/**
 * Loss and gradients in one walk over the logits: what the compiler makes of `linear_cross_entropy` and its gradient when the loss's
 * cotangent does not depend on the loss. Outputs loss, lse, dh, dw.
 */
export const linearCrossEntropyValueAndGradOp = defineOp({
  name: "linear_cross_entropy_value_and_grad",
  infer([h, w]) {
    const row = { dtype: h!.dtype, shape: [h!.shape[0]!] };
    return [row, row, like(h!), like(w!)];
  },
  decompose([h, w, targets, dloss]) {
    const [loss, lse] = apply(linearCrossEntropyOp, [h!, w!, targets!]);
    return [loss!, lse!, ...apply(linearCrossEntropyGradOp, [h!, w!, targets!, lse!, dloss!])];
  },
  flops: ([h, w]) => 6 * h!.shape[0]! * size(w!.shape),
  cases: [
    {
      inputs: [{ shape: [3, 4] }, { shape: [7, 4] }, { shape: [3], values: [2, -1, 6], dtype: "i32" }, { shape: [3] }],
    },
  ],
});

/** Cross-entropy per row of logits (rows, classes) at integer targets (rows); a negative target counts nothing, one past the classes is an error. */
export function crossEntropy(logits: Tensor, targets: Tensor): Tensor {
  return apply1(crossEntropyOp, [logits, targets]);
}

/**
 * Cross-entropy of the logits `hidden . weight^T` per row, without ever holding all logits.
 * @param hidden (rows, width)
 * @param weight (classes, width)
 * @param targets (rows) i32; negative ones count nothing, ones past the classes are an error
 */
export function linearCrossEntropy(hidden: Tensor, weight: Tensor, targets: Tensor): Tensor {
  return apply1(linearCrossEntropyOp, [hidden, weight, targets]);
}
