import type { DType } from "../../../tensor/dtype.ts";
import type { Aval } from "../../../tensor/graph.ts";
import type { Attributes } from "../../program.ts";

/** Ops whose kernels compute in f32 only; some take i32 operands beside (ids, targets, intervals, keys). */
const f32Only = new Set([
  "softmax",
  "softmax_grad",
  "log_softmax",
  "log_softmax_grad",
  "layer_norm",
  "layer_norm_grad",
  "rms_norm",
  "rms_norm_grad",
  "batch_norm",
  "batch_norm_grad",
  "lstm",
  "lstm_grad",
  "rotary",
  "attention",
  "attention_grad",
  "cross_entropy",
  "cross_entropy_grad",
  "linear_cross_entropy",
  "linear_cross_entropy_grad",
  "linear_cross_entropy_value_and_grad",
  "sample_token",
  "pack_weight",
  "embedding",
  "embedding_grad",
  "adamw",
  "global_norm",
]);

/** Ops whose kernels read packed weights (bf16, u8) and compute in f32. */
const packed = new Set(["quantized_linear", "quantized_embedding"]);

/** Whether the kernel of that name takes operands of these dtypes. */
export function supportsOp(op: string, _attributes: Attributes, dtypes: readonly DType[]): boolean {
  if (dtypes.includes("f64")) return false;
  if (packed.has(op))
    return dtypes
      .slice(0, 1)
      .concat(dtypes.slice(3))
      .every((d) => d === "f32" || d === "i32");
  return !f32Only.has(op) || dtypes.every((dtype) => dtype === "f32" || dtype === "i32");
}

/** What the kernels reserve (native/src/nn.hpp, `logit_bytes`), where it is much; another number costs memory, not correctness. */
export function workspaceOf(op: string, [h, w]: readonly Aval[], matmul: "f32" | "bf16"): number {
  if (!op.startsWith("linear_cross_entropy")) return 0;
  const [rows, classes] = [h!.shape[0]!, Math.ceil(w!.shape[0]! / 16) * 16];
  const byBlocks = op !== "linear_cross_entropy" && matmul === "bf16" && w!.shape[0]! >= 4096;
  const fitting = Math.floor(2 ** 21 / Math.max(classes, 16) / 64) * 64;
  return Math.min(byBlocks ? 512 : Math.max(fitting, 256), Math.max(rows, 1)) * classes * (byBlocks ? 2 : 4);
}
