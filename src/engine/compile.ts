import type { Attributes, Aval, Graph } from "../tensor/graph.ts";
import { fuseElementwise } from "./passes/fuse.ts";
import { mergeLossAndGradient } from "./passes/merge.ts";
import { fusePacked } from "./passes/packed.ts";
import { plan } from "./passes/plan.ts";
import { simplify } from "./passes/simplify.ts";
import type { Backend, Program } from "./program.ts";

export interface LowerOptions {
  /** One per input of the graph: whether the call may consume it. */
  readonly donated?: readonly boolean[];
  readonly matmul: "f32" | "bf16";
  /** Off: no pass but decomposition and the memory plan. For tests. */
  readonly optimize?: boolean;
}

export type Capabilities = Pick<Backend, "supports">;

/** Graph to optimised graph: what `explain` shows and `plan` gives memory to. */
export function optimize(graph: Graph, backend: Capabilities, options: LowerOptions): Graph {
  const supports = (op: string, attributes: Attributes, inputs: readonly Aval[]) =>
    backend.supports(
      op,
      attributes,
      inputs.map((v) => v.dtype),
    );
  const on = options.optimize ?? true;
  let g = simplify(graph, { supports, optimize: on });
  if (!on) return g;
  if (backend.supports("linear_cross_entropy_value_and_grad", {}, ["f32"])) g = mergeLossAndGradient(g);
  if (backend.supports("quantized_linear", {}, ["f32"])) g = fusePacked(g);
  if (backend.supports("fused_elementwise", {}, ["f32"])) g = fuseElementwise(g);
  return g;
}

/** Graph to program: passes, then memory. Loop bodies are programs of their own. */
export function lower(graph: Graph, backend: Capabilities, options: LowerOptions): Program {
  return plan(optimize(graph, backend, options), {
    donated: options.donated ?? graph.inputs.map(() => false),
    matmul: options.matmul,
    body: (inner) => lower(inner, backend, { ...options, donated: inner.inputs.map(() => false) }),
  });
}
