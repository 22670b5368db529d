import { isFloat } from "./dtype.ts";
import { ShapeError, StateError } from "./errors.ts";
import { vjp } from "./grad.ts";
import type { Aval } from "./graph.ts";
import { jit } from "./jit.ts";
import { defineOp, type GradientContext, type Op } from "./op.ts";
import { zeros } from "./ops/creation.ts";
import { where } from "./ops/elementwise.ts";
import { moveAxis } from "./ops/indexing.ts";
import { any } from "./ops/reduction.ts";
import { broadcastTo } from "./ops/structure.ts";
import { sameShape, show } from "./shape.ts";
import { Tensor } from "./tensor.ts";
import { apply, currentTrace, lift, replay, trace, traceFunction } from "./trace.ts";
import { tensors, withTensors } from "./tree.ts";
import { vmap } from "./vmap.ts";

const aval = (x: Aval): Aval => ({ dtype: x.dtype, shape: x.shape });

function sameAvals(what: string, before: readonly Aval[], after: readonly Aval[]): void {
  if (
    before.length !== after.length ||
    before.some((b, i) => b.dtype !== after[i]!.dtype || !sameShape(b.shape, after[i]!.shape))
  )
    throw new ShapeError(
      `${what}: the carry must keep its structure, shapes and dtypes; it was (${before.map((b) => b.dtype + show(b.shape)).join(", ")}) and became (${after.map((b) => b.dtype + show(b.shape)).join(", ")}).`,
    );
}

/**
 * A loop of known length. Inputs: carries, then sequences stacked along axis 0, then invariants; the body takes carries, one slice of each
 * sequence, invariants, and gives carries and one slice of each output.
 */
export const scanOp: Op = defineOp({
  name: "scan",
  inPlace: (_inputs, attributes) => Array.from({ length: attributes.carries as number }, (_, i) => [i, i] as const),
  infer(inputs, attributes, [body]) {
    const [length, carries] = [attributes.length as number, attributes.carries as number];
    return [
      ...inputs.slice(0, carries).map(aval),
      ...body!.outputs.slice(carries).map((y) => ({ dtype: y.dtype, shape: [length, ...y.shape] })),
    ];
  },
  gradient: scanGradient,
  // One loop whose body is the mapped body: carries all get the mapped axis, and it goes behind the time of the sequences.
  batch(inputs, batched, attributes, n, [body]) {
    const [nc, ns] = counts(inputs.length, attributes);
    const flags = batched.map((b, i) => b || i < nc);
    const given = inputs.map((x, i) => {
      if (i < nc) return batched[i] ? x : broadcastTo(x, [n, ...x.shape]);
      return batched[i] && i < nc + ns ? moveAxis(x, 0, 1) : x;
    });
    const slices = given.map((x, i) =>
      i >= nc && i < nc + ns ? { dtype: x.dtype, shape: x.shape.slice(1) } : aval(x),
    );
    const wide = traceFunction(slices, (...xs) =>
      vmap((...own: Tensor[]) => {
        let k = 0;
        return replay(
          body!,
          xs.map((x, i) => (flags[i] ? own[k++]! : x)),
        );
      })(...xs.filter((_, i) => flags[i])),
    );
    return apply(scanOp, given, attributes, { bodies: [wide] }).map((y, i) => (i < nc ? y : moveAxis(y, 1, 0)));
  },
});

function counts(inputs: number, attributes: GradientContext["attributes"]): [carries: number, sequences: number] {
  const carries = attributes.carries as number;
  return [carries, inputs - carries - (attributes.invariants as number)];
}

/**
 * Runs the loop again to collect each step's carry, then walks back with the body's vector-Jacobian product: the body is computed twice
 * more, and only the carries are kept in memory.
 */
function scanGradient({ inputs, cotangents, attributes, node }: GradientContext): (Tensor | undefined)[] {
  const body = node.bodies[0]!;
  const [nc, ns] = counts(inputs.length, attributes);
  const length = attributes.length as number;
  const outs = body.outputs.slice(nc);
  const carries = inputs.slice(0, nc);
  const sequences = inputs.slice(nc, nc + ns);
  const invariants = inputs.slice(nc + ns);

  const collecting = traceFunction(body.inputs, (...xs) => [...replay(body, xs).slice(0, nc), ...xs.slice(0, nc)]);
  const history = apply(scanOp, inputs, attributes, { bodies: [collecting] }).slice(nc);

  const floats = (list: readonly Aval[]) => list.map((x) => isFloat(x.dtype));
  const carryFloat = floats(carries);
  const invariantFloat = floats(invariants);
  const dCarry = carries
    .filter((_, i) => carryFloat[i])
    .map((c, i) => cotangents.slice(0, nc).filter((_, k) => carryFloat[k])[i] ?? zeros(c.shape, c.dtype));
  const dInvariant = invariants.filter((_, i) => invariantFloat[i]).map((c) => zeros(c.shape, c.dtype));
  const yFloat = floats(outs);
  const dys = outs
    .map((y, i) => cotangents[nc + i] ?? zeros([length, ...y.shape], y.dtype))
    .filter((_, i) => yFloat[i]);

  // Body of the walk back: (d carry, d invariants so far) x (carry, slices, dy) x invariants.
  const backInputs: Aval[] = [
    ...dCarry,
    ...dInvariant,
    ...carries,
    ...body.inputs.slice(nc, nc + ns),
    ...outs.filter((_, i) => yFloat[i]),
    ...invariants,
  ].map(aval);
  const back = traceFunction(backInputs, (...xs) => {
    let at = 0;
    const next = (n: number) => {
      at += n;
      return xs.slice(at - n, at);
    };
    const [dc, di, c, s, dy, inv] = [
      next(dCarry.length),
      next(dInvariant.length),
      next(nc),
      next(ns),
      next(dys.length),
      next(invariants.length),
    ];
    const { pullback } = vjp((...all) => replay(body, all), [...c, ...s, ...inv]);
    let [ic, iy] = [0, 0];
    const gs = pullback([
      ...carryFloat.map((f) => (f ? dc[ic++] : undefined)),
      ...yFloat.map((f) => (f ? dy[iy++] : undefined)),
    ]);
    const gCarry = gs.slice(0, nc).filter((_, i) => carryFloat[i]);
    const gInvariant = gs.slice(nc + ns).filter((_, i) => invariantFloat[i]);
    const gSlices = gs.slice(nc, nc + ns).filter((g) => isFloat(g.dtype));
    return [...gCarry, ...gInvariant.map((g, i) => di[i]!.add(g)), ...gSlices];
  });
  const result = apply(
    scanOp,
    [...dCarry, ...dInvariant, ...history, ...sequences, ...dys, ...invariants],
    {
      length,
      carries: dCarry.length + dInvariant.length,
      invariants: invariants.length,
      reverse: !attributes.reverse,
    },
    { bodies: [back] },
  );
  let at = 0;
  const pick = (list: readonly Tensor[]) => list.map((x) => (isFloat(x.dtype) ? result[at++] : undefined));
  const gc = pick(carries);
  const gi = pick(invariants);
  const gsq = pick(sequences);
  return [...gc, ...gsq, ...gi];
}

export interface ScanOptions {
  /** Number of steps; needed when there are no sequences. */
  readonly length?: number;
  /** From the last element to the first; the outputs stay in the order of the input. */
  readonly reverse?: boolean;
}

/**
 * `[carry, y] = step(carry, x)` over the first axis of every tensor of `xs`; gives the last carry and the stacked `y`s. One compiled body,
 * whatever the length.
 */
export function scan<C, X, Y>(
  step: (carry: C, x: X) => readonly [C, Y],
  init: C,
  xs: X,
  options: ScanOptions = {},
): [C, Y] {
  if (!currentTrace()) {
    const once = jit((c: C, x: X) => scan(step, c, x, options));
    const result = once(init, xs);
    once.release();
    return result;
  }
  const carries = tensors(init);
  const sequences = tensors(xs);
  const length = options.length ?? sequences[0]?.shape[0];
  if (length === undefined) throw new ShapeError("scan: without sequences it needs options.length.");
  for (const s of sequences)
    if (s.shape[0] !== length)
      throw new ShapeError(`scan: a sequence is ${show(s.shape)}, but the loop has ${length} steps.`);
  const { graph: body, result } = trace((g) => {
    const c = carries.map((t) => Tensor.traced(g.input(t)));
    const x = sequences.map((t) => Tensor.traced(g.input({ dtype: t.dtype, shape: t.shape.slice(1) })));
    const [next, y] = step(withTensors(init, c), withTensors(xs, x));
    const after = tensors(next);
    sameAvals("scan", carries, after);
    g.outputs = [...after, ...tensors(y)].map((t) => lift(g, t));
    return [next, y] as const;
  });
  const outs = apply(
    scanOp,
    [...carries, ...sequences, ...body.captured.map((c) => c.tensor)],
    { length, carries: carries.length, invariants: body.captured.length, reverse: options.reverse ?? false },
    { bodies: [body] },
  );
  return [withTensors(result[0], outs.slice(0, carries.length)), withTensors(result[1], outs.slice(carries.length))];
}

/** StableHLO's while: inputs are the carries; bodies are the condition (a bool scalar) and the step. Not differentiable. */
export const whileOp: Op = defineOp({
  name: "while",
  inPlace: (inputs) => Array.from({ length: inputs }, (_, i) => [i, i] as const),
  infer: (inputs) => inputs.map(aval),
  // Goes on until no element wants to; those that are done keep their values.
  batch(inputs, batched, attributes, n, [test, step]) {
    const given = inputs.map((x, i) => (batched[i] ? x : broadcastTo(x, [n, ...x.shape])));
    const wideTest = traceFunction(given, (...xs) => [any(vmap((...own: Tensor[]) => replay(test!, own)[0]!)(...xs))]);
    const wideStep = traceFunction(given, (...xs) =>
      vmap((...own: Tensor[]) => {
        const goes = replay(test!, own)[0]!;
        return replay(step!, own).map((next, i) => where(goes, next, own[i]!));
      })(...xs),
    );
    return apply(whileOp, given, attributes, { bodies: [wideTest, wideStep] });
  },
});

/** `carry = body(carry)` as long as `condition(carry)` is true. For gradients use `scan`. */
export function whileLoop<C>(condition: (carry: C) => Tensor, body: (carry: C) => C, init: C): C {
  if (!currentTrace()) {
    const once = jit((c: C) => whileLoop(condition, body, c));
    const result = once(init);
    once.release();
    return result;
  }
  const carries = tensors(init);
  const test = traceFunction(carries, (...c) => [condition(withTensors(init, c))]);
  const verdict = test.outputs[0];
  if (test.outputs.length !== 1 || verdict!.dtype !== "bool" || verdict!.shape.length !== 0)
    throw new StateError("whileLoop: the condition must give one bool scalar.");
  const step = traceFunction(carries, (...c) => tensors(body(withTensors(init, c))));
  sameAvals("whileLoop", carries, step.outputs);
  // What the two bodies capture travels as carries that never change.
  const captured = [...test.captured, ...step.captured].map((c) => c.tensor);
  const all = [...carries, ...captured];
  const n = carries.length;
  const k = test.captured.length;
  const wholeTest = traceFunction(all, (...c) => replay(test, [...c.slice(0, n), ...c.slice(n, n + k)]));
  const wholeStep = traceFunction(all, (...c) => [
    ...replay(step, [...c.slice(0, n), ...c.slice(n + k)]),
    ...c.slice(n),
  ]);
  return withTensors(init, apply(whileOp, all, {}, { bodies: [wholeTest, wholeStep] }).slice(0, n));
}
