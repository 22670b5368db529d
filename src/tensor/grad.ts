import { isFloat } from "./dtype.ts";
import { ShapeError, StateError } from "./errors.ts";
import type { Graph, Node, Value } from "./graph.ts";
import { jit } from "./jit.ts";
import { defineOp, type GradientContext, type Op } from "./op.ts";
import { zeros } from "./ops/creation.ts";
import { identity } from "./ops/elementwise.ts";
import { broadcastInDim } from "./ops/structure.ts";
import { sameShape, show } from "./shape.ts";
import { Tensor } from "./tensor.ts";
import { apply, currentTrace, freshRegion, inRegion, inScopeOf, lift, replay, traceFunction, within } from "./trace.ts";
import { tensors, withTensors } from "./tree.ts";

/**
 * Reverse-mode differentiation of a recorded graph: walks from `targets` (with `seeds` as their cotangents) back to `sources`, appending
 * the gradient ops to the same graph, so gradients can be differentiated again.
 * @returns one tensor per source; undefined where nothing flows.
 */
export function reverse(
  graph: Graph,
  targets: readonly Value[],
  seeds: readonly (Tensor | undefined)[],
  sources: readonly Value[],
): (Tensor | undefined)[] {
  return within(graph, () => {
    const nodes = [...graph.nodes];
    const active = reachable(nodes, sources);
    const cotangents = new Map<Value, Tensor>();
    const accumulate = (value: Value, g: Tensor | undefined): void => {
      if (!g) return;
      if (!sameShape(g.shape, value.shape) || g.dtype !== value.dtype)
        throw new ShapeError(
          `gradient: ${value.node?.op.name ?? "an input"} of ${value.dtype}${show(value.shape)} was given a gradient of ${g.dtype}${show(g.shape)}. This is a mistake in a gradient rule.`,
        );
      const before = cotangents.get(value);
      cotangents.set(value, before ? before.add(g) : g);
    };
    targets.forEach((t, i) => {
      accumulate(t, seeds[i]);
    });
    const recomputed = new Recomputation(nodes);
    for (let i = nodes.length - 1; i >= 0; i--) {
      const node = nodes[i]!;
      if (!active.has(node)) continue;
      const gs = node.outputs.map((v) => cotangents.get(v));
      if (gs.every((g) => g === undefined)) continue;
      const context: GradientContext = {
        inputs: node.inputs.map((v) => recomputed.tensor(v, node)),
        outputs: node.outputs.map((v) => recomputed.tensor(v, node)),
        cotangents: gs,
        attributes: node.attributes,
        wanted: node.inputs.map((v) => isFloat(v.dtype) && flows(v, active, sources)),
        node,
      };
      const results = inScopeOf(node.scope, () =>
        node.op.gradient ? node.op.gradient(context) : gradientByDecomposition(context),
      );
      node.inputs.forEach((v, k) => {
        if (isFloat(v.dtype) && flows(v, active, sources)) accumulate(v, results[k]);
      });
    }
    return sources.map((v) => cotangents.get(v));
  });
}

/** The gradient of a composite that has no rule of its own: that of its decomposition. */
export function gradientByDecomposition({
  inputs,
  cotangents,
  attributes,
  node,
}: GradientContext): (Tensor | undefined)[] {
  const { op } = node;
  if (!op.decompose)
    throw new StateError(
      `${op.name} has no gradient${node.scope ? ` (in ${node.scope})` : ""}. Cut it off with stopGradient(), or use customGrad.`,
    );
  return vjpOf(inputs, (...xs) => op.decompose!(xs, attributes), cotangents);
}

/** The cotangents of `inputs` under `f`; undefined for inputs that are not floating point. */
export function vjpOf(
  inputs: readonly Tensor[],
  f: (...inputs: Tensor[]) => readonly Tensor[],
  cotangents: readonly (Tensor | undefined)[],
): (Tensor | undefined)[] {
  const graph = currentTrace()!;
  const fresh = inputs.map((t) => identity(t));
  const outputs = f(...fresh);
  return reverse(
    graph,
    outputs.map((t) => lift(graph, t)),
    cotangents,
    fresh.map((t) => lift(graph, t)),
  );
}

function flows(v: Value, active: ReadonlySet<Node>, sources: readonly Value[]): boolean {
  return v.node ? active.has(v.node) || sources.includes(v) : sources.includes(v);
}

/** Nodes whose results depend on the sources. */
function reachable(nodes: readonly Node[], sources: readonly Value[]): Set<Node> {
  const from = new Set(sources);
  const out = new Set<Node>();
  for (const node of nodes)
    if (node.inputs.some((v) => from.has(v))) {
      out.add(node);
      for (const v of node.outputs) from.add(v);
    }
  return out;
}

/** Values of checkpointed regions, computed a second time when a gradient asks for them (Chen et al. 2016). */
class Recomputation {
  readonly #nodes: readonly Node[];
  readonly #copies = new Map<Value, Tensor>();
  readonly #regions = new Map<number, number>();
  constructor(nodes: readonly Node[]) {
    this.#nodes = nodes;
  }

  /** `value` as a tensor for the gradient of `user`. */
  tensor(value: Value, user: Node): Tensor {
    const region = user.region;
    if (region === 0 || value.node?.region !== region) return Tensor.traced(value);
    if (!this.#regions.has(region)) this.#recompute(region);
    return this.#copies.get(value) ?? Tensor.traced(value);
  }

  #recompute(region: number): void {
    const copy = freshRegion();
    this.#regions.set(region, copy);
    for (const node of this.#nodes) {
      if (node.region !== region) continue;
      const inputs = node.inputs.map((v) => this.#copies.get(v) ?? Tensor.traced(v));
      const outs = apply(node.op, inputs, node.attributes, {
        bodies: node.bodies,
        ...(node.data ? { data: node.data } : {}),
        region: copy,
      });
      node.outputs.forEach((v, i) => {
        this.#copies.set(v, outs[i]!);
      });
    }
  }
}

/** A function of a tree that gives a scalar loss, or the loss and something more. */
export type LossFunction<T, A = unknown> = (at: T) => Tensor | readonly [loss: Tensor, more: A];

/**
 * The loss and its gradient at `at` (any tree of tensors): `[loss, gradients]`, or `[loss, gradients, more]` if the function returns
 * `[loss, more]`. Integer tensors of the tree get zeros.
 */
export function valueAndGrad<T>(at: T, loss: (at: T) => Tensor): [loss: Tensor, gradients: T];
export function valueAndGrad<T, A>(at: T, loss: (at: T) => readonly [Tensor, A]): [loss: Tensor, gradients: T, more: A];
export function valueAndGrad<T, A>(at: T, loss: LossFunction<T, A>): [Tensor, T] | [Tensor, T, A] {
  const graph = currentTrace();
  if (!graph) {
    // Outside a trace: compile this one call, differentiate inside it.
    const once = jit((tree: T) => valueAndGradTraced<T, A>(tree, loss));
    const result = once(at);
    once.release();
    return result;
  }
  return valueAndGradTraced(at, loss);
}

function valueAndGradTraced<T, A>(at: T, loss: LossFunction<T, A>): [Tensor, T] | [Tensor, T, A] {
  const graph = currentTrace()!;
  // Fresh names for the leaves: only their use inside `loss` counts.
  const fresh = tensors(at).map((t) => identity(t));
  const result = loss(withTensors(at, fresh));
  const [value, more] = result instanceof Tensor ? [result, undefined] : result;
  if (value.rank !== 0 || !isFloat(value.dtype))
    throw new ShapeError(
      `grad: the loss must be one floating-point number, got ${value.dtype}${show(value.shape)}. Sum or average it.`,
    );
  const sources = fresh.map((t) => lift(graph, t));
  const seed = broadcastInDim(onesLike(value), [], []);
  const found = reverse(graph, [lift(graph, value)], [seed], sources);
  const gradients = withTensors(
    at,
    found.map((g, i) => g ?? zeros(fresh[i]!.shape, fresh[i]!.dtype)),
  );
  return result instanceof Tensor ? [value, gradients] : [value, gradients, more as A];
}

function onesLike(t: Tensor): Tensor {
  return zeros(t.shape, t.dtype).add(1);
}

/** The gradient of a scalar function at `at`. */
export function grad<T>(at: T, loss: (at: T) => Tensor): T {
  const [value, gradients] = valueAndGrad(at, loss);
  value.dispose();
  return gradients;
}

/**
 * Vector-Jacobian product inside a trace: the outputs of `f` and a function from their cotangents to those of `inputs`.
 */
export function vjp(
  f: (...inputs: Tensor[]) => readonly Tensor[],
  inputs: readonly Tensor[],
): { outputs: readonly Tensor[]; pullback(cotangents: readonly (Tensor | undefined)[]): Tensor[] } {
  const graph = currentTrace();
  if (!graph) throw new StateError("vjp works inside a traced function; wrap the code in jit, or use grad.");
  const fresh = inputs.map((t) => identity(t));
  const outputs = f(...fresh);
  const values = (list: readonly Tensor[]) => list.map((t) => lift(graph, t));
  return {
    outputs,
    pullback: (cotangents) =>
      reverse(graph, values(outputs), cotangents, values(fresh)).map(
        (g, i) => g ?? zeros(fresh[i]!.shape, fresh[i]!.dtype),
      ),
  };
}

/** Runs `f`, and runs it again when its gradient is needed instead of keeping its inner values. Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost". */
export function checkpoint<A extends readonly unknown[], R>(f: (...args: A) => R): (...args: A) => R {
  return (...args) => inRegion(() => f(...args));
}

export type Pullback = (
  cotangents: readonly (Tensor | undefined)[],
  inputs: readonly Tensor[],
  outputs: readonly Tensor[],
) => readonly (Tensor | undefined)[];

const pullbacks = new WeakMap<Graph, Pullback>();

/** A traced function as one op whose gradient is given by hand. */
const customOp: Op = defineOp({
  name: "custom_gradient",
  infer: (_inputs, _a, [body]) => body!.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
  gradient({ inputs, outputs, cotangents, node }) {
    const body = node.bodies[0]!;
    const own = body.inputs.length - body.captured.length;
    const gs = pullbacks.get(body)!(cotangents, inputs.slice(0, own), outputs);
    return inputs.map((_, i) => (i < own ? gs[i] : undefined));
  },
});

/** `f` with a gradient of your own: `pullback(cotangents, inputs, outputs)` gives one gradient per input. */
export function customGrad(
  f: (...inputs: Tensor[]) => Tensor,
  pullback: (cotangent: Tensor, inputs: readonly Tensor[], output: Tensor) => readonly (Tensor | undefined)[],
): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => {
    if (!currentTrace()) return f(...inputs);
    const body = traceFunction(inputs, (...xs) => [f(...xs)]);
    pullbacks.set(body, ([g], xs, [y]) => pullback(g!, xs, y!));
    return apply(customOp, [...inputs, ...body.captured.map((c) => c.tensor)], {}, { bodies: [body] })[0]!;
  };
}

/** Inlines a custom-gradient node when gradients are done with. */
export function inlineCustom(node: Node, inputs: readonly Tensor[]): Tensor[] {
  return replay(node.bodies[0]!, inputs);
}
