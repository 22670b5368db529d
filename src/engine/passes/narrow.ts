import { Graph, type Node, type Value } from "../../tensor/graph.ts";
import { findOp } from "../../tensor/op.ts";
import type { ConvolutionDimensions } from "../../tensor/ops/convolution.ts";
import { size } from "../../tensor/shape.ts";
import type { Sliced } from "../slices.ts";
import { dropDead } from "./simplify.ts";

/** Smaller values are not worth the conversion. */
const LEAST_ELEMENTS = 4096;
/** A value that is read again after this many products or more is held for the backward pass. */
const HELD_PRODUCTS = 2;

const activations: ReadonlySet<string> = new Set(["gelu", "gelu_tanh", "silu"]);
const activationGradients: ReadonlySet<string> = new Set(["gelu_grad", "gelu_tanh_grad", "silu_grad"]);

interface Use {
  readonly node: Node;
  readonly input: number;
}

/** Why a value may be kept in bf16. */
type Reason =
  /** Whoever reads it rounds it to bf16 before anything else: the same bits. */
  | "rounded"
  /**
   * What a linear layer, a convolution, a batch norm or attention gives, held for the backward pass: everybody reads the rounded value, as under PyTorch's
   * autocast.
   */
  | "held"
  /** The gradient of an activation on its way from a convolution to a batch norm, as under PyTorch's autocast; sums of several stay in f32. */
  | "passed"
  /** A weight's gradient that goes into its norm and the optimizer and nowhere else; sums over parts of a batch stay in f32. */
  | "gradient";

/** Which roundings are allowed besides those that change no bit. */
export interface NarrowOptions {
  readonly held: boolean;
  readonly gradients: boolean;
}

/**
 * Where products are in bf16, values that products alone read are kept as bf16: half the memory and traffic, the same bits. So are, at the
 * price of one rounding (a relative error of 2^-9 per element at most), what linear layers, convolutions, batch norms and attention hand to the backward pass.
 * Whoever makes such a value writes it as bf16 if its kernel can; else a conversion follows, which fusion takes into the maker.
 */
export function* narrowingToBfloat16(graph: Graph, options: NarrowOptions): Sliced<Graph> {
  const uses = usesOf(graph);
  const products = countProducts(graph);
  const results = new Set(graph.outputs.map(viewed));
  const reasons = new Map<Value, Reason>();
  yield;
  for (const node of graph.nodes) {
    if (node.op.name === "reshape") continue;
    yield;
    for (const v of node.outputs) {
      if (v.dtype !== "f32" || size(v.shape) < LEAST_ELEMENTS || results.has(v)) continue;
      const all = uses.get(v) ?? [];
      if (all.length === 0) continue;
      if (
        all.every((use) => rounds(use) || readsSign(use) || foldsBeside(use, v)) &&
        all.some(rounds) &&
        narrowable(v)
      ) {
        reasons.set(v, "rounded");
        continue;
      }
      if (options.gradients && all.every(takesGradient) && gradientOf(v, uses)) {
        for (let g: Value | undefined = v; g; g = gradientOf(g, uses)?.base) reasons.set(g, "gradient");
        continue;
      }
      if (!options.held) continue;
      if (v.node!.op.name === "convolution" && writesBfloat16(v) && all.every(takesResultGradient)) {
        reasons.set(v, "passed");
        continue;
      }
      const held = Math.max(...all.map((u) => products.get(u.node)!)) - products.get(node)! >= HELD_PRODUCTS;
      if (held && heldBetween(v, all)) reasons.set(v, "held");
    }
  }
  if (reasons.size === 0) return graph;
  return yield* rewriting(graph, reasons);
}

/** Who reads each value, seen through reshapes. */
function usesOf(graph: Graph): Map<Value, Use[]> {
  const uses = new Map<Value, Use[]>();
  for (const node of graph.nodes) {
    if (node.op.name === "reshape") continue;
    node.inputs.forEach((input, i) => {
      const v = viewed(input);
      const known = uses.get(v);
      if (known) known.push({ node, input: i });
      else uses.set(v, [{ node, input: i }]);
    });
  }
  return uses;
}

function viewed(v: Value): Value {
  return v.node?.op.name === "reshape" ? viewed(v.node.inputs[0]!) : v;
}

/** For each node, how many products stand before it. */
function countProducts(graph: Graph): Map<Node, number> {
  const before = new Map<Node, number>();
  let count = 0;
  for (const n of graph.nodes) {
    before.set(n, count);
    if (n.op.name === "dot_general" || n.op.name === "convolution") count++;
  }
  return before;
}

const operandsOf = (node: Node): number => (node.attributes.packed ? 1 : 3);

/** Which inputs of attention are queries, keys and values. */
function carriesHeads({ node, input }: Use): boolean {
  if (node.op.name === "attention") return input < operandsOf(node);
  return node.op.name === "attention_grad" && input >= 1 && input < 1 + operandsOf(node);
}

/** The kernels multiply queries by the scale before they round them: only a power of two commutes with rounding. */
function roundsHeads(use: Use): boolean {
  const scale = use.node.attributes.scale as number;
  return carriesHeads(use) && manyQueries(use.node) && Number.isInteger(Math.log2(scale));
}

/** One or two queries are attended to without rounding (decoding). */
function manyQueries(node: Node): boolean {
  return node.inputs[node.op.name === "attention" ? 0 : 1]!.shape[1]! > 2;
}

function rounds(use: Use): boolean {
  const { node, input } = use;
  if (node.op.name === "dot_general") return input < 2 && node.inputs[0]!.dtype === "f32";
  if (node.op.name === "convolution") return slidesOverRows(node);
  return roundsHeads(use);
}

/** A convolution in two dimensions with channels last, or the gradient of its kernel (the images are what is summed): its kernels read bf16 as it lies. */
function slidesOverRows({ attributes, inputs }: Node): boolean {
  const { input_spec, groups, batch_groups } = attributes as unknown as ConvolutionDimensions;
  return (
    input_spec.length === 4 &&
    (input_spec[1] === 3 || input_spec[0] === 3) &&
    groups === 1 &&
    batch_groups === 1 &&
    inputs.every((x) => x.dtype === "f32")
  );
}

/** The gradient of a rectified batch norm asks of its result only where it is positive: rounding changes no answer. */
function readsSign({ node, input }: Use): boolean {
  return node.op.name === "batch_norm_grad" && input === 5;
}

/** What a batch norm and its gradient read of its operand, residual and result: all of it may be bf16. */
function isNormalised(use: Use): boolean {
  const { node, input } = use;
  return (
    (node.op.name === "batch_norm" && (input === 0 || input === 3)) ||
    (node.op.name === "batch_norm_grad" && input === 1) ||
    readsSign(use)
  );
}

/** The gradient of a batch norm's result may be bf16 too. */
function takesResultGradient({ node, input }: Use): boolean {
  return node.op.name === "batch_norm_grad" && input === 0;
}

/** A sum beside the products, such as a bias's gradient: the region that makes the value folds it from its registers, before any rounding. */
function foldsBeside({ node }: Use, v: Value): boolean {
  return node.op.name === "reduce" && node.inputs[0] === v && v.node?.op.elementwise === true;
}

/** Whether its maker can write bf16 or a fused region can convert it on the way out. */
function narrowable(v: Value): boolean {
  const node = v.node!;
  return node.op.elementwise === true || writesBfloat16(v);
}

/** Kernels that write this output as bf16. */
function writesBfloat16(v: Value): boolean {
  const { op, outputs, inputs } = v.node!;
  if (op.name === "attention") return outputs[0] === v && manyQueries(v.node!);
  if (op.name === "dot_general") return inputs.every((x) => x.dtype === "f32");
  if (op.name === "embedding_grad") return inputs.length > 2;
  if (op.name === "convolution")
    return slidesOverRows(v.node!) && (v.node!.attributes.input_spec as readonly number[])[1] === 3;
  if (op.name === "batch_norm" || op.name === "batch_norm_grad") return outputs[0] === v;
  return (op.name === "layer_norm" || op.name === "rms_norm") && outputs[0] === v;
}

/** Reads a gradient as bf16 as well as f32. */
function takesGradient({ node, input }: Use): boolean {
  if (node.op.name === "global_norm") return true;
  return node.op.name === "adamw" && input >= 3 + 3 * (node.attributes.count as number);
}

/** If the maker of this gradient can write bf16, what it adds onto (a head's gradient under the rows of its embedding), which then is bf16 too. */
function gradientOf(v: Value, uses: ReadonlyMap<Value, readonly Use[]>): { base: Value | undefined } | undefined {
  const { op, inputs } = v.node!;
  if (op.name === "dot_general") return writesBfloat16(v) ? { base: undefined } : undefined;
  const base = op.name === "embedding_grad" ? inputs[2] : undefined;
  if (!base?.node || uses.get(base)?.length !== 1 || base.node.op.name === "reshape") return undefined;
  return gradientOf(base, uses) && { base };
}

function heldBetween(v: Value, all: readonly Use[]): boolean {
  if (v.node!.op.name === "attention")
    return (
      writesBfloat16(v) &&
      all.every(
        (use) => rounds(use) || (use.node.op.name === "attention_grad" && use.input === 1 + operandsOf(use.node)),
      )
    );
  if (v.node!.op.name === "convolution" || v.node!.op.name === "batch_norm")
    return writesBfloat16(v) && all.every((use) => rounds(use) || isNormalised(use));
  if (!isLinear(v)) return false;
  return all.every(
    (use) =>
      (carriesHeads(use) && manyQueries(use.node)) ||
      rounds(use) ||
      activations.has(use.node.op.name) ||
      (activationGradients.has(use.node.op.name) && use.input === 1) ||
      use.node.op.name === "multiply",
  );
}

/** A product, with or without a bias. */
function isLinear(v: Value): boolean {
  const node = v.node!;
  if (node.op.name === "dot_general") return node.inputs.every((x) => x.dtype === "f32");
  if (node.op.name !== "add") return false;
  const [a, b] = node.inputs as [Value, Value];
  const isProduct = (x: Value) => viewed(x).node?.op.name === "dot_general";
  const isBias = (x: Value) => x.node?.op.name === "broadcast_in_dim";
  return (isProduct(a) && isBias(b)) || (isProduct(b) && isBias(a));
}

function* rewriting(graph: Graph, reasons: ReadonlyMap<Value, Reason>): Sliced<Graph> {
  const out = new Graph();
  const wide = new Map<Value, Value>();
  const narrow = new Map<Value, Value>();
  for (const v of graph.inputs) wide.set(v, out.input(v));

  /** The value as bf16, through the reshapes between. */
  const asNarrow = (v: Value): Value => {
    const known = narrow.get(v);
    if (known) return known;
    const made = reshaped(asNarrow(v.node!.inputs[0]!), v);
    narrow.set(v, made);
    return made;
  };
  /** The value as f32. One that lies in memory as bf16 is converted anew for every reader: conversions are free inside of regions. */
  const asWide = (v: Value, reader?: Node): Value => {
    const known = wide.get(v);
    if (known) return known;
    if (reasons.has(viewed(v))) return convert(asNarrow(v), "f32", reader ?? v.node!);
    const made = reshaped(asWide(v.node!.inputs[0]!), v);
    wide.set(v, made);
    return made;
  };
  const convert = (x: Value, dtype: "f32" | "bf16", at: Node): Value =>
    out.add(findOp("convert"), [x], { dtype }, [{ dtype, shape: x.shape }], { scope: at.scope, region: at.region })
      .outputs[0]!;
  const reshaped = (from: Value, to: Value): Value =>
    out.add(findOp("reshape"), [from], { shape: to.shape }, [{ dtype: from.dtype, shape: to.shape }], {
      scope: to.node!.scope,
      region: to.node!.region,
    }).outputs[0]!;

  for (const node of graph.nodes) {
    yield;
    if (node.op.name === "reshape") continue; // made where it is needed, in the type that is needed
    const inputs = node.inputs.map((v, input) => {
      const root = viewed(v);
      const use = { node, input };
      const takes =
        reasons.has(root) &&
        (rounds(use) ||
          carriesHeads(use) ||
          isAttended(use) ||
          isNormalised(use) ||
          takesResultGradient(use) ||
          takesGradient(use) ||
          isBase(use));
      return takes ? asNarrow(v) : asWide(v, node);
    });
    const direct = node.outputs.map((v) => reasons.has(v) && !node.op.elementwise && writesBfloat16(v));
    const fresh = out.add(
      node.op,
      inputs,
      node.attributes,
      node.outputs.map((v, i) => ({ dtype: direct[i] ? ("bf16" as const) : v.dtype, shape: v.shape })),
      { bodies: node.bodies, data: node.data, scope: node.scope, region: node.region },
    );
    node.outputs.forEach((v, i) => {
      const made = fresh.outputs[i]!;
      const reason = reasons.get(v);
      if (!reason) {
        wide.set(v, made);
        return;
      }
      narrow.set(v, direct[i] ? made : convert(made, "bf16", node));
      // Sums beside the products read the value before it is rounded; what is held, everybody reads rounded.
      if (reason === "rounded" && !direct[i]) wide.set(v, made);
    });
  }
  out.outputs = graph.outputs.map((v) => asWide(v));
  return dropDead(out);
}

/** The result of attention, which its gradient reads. */
function isAttended({ node, input }: Use): boolean {
  return node.op.name === "attention_grad" && input === 1 + operandsOf(node);
}

/** What an embedding's gradient is added onto. */
function isBase({ node, input }: Use): boolean {
  return node.op.name === "embedding_grad" && input === 2;
}
