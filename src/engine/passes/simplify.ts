import { inlineCustom } from "../../tensor/grad.ts";
import { type Attributes, type Aval, Graph, type Node, type Value } from "../../tensor/graph.ts";
import { findOp, type Op } from "../../tensor/op.ts";
import { sameShape } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { traceFunction } from "../../tensor/trace.ts";
import { type Sliced, whole } from "../slices.ts";

const list = (a: unknown): readonly number[] => a as readonly number[];

export interface SimplifyOptions {
  /** Whether the backend has a kernel for this op; composites without one are decomposed. */
  supports(op: string, attributes: Attributes, inputs: readonly Aval[]): boolean;
  /** Off: decompose and inline only, for comparing compiled with uncompiled programs. */
  readonly optimize: boolean;
}

/**
 * One walk that decomposes composites the backend lacks, inlines custom gradients, removes names, folds constants and transposes,
 * applies algebraic identities and merges equal nodes; then a walk back that drops what nobody uses.
 */
export function simplify(graph: Graph, options: SimplifyOptions): Graph {
  return whole(simplifying(graph, options));
}

export function* simplifying(graph: Graph, options: SimplifyOptions): Sliced<Graph> {
  const builder = new Builder(options);
  const map = new Map<Value, Value>();
  for (const input of graph.inputs) map.set(input, builder.graph.input(input));
  for (const node of graph.nodes) {
    builder.copy(node, map);
    yield;
  }
  builder.graph.outputs = graph.outputs.map((v) => map.get(v)!);
  return dropDead(builder.graph);
}

/** The graph without nodes whose results reach no output. */
export function dropDead(graph: Graph): Graph {
  const needed = new Set<Value>(graph.outputs);
  const kept: Node[] = [];
  for (let i = graph.nodes.length - 1; i >= 0; i--) {
    const node = graph.nodes[i]!;
    if (!node.outputs.some((v) => needed.has(v))) continue;
    kept.push(node);
    for (const v of node.inputs) needed.add(v);
  }
  graph.nodes.splice(0, graph.nodes.length, ...kept.reverse());
  return graph;
}

class Builder {
  readonly graph = new Graph();
  readonly #options: SimplifyOptions;
  readonly #ids = new Map<Value, number>();
  readonly #known = new Map<string, readonly Value[]>();

  constructor(options: SimplifyOptions) {
    this.#options = options;
  }

  /** Emits `node` of another graph here; `map` leads from its values to this graph's. */
  copy(node: Node, map: Map<Value, Value>): void {
    const inputs = node.inputs.map((v) => map.get(v)!);
    const outputs = this.#emitOrExpand(node, inputs);
    node.outputs.forEach((v, i) => {
      map.set(v, outputs[i]!);
    });
  }

  #emitOrExpand(node: Node, inputs: readonly Value[]): readonly Value[] {
    const { op } = node;
    if (op.name === "identity" || op.name === "stop_gradient") return inputs;
    if (op.name === "custom_gradient")
      return this.#inline(
        inputs,
        traceFunction(inputs, (...xs) => inlineCustom(node, xs)),
      );
    if (op.decompose && !this.#options.supports(op.name, node.attributes, inputs)) {
      const decompose = op.decompose;
      return this.#inline(
        inputs,
        traceFunction(inputs, (...xs) => decompose(xs, node.attributes)),
        node,
      );
    }
    return this.#emit(op, inputs, node.attributes, node);
  }

  #inline(inputs: readonly Value[], body: Graph, from?: Node): readonly Value[] {
    const map = new Map<Value, Value>();
    body.inputs.forEach((v, i) => {
      map.set(v, inputs[i]!);
    });
    for (const node of body.nodes) {
      const outs = this.#emitOrExpand(
        from ? Object.assign(Object.create(node), { scope: from.scope, region: from.region || node.region }) : node,
        node.inputs.map((v) => map.get(v)!),
      );
      node.outputs.forEach((v, i) => {
        map.set(v, outs[i]!);
      });
    }
    return body.outputs.map((v) => map.get(v)!);
  }

  #emit(op: Op, inputs: readonly Value[], attributes: Attributes, from: Partial<Node>): readonly Value[] {
    if (!this.#options.optimize) return this.#add(op, inputs, attributes, from);
    const simpler = this.#rewrite(op, inputs, attributes, from);
    if (simpler) return simpler;
    const bodies = from.bodies ?? [];
    const key =
      bodies.length || from.data
        ? undefined
        : `${op.name} ${JSON.stringify(attributes)} ${inputs.map((v) => this.#id(v)).join()} ${from.region ?? 0}`;
    const found = key === undefined ? undefined : this.#known.get(key);
    if (found) return found;
    const outputs = this.#add(op, inputs, attributes, from);
    if (key !== undefined) this.#known.set(key, outputs);
    return outputs;
  }

  #add(op: Op, inputs: readonly Value[], attributes: Attributes, from: Partial<Node>): readonly Value[] {
    const outputs = op.infer(inputs, attributes, from.bodies ?? []);
    return this.graph.add(op, inputs, attributes, outputs, {
      bodies: from.bodies,
      data: from.data,
      scope: from.scope ?? "",
      region: from.region ?? 0,
    }).outputs;
  }

  #id(v: Value): number {
    let id = this.#ids.get(v);
    if (id === undefined) {
      id = this.#ids.size;
      this.#ids.set(v, id);
    }
    return id;
  }

  /** A constant of one repeated number, or undefined. */
  #splat(v: Value | undefined): number | undefined {
    const node = v?.node;
    return node?.op.name === "constant" && !node.data ? (node.attributes.value as number) : undefined;
  }

  #constant(like: Aval, value: number, from: Partial<Node>): readonly Value[] {
    return this.#emit(
      findOp("constant"),
      [],
      { dtype: like.dtype, shape: like.shape, value },
      { scope: from.scope ?? "" },
    );
  }

  #rewrite(op: Op, inputs: readonly Value[], a: Attributes, from: Partial<Node>): readonly Value[] | undefined {
    const x = inputs[0];
    const inner = x?.node;
    const s = this.#splat(x);
    switch (op.name) {
      case "convert":
        if (x!.dtype === a.dtype) return [x!];
        if (s !== undefined && x!.dtype === "i32" && (a.dtype === "f32" || a.dtype === "f64"))
          return this.#constant({ dtype: a.dtype, shape: x!.shape }, s, from);
        return undefined;
      case "reshape": {
        if (sameShape(x!.shape, list(a.shape))) return [x!];
        if (s !== undefined) return this.#constant({ dtype: x!.dtype, shape: list(a.shape) }, s, from);
        if (inner?.op.name === "reshape") return this.#emit(op, inner.inputs, a, from);
        return undefined;
      }
      case "broadcast_in_dim":
        if (sameShape(x!.shape, list(a.shape))) return [x!];
        if (s !== undefined) return this.#constant({ dtype: x!.dtype, shape: list(a.shape) }, s, from);
        if (inner?.op.name === "broadcast_in_dim") {
          const dimensions = list(inner.attributes.dimensions).map((d) => list(a.dimensions)[d]!);
          return this.#emit(op, inner.inputs, { shape: a.shape, dimensions }, from);
        }
        return undefined;
      case "transpose": {
        const order = list(a.permutation);
        if (order.every((d, i) => d === i)) return [x!];
        if (s !== undefined) return this.#constant({ dtype: x!.dtype, shape: order.map((d) => x!.shape[d]!) }, s, from);
        if (inner?.op.name === "transpose")
          return this.#emit(
            op,
            inner.inputs,
            { permutation: order.map((d) => list(inner.attributes.permutation)[d]!) },
            from,
          );
        if (inner?.op.name === "dot_general") {
          const swapped = this.#swapSides(inner, order, from);
          if (swapped) return swapped;
        }
        // Moving axes of size 1 moves no data.
        const real = order.filter((d) => x!.shape[d] !== 1);
        if (real.every((d, i) => i === 0 || d > real[i - 1]!))
          return this.#emit(findOp("reshape"), inputs, { shape: order.map((d) => x!.shape[d]!) }, from);
        return undefined;
      }
      case "dot_general":
        return this.#foldTransposes(op, inputs, a, from);
      case "add":
        if (s === 0) return [inputs[1]!];
        return this.#splat(inputs[1]) === 0 ? [x!] : this.#fold(op, inputs, from);
      case "subtract":
        return this.#splat(inputs[1]) === 0 ? [x!] : this.#fold(op, inputs, from);
      case "multiply":
        if (s === 1) return [inputs[1]!];
        return this.#splat(inputs[1]) === 1 ? [x!] : this.#fold(op, inputs, from);
      case "divide":
        return this.#splat(inputs[1]) === 1 ? [x!] : this.#fold(op, inputs, from);
      case "negate":
        if (inner?.op.name === "negate") return inner.inputs;
        return s !== undefined && x!.dtype !== "u8" ? this.#constant(x!, -s, from) : undefined;
      default:
        return undefined;
    }
  }

  /** A product whose two groups of free axes change places is the product with its operands changed. */
  #swapSides(dot: Node, order: readonly number[], from: Partial<Node>): readonly Value[] | undefined {
    const [a, b] = dot.inputs as [Value, Value];
    const d = dot.attributes;
    const nb = list(d.lhs_batch).length;
    const na = a.shape.length - nb - list(d.lhs_contract).length;
    const rank = order.length;
    const want = [
      ...Array.from({ length: nb }, (_, i) => i),
      ...Array.from({ length: rank - nb - na }, (_, i) => nb + na + i),
      ...Array.from({ length: na }, (_, i) => nb + i),
    ];
    if (order.some((axis, i) => axis !== want[i])) return undefined;
    const next = {
      lhs_batch: d.rhs_batch,
      rhs_batch: d.lhs_batch,
      lhs_contract: d.rhs_contract,
      rhs_contract: d.lhs_contract,
    };
    return this.#emit(dot.op, [b, a], next, from);
  }

  /** Arithmetic on two repeated numbers, in the precision of the dtype. */
  #fold(op: Op, inputs: readonly Value[], from: Partial<Node>): readonly Value[] | undefined {
    const [a, b] = [this.#splat(inputs[0]), this.#splat(inputs[1])];
    const dtype = inputs[0]!.dtype;
    if (a === undefined || b === undefined || (dtype !== "f32" && dtype !== "f64")) return undefined;
    const r = op.name === "add" ? a + b : op.name === "subtract" ? a - b : op.name === "multiply" ? a * b : a / b;
    return this.#constant(inputs[0]!, dtype === "f32" ? Math.fround(r) : r, from);
  }

  /** dot_general names axes, so a transposed operand costs nothing: the names move instead of the data. */
  #foldTransposes(op: Op, inputs: readonly Value[], a: Attributes, from: Partial<Node>): readonly Value[] | undefined {
    const sides = ["lhs", "rhs"] as const;
    let changed = false;
    const next: Record<string, readonly number[]> = {};
    const operands = inputs.map((v, i) => {
      const side = sides[i]!;
      const batch = list(a[`${side}_batch`]);
      const contract = list(a[`${side}_contract`]);
      next[`${side}_batch`] = batch;
      next[`${side}_contract`] = contract;
      if (v.node?.op.name !== "transpose") return v;
      const order = list(v.node.attributes.permutation);
      // The result keeps the free axes in their order, so they must not change places among themselves.
      const free = order.filter((_, k) => !batch.includes(k) && !contract.includes(k));
      if (free.some((d, k) => k > 0 && d < free[k - 1]!)) return v;
      next[`${side}_batch`] = batch.map((k) => order[k]!);
      next[`${side}_contract`] = contract.map((k) => order[k]!);
      changed = true;
      return v.node.inputs[0]!;
    });
    return changed ? this.#emit(op, operands, next, from) : undefined;
  }
}

/** Traces a decomposition for inspection: used by `explain` and tests. */
export function decompositionOf(op: Op, inputs: readonly Aval[], attributes: Attributes): Graph {
  return traceFunction(inputs, (...xs: Tensor[]) => op.decompose!(xs, attributes));
}
