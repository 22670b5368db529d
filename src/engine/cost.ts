import { bytesPerElement, type DType } from "../tensor/dtype.ts";
import type { Attributes, Aval } from "../tensor/graph.ts";
import { findOp } from "../tensor/op.ts";
import { size } from "../tensor/shape.ts";
import { fusedOp } from "./passes/fuse.ts";
import type { Instruction, Program } from "./program.ts";

/** What one call of an instruction takes, if nothing stays in a cache. */
export interface Cost {
  readonly flops: number;
  /** Read and written. */
  readonly bytes: number;
  /** What its products are made of. */
  readonly type: "f32" | "bf16";
}

export const bytesOf = (v: { readonly dtype: DType; readonly shape: readonly number[] }): number =>
  size(v.shape) * bytesPerElement(v.dtype);

/** `f32(8, 64, 384)` */
export const describeValue = (v: { readonly dtype: string; readonly shape: readonly number[] }): string =>
  `${v.dtype}(${v.shape.join(", ")})`;

/** The op's name; of a fused region also what it is made of. */
export function describeOp(op: string, attributes: Attributes): string {
  if (op !== fusedOp.name) return op;
  return `fused: ${(attributes.nodes as readonly { op: string }[]).map((node) => node.op).join(" ")}`;
}

/** Ops that touch of their first operand only as much as they give. */
const picking = new Set(["gather", "embedding", "slice", "dynamic_slice", "take_along_axis"]);
/** Ops that write into their first operand where it lies. */
const patching = new Set(["dynamic_update_slice", "scatter", "scatter_add"]);
/** Ops whose kernels multiply in the program's matmul type. */
const multiplying = /^(dot_general|convolution|attention|linear_cross_entropy)/;

export function costOf(program: Program, { op, inputs, outputs, attributes }: Instruction): Cost {
  const given: Aval[] = inputs.map((id) => program.values[id]!);
  const made: Aval[] = outputs.map((id) => program.values[id]!);
  // A copy is made by the plan: no op of the language.
  const rule = op === fusedOp.name ? fusedOp : op === "copy" ? undefined : findOp(op);
  const sum = (values: readonly Aval[]) => values.reduce((n, v) => n + bytesOf(v), 0);
  let bytes = sum(given) + sum(made);
  if (picking.has(op)) bytes = sum(given.slice(1)) + 2 * sum(made);
  if (patching.has(op)) bytes = 2 * sum(given.slice(1));
  return {
    flops: rule?.flops?.(given, made, attributes) ?? 0,
    bytes,
    type: multiplying.test(op) ? program.matmul : "f32",
  };
}
