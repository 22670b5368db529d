import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import type { Backend } from "../../src/engine/program.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { DTypeError, HowdahError } from "../../src/tensor/errors.ts";
import { grad } from "../../src/tensor/grad.ts";
import type { Attributes } from "../../src/tensor/graph.ts";
import { jit } from "../../src/tensor/jit.ts";
import { attention } from "../../src/tensor/ops/attention.ts";
import { batchNorm } from "../../src/tensor/ops/batch-norm.ts";
import { conv1d, conv2d, convTranspose2d } from "../../src/tensor/ops/convolution.ts";
import { cumprod, cumsum } from "../../src/tensor/ops/cumulative.ts";
import { dotGeneral } from "../../src/tensor/ops/dot.ts";
import { crossEntropy, linearCrossEntropy } from "../../src/tensor/ops/loss.ts";
import { embedding, gelu, softmax } from "../../src/tensor/ops/nn.ts";
import { layerNorm, rmsNorm } from "../../src/tensor/ops/norm.ts";
import { argmax, argsort, sort, topK } from "../../src/tensor/ops/sort.ts";
import { concatenate, pad, reverse } from "../../src/tensor/ops/structure.ts";
import { avgPool, maxPool } from "../../src/tensor/ops/window.ts";
import type { Precision, Runtime } from "../../src/tensor/runtime.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { apply } from "../../src/tensor/trace.ts";
import { allOps, type Op } from "../helpers/all-ops.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { NaiveRuntime } from "../helpers/naive-runtime.ts";
import { difference, evaluate, generator, materialize, type Plain, reference, withFloat } from "./support.ts";

checkLeaks();

const loaded = loadNativeBackend();
const missing = "missing" in loaded;
const backend = loaded as Backend;

const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
function floats(seed: string, ...shape: number[]): Plain {
  const next = generator(seed);
  return { dtype: "f32", shape, values: Array.from({ length: count(shape) }, () => Math.fround(2 * next() - 1)) };
}
function whole(seed: string, below: number, ...shape: number[]): Plain {
  const next = generator(seed);
  return { dtype: "i32", shape, values: Array.from({ length: count(shape) }, () => Math.floor(next() * below)) };
}

type Results = (...xs: Tensor[]) => readonly Tensor[];
const once =
  (f: Results, precision: Precision = "f32") =>
  (xs: Tensor[]): readonly Tensor[] => {
    const step = jit(f, { precision });
    const results = step(...xs);
    step.release();
    return results;
  };

/** Results and the gradients of a sum over them with weights that differ from element to element. */
const withGradients =
  (f: Results, variables: number): Results =>
  (...xs) => {
    const gradients = grad(xs.slice(0, variables), (ys) =>
      f(...ys, ...xs.slice(variables))
        .filter((y) => y.dtype === "f32")
        .reduce<Tensor>((total, y) => total.add(y.mul(y).mul(0.5).sum().add(y.sum())), xs[0]!.sum().mul(0)),
    );
    return [...f(...xs), ...gradients];
  };

/** Sizes past one tile, one vector, one thread; odd ones too. */
const large: [name: string, inputs: Plain[], variables: number, f: Results, tolerance?: number][] = [
  ["matmul 129 x 300 x 65", [floats("a", 129, 300), floats("b", 300, 65)], 2, (a, b) => [a!.matmul(b!)]],
  ["matmul of one row", [floats("a", 1, 700), floats("b", 700, 301)], 2, (a, b) => [a!.matmul(b!)]],
  ["matmul of one column", [floats("a", 301, 700), floats("b", 700, 1)], 2, (a, b) => [a!.matmul(b!)]],
  ["matmul with a long inner axis", [floats("a", 9, 4099), floats("b", 4099, 7)], 2, (a, b) => [a!.matmul(b!)]],
  ["outer product", [floats("a", 130, 1), floats("b", 1, 140)], 2, (a, b) => [a!.matmul(b!)]],
  ["batched matmul", [floats("a", 2, 3, 37, 20), floats("b", 2, 3, 20, 41)], 2, (a, b) => [a!.matmul(b!)]],
  [
    "dot over two axes of a transposed operand",
    [floats("a", 6, 33, 10), floats("b", 10, 17, 6)],
    2,
    (a, b) => [dotGeneral(a!, b!, { lhs_batch: [], rhs_batch: [], lhs_contract: [0, 2], rhs_contract: [2, 0] })],
  ],
  [
    "a linear layer with bias and GELU",
    [floats("x", 70, 96), floats("w", 130, 96), floats("b", 130)],
    3,
    (x, w, b) => [gelu(x!.matmul(w!.transpose()).add(b!), { approximate: "tanh" })],
  ],
  [
    "sums over each axis",
    [floats("x", 33, 70, 41)],
    1,
    (x) => [x!.sum(0), x!.sum(1), x!.sum(2), x!.sum([0, 2]), x!.sum()],
    1e-4,
  ],
  ["maxima", [floats("x", 33, 70, 41)], 1, (x) => [x!.max(0), x!.max(1), x!.max(2), x!.min([0, 1])]],
  [
    "transposes",
    [floats("x", 17, 33, 29)],
    1,
    (x) => [x!.transpose(2, 1, 0), x!.transpose(1, 0, 2), x!.transpose(0, 2, 1), x!.transpose(2, 0, 1).exp()],
  ],
  [
    "cuts and joins",
    [floats("x", 31, 47)],
    1,
    (x) => [
      concatenate([x!.slice(1, 3, 40), x!.slice(1, 0, 9), reverse(x!, [1])], 1),
      pad(x!, 2, [3, -2], [0, 5], [1, 0]),
    ],
  ],
  ["embedding and its gradient", [floats("t", 97, 33), whole("i", 97, 5, 60)], 1, (t, i) => [embedding(t!, i!)]],
  [
    "rows by index and their gradient",
    [floats("t", 50, 20), whole("i", 50, 400)],
    1,
    (t, i) => [t!.take(i!), t!.take(i!, 0).sum(1)],
  ],
  ["softmax", [floats("x", 37, 1003)], 1, (x) => [softmax(x!)]],
  [
    "layer norm",
    [floats("x", 65, 768), floats("s", 768), floats("b", 768)],
    3,
    (x, s, b) => [layerNorm(x!, s!, b!)],
    1e-4,
  ],
  ["RMS norm", [floats("x", 65, 768), floats("s", 768)], 2, (x, s) => [rmsNorm(x!, s!)], 1e-4],
  ["cross-entropy", [floats("x", 40, 1031), whole("t", 1031, 40)], 1, (x, t) => [crossEntropy(x!.mul(5), t!)]],
  [
    "linear cross-entropy",
    [floats("h", 70, 48), floats("w", 1031, 48), whole("t", 1031, 70)],
    2,
    (h, w, t) => [linearCrossEntropy(h!, w!, t!)],
  ],
  [
    "causal attention with grouped heads",
    [floats("q", 2, 150, 4, 32), floats("k", 2, 150, 2, 32), floats("v", 2, 150, 2, 32)],
    3,
    (q, k, v) => [attention(q!, k!, v!, { causal: true })],
  ],
  [
    "attention of one query over a cache",
    [floats("q", 3, 1, 4, 64), floats("k", 3, 333, 4, 64), floats("v", 3, 333, 4, 64)],
    3,
    (q, k, v) => [attention(q!, k!, v!, { causal: true })],
  ],
  [
    "conv2d, 3 x 3",
    [floats("x", 2, 16, 30, 31), floats("w", 24, 16, 3, 3)],
    2,
    (x, w) => [conv2d(x!, w!, { padding: 1 })],
  ],
  [
    "conv2d, stride 2, channels last",
    [floats("x", 2, 30, 29, 16), floats("w", 24, 16, 3, 3)],
    2,
    (x, w) => [conv2d(x!, w!, { stride: 2, padding: 1, channels: "last" })],
  ],
  [
    "conv2d, 3 x 3, narrow, channels last, several bands",
    [floats("x", 3, 29, 37, 18), floats("w", 16, 18, 3, 3)],
    2,
    (x, w) => [conv2d(x!, w!, { padding: [1, 2], channels: "last" })],
  ],
  [
    "conv2d, 3 x 5, small pictures, channels last",
    [floats("x", 21, 5, 6, 20), floats("w", 40, 20, 3, 5)],
    2,
    (x, w) => [conv2d(x!, w!, { padding: [0, 2], channels: "last" })],
  ],
  [
    "conv2d, 1 x 1, stride 3 and 2, channels last",
    [floats("x", 2, 13, 12, 20), floats("w", 40, 20, 1, 1)],
    2,
    (x, w) => [conv2d(x!, w!, { stride: [3, 2], channels: "last" })],
  ],
  [
    "conv2d, stride 3 beyond its window, channels last",
    [floats("x", 2, 17, 19, 9), floats("w", 16, 9, 2, 4)],
    2,
    (x, w) => [conv2d(x!, w!, { stride: 3, padding: [0, 2], channels: "last" })],
  ],
  ["conv2d, 1 x 1", [floats("x", 2, 33, 14, 14), floats("w", 40, 33, 1, 1)], 2, (x, w) => [conv2d(x!, w!)]],
  [
    "conv2d, depthwise",
    [floats("x", 2, 32, 20, 20), floats("w", 32, 1, 3, 3)],
    2,
    (x, w) => [conv2d(x!, w!, { groups: 32, padding: 1 })],
  ],
  [
    "conv1d, dilated",
    [floats("x", 3, 20, 200), floats("w", 30, 20, 5)],
    2,
    (x, w) => [conv1d(x!, w!, { dilation: 4, padding: "same" })],
  ],
  [
    "convTranspose2d",
    [floats("x", 2, 12, 11, 13), floats("w", 12, 9, 4, 4)],
    2,
    (x, w) => [convTranspose2d(x!, w!, { stride: 2, padding: 1 })],
  ],
  [
    "batch norm of 116 channels with a residual",
    [floats("x", 3, 7, 9, 116), floats("s", 116), floats("b", 116), floats("r", 3, 7, 9, 116)],
    4,
    (x, s, b, residual) => [batchNorm(x!, s!, b!, { residual: residual!, relu: true }).y],
  ],
  ["pooling", [floats("x", 2, 8, 33, 34)], 1, (x) => [maxPool(x!, 3, { stride: 2, padding: 1 }), avgPool(x!, 2)]],
  [
    "sorting",
    [floats("x", 7, 5003)],
    1,
    (x) => [sort(x!), sort(x!, 0, { descending: true }), argsort(x!), topK(x!, 50).values, argmax(x!)],
  ],
  [
    "cumulative",
    [floats("x", 11, 1500)],
    1,
    (x) => [cumsum(x!), cumsum(x!, 0, { reverse: true }), cumprod(x!, 0)],
    1e-4,
  ],
  [
    "a wide element-wise region with broadcasts",
    [floats("x", 61, 129), floats("r", 129), floats("c", 61, 1)],
    3,
    (x, r, c) => [x!.mul(r!).add(c!).tanh().mul(x!.sigmoid()).sub(r!.exp())],
  ],
];

describe.skipIf(missing)("native agrees with the reference beyond one tile", () => {
  test.each(large)("%s", async (_name, inputs, variables, f, tolerance = 1e-5) => {
    const g = withGradients(f, variables);
    const wanted = await evaluate(reference, inputs, once(g));
    expect(
      difference(await evaluate(createRuntime(backend), inputs, once(g)), wanted, tolerance, "whole"),
    ).toBeUndefined();
  });
});

// Processors without bf16 products keep f32 operands.
describe.skipIf(missing || !backend.prefersBfloat16)(
  "bf16 matmuls: native rounds the operands as the reference does",
  () => {
    const compiled = createRuntime(new ReferenceBackend());
    test.each(large.filter(([name]) => /matmul|linear layer|dot over/.test(name)))(
      "%s",
      async (_name, inputs, _v, f) => {
        const [wanted, got] = [
          await evaluate(compiled, inputs, once(f, "bf16")),
          await evaluate(createRuntime(backend), inputs, once(f, "bf16")),
        ];
        expect(difference(got, wanted, 2e-5, "whole")).toBeUndefined();
        const exact = await evaluate(compiled, inputs, once(f));
        expect(difference(wanted, exact, 1e-4, "whole"), "bf16 that changes nothing is not bf16").toBeDefined();
      },
    );
  },
);

const ranges = { i32: [-2147483648, 2147483647], u8: [0, 255], i8: [-128, 127], bool: [0, 1] } as const;

/** Whole numbers of a dtype, its extremes and small ones among them. */
function integers(dtype: keyof typeof ranges, seed: string, n: number): Plain {
  const next = generator(seed);
  const [low, high] = ranges[dtype];
  const values = Array.from({ length: n }, () => {
    const kind = next();
    if (kind < 0.1) return low;
    if (kind < 0.2) return high;
    if (kind < 0.5) return Math.min(Math.max(Math.floor(next() * 41) - 5, low), high);
    return low + Math.floor(next() * (high - low + 1));
  });
  return { dtype, shape: [n], values };
}

describe.skipIf(missing)("whole numbers: native agrees with the reference to the bit", () => {
  const native: Runtime = new NaiveRuntime(backend);
  const primitives = allOps().filter(
    (op) => op.elementwise && !op.decompose && (op.cases?.[0]?.inputs.length ?? 0) > 0,
  );
  const run = (runtime: Runtime, op: Op, inputs: readonly Plain[], attributes: Attributes) =>
    evaluate(runtime, inputs, (xs) => apply(op, xs, attributes));
  for (const op of primitives)
    for (const dtype of ["i32", "u8", "i8", "bool"] as const) {
      const c = op.cases![0]!;
      const inputs = c.inputs.map((_, i) =>
        integers(op.name === "select" && i === 0 ? "bool" : dtype, `${op.name} ${dtype} ${i}`, 203),
      );
      const variants: Attributes[] =
        op.name === "convert"
          ? (["f32", "bf16", "f16", "i32", "u8", "i8", "bool"] as const).map((to) => ({ dtype: to }))
          : op.name === "compare"
            ? ["EQ", "NE", "LT", "LE", "GT", "GE"].map((direction) => ({ direction }))
            : [c.attributes ?? {}];
      for (const attributes of variants) {
        try {
          op.infer(inputs, attributes, []);
        } catch (error) {
          if (error instanceof DTypeError) continue; // Not defined for this dtype.
          throw error;
        }
        test(`${op.name} of ${dtype} ${Object.values(attributes).join()}`, async () => {
          const dtypes = inputs.map((x) => x.dtype);
          expect(backend.supports(op.name, attributes, dtypes)).toBe(true);
          expect(
            difference(await run(native, op, inputs, attributes), await run(reference, op, inputs, attributes), 0),
          ).toBeUndefined();
        });
      }
    }
});

describe.skipIf(missing)("other dtypes: native agrees with the reference on every case", () => {
  const native: Runtime = new NaiveRuntime(backend);
  // Element-wise ops are tested above and in ops.test.ts.
  const primitives = allOps().filter((op) => !op.elementwise && !op.decompose && op.cases);
  for (const op of primitives)
    for (const dtype of ["bf16", "f16", "i32", "u8", "i8", "bool"] as const)
      op.cases!.forEach((c, index) => {
        if (!c.inputs.some((x) => (x.dtype ?? "f32") === "f32")) return;
        const next = generator(`${op.name} ${dtype} ${index}`);
        const real = dtype === "bf16" || dtype === "f16";
        const draw = () => (real ? 2 * next() - 1 : dtype === "bool" ? Math.floor(2 * next()) : Math.floor(7 * next()));
        const inputs = c.inputs.map((x): Plain => {
          if ((x.dtype ?? "f32") !== "f32") return materialize(x, next);
          return { dtype, shape: x.shape, values: Array.from({ length: count(x.shape) }, draw) };
        });
        const attributes = withFloat(c.attributes, dtype);
        try {
          op.infer(inputs, attributes, []);
        } catch (error) {
          if (error instanceof HowdahError) return; // Not defined for this dtype.
          throw error;
        }
        test(`${op.name} ${index} in ${dtype}`, async () => {
          const run = (runtime: Runtime) => evaluate(runtime, inputs, (xs) => apply(op, xs, attributes));
          // Sums in f32 may round to the neighbour once they become short.
          const unit = dtype === "bf16" ? 2 ** -7 : dtype === "f16" ? 2 ** -10 : 0;
          expect(difference(await run(native), await run(reference), unit)).toBeUndefined();
        });
      });
});

describe.skipIf(missing)("special numbers: native agrees with the reference", () => {
  const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
  const special = [
    0,
    -0,
    1,
    -1,
    0.5,
    -2.5,
    3,
    inf,
    -inf,
    nan,
    1e30,
    -1e30,
    1e-30,
    3.4e38,
    20,
    -20,
    87,
    -87,
    104,
    -104,
  ].map(Math.fround);
  const native: Runtime = new NaiveRuntime(backend);
  const plain = (values: number[]): Plain => ({ dtype: "f32", shape: [values.length], values });
  for (const op of allOps()) {
    const c = op.cases?.[0];
    // Fused kernels stay finite where their decompositions already overflow. Large angles are left to the tests of the kernels.
    if (
      !op.elementwise ||
      op.decompose ||
      !c ||
      c.inputs.some((x) => (x.dtype ?? "f32") !== "f32") ||
      /sine/.test(op.name)
    )
      continue;
    const inputs = {
      1: [plain(special)],
      2: [plain(special.flatMap((a) => special.map(() => a))), plain(special.flatMap(() => special))],
    }[c.inputs.length];
    if (!inputs) continue;
    test(op.name, async () => {
      const run = (runtime: Runtime) => evaluate(runtime, inputs, (xs) => apply(op, xs, c.attributes ?? {}));
      const [got, wanted] = [await run(native), await run(reference)];
      // One by one, so that a number is compared with its own size.
      const wrong = wanted[0]!.values.flatMap((y, i) => {
        const one = (p: Plain): Plain => ({ ...p, shape: [], values: [p.values[i]!] });
        const found = difference([one(got[0]!)], [one(wanted[0]!)], 4e-6);
        // Results too small for a normal f32 may be 0.
        if (found === undefined || (Math.abs(y) < 1.2e-38 && got[0]!.values[i] === 0)) return [];
        return [`of ${inputs.map((x) => x.values[i]).join(", ")}: ${found}`];
      });
      expect(wrong).toEqual([]);
    });
  }
});
