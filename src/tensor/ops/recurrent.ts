import { scan } from "../control.ts";
import { isFloat } from "../dtype.ts";
import { DTypeError, ShapeError } from "../errors.ts";
import { gradientByDecomposition } from "../grad.ts";
import type { Attributes, Aval } from "../graph.ts";
import { defineOp, type OpCase } from "../op.ts";
import { sameShape, show } from "../shape.ts";
import type { Tensor } from "../tensor.ts";
import { apply } from "../trace.ts";
import { zeros } from "./creation.ts";
import { concatenate, reshape, sliceAxis } from "./structure.ts";

/** The four gates' parts of the last axis, in PyTorch's order. */
function quarters(x: Tensor): [i: Tensor, f: Tensor, g: Tensor, o: Tensor] {
  const axis = x.rank - 1;
  const n = x.shape[axis]! / 4;
  const part = (k: number) => sliceAxis(x, axis, k * n, (k + 1) * n);
  return [part(0), part(1), part(2), part(3)];
}

/** One step after the other: the textbook form, the oracle of the fused kernel. */
function lstmDecomposition([x, weight, h0, c0]: readonly Tensor[]): Tensor[] {
  const [, ys] = scan(
    ({ h, c }: { h: Tensor; c: Tensor }, step: Tensor) => {
      const [i, f, g, o] = quarters(step.add(h.matmul(weight!.transpose())));
      const gates = [i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()] as const;
      const next = gates[1].mul(c).add(gates[0].mul(gates[2]));
      const out = gates[3].mul(next.tanh());
      return [
        { h: out, c: next },
        { h: out, c: next, gates: concatenate(gates, 1) },
      ] as const;
    },
    { h: h0!, c: c0! },
    x!,
  );
  return [ys.h, ys.c, ys.gates];
}

const steps = (first: Tensor, all: Tensor): Tensor =>
  concatenate([reshape(first, [1, ...first.shape]), sliceAxis(all, 0, 0, all.shape[0]! - 1)], 0);

function lstmGradDecomposition(inputs: readonly Tensor[], attributes: Attributes): Tensor[] {
  const [gates, weight, c0, c, ...given] = inputs;
  const none = zeros(c!.shape, c!.dtype);
  const dh = attributes.dh ? given[0]! : none;
  const dc = attributes.dc ? given[attributes.dh ? 1 : 0]! : none;
  const still = zeros(c0!.shape, c0!.dtype);
  const [carry, dx] = scan(
    (later: { h: Tensor; c: Tensor }, now: { gates: Tensor; c: Tensor; before: Tensor; dh: Tensor; dc: Tensor }) => {
      const [i, f, g, o] = quarters(now.gates);
      const rise = (y: Tensor) => y.mul(y.neg().add(1));
      const tanh = now.c.tanh();
      const h = later.h.add(now.dh);
      const cell = later.c.add(now.dc).add(h.mul(o).mul(tanh.square().neg().add(1)));
      const d = concatenate(
        [
          cell.mul(g).mul(rise(i)),
          cell.mul(now.before).mul(rise(f)),
          cell.mul(i).mul(g.square().neg().add(1)),
          h.mul(tanh).mul(rise(o)),
        ],
        1,
      );
      return [{ h: d.matmul(weight!), c: cell.mul(f) }, d] as const;
    },
    { h: still, c: still },
    { gates: gates!, c: c!, before: steps(c0!, c!), dh, dc },
    { reverse: true },
  );
  return [dx, carry.h, carry.c];
}

const sizes = (t: number, b: number, h: number) => [
  { shape: [t, b, 4 * h] },
  { shape: [4 * h, h], low: -0.3, high: 0.3 },
  { shape: [b, h] },
  { shape: [b, h] },
];
const gradCase = (t: number, b: number, h: number, dh: boolean, dc: boolean): OpCase => ({
  inputs: [
    { shape: [t, b, 4 * h], low: 0.1, high: 0.9 },
    { shape: [4 * h, h], low: -0.3, high: 0.3 },
    { shape: [b, h] },
    { shape: [t, b, h] },
    ...(dh ? [{ shape: [t, b, h] }] : []),
    ...(dc ? [{ shape: [t, b, h] }] : []),
  ],
  attributes: { dh, dc },
  tolerance: 1e-4,
});

/** Gradients of an LSTM layer with respect to the gates' inputs and the first state, from the gates and cells of the forward pass. */
const lstmGradOp = defineOp({
  name: "lstm_grad",
  inPlace: [[0, 0]],
  infer: ([gates, , c0]) => [plain(gates!), plain(c0!), plain(c0!)],
  decompose: lstmGradDecomposition,
  flops: ([gates, weight]) => 2 * gates!.shape[0]! * gates!.shape[1]! * weight!.shape[0]! * weight!.shape[1]!,
  cases: [gradCase(3, 2, 3, true, true), gradCase(2, 13, 20, true, false), gradCase(2, 2, 3, false, true)],
});

const plain = (a: Aval): Aval => ({ dtype: a.dtype, shape: a.shape });

/** An LSTM layer over a sequence whose input has already been multiplied; also its cells and gates. Hochreiter & Schmidhuber 1997, Gers et al. 2000. */
const lstmOp = defineOp({
  name: "lstm",
  inPlace: [[2, 0]],
  infer(inputs) {
    const [x, weight, h0, c0] = inputs as [Aval, Aval, Aval, Aval];
    const shown = inputs.map((a) => `${a.dtype}${show(a.shape)}`).join(", ");
    if (inputs.some((a) => !isFloat(a.dtype) || a.dtype !== x.dtype))
      throw new DTypeError(`lstm: needs floating-point tensors of one dtype, got ${shown}.`);
    const [time, batch] = x.shape as [number, number];
    const hidden = weight.shape[1] ?? 0;
    const state = [batch, hidden];
    if (
      x.shape.length !== 3 ||
      time < 1 ||
      !sameShape(weight.shape, [4 * hidden, hidden]) ||
      x.shape[2] !== 4 * hidden ||
      !sameShape(h0.shape, state) ||
      !sameShape(c0.shape, state)
    )
      throw new ShapeError(
        `lstm: needs gates (time, batch, 4 hidden) of at least one step, a weight (4 hidden, hidden) and states (batch, hidden), got ${shown}.`,
      );
    const all = { dtype: x.dtype, shape: [time, batch, hidden] };
    return [all, all, plain(x)];
  },
  gradient(c) {
    const [dh, dc, dgates] = c.cotangents;
    if (dgates || (!dh && !dc)) return gradientByDecomposition(c);
    const [, weight, h0, c0] = c.inputs as [Tensor, Tensor, Tensor, Tensor];
    const [h, cells, gates] = c.outputs as [Tensor, Tensor, Tensor];
    const [dx, dh0, dc0] = apply(lstmGradOp, [gates, weight, c0, cells, ...(dh ? [dh] : []), ...(dc ? [dc] : [])], {
      dh: dh !== undefined,
      dc: dc !== undefined,
    }) as [Tensor, Tensor, Tensor];
    const rows = dx.shape[0]! * dx.shape[1]!;
    // One product over all steps, instead of a sum inside the loop.
    const dweight = reshape(dx, [rows, dx.shape[2]!])
      .transpose()
      .matmul(reshape(steps(h0, h), [rows, h.shape[2]!]));
    return [dx, dweight, dh0, dc0];
  },
  decompose: lstmDecomposition,
  flops: ([x, weight]) => 2 * x!.shape[0]! * x!.shape[1]! * weight!.shape[0]! * weight!.shape[1]!,
  cases: [
    { inputs: sizes(3, 2, 3), tolerance: 1e-4 },
    { inputs: sizes(1, 1, 5), tolerance: 1e-4 },
    // More rows than a tile, and a block of units that is not full.
    { inputs: sizes(4, 14, 37), tolerance: 1e-4, differentiable: false },
  ],
});

/**
 * Runs an LSTM layer over a sequence.
 * @param x (time, batch, 4 hidden): the input's part of the gates, biases included; input, forget, cell and output gate, as in PyTorch
 * @param weight (4 hidden, hidden): from the step before
 * @param h0 (batch, hidden)
 * @param c0 (batch, hidden)
 * @returns the outputs and the cells of all steps, each (time, batch, hidden)
 */
export function lstm(x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor): { h: Tensor; c: Tensor } {
  const [h, c] = apply(lstmOp, [x, weight, h0, c0]) as [Tensor, Tensor, Tensor];
  return { h, c };
}
