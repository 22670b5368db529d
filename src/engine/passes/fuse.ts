import type { DType } from "../../tensor/dtype.ts";
import { StateError } from "../../tensor/errors.ts";
import { type Attributes, type Aval, Graph, type Node, type Value } from "../../tensor/graph.ts";
import type { Op } from "../../tensor/op.ts";
import { type Shape, sameShape, size, strides } from "../../tensor/shape.ts";
import { type Sliced, whole } from "../slices.ts";
import { dropDead } from "./simplify.ts";

const list = (a: unknown): readonly number[] => a as readonly number[];

/** What one node of a region may hold at most: keeps a region's registers in the first-level cache. */
const MAX_NODES = 64;
const MAX_INPUTS = 12;
/**
 * Regions with this many products between them are not joined: the later one's results would be made early and held (a value of the backward
 * pass in the forward pass), which costs more than reading its operand again.
 */
const FAR_PRODUCTS = 2;
const products: ReadonlySet<string> = new Set([
  "dot_general",
  "convolution",
  "attention",
  "attention_grad",
  "linear_cross_entropy",
  "linear_cross_entropy_grad",
  "linear_cross_entropy_value_and_grad",
  "scan",
  "while",
]);

/**
 * A region of element-wise ops run as one: `strides` gives each input's steps over the region's `shape` (0 where it is
 * repeated), `nodes` the ops over values numbered inputs first, `results` the values that leave: whole, or with `reduce` folded over the last
 * `reduce_dims` axes (the first ones if `reduce_leading`).
 */
export const fusedOp: Op = {
  name: "fused_elementwise",
  infer() {
    throw new StateError("fused_elementwise is made by the compiler only.");
  },
  flops: (_inputs, _outputs, a) => {
    const folds = (a.results as readonly { reduce?: string }[]).filter((r) => r.reduce !== undefined);
    return ((a.nodes as readonly unknown[]).length + folds.length) * size(list(a.shape));
  },
  inPlace: (inputs) => Array.from({ length: inputs }, (_, i) => [0, i] as const),
};

interface Region {
  /** Set when the region was merged into another. */
  into?: Region;
  readonly shape: Shape;
  readonly nodes: Node[];
  /** Positions of its first and last node in the graph. */
  first: number;
  last: number;
  /** Reductions of its values, all over the same axes: they read what the region has in registers. */
  ending?: Ending;
}

interface Ending extends Span {
  readonly nodes: Node[];
}

/** The first `dims` axes or the last ones. */
interface Span {
  readonly dims: number;
  readonly leading: boolean;
}

const dtypes: ReadonlySet<DType> = new Set(["f32", "bf16", "f16", "i32", "u8", "i8", "bool"]);

/**
 * Gathers element-wise ops of one shape that feed each other into regions, so that the values between them never reach memory.
 * Broadcasts, repeated constants and indices are taken into each region that uses them. Reductions of what a region makes or reads end it,
 * so that no second pass over memory is made for them. A region never contains a path that leaves and comes back, so the result has an order.
 */
export function fuseElementwise(graph: Graph): Graph {
  return whole(fusingElementwise(graph));
}

export function* fusingElementwise(graph: Graph): Sliced<Graph> {
  const index = new Map<Node, number>();
  /** How many products stand before each position. */
  const before: number[] = [];
  let count = 0;
  graph.nodes.forEach((n, i) => {
    index.set(n, i);
    before.push(count);
    if (products.has(n.op.name)) count++;
  });
  const far = (a: Region, b: Region): boolean => {
    const [early, late] = a.first < b.first ? [a, b] : [b, a];
    return before[late.first]! - before[early.last]! >= FAR_PRODUCTS;
  };
  const regionOf = new Map<Node, Region>();
  const root = (r: Region): Region => (r.into ? root(r.into) : r);
  const region = (n: Node): Region | undefined => {
    const r = regionOf.get(n);
    return r && root(r);
  };

  /** Whether `from` is computed from something in `target`, where regions run as a whole. */
  const reaches = (from: Node, target: Region, seen: Set<Node | Region>): boolean => {
    const r = region(from);
    if (r === target) return true;
    const unit = r ?? from;
    if (seen.has(unit)) return false;
    seen.add(unit);
    const members = r ? r.nodes : [from];
    return members.some((m) =>
      m.inputs.some((v) => {
        const n = v.node;
        return n !== undefined && !isFree(n) && !(r && region(n) === r) && reaches(n, target, seen);
      }),
    );
  };
  /** Whether `node` can join `target`: none of its other inputs may depend on the region. */
  const canJoin = (inputs: readonly Value[], target: Region, others: readonly Region[]): boolean => {
    const seen = new Set<Node | Region>();
    return inputs.every((v) => {
      const producer = source(v).node;
      if (!producer || isFree(producer)) return true;
      const r = region(producer);
      if (r === target || (r && others.includes(r))) return true;
      return !reaches(producer, target, seen);
    });
  };

  const join = (target: Region, mine: Region): boolean => {
    if (target === mine || !sameShape(target.shape, mine.shape) || far(target, mine)) return false;
    if (target.nodes.length + mine.nodes.length > MAX_NODES) return false;
    if (externalInputs([...target.nodes, ...mine.nodes]).size > MAX_INPUTS) return false;
    // Both ways: what else feeds this side must not come from the target, and what feeds the target must not come from this side.
    const inputs = (r: Region) => r.nodes.flatMap((n) => n.inputs);
    if (!canJoin(inputs(mine), target, [mine]) || !canJoin(inputs(target), mine, [target])) return false;
    mine.into = target;
    target.nodes.push(...mine.nodes);
    target.nodes.sort((a, b) => index.get(a)! - index.get(b)!);
    target.first = Math.min(target.first, mine.first);
    target.last = Math.max(target.last, mine.last);
    return true;
  };

  for (const node of graph.nodes) {
    if (!fusable(node)) continue;
    yield;
    const at = index.get(node)!;
    const own: Region = { shape: node.outputs[0]!.shape, nodes: [node], first: at, last: at };
    regionOf.set(node, own);
    for (const v of node.inputs) {
      const target = v.node && region(v.node);
      if (target) join(target, root(own));
    }
  }
  // Regions close to each other that read the same value become one that reads it once.
  for (const all of readersOf(regionOf, root).values())
    for (const [i, r] of all.entries())
      for (const other of all.slice(i + 1)) {
        yield;
        join(root(r), root(other));
      }
  const readers = readersOf(regionOf, root);
  for (const node of graph.nodes) {
    const span = foldable(node);
    if (!span) continue;
    yield;
    const x = node.inputs[0]!;
    const maker = x.node && region(x.node);
    for (const r of maker ? [maker] : (readers.get(x) ?? [])) {
      if (r.ending && (r.ending.dims !== span.dims || r.ending.leading !== span.leading)) continue;
      // Whatever uses the reduction will wait for the whole region: the region must not be among it.
      const own: Region = { shape: r.shape, nodes: [node], first: index.get(node)!, last: index.get(node)! };
      regionOf.set(node, own);
      const seen = new Set<Node | Region>();
      const waits = r.nodes
        .flatMap((n) => n.inputs)
        .some((v) => {
          const n = source(v).node;
          return n !== undefined && !isFree(n) && region(n) !== r && reaches(n, own, seen);
        });
      if (waits) {
        regionOf.delete(node);
        continue;
      }
      own.into = r;
      r.ending ??= { ...span, nodes: [] };
      r.ending.nodes.push(node);
      break;
    }
  }
  return yield* rebuilding(graph, region, index);
}

/** Regions by the values of their whole shape that they read from memory. */
function readersOf(regionOf: ReadonlyMap<Node, Region>, root: (r: Region) => Region): Map<Value, Region[]> {
  const readers = new Map<Value, Region[]>();
  for (const r of new Set([...regionOf.values()].map(root))) {
    const inside = new Set(r.nodes);
    for (const v of new Set(r.nodes.flatMap((n) => n.inputs))) {
      if (!inMemory(v) || !sameShape(v.shape, r.shape) || (v.node && inside.has(v.node))) continue;
      const known = readers.get(v);
      if (known) known.push(r);
      else readers.set(v, [r]);
    }
  }
  return readers;
}

/** Over which axes a region could fold what this reduction folds. */
function foldable(node: Node): Span | undefined {
  const x = node.inputs[0];
  if (node.op.name !== "reduce" || x?.dtype !== "f32" || size(x.shape) === 0 || x.shape.length > 8) return;
  if (!["add", "maximum", "minimum"].includes(node.attributes.kind as string)) return;
  const axes = list(node.attributes.axes);
  const rank = x.shape.length;
  if (axes.every((axis) => axis >= rank - axes.length)) return { dims: axes.length, leading: false };
  if (axes.every((axis) => axis < axes.length)) return { dims: axes.length, leading: true };
  return;
}

/** Whether a region reads this value itself, not what it repeats or how it is made. */
function inMemory(v: Value): boolean {
  return !v.node || !(isFree(v.node) || v.node.op.name === "iota" || v.node.op.name === "broadcast_in_dim");
}

/** Costs nothing where it is used: taken into the region instead of being read from memory. */
function isFree(node: Node): boolean {
  return node.op.name === "constant" && !node.data;
}

function fusable(node: Node): boolean {
  const y = node.outputs[0]!;
  if (size(y.shape) === 0 || y.shape.length > 8 || !dtypes.has(y.dtype)) return false;
  // Each of its elements reads the whole key, so what makes the key must not be in the region: only a region of the key's shape could hold it.
  if (node.op.name === "random_bits") return !sameShape(y.shape, node.inputs[0]!.shape);
  if (node.op.name === "bitcast_convert")
    return (
      (y.dtype === "f32" || y.dtype === "i32") && (node.inputs[0]!.dtype === "f32" || node.inputs[0]!.dtype === "i32")
    );
  return node.op.elementwise === true && node.inputs.every((v) => dtypes.has(v.dtype));
}

/** Looks through a broadcast. */
function source(v: Value): Value {
  return v.node?.op.name === "broadcast_in_dim" ? v.node.inputs[0]! : v;
}

function externalInputs(nodes: readonly Node[]): Set<Value> {
  const inside = new Set(nodes);
  const out = new Set<Value>();
  for (const n of nodes)
    for (const v of n.inputs)
      if (!(v.node && (inside.has(v.node) || isFree(v.node) || v.node.op.name === "iota"))) out.add(source(v));
  return out;
}

function* rebuilding(
  graph: Graph,
  region: (n: Node) => Region | undefined,
  index: ReadonlyMap<Node, number>,
): Sliced<Graph> {
  const users = new Map<Value, Node[]>();
  for (const n of graph.nodes)
    for (const v of n.inputs) {
      const known = users.get(v);
      if (known) known.push(n);
      else users.set(v, [n]);
    }
  yield;
  const wanted = new Set(graph.outputs);
  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  const done = new Set<Node | Region>();

  const emit = (node: Node): void => {
    const r = region(node);
    const unit = r ?? node;
    if (done.has(unit)) return;
    done.add(unit);
    const members = r ? r.nodes : [node];
    for (const m of members)
      for (const v of m.inputs) {
        const from = r ? source(v) : v;
        if (from.node && !(r && isFree(from.node)) && !r?.nodes.includes(from.node)) emit(from.node);
      }
    if (r && (r.nodes.length > 1 || r.ending || hasFreeInput(r.nodes[0]!))) emitRegion(r);
    else copyNode(node);
  };
  const copyNode = (node: Node): void => {
    const fresh = out.add(
      node.op,
      node.inputs.map((v) => map.get(v)!),
      node.attributes,
      node.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
    node.outputs.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  };
  const emitRegion = (r: Region): void => {
    const ends = r.ending?.nodes ?? [];
    const inside = new Set([...r.nodes, ...ends]);
    const leaving = r.nodes.flatMap((n) =>
      n.outputs.filter((v) => wanted.has(v) || (users.get(v) ?? []).some((u) => !inside.has(u))),
    );
    const { attributes, inputs } = describe(r, leaving);
    const results = [...leaving, ...ends.map((n) => n.outputs[0]!)];
    const fresh = out.add(
      fusedOp,
      inputs.map((v) => map.get(v)!),
      attributes,
      results.map((v): Aval => ({ dtype: v.dtype, shape: v.shape })),
      { scope: r.nodes[r.nodes.length - 1]!.scope, region: r.nodes[0]!.region },
    );
    results.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  };
  // A unit stands where its last node stood, unless something before needs it sooner.
  const order = [...graph.nodes].sort(
    (a, b) => (region(a)?.last ?? index.get(a)!) - (region(b)?.last ?? index.get(b)!),
  );
  for (const node of order) {
    yield;
    emit(node);
  }
  out.outputs = graph.outputs.map((v) => map.get(v)!);
  return dropDead(out);
}

function hasFreeInput(node: Node): boolean {
  return node.inputs.some(
    (v) => v.node && (isFree(v.node) || v.node.op.name === "iota" || v.node.op.name === "broadcast_in_dim"),
  );
}

type RegionNode = {
  readonly op: string;
  readonly type: DType;
  readonly number?: number;
  readonly axis?: number;
};

function describe(r: Region, leaving: readonly Value[]): { attributes: Attributes; inputs: Value[] } {
  const inputs: Value[] = [];
  const steps: number[][] = [];
  const pending: { node: RegionNode; operands: (number | Slot)[] }[] = [];
  const slots = new Map<Value, Slot>();

  const rank = r.shape.length;
  const memory = (v: Value, step: number[]): number => {
    const key = `${step.join()}`;
    for (let i = 0; i < inputs.length; i++) if (inputs[i] === v && steps[i]!.join() === key) return i;
    inputs.push(v);
    steps.push(step);
    return inputs.length - 1;
  };
  const add = (node: RegionNode, operands: (number | Slot)[]): Slot => {
    pending.push({ node, operands });
    return new Slot(pending.length - 1);
  };
  const operand = (v: Value): number | Slot => {
    const known = slots.get(v);
    if (known) return known;
    const n = v.node;
    let slot: Slot | undefined;
    if (n && isFree(n)) slot = add({ op: "constant", type: v.dtype, number: n.attributes.value as number }, []);
    else if (n?.op.name === "iota") slot = add({ op: "iota", type: v.dtype, axis: n.attributes.axis as number }, []);
    if (slot) {
      slots.set(v, slot);
      return slot;
    }
    if (n?.op.name === "broadcast_in_dim") {
      const x = n.inputs[0]!;
      const own = strides(x.shape);
      const step = new Array<number>(rank).fill(0);
      list(n.attributes.dimensions).forEach((d, i) => {
        step[d] = x.shape[i] === 1 ? 0 : own[i]!;
      });
      return memory(x, step);
    }
    return memory(v, sameShape(v.shape, r.shape) ? strides(v.shape) : new Array<number>(rank).fill(0));
  };
  for (const n of r.nodes) {
    const name = n.op.name === "compare" ? `compare_${(n.attributes.direction as string).toLowerCase()}` : n.op.name;
    const operands =
      n.op.name === "random_bits" ? [memory(n.inputs[0]!, new Array<number>(rank).fill(0))] : n.inputs.map(operand);
    slots.set(n.outputs[0]!, add({ op: name, type: n.outputs[0]!.dtype }, operands));
  }
  const folds = (r.ending?.nodes ?? []).map((n) => ({
    from: operand(n.inputs[0]!),
    reduce: n.attributes.kind as string,
  }));
  const base = inputs.length;
  const id = (x: number | Slot): number => (typeof x === "number" ? x : base + x.at);
  return {
    inputs,
    attributes: {
      shape: r.shape,
      strides: steps,
      nodes: pending.map((p) => ({ ...p.node, operands: p.operands.map(id) })),
      results: [
        ...leaving.map((v) => ({ value: id(slots.get(v)!) })),
        ...folds.map(({ from, reduce }) => ({ value: id(from), reduce })),
      ],
      ...(r.ending && { reduce_dims: r.ending.dims, reduce_leading: r.ending.leading }),
    },
  };
}

/** A node of the region; its number is known once all inputs are. */
class Slot {
  readonly at: number;
  constructor(at: number) {
    this.at = at;
  }
}
