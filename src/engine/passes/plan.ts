import { bytesPerElement, type HostArray, hostArray, toBfloat16, toFloat16 } from "../../tensor/dtype.ts";
import type { Aval, Graph, Node, Value } from "../../tensor/graph.ts";
import { size } from "../../tensor/shape.ts";
import type { Instruction, Program, ProgramValue, Storage } from "../program.ts";
import { type Sliced, whole } from "../slices.ts";
import { isFill } from "./fill.ts";

const ALIGN = 64;
const bytes = (v: Aval): number => Math.max(size(v.shape), 1) * bytesPerElement(v.dtype);

export interface PlanOptions {
  readonly donated: readonly boolean[];
  readonly matmul: "f32" | "bf16";
  /** Whether the backend has an instruction that writes one repeated number. */
  readonly fills: boolean;
  /** Bytes that a node's kernel wants while it runs. */
  readonly workspace: (node: Node) => number;
  /** Compiles the body of a loop. @param donated one per input */
  readonly body: (graph: Graph, donated: readonly boolean[]) => Sliced<Program>;
}

/** What a value's bytes are: several values share them when one is a view or an in-place result of the other. */
interface Block {
  readonly bytes: number;
  first: number;
  last: number;
  storage: Storage | undefined;
}

/**
 * Gives every value a place: inputs, outputs and constants theirs, everything else an offset in one arena so that values alive at the same
 * time do not overlap. Reshapes are views; ops that can work in place do so when their operand dies; donated inputs become outputs that way.
 */
export function plan(graph: Graph, options: PlanOptions): Program {
  return whole(planning(graph, options));
}

export function* planning(graph: Graph, options: PlanOptions): Sliced<Program> {
  const filled = (n: Node) => options.fills && isFill(n);
  const nodes = graph.nodes.filter((n) => (n.op.name !== "constant" || filled(n)) && n.op.name !== "reshape");
  const lastUse = lastUses(graph, nodes);
  const blocks = new Map<Value, Block>();
  const constants: HostArray[] = [];

  graph.inputs.forEach((v, index) => {
    blocks.set(v, { bytes: bytes(v), first: -1, last: nodes.length, storage: { kind: "input", index } });
  });
  const blockOf = (v: Value): Block => {
    const known = blocks.get(v);
    if (known) return known;
    const n = v.node!;
    const block =
      n.op.name === "reshape"
        ? blockOf(n.inputs[0]!)
        : ({ bytes: bytes(v), first: -1, last: nodes.length, storage: undefined } as Block);
    if (n.op.name === "constant") {
      block.storage = { kind: "constant", index: constants.length };
      constants.push(constantData(n));
    }
    blocks.set(v, block);
    return block;
  };

  const aliases: [number, number][] = [];
  const aliased = new Set<number>();
  const isOutput = new Map<Value, number[]>();
  graph.outputs.forEach((v, i) => {
    const root = viewRoot(v);
    isOutput.set(root, [...(isOutput.get(root) ?? []), i]);
  });

  for (const [at, node] of nodes.entries()) {
    yield;
    const { inPlace = [] } = node.op;
    const pairs = typeof inPlace === "function" ? inPlace(node.inputs.length, node.attributes) : inPlace;
    const taken = new Set<Block>();
    // An optimizer's step has hundreds of outputs and as many operands to write over: each is looked up, not looked for.
    const operandsFor = new Map<number, number[]>();
    for (const [output, input] of pairs) operandsFor.set(output, [...(operandsFor.get(output) ?? []), input]);
    const uses = new Map<Value, number>();
    if (pairs.length > 0) for (const v of node.inputs.map(viewRoot)) uses.set(v, (uses.get(v) ?? 0) + 1);
    node.outputs.forEach((v, k) => {
      const last = lastUse.get(v) ?? at;
      const mine: Block = { bytes: bytes(v), first: at, last, storage: undefined };
      for (const i of operandsFor.get(k) ?? []) {
        if (i >= node.inputs.length) continue;
        const operand = node.inputs[i]!;
        const block = blockOf(operand);
        if (
          taken.has(block) ||
          block.bytes !== mine.bytes ||
          operand.dtype !== v.dtype ||
          size(operand.shape) !== size(v.shape)
        )
          continue;
        if (!mayOverwrite(node, i, operand, block, at, uses)) continue;
        taken.add(block);
        block.last = Math.max(block.last, last);
        blocks.set(v, block);
        return;
      }
      blocks.set(v, mine);
    });
  }

  /** @param uses how often the node reads each value, views of it included */
  function mayOverwrite(
    node: Node,
    i: number,
    operand: Value,
    block: Block,
    at: number,
    uses: ReadonlyMap<Value, number>,
  ): boolean {
    const root = viewRoot(operand);
    // Nobody may read the old value afterwards, nor elsewhere in this node.
    if ((lastUse.get(root) ?? at) > at) return false;
    if (uses.get(root)! > 1) return false;
    if (node.op.name === "fused_elementwise") {
      const strides = (node.attributes.strides as readonly (readonly number[])[])[i]!;
      const shape = node.attributes.shape as readonly number[];
      let step = 1;
      for (let d = shape.length - 1; d >= 0; d--) {
        if (shape[d] !== 1 && strides[d] !== step) return false;
        step *= shape[d]!;
      }
    }
    const { storage } = block;
    if (storage?.kind === "constant") return false;
    if (storage?.kind === "input") return (options.donated[storage.index] ?? false) && !isOutput.has(root);
    return !isOutput.has(root);
  }

  // Outputs: a donated input's own buffer when the value ended up there, else a buffer of the caller's.
  yield;
  const copies: { from: Value; index: number }[] = [];
  graph.outputs.forEach((v, index) => {
    const block = blockOf(v);
    if (!block.storage) block.storage = { kind: "output", index };
    else if (
      block.storage.kind === "input" &&
      options.donated[block.storage.index] &&
      !aliased.has(block.storage.index)
    ) {
      aliases.push([index, block.storage.index]);
      aliased.add(block.storage.index);
    } else copies.push({ from: v, index });
  });

  yield;
  const owners = new Map<Block, Value>();
  for (const [v, b] of blocks) if (!b.storage && !owners.has(b)) owners.set(b, v);
  const arena = [...owners.keys()];
  const holes = nodes.flatMap((node, at): Block[] => {
    const wanted = options.workspace(node);
    return wanted > 0 ? [{ bytes: wanted, first: at, last: at, storage: undefined }] : [];
  });
  yield;
  const peak = peakOf([...arena, ...holes], nodes.length);
  const arenaBytes = yield* assigningOffsets([...arena, ...holes], peak.bytes);

  const values: ProgramValue[] = [];
  const ids = new Map<Value, number>();
  const id = (v: Value): number => {
    let k = ids.get(v);
    if (k === undefined) {
      k = values.length;
      ids.set(v, k);
      values.push({ dtype: v.dtype, shape: v.shape, storage: blockOf(v).storage! });
    }
    return k;
  };
  const inputs = graph.inputs.map(id);
  const instructions: Instruction[] = [];
  for (const n of nodes) {
    yield;
    const [read, written] = [n.inputs.map(id), n.outputs.map(id)];
    const programs: Program[] = [];
    for (const [k, body] of n.bodies.entries()) programs.push(yield* options.body(body, mayConsume(n, k)));
    instructions.push({
      op: n.op.name,
      inputs: read,
      outputs: written,
      attributes: n.attributes,
      ...(programs.length ? { programs } : {}),
      ...(n.scope ? { scope: n.scope } : {}),
    });
  }
  const outputs = graph.outputs.map((v, index) => {
    const copy = copies.find((c) => c.index === index);
    if (!copy) return id(v);
    const from = id(v);
    const to = values.push({ dtype: v.dtype, shape: v.shape, storage: { kind: "output", index } }) - 1;
    instructions.push({ op: "copy", inputs: [from], outputs: [to], attributes: {} });
    return to;
  });
  const own = holes.find((hole) => hole.first === peak.at);
  const holders = arena
    .filter((b) => b.first <= peak.at && peak.at <= b.last)
    .map((b) => ({ value: id(owners.get(b)!), instruction: b.first, bytes: b.bytes }))
    .sort((a, b) => b.bytes - a.bytes || a.instruction - b.instruction);
  return {
    values,
    instructions,
    inputs,
    outputs,
    constants,
    aliases,
    arenaBytes,
    peak: { ...peak, ...(own === undefined ? {} : { workspace: own.bytes }), holders },
    matmul: options.matmul,
  };
}

/** Which inputs the k-th body of a loop may write over: the carried values, which the loop keeps in memory of its own. */
function mayConsume(loop: Node, k: number): boolean[] {
  const { inputs } = loop.bodies[k]!;
  // The condition of a while only looks.
  if (loop.op.name === "while") return inputs.map(() => k === 1);
  if (loop.op.name === "scan") return inputs.map((_, i) => i < (loop.attributes.carries as number));
  return inputs.map(() => false);
}

function viewRoot(v: Value): Value {
  return v.node?.op.name === "reshape" ? viewRoot(v.node.inputs[0]!) : v;
}

/** Position of the last node that reads each value, views counting for what they show; outputs live to the end. */
function lastUses(graph: Graph, nodes: readonly Node[]): Map<Value, number> {
  const last = new Map<Value, number>();
  nodes.forEach((n, at) => {
    for (const v of n.inputs) last.set(viewRoot(v), at);
  });
  for (const v of graph.outputs) last.set(viewRoot(v), nodes.length);
  return last;
}

function constantData(n: Node): HostArray {
  if (n.data) return n.data;
  const v = n.outputs[0]!;
  const value = n.attributes.value as number;
  const data = hostArray(v.dtype, size(v.shape));
  data.fill(v.dtype === "bf16" ? toBfloat16(value) : v.dtype === "f16" ? toFloat16(value) : value);
  return data;
}

/** What is alive at the position where most is: no arrangement of the arena can be smaller than its bytes. */
function peakOf(blocks: readonly Block[], length: number): { at: number; bytes: number } {
  const change = new Float64Array(length + 2);
  for (const b of blocks) {
    change[Math.max(b.first, 0)]! += aligned(b);
    change[Math.min(b.last, length) + 1]! -= aligned(b);
  }
  let live = 0;
  let peak = { at: 0, bytes: 0 };
  for (let at = 0; at <= length; at++) {
    live += change[at]!;
    if (live > peak.bytes) peak = { at, bytes: live };
  }
  return peak;
}

const aligned = (b: Block): number => Math.ceil(b.bytes / ALIGN) * ALIGN;
const lifetime = (b: Block): number => b.last - b.first + 1;

/** In which order blocks are placed; the arrangement that needs least is taken. */
const orders: readonly ((a: Block, b: Block) => number)[] = [
  (a, b) => b.bytes - a.bytes || a.first - b.first,
  (a, b) => lifetime(b) - lifetime(a) || b.bytes - a.bytes,
  (a, b) => b.bytes * lifetime(b) - a.bytes * lifetime(a) || a.first - b.first,
  (a, b) => a.first - b.first || b.bytes - a.bytes,
  (a, b) => b.last - a.last || b.bytes - a.bytes,
];
/** Programs with more blocks are arranged by size only. */
const MANY_BLOCKS = 4000;

/**
 * Gives each block an offset: in a given order, each at the lowest place where nothing alive at the same time lies (Pisarchyk & Lee 2020,
 * "greedy by size"). Several orders are tried until one needs no more than the peak of live bytes. Returns the arena's size.
 */
function* assigningOffsets(blocks: readonly Block[], peak: number): Sliced<number> {
  let best: { offsets: Map<Block, number>; total: number } | undefined;
  for (const order of blocks.length > MANY_BLOCKS ? orders.slice(0, 1) : orders) {
    const arranged = yield* arranging([...blocks].sort(order));
    if (!best || arranged.total < best.total) best = arranged;
    if (best.total <= peak) break;
  }
  for (const [block, offset] of best?.offsets ?? []) block.storage = { kind: "arena", offset };
  return best?.total ?? 0;
}

function* arranging(blocks: readonly Block[]): Sliced<{ offsets: Map<Block, number>; total: number }> {
  /** By offset. */
  const placed: { first: number; last: number; offset: number; end: number }[] = [];
  const offsets = new Map<Block, number>();
  let total = 0;
  for (const block of blocks) {
    yield;
    const need = aligned(block);
    let offset = 0;
    for (const p of placed) {
      if (p.first > block.last || block.first > p.last) continue;
      if (offset + need <= p.offset) break;
      if (p.end > offset) offset = p.end;
    }
    const entry = { first: block.first, last: block.last, offset, end: offset + need };
    let [low, high] = [0, placed.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (placed[middle]!.offset <= offset) low = middle + 1;
      else high = middle;
    }
    placed.splice(low, 0, entry);
    offsets.set(block, offset);
    total = Math.max(total, entry.end);
  }
  return { offsets, total };
}
