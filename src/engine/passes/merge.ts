import { Graph, type Node, type Value } from "../../tensor/graph.ts";
import { linearCrossEntropyValueAndGradOp } from "../../tensor/ops/loss.ts";
import { embeddingGradOp } from "../../tensor/ops/nn.ts";
import { dropDead } from "./simplify.ts";

/**
 * The head's loss and its gradient walk over the same logits. Where the loss's cotangent is known without the loss (as in every
 * training step that averages it), one node computes both, and the logits are made once.
 */
export function mergeLossAndGradient(graph: Graph): Graph {
  const pairs = new Map<Node, Node>();
  for (const node of graph.nodes) {
    if (node.op.name !== "linear_cross_entropy_grad") continue;
    const [h, w, targets, lse, dloss] = node.inputs;
    const forward = lse!.node;
    if (forward?.op.name !== "linear_cross_entropy" || pairs.has(forward)) continue;
    if (forward.inputs[0] !== h || forward.inputs[1] !== w || forward.inputs[2] !== targets) continue;
    if (!dependsOn(dloss!, forward)) pairs.set(forward, node);
  }
  if (pairs.size === 0) return graph;
  const merged = new Set(pairs.values());
  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  const copied = new Set<Node>();
  const copy = (node: Node): void => {
    if (copied.has(node)) return;
    copied.add(node);
    if (merged.has(node)) return;
    const backward = pairs.get(node);
    const sources = backward ? [...node.inputs, backward.inputs[4]!] : node.inputs;
    // The cotangent may be computed later in the order of the trace: bring it forward.
    for (const v of sources) if (v.node) copy(v.node);
    const inputs = sources.map((v) => map.get(v)!);
    if (backward) {
      const avals = linearCrossEntropyValueAndGradOp.infer(inputs, {}, []);
      const fused = out.add(linearCrossEntropyValueAndGradOp, inputs, {}, avals, {
        scope: node.scope,
        region: node.region,
      });
      map.set(node.outputs[0]!, fused.outputs[0]!);
      map.set(node.outputs[1]!, fused.outputs[1]!);
      map.set(backward.outputs[0]!, fused.outputs[2]!);
      map.set(backward.outputs[1]!, fused.outputs[3]!);
      return;
    }
    const fresh = out.add(
      node.op,
      inputs,
      node.attributes,
      node.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
    node.outputs.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  };
  for (const node of graph.nodes) copy(node);
  out.outputs = graph.outputs.map((v) => map.get(v)!);
  return dropDead(out);
}

function dependsOn(value: Value, node: Node): boolean {
  const seen = new Set<Node>();
  const go = (v: Value): boolean => {
    const n = v.node;
    if (!n || seen.has(n)) return false;
    if (n === node) return true;
    seen.add(n);
    return n.inputs.some(go);
  };
  return go(value);
}

/**
 * The sum of an embedding's gradient and something else, such as the gradient of a head that shares the table, becomes one node that adds the
 * rows onto the other term in place: no second table of mostly zeros.
 */
export function accumulateEmbeddings(graph: Graph): Graph {
  const uses = new Map<Value, number>();
  for (const v of [...graph.nodes.flatMap((n) => n.inputs), ...graph.outputs]) uses.set(v, (uses.get(v) ?? 0) + 1);
  const alone = (v: Value): Node | undefined =>
    v.node?.op === embeddingGradOp && v.node.inputs.length === 2 && uses.get(v) === 1 ? v.node : undefined;
  const sums = new Map<Node, { rows: Node; base: Value }>();
  for (const node of graph.nodes) {
    if (node.op.name !== "add") continue;
    const [a, b] = node.inputs as [Value, Value];
    const [rows, base] = alone(b) ? [alone(b)!, a] : [alone(a), b];
    if (rows && base.node?.op !== embeddingGradOp) sums.set(node, { rows, base });
  }
  if (sums.size === 0) return graph;
  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  for (const node of graph.nodes) {
    const sum = sums.get(node);
    const { op, inputs, attributes } = sum
      ? { ...sum.rows, inputs: [...sum.rows.inputs, sum.base] }
      : { op: node.op, inputs: node.inputs, attributes: node.attributes };
    const fresh = out.add(
      op,
      inputs.map((v) => map.get(v)!),
      attributes,
      node.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
    node.outputs.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  }
  out.outputs = graph.outputs.map((v) => map.get(v)!);
  return dropDead(out);
}
