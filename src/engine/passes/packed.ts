import { type Attributes, Graph, type Node, type Value } from "../../tensor/graph.ts";
import { quantizedLinearOp } from "../../tensor/ops/quantized.ts";
import { sameShape } from "../../tensor/shape.ts";
import { dropDead } from "./simplify.ts";

/** A product by packed weights with the norm before it and the sum after it, as far as nobody else needs what lies between. */
interface Chain {
  readonly product: Node;
  norm?: Node;
  residual?: Value;
  last: Node;
}

/**
 * Takes the RMS norm before a product by packed weights and the residual sum after it into the product. While decoding, each instruction
 * costs about as much as the memory that is read meanwhile, and a row of x is normed and rounded in one pass over it.
 */
export function fusePacked(graph: Graph): Graph {
  const users = new Map<Value, Node[]>();
  for (const n of graph.nodes)
    for (const v of n.inputs) {
      const known = users.get(v);
      if (known) known.push(n);
      else users.set(v, [n]);
    }
  const results = new Set(graph.outputs);
  const owner = new Map<Node, Chain>();
  for (const product of graph.nodes) {
    const a = product.attributes;
    if (product.op.name !== "quantized_linear" || a.epsilon !== null || a.residual) continue;
    const chain: Chain = { product, last: product };
    const before = product.inputs[0]!.node;
    if (before?.op.name === "rms_norm" && before.outputs[0] === product.inputs[0]) chain.norm = before;
    const y = product.outputs[0]!;
    const after = users.get(y) ?? [];
    const [sum] = after;
    if (after.length === 1 && !results.has(y) && sum!.op.name === "add" && !owner.has(sum!)) {
      const other = sum!.inputs[0] === y ? sum!.inputs[1]! : sum!.inputs[0]!;
      if (other !== y && other.dtype === y.dtype && sameShape(other.shape, y.shape)) {
        chain.residual = other;
        chain.last = sum!;
      }
    }
    if (!chain.norm && !chain.residual) continue;
    owner.set(product, chain);
    owner.set(chain.last, chain);
  }
  if (owner.size === 0) return graph;

  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  for (const node of graph.nodes) {
    const chain = owner.get(node);
    // The whole stands where its last part stood, after everything it reads.
    if (chain && node !== chain.last) continue;
    const op = chain ? quantizedLinearOp : node.op;
    const source = chain?.product ?? node;
    const made = out.add(
      op,
      (chain ? inputsOf(chain) : node.inputs).map((v) => map.get(v)!),
      chain ? attributesOf(chain) : node.attributes,
      node.outputs.map(({ dtype, shape }) => ({ dtype, shape })),
      { bodies: node.bodies, data: node.data, scope: source.scope, region: source.region },
    );
    node.outputs.forEach((v, i) => {
      map.set(v, made.outputs[i]!);
    });
  }
  out.outputs = graph.outputs.map((v) => map.get(v)!);
  return dropDead(out);
}

function inputsOf({ product, norm, residual }: Chain): Value[] {
  const [x, ...weights] = product.inputs as [Value, ...Value[]];
  return [norm ? norm.inputs[0]! : x, ...weights, ...(norm ? [norm.inputs[1]!] : []), ...(residual ? [residual] : [])];
}

function attributesOf({ product, norm, residual }: Chain): Attributes {
  return { ...product.attributes, epsilon: norm ? norm.attributes.epsilon! : null, residual: residual !== undefined };
}
