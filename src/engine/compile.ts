import type { Attributes, Aval, Graph } from "../tensor/graph.ts";
import { fuseEpilogues } from "./passes/epilogue.ts";
import { placeFills } from "./passes/fill.ts";
import { fusingElementwise } from "./passes/fuse.ts";
import { accumulateEmbeddings, mergeLossAndGradient } from "./passes/merge.ts";
import { narrowingToBfloat16 } from "./passes/narrow.ts";
import { fusePacked } from "./passes/packed.ts";
import { planning } from "./passes/plan.ts";
import { type RecomputeOptions, recomputing } from "./passes/recompute.ts";
import { simplifying } from "./passes/simplify.ts";
import type { Backend, Program } from "./program.ts";
import { type Sliced, whole } from "./slices.ts";

export interface LowerOptions {
  /** One per input of the graph: whether the call may consume it. */
  readonly donated?: readonly boolean[];
  readonly matmul: "f32" | "bf16";
  /** Off: no pass but decomposition and the memory plan. For tests. */
  readonly optimize?: boolean;
  /**
   * What is kept as bf16 where products are in bf16: nothing; what changes no bit; or also what the backward pass and the optimizer read
   * (default).
   */
  readonly bfloat16?: "none" | "exact" | "held";
  /** What is computed again instead of kept; false: nothing. */
  readonly recompute?: RecomputeOptions | false;
}

export type Capabilities = Pick<Backend, "supports" | "workspace" | "prefersBfloat16">;

/** Graph to optimised graph: what `explain` shows and `plan` gives memory to. */
export function optimize(graph: Graph, backend: Capabilities, options: LowerOptions): Graph {
  return whole(optimizing(graph, backend, options));
}

function* optimizing(graph: Graph, backend: Capabilities, options: LowerOptions): Sliced<Graph> {
  const supports = (op: string, attributes: Attributes, inputs: readonly Aval[]) =>
    backend.supports(
      op,
      attributes,
      inputs.map((v) => v.dtype),
    );
  const on = options.optimize ?? true;
  let g = yield* simplifying(graph, { supports, optimize: on });
  if (!on) return g;
  yield;
  if (backend.supports("linear_cross_entropy_value_and_grad", {}, ["f32"])) g = mergeLossAndGradient(g);
  yield;
  if (backend.supports("quantized_linear", {}, ["f32"])) g = fusePacked(g);
  yield;
  if (backend.supports("embedding_grad", {}, ["f32", "i32", "f32"])) g = accumulateEmbeddings(g);
  yield;
  const { bfloat16 = "held" } = options;
  if (options.matmul === "bf16" && backend.prefersBfloat16 && bfloat16 !== "none")
    g = yield* narrowingToBfloat16(g, { held: bfloat16 === "held", gradients: bfloat16 === "held" });
  if (options.recompute !== false) g = yield* recomputing(g, options.recompute);
  yield;
  if (backend.supports("fused_elementwise", {}, ["f32"])) {
    g = fuseEpilogues(g, supports, { sums: false });
    yield;
    g = yield* fusingElementwise(g);
  }
  if (backend.supports("constant", {}, [])) g = placeFills(g);
  return g;
}

/** Graph to program: passes, then memory. Loop bodies are programs of their own. */
export function lower(graph: Graph, backend: Capabilities, options: LowerOptions): Program {
  return whole(lowering(graph, backend, options));
}

/** As `lower`, to be done in slices. */
export function* lowering(graph: Graph, backend: Capabilities, options: LowerOptions): Sliced<Program> {
  return yield* planning(yield* optimizing(graph, backend, options), {
    donated: options.donated ?? graph.inputs.map(() => false),
    matmul: options.matmul,
    fills: (options.optimize ?? true) && backend.supports("constant", {}, []),
    workspace: (node) => backend.workspace?.(node.op.name, node.inputs, options.matmul) ?? 0,
    body: (inner, donated) => lowering(inner, backend, { ...options, donated }),
  });
}
