import type { DType } from "../../../tensor/dtype.ts";
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
