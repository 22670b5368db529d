import { expect, test } from "vitest";
import { explain, ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import { grad } from "../../src/tensor/grad.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";

test("explain prints the ops, shapes, operations and memory of the program without running it", () => {
  useBackend(new ReferenceBackend());
  const x = tensor(new Float32Array(8 * 16), { shape: [8, 16] });
  const w = tensor(new Float32Array(4 * 16), { shape: [4, 16] });
  const told = explain((a: Tensor, b: Tensor) => a.matmul(b.transpose()).square().sum(), [x, w]);
  // The transpose is folded into the product: 2 * 8 * 16 * 4 operations, no kernel of its own.
  expect(told.ops.map((o) => o.op)).toEqual(["dot_general", "multiply", "reduce"]);
  expect(told.ops[0]).toMatchObject({ flops: 1024, inputs: ["f32(8, 16)", "f32(4, 16)"], outputs: ["f32(8, 4)"] });
  expect(told.memory).toMatchObject({ inputs: (8 * 16 + 4 * 16) * 4, outputs: 4 });
  expect(String(told)).toMatch(/dot_general\s+f32\(8, 16\) f32\(4, 16\) -> f32\(8, 4\)/);
  // At most the product and its square: an operand that is read twice is not overwritten.
  expect(told.memory.peak).toMatchObject({
    bytes: 256,
    op: "multiply",
    holders: [
      { bytes: 128, count: 1, op: "dot_general", value: "f32(8, 4)" },
      { bytes: 128, count: 1, op: "multiply", value: "f32(8, 4)" },
    ],
  });
  expect(String(told)).toMatch(/most at once: 256B at multiply\nthe arena is 0\.0 % larger/);
  const backward = explain((a: Tensor, b: Tensor) => grad(b, (c) => a.matmul(c.transpose()).square().sum()), [x, w]);
  expect(backward.flops).toBeGreaterThan(2 * told.ops[0]!.flops - 1);
  x.dispose();
  w.dispose();
});
