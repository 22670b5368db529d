import { ShapeError, StateError } from "./errors.ts";
import { inlineCustom } from "./grad.ts";
import type { Value } from "./graph.ts";
import { jit } from "./jit.ts";
import { broadcastTo } from "./ops/structure.ts";
import { show } from "./shape.ts";
import { Tensor } from "./tensor.ts";
import { apply, currentTrace, lift, trace, traceFunction } from "./trace.ts";
import { tensors, withTensors } from "./tree.ts";

/**
 * `f` applied to each element along the first axis of every tensor in its arguments, as one batched computation. Tensors that `f` captures
 * are shared by all elements. Plain values pass through.
 */
export function vmap<A extends readonly unknown[], R>(f: (...args: A) => R): (...args: A) => R {
  return (...args) => (currentTrace() ? batched(f, args) : once(f, args));
}

function once<A extends readonly unknown[], R>(f: (...args: A) => R, args: A): R {
  const run = jit((...inner: A) => batched(f, inner));
  const result = run(...args);
  run.release();
  return result;
}

function batched<A extends readonly unknown[], R>(f: (...args: A) => R, args: A): R {
  const inputs = tensors(args);
  const n = inputs[0]?.shape[0];
  if (n === undefined) throw new ShapeError("vmap: needs at least one tensor with a first axis to map over.");
  for (const t of inputs)
    if (t.shape[0] !== n) throw new ShapeError(`vmap: the first axes differ: ${n} against ${show(t.shape)}.`);
  const { graph, result } = trace((g) => {
    const elements = inputs.map((t) => Tensor.traced(g.input({ dtype: t.dtype, shape: t.shape.slice(1) })));
    const out = f(...withTensors(args, elements));
    g.outputs = tensors(out).map((t) => lift(g, t));
    return out;
  });
  const captured = graph.captured.map((c) => c.tensor);
  const map = new Map<Value, { tensor: Tensor; batched: boolean }>();
  graph.inputs.forEach((v, i) => {
    map.set(
      v,
      i < inputs.length
        ? { tensor: inputs[i]!, batched: true }
        : { tensor: captured[i - inputs.length]!, batched: false },
    );
  });
  pushThrough(graph.nodes, map, n);
  const outputs = graph.outputs.map((v) => {
    const { tensor, batched: b } = map.get(v)!;
    return b ? tensor : broadcastTo(tensor, [n, ...tensor.shape]);
  });
  return withTensors(result, outputs);
}

function pushThrough(
  nodes: readonly import("./graph.ts").Node[],
  map: Map<Value, { tensor: Tensor; batched: boolean }>,
  n: number,
): void {
  for (const node of nodes) {
    const ins = node.inputs.map((v) => map.get(v)!);
    const flags = ins.map((i) => i.batched);
    const xs = ins.map((i) => i.tensor);
    if (!flags.some(Boolean)) {
      const outs = apply(node.op, xs, node.attributes, {
        bodies: node.bodies,
        ...(node.data ? { data: node.data } : {}),
      });
      node.outputs.forEach((v, i) => {
        map.set(v, { tensor: outs[i]!, batched: false });
      });
      continue;
    }
    if (node.op.batch) {
      const outs = node.op.batch(xs, flags, node.attributes, n, node.bodies);
      node.outputs.forEach((v, i) => {
        map.set(v, { tensor: outs[i]!, batched: true });
      });
      continue;
    }
    // No rule of its own: push through its decomposition.
    const elements = node.inputs.map((v) => ({ dtype: v.dtype, shape: v.shape }));
    const body = traceFunction(elements, (...ys) => {
      if (node.op.decompose) return node.op.decompose(ys, node.attributes);
      if (node.op.name === "custom_gradient") return inlineCustom(node, ys);
      throw new StateError(`vmap: ${node.op.name} has no batching rule. Apply it outside vmap, to the whole batch.`);
    });
    const inner = new Map<Value, { tensor: Tensor; batched: boolean }>();
    body.inputs.forEach((v, i) => {
      inner.set(v, ins[i] ?? { tensor: body.captured[i - ins.length]!.tensor, batched: false });
    });
    pushThrough(body.nodes, inner, n);
    node.outputs.forEach((v, i) => {
      map.set(v, inner.get(body.outputs[i]!)!);
    });
  }
}
