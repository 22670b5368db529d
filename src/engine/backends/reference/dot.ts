import { fromBfloat16, toBfloat16 } from "../../../tensor/dtype.ts";
import { strides } from "../../../tensor/shape.ts";
import { type Call, type Kernels, list, type Numbers, type Operand, offsets, others, pick } from "./kernel.ts";

/** The operand of a matrix product: f32 rounded to bf16 where the program asks for it, everything else as it is. */
export function matmulOperand(x: Operand, matmul: "f32" | "bf16"): Numbers {
  if (matmul === "f32" || x.dtype !== "f32") return x.data;
  return x.data.map((value) => fromBfloat16(toBfloat16(value))) as Numbers;
}

/** An operand as (batch, rows, inner), whatever the order of its axes. */
function pack(
  x: Operand,
  matmul: "f32" | "bf16",
  batch: readonly number[],
  rows: readonly number[],
  inner: readonly number[],
): Float64Array {
  const order = [...batch, ...rows, ...inner];
  const at = offsets(pick(x.shape, order), pick(strides(x.shape), order));
  const from = matmulOperand(x, matmul);
  const out = new Float64Array(at.length);
  for (let i = 0; i < at.length; i++) out[i] = from[at[i]!]!;
  return out;
}

const count = (sizes: readonly number[]): number => sizes.reduce((n, d) => n * d, 1);

function dotGeneral({ inputs: [a, b], outputs: [y], attributes, matmul }: Call): void {
  const batches = [list(attributes.lhs_batch), list(attributes.rhs_batch)] as const;
  const inner = [list(attributes.lhs_contract), list(attributes.rhs_contract)] as const;
  const freeA = others(a!.shape.length, [...batches[0], ...inner[0]]);
  const freeB = others(b!.shape.length, [...batches[1], ...inner[1]]);
  const left = pack(a!, matmul, batches[0], freeA, inner[0]); // (batch, m, k)
  const right = pack(b!, matmul, batches[1], freeB, inner[1]); // (batch, n, k)
  const [m, n, k] = [count(pick(a!.shape, freeA)), count(pick(b!.shape, freeB)), count(pick(a!.shape, inner[0]))];
  const batch = count(pick(a!.shape, batches[0]));
  const integer = y!.dtype === "i32" || y!.dtype === "u8" || y!.dtype === "i8";
  let at = 0;
  for (let p = 0; p < batch; p++)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        const [l, r] = [(p * m + i) * k, (p * n + j) * k];
        let total = 0;
        if (integer) for (let s = 0; s < k; s++) total = (total + Math.imul(left[l + s]!, right[r + s]!)) | 0;
        else for (let s = 0; s < k; s++) total += left[l + s]! * right[r + s]!;
        y!.data[at++] = total;
      }
}

export const dotKernels: Kernels = { dot_general: dotGeneral };
