import { bytesPerElement } from "../../tensor/dtype.ts";
import { Graph, type Node, type Value } from "../../tensor/graph.ts";
import { size } from "../../tensor/shape.ts";
import type { Sliced } from "../slices.ts";
import { dropDead } from "./simplify.ts";

/** Reading what was kept must be this many products away, else there is nothing to gain between. */
const FAR_PRODUCTS = 2;
export interface RecomputeOptions {
  /** Programs that hold fewer bytes than this at most are left alone. */
  readonly smallProgram: number;
  /** So are smaller values. */
  readonly smallValue: number;
}
const usual: RecomputeOptions = { smallProgram: 64 << 20, smallValue: 1 << 20 };
/** How much of the program's estimated time may go into computing again. */
const TIME_SHARE = 0.04;
/** Of one machine's worth, only their quotient matters: operations, bytes, and elements of one element-wise op per second. */
const FLOPS = 3e11;
const BANDWIDTH = 4e10;
const ELEMENTS = 8e9;
/** Ops between what is at hand and the value at most. */
const MAX_CHAIN = 12;

/** Ops whose time is that of reading and writing. */
const cheap: ReadonlySet<string> = new Set(["layer_norm", "rms_norm", "broadcast_in_dim", "reshape"]);
const heavy: ReadonlySet<string> = new Set([
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

const bytesOf = (v: Value): number => size(v.shape) * bytesPerElement(v.dtype);

/** A value that is used, long not used, and used again. */
interface Candidate {
  readonly value: Value;
  /** Its nodes to compute again, in order. */
  readonly chain: readonly Node[];
  /** Positions of the last use before the pause and of the first one after it, in products. */
  readonly from: number;
  readonly to: number;
  /** The node before which the chain is computed again. */
  readonly before: Node;
  readonly seconds: number;
}

/**
 * Computes values again before their second use instead of keeping them, where that lowers the program's peak: norms from their operand,
 * activations from what comes before them. Decided by cost: bytes freed against the time of computing again, best first, until nothing
 * that could be computed again is alive at the peak or a share of the program's time is spent. The same ops on the same operands, so the
 * same bits. Chen et al. 2016 (sublinear memory), with the choice made per value.
 */
export function* recomputing(graph: Graph, options: RecomputeOptions = usual): Sliced<Graph> {
  const position = new Map<Node, number>();
  let count = 0;
  for (const n of graph.nodes) {
    position.set(n, count);
    if (heavy.has(n.op.name)) count++;
  }
  const uses = new Map<Value, Node[]>();
  for (const n of graph.nodes) {
    if (n.op.name === "reshape") continue;
    for (const v of new Set(n.inputs.map(viewed))) {
      const known = uses.get(v);
      if (known) known.push(n);
      else uses.set(v, [n]);
    }
  }
  yield;
  const results = new Set(graph.outputs.map(viewed));
  const lastUse = (v: Value): number =>
    results.has(v) || !v.node ? count : Math.max(...(uses.get(v) ?? []).map((n) => position.get(n)!), 0);

  // Bytes alive at each position, of values that are kept for long.
  const alive = new Float64Array(count + 2);
  const add = (from: number, to: number, bytes: number) => {
    for (let p = from; p <= to; p++) alive[p]! += bytes;
  };
  for (const n of graph.nodes) {
    if (n.op.name === "reshape" || n.op.name === "constant") continue;
    yield;
    const places = placesTaken(n);
    for (const v of n.outputs) {
      const [from, to] = [position.get(n)!, lastUse(v)];
      const place = places.get(v);
      // What is read at once stays in a region's registers.
      if (n.op.elementwise && from === to) continue;
      // Over an argument, as updated parameters; or over a value that dies here, which then lives on.
      if (!place) add(from, to, bytesOf(v));
      else if (place.node) add(Math.min(from, lastUse(place)) + 1, to, bytesOf(v));
    }
  }
  const peak = (): number => alive.reduce((best, x, p) => (x > alive[best]! ? p : best), 0);
  if (alive[peak()]! < options.smallProgram) return graph;

  const candidates: Candidate[] = [];
  for (const node of graph.nodes) {
    if (node.op.name === "reshape") continue;
    yield;
    for (const v of node.outputs) {
      const c = candidateOf(v);
      if (c) candidates.push(c);
    }
  }
  if (candidates.length === 0) return graph;

  const worth = (c: Candidate): number => bytesOf(c.value) / c.seconds;
  candidates.sort((a, b) => worth(b) - worth(a));
  const time = graph.nodes.reduce((t, n) => t + (n.op.flops?.(n.inputs, n.outputs, n.attributes) ?? 0) / FLOPS, 0);
  let left = time * TIME_SHARE;
  const chosen = new Set<Candidate>();
  const given = new Set<Value>();
  const needed = new Set<Value>();
  for (;;) {
    yield;
    const p = peak();
    const next = candidates.find(
      (c) =>
        !chosen.has(c) &&
        c.from < p &&
        p < c.to &&
        c.seconds <= left &&
        // What is given up cannot serve to compute something else again, and the other way round.
        !needed.has(c.value) &&
        !operandsOf(c.chain).some((v) => given.has(v)),
    );
    if (!next) break;
    chosen.add(next);
    given.add(next.value);
    for (const v of operandsOf(next.chain)) needed.add(v);
    add(next.from + 1, next.to - 1, -bytesOf(next.value));
    left -= next.seconds;
  }
  return chosen.size === 0 ? graph : yield* rewriting(graph, [...chosen]);

  function candidateOf(v: Value): Candidate | undefined {
    const node = v.node!;
    if (bytesOf(v) < options.smallValue || results.has(v) || !isCheap(node)) return undefined;
    const at = (uses.get(v) ?? []).map((n) => ({ node: n, position: position.get(n)! }));
    at.sort((a, b) => a.position - b.position);
    let from = position.get(node)!;
    let best: { from: number; to: number; node: Node } | undefined;
    for (const use of at) {
      if (use.position - from >= FAR_PRODUCTS && (!best || use.position - from > best.to - best.from))
        best = { from, to: use.position, node: use.node };
      from = use.position;
    }
    if (!best) return undefined;
    const chain: Node[] = [];
    if (!collect(v, best.to, chain)) return undefined;
    return { value: v, chain, from: best.from, to: best.to, before: best.node, seconds: secondsOf(chain) };
  }

  /** Gathers what has to be computed again for `v` at a position; false if it cannot be from what is there anyway. */
  function collect(v: Value, at: number, chain: Node[]): boolean {
    const node = v.node!;
    if (chain.includes(node)) return true;
    if (!isCheap(node) || chain.length >= MAX_CHAIN) return false;
    for (const input of node.inputs) {
      const root = viewed(input);
      if (!root.node || root.node.op.name === "constant" || root.node.op.name === "iota") continue;
      if (lastUse(root) >= at && root !== v) continue;
      if (!collect(root, at, chain)) return false;
    }
    chain.push(node);
    return true;
  }
}

function isCheap(node: Node): boolean {
  return (node.op.elementwise === true || cheap.has(node.op.name)) && node.bodies.length === 0;
}

/** Results whose memory may be that of an operand: the first that fits. */
function placesTaken({ op, inputs, outputs, attributes }: Node): ReadonlyMap<Value, Value> {
  const pairs = typeof op.inPlace === "function" ? op.inPlace(inputs.length, attributes) : (op.inPlace ?? []);
  const places = new Map<Value, Value>();
  for (const [o, i] of pairs) {
    const [v, operand] = [outputs[o], inputs[i]];
    if (v && operand && !places.has(v) && bytesOf(operand) === bytesOf(v)) places.set(v, viewed(operand));
  }
  return places;
}

function viewed(v: Value): Value {
  return v.node?.op.name === "reshape" ? viewed(v.node.inputs[0]!) : v;
}

/** What a chain reads that it does not make. */
function operandsOf(chain: readonly Node[]): Value[] {
  const inside = new Set(chain);
  return chain.flatMap((n) => n.inputs.map(viewed).filter((v) => !v.node || !inside.has(v.node)));
}

/** Between the ops of a chain, element-wise values stay in registers: it reads its operands and writes its result. */
function secondsOf(chain: readonly Node[]): number {
  const result = chain[chain.length - 1]!;
  const moved = new Set(operandsOf(chain)).values();
  let bytes = result.outputs.reduce((n, v) => n + bytesOf(v), 0);
  for (const v of moved) bytes += bytesOf(v);
  const elements = chain.reduce((n, x) => n + size(x.outputs[0]!.shape), 0);
  return bytes / BANDWIDTH + elements / ELEMENTS;
}

function* rewriting(graph: Graph, chosen: readonly Candidate[]): Sliced<Graph> {
  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  const due = new Map<Node, Candidate[]>();
  for (const c of chosen) due.set(c.before, [...(due.get(c.before) ?? []), c]);
  /** Values computed again so far, as all later nodes read them. */
  const again = new Map<Value, Value>();
  const current = (v: Value): Value => {
    const fresh = again.get(v);
    if (fresh) return fresh;
    const root = viewed(v);
    if (root === v || !again.has(root)) return map.get(v)!;
    const made = add(v.node!, [current(v.node!.inputs[0]!)]).outputs[0]!;
    again.set(v, made);
    return made;
  };
  const add = (node: Node, inputs: readonly Value[]): Node =>
    out.add(
      node.op,
      inputs,
      node.attributes,
      node.outputs.map((v) => ({ dtype: v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
  for (const node of graph.nodes) {
    yield;
    for (const c of due.get(node) ?? []) {
      const local = new Map<Value, Value>();
      const read = (v: Value): Value => {
        const known = local.get(v);
        if (known) return known;
        const root = viewed(v);
        if (root === v || !local.has(root)) return current(v);
        const made = add(v.node!, [read(v.node!.inputs[0]!)]).outputs[0]!;
        local.set(v, made);
        return made;
      };
      for (const n of c.chain) {
        const fresh = add(n, n.inputs.map(read));
        n.outputs.forEach((v, i) => {
          local.set(v, fresh.outputs[i]!);
        });
      }
      again.set(c.value, local.get(c.value)!);
    }
    const fresh = add(node, node.inputs.map(current));
    node.outputs.forEach((v, i) => {
      map.set(v, fresh.outputs[i]!);
    });
  }
  out.outputs = graph.outputs.map(current);
  return dropDead(out);
}
