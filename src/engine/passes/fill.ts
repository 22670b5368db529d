import { Graph, type Node, type Value } from "../../tensor/graph.ts";
import { size } from "../../tensor/shape.ts";

/** Splats of fewer elements stay constants: a program keeps them in a few cache lines. */
const LARGE = 1024;

/** Whether this constant is an instruction that fills memory, not data of the program. */
export function isFill(node: Node): boolean {
  return node.op.name === "constant" && !node.data && size(node.outputs[0]!.shape) >= LARGE;
}

/**
 * Large constants of one repeated number (zeros to add up in, a fresh optimizer's moments) are written right before whoever reads them, into
 * memory that others use before and after, instead of lying in the program for good.
 */
export function placeFills(graph: Graph): Graph {
  if (!graph.nodes.some(isFill)) return graph;
  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  const add = (node: Node, inputs: readonly Value[]): Node =>
    out.add(
      node.op,
      inputs,
      node.attributes,
      node.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
  const read = (v: Value): Value => (v.node && isFill(v.node) ? add(v.node, []).outputs[0]! : map.get(v)!);
  for (const node of graph.nodes) {
    if (isFill(node)) continue;
    const fresh = add(node, node.inputs.map(read));
    node.outputs.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  }
  out.outputs = graph.outputs.map(read);
  return out;
}
