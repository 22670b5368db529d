import { type Attributes, type Aval, Graph, type Node, type Value } from "../../tensor/graph.ts";
import type { Op } from "../../tensor/op.ts";
import { dotGeneralOp } from "../../tensor/ops/dot.ts";
import { sameShape, size } from "../../tensor/shape.ts";
import { dropDead } from "./simplify.ts";

const list = (a: unknown): readonly number[] => a as readonly number[];

/** Activations that a matmul's kernel can apply on the way out. */
const activations: ReadonlySet<string> = new Set(["gelu_tanh", "gelu", "silu"]);

/** Gradients of those, of the result's gradient and what the activation was applied to. */
const gradients: ReadonlyMap<string, string> = new Map([...activations].map((name) => [`${name}_grad`, name]));

/**
 * A product and what is done to it before anybody else sees it: y = activation(a . b + bias) + residual, or with `at`
 * y = (a . b + bias) activation'(at).
 */
interface Chain {
  readonly dot: Node;
  /** One number per column. */
  bias?: Value;
  activation?: string;
  at?: Value;
  /** a . b + bias, where something besides the activation reads it: a second result. */
  pre?: Value;
  /** Of the result's shape. */
  residual?: Value;
  last: Value;
  /** The sums of b over what is contracted (the gradient of a bias, beside that of its weight): a result of its own. */
  sum?: Value;
  /** The sums of the result over all rows before it is rounded (the gradient of the bias in front of an activation): a result of its own. */
  total?: Value;
}

export type EpilogueSupport = (op: string, attributes: Attributes, inputs: readonly Aval[]) => boolean;

/**
 * Takes the addition of a bias, an activation and the addition of a residual that follow a product into the product: `dot_general` with
 * the attribute `epilogue`, and bias and residual as further inputs. The product is then written once, finished. The same for a product that
 * is the gradient of an activation's result, with its sums over all rows. Sums of a right operand over the axes that are contracted are taken in too: the kernel has
 * the operand in its hands. Sums are f32; a result that is
 * rounded to bf16 at once is written so, and so is a value before an activation that is kept rounded: the activation is of the rounded one. `sums` false: no sums of right operands.
 */
export function fuseEpilogues(
  graph: Graph,
  supports: EpilogueSupport,
  options: { readonly sums?: boolean } = {},
): Graph {
  const users = new Map<Value, Node[]>();
  for (const n of graph.nodes)
    for (const v of n.inputs) {
      const known = users.get(v);
      if (known) known.push(n);
      else users.set(v, [n]);
    }
  const results = new Set(graph.outputs);
  /** The only node that reads this value, or nothing. */
  const onlyUser = (v: Value): Node | undefined => {
    const all = users.get(v) ?? [];
    return all.length === 1 && !results.has(v) ? all[0] : undefined;
  };

  /** The first f32 copy of a bf16 value that an activation alone reads. */
  const widenedForActivation = (v: Value): Node | undefined =>
    (users.get(v) ?? []).find((n) => roundsTo(n, "f32") && activations.has(onlyUser(n.outputs[0]!)?.op.name ?? ""));
  const position = new Map(graph.nodes.map((n, i) => [n, i]));
  const owner = new Map<Node, Chain>();
  for (const dot of graph.nodes) {
    const y = dot.outputs[0]!;
    if (dot.op.name !== "dot_general" || dot.attributes.epilogue) continue;
    if (size(y.shape) === 0 || y.dtype !== "f32" || dot.inputs.some((v) => v.dtype !== "f32" && v.dtype !== "bf16"))
      continue;
    const chain: Chain = { dot, last: y };
    const folded: Node[] = [dot];
    const take = (node: Node) => {
      folded.push(node);
      chain.last = node.outputs[0]!;
    };

    const adder = onlyUser(y);
    const bias = adder && !owner.has(adder) ? biasOf(adder, y, dot) : undefined;
    if (bias) {
      chain.bias = bias;
      take(adder!);
    }
    // Kept rounded, the value before the activation is what the activation is of: the kernel knows that form.
    const kept = onlyUser(chain.last);
    const widened =
      kept && !owner.has(kept) && roundsTo(kept, "bf16") ? widenedForActivation(kept.outputs[0]!) : undefined;
    if (widened) {
      chain.pre = kept!.outputs[0]!;
      take(kept!);
      take(widened);
    }
    const before = chain.last;
    const activators = (users.get(before) ?? []).filter((n) => activations.has(n.op.name));
    // Where the activation is computed again for the backward pass, the first is the product's.
    if (activators.length > 0 && !owner.has(activators[0]!)) {
      if (!widened && !onlyUser(before)) chain.pre = before;
      chain.activation = activators[0]!.op.name;
      take(activators[0]!);
    }
    const differentiator = chain.activation ? undefined : onlyUser(before);
    const gradientOf = differentiator && gradients.get(differentiator.op.name);
    if (
      gradientOf &&
      !owner.has(differentiator) &&
      differentiator.inputs[0] === before &&
      differentiator.inputs[1] !== before
    ) {
      const wide = differentiator.inputs[1]!;
      const at =
        wide.node?.op.name === "convert" && wide.node.inputs[0]!.dtype === "bf16" ? wide.node.inputs[0]! : wide;
      const made = differentiator.outputs[0]!;
      const summers = results.has(made) ? [] : users.get(made)!.filter((n) => !owner.has(n) && sumsRows(n, dot));
      const summer = summers.length === 1 ? summers[0]! : undefined;
      // With other readers, an element-wise region serves all in one pass.
      const alone = (options.sums ?? true) || summer !== undefined || onlyUser(made) !== undefined;
      if (alone && wide.dtype === "f32" && sameShape(at.shape, before.shape)) {
        chain.activation = gradientOf;
        chain.at = at;
        take(differentiator);
        if (summer) {
          chain.total = summer.outputs[0]!;
          folded.push(summer);
        }
      }
    }
    // A residual may depend on what else reads the value before the activation: not if that leaves too.
    const joiner = chain.pre || chain.at ? undefined : onlyUser(chain.last);
    const residual = joiner && !owner.has(joiner) ? residualOf(joiner, chain.last) : undefined;
    if (residual) {
      chain.residual = residual;
      take(joiner!);
    }
    const readers = (users.get(chain.last) ?? []).filter((n) => n.outputs[0] !== chain.total);
    const rounding = readers.length === 1 && !results.has(chain.last) ? readers[0] : undefined;
    if (rounding && !owner.has(rounding) && roundsTo(rounding, "bf16")) take(rounding);
    if (folded.length === 1 && (options.sums ?? true)) {
      const summer = sumOf(dot, users);
      // What the product waits for must not wait for the sum.
      const left = dot.inputs[0]!.node;
      const early = !left || position.get(owner.get(left)?.last.node ?? left)! < position.get(summer ?? dot)!;
      if (summer && !owner.has(summer) && (early || position.get(dot)! < position.get(summer)!)) {
        chain.sum = summer.outputs[0]!;
        folded.push(summer);
      }
    }
    if (folded.length === 1) continue;
    if (!supports("dot_general", attributesOf(chain), inputsOf(chain))) continue;
    for (const n of folded) owner.set(n, chain);
  }
  if (owner.size === 0) return graph;

  const out = new Graph();
  const map = new Map<Value, Value>();
  for (const v of graph.inputs) map.set(v, out.input(v));
  const done = new Set<Node | Chain>();
  const need = (v: Value): Value => {
    if (v.node && !map.has(v)) emit(v.node);
    return map.get(v)!;
  };
  const emit = (node: Node): void => {
    const chain = owner.get(node);
    const unit = chain ?? node;
    if (done.has(unit)) return;
    done.add(unit);
    if (!chain) {
      const fresh = out.add(node.op, node.inputs.map(need), node.attributes, node.outputs.map(plain), {
        bodies: node.bodies,
        data: node.data,
        scope: node.scope,
        region: node.region,
      });
      node.outputs.forEach((v, i) => {
        map.set(v, fresh.outputs[i]!);
      });
      return;
    }
    const { last, pre, dot, sum, total } = chain;
    const avals = [last, ...(pre ? [pre] : []), ...(sum ? [sum] : []), ...(total ? [total] : [])].map(plain);
    const fresh = out.add(finishedDot(chain), inputsOf(chain).map(need), attributesOf(chain), avals, {
      scope: dot.scope,
      region: dot.region,
    });
    map.set(last, fresh.outputs[0]!);
    if (pre) map.set(pre, fresh.outputs[1]!);
    if (sum) map.set(sum, fresh.outputs[pre ? 2 : 1]!);
    if (total) map.set(total, fresh.outputs.at(-1)!);
  };
  for (const node of graph.nodes) {
    const chain = owner.get(node);
    // The whole stands where its last part stood, after everything it reads.
    if (!chain || node === chain.last.node) emit(node);
  }
  out.outputs = graph.outputs.map(need);
  return dropDead(out);
}

const roundsTo = (n: Node, dtype: Aval["dtype"]): boolean => n.op.name === "convert" && n.outputs[0]!.dtype === dtype;

const plain = (v: Aval): Aval => ({ dtype: v.dtype, shape: v.shape });

function inputsOf(c: Chain): Value[] {
  return [...c.dot.inputs, ...(c.bias ? [c.bias] : []), ...(c.at ? [c.at] : []), ...(c.residual ? [c.residual] : [])];
}

function attributesOf(c: Chain): Attributes {
  const epilogue = {
    bias: c.bias !== undefined,
    activation: c.activation ?? null,
    residual: c.residual !== undefined,
    pre_activation: c.pre !== undefined,
    ...(c.at && { gradient: true }),
    ...(c.sum && { sum: true }),
    ...(c.total && { total: true }),
  };
  return { ...c.dot.attributes, epilogue };
}

const inPlaceAt = new Map<number, Op>();

/** The op of a product with its epilogue; what it reads element by element is overwritten by the result if nobody else needs it. */
function finishedDot(c: Chain): Op {
  const at = (c.residual ?? c.at)?.dtype === c.last.dtype ? inputsOf(c).length - 1 : -1;
  let op = inPlaceAt.get(at);
  if (!op) {
    op = { ...dotGeneralOp, inPlace: at < 0 ? [] : [[0, at]] };
    inPlaceAt.set(at, op);
  }
  return op;
}

/** The bias if `node` adds one to the product: repeated over all axes but the right operand's free ones, which it has as they are. */
function biasOf(node: Node, y: Value, dot: Node): Value | undefined {
  const other = otherTerm(node, y);
  if (other?.node?.op.name !== "broadcast_in_dim" || other.dtype !== "f32") return undefined;
  const x = other.node.inputs[0]!;
  const right = dot.inputs[1]!;
  const columns = right.shape.length - list(dot.attributes.rhs_batch).length - list(dot.attributes.rhs_contract).length;
  const first = y.shape.length - columns;
  // Axes of the bias that hold more than one number.
  const places = list(other.node.attributes.dimensions).filter((_, i) => x.shape[i] !== 1);
  const wanted = y.shape.map((_, d) => d).filter((d) => d >= first && y.shape[d] !== 1);
  return wanted.length > 0 && sameShape(places, wanted) ? x : undefined;
}

/** The node that sums the product's right operand over the axes that the product contracts. */
function sumOf(dot: Node, users: ReadonlyMap<Value, readonly Node[]>): Node | undefined {
  const right = dot.inputs[1]!;
  const contract = list(dot.attributes.rhs_contract);
  if (list(dot.attributes.rhs_batch).length > 0 || contract.length === 0 || contract.length === right.shape.length)
    return undefined;
  return users.get(right)?.find((n) => {
    const axes = list(n.attributes.axes ?? []);
    return (
      n.op.name === "reduce" &&
      n.attributes.kind === "add" &&
      n.outputs[0]!.shape.length === right.shape.length - contract.length &&
      axes.length === contract.length &&
      axes.every((axis) => contract.includes(axis))
    );
  });
}

/** Whether `n` sums the product's result over all axes but the right operand's free ones. */
function sumsRows(n: Node, dot: Node): boolean {
  const [y, right] = [dot.outputs[0]!, dot.inputs[1]!];
  if (n.op.name !== "reduce" || n.attributes.kind !== "add" || list(dot.attributes.rhs_batch).length > 0) return false;
  const rows = y.shape.length - right.shape.length + list(dot.attributes.rhs_contract).length;
  const axes = list(n.attributes.axes);
  return (
    rows > 0 &&
    axes.length === rows &&
    axes.every((axis) => axis < rows) &&
    n.outputs[0]!.dtype === "f32" &&
    n.outputs[0]!.shape.length === y.shape.length - rows
  );
}

/** The other term if `node` adds a value of the same shape that is in memory anyway. */
function residualOf(node: Node, y: Value): Value | undefined {
  const other = otherTerm(node, y);
  if (other?.dtype !== "f32" || !sameShape(other.shape, y.shape)) return undefined;
  const made = other.node?.op.name;
  return made === "broadcast_in_dim" || made === "constant" || made === "iota" ? undefined : other;
}

function otherTerm(node: Node, y: Value): Value | undefined {
  if (node.op.name !== "add") return undefined;
  const [a, b] = node.inputs as [Value, Value];
  if (a === b) return undefined;
  return a === y ? b : a;
}
