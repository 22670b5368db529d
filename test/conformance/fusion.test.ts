import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { explain } from "../../src/engine/explain.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import { grad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { maximum } from "../../src/tensor/ops/elementwise.ts";
import { crossEntropy, linearCrossEntropy } from "../../src/tensor/ops/loss.ts";
import { gelu } from "../../src/tensor/ops/nn.ts";
import { max, min, sum } from "../../src/tensor/ops/reduction.ts";
import { installRuntime } from "../../src/tensor/runtime.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { difference, evaluate, generator, type Plain, put, reference } from "./support.ts";

checkLeaks();

const backend = loadNativeBackend();

function floats(seed: string, ...shape: number[]): Plain {
  const next = generator(seed);
  const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.fround(2 * next() - 1));
  return { dtype: "f32", shape, values };
}

type F = (...xs: Tensor[]) => readonly Tensor[];
const once = (f: F) => (xs: Tensor[]) => {
  const step = jit(f);
  const results = step(...xs);
  step.release();
  return results;
};
const sizes: readonly (readonly number[])[] = [
  [3, 5, 7],
  [2, 300, 129],
  [70, 3, 1000],
];

/** Programs with how many passes over memory are left: fused regions and reductions of their own. */
const programs: readonly (readonly [name: string, passes: number, f: F])[] = [
  ["a sum over rows of what also leaves", 1, (x, y) => [x!.mul(y!), sum(x!.mul(y!), [0, 1])]],
  ["a sum over columns of what nobody else needs", 1, (x, y) => [sum(x!.sub(y!).mul(x!), -1)]],
  ["the sum of everything, and its extremes", 1, (x, y) => [sum(x!.add(y!)), max(x!.add(y!)), min(x!.add(y!))]],
  ["the sum of an input that the region reads", 1, (x, y) => [x!.mul(y!), sum(x!, [0])]],
  ["sums over rows and over columns of one value", 2, (x, y) => [sum(x!.mul(y!), 0), sum(x!.mul(y!), 2)]],
  ["a middle axis", 2, (x, y) => [sum(x!.mul(y!), 1)]],
  ["a sum that comes back", 2, (x, y) => [x!.mul(y!).mul(sum(x!.mul(y!), -1, { keep: true }))]],
  ["a sum of an input that the region waits for", 2, (x, y) => [maximum(x!.mul(sum(x!, 0, { keep: true })), y!)]],
  ["a bias and its gradient", 2, (x, y) => grad([x!, sum(y!, [0, 1])], ([a, b]) => gelu(a!.add(b!)).sum())],
];

describe.skipIf("missing" in backend)("reductions at the end of a region", () => {
  if ("missing" in backend) return;

  test.each(programs)("%s", async (_name, passes, f) => {
    for (const shape of sizes) {
      const inputs = [floats("a", ...shape), floats("b", ...shape)];
      const run = once(f);
      const got = await evaluate(createRuntime(backend), inputs, run);
      const wanted = await evaluate(reference, inputs, run);
      expect(difference(got, wanted, 1e-5, "whole"), `shape ${shape}`).toBeUndefined();
    }
    const before = installRuntime(createRuntime(backend));
    const xs = [put(floats("a", 3, 5, 7)), put(floats("b", 3, 5, 7))];
    const plan = explain((...ys: Tensor[]) => f(...ys), xs, { backend });
    dispose(xs);
    if (before) installRuntime(before);
    expect(plan.ops.length, plan.toString()).toBe(passes);
  });
});

const targets: Plain = { dtype: "i32", shape: [4], values: [0, -1, 9, 5] };
const losses: readonly (readonly [string, F])[] = [
  ["cross_entropy", (h, w, t) => [crossEntropy(h!.matmul(w!.transpose()), t!)]],
  ["linear_cross_entropy", (h, w, t) => [linearCrossEntropy(h!, w!, t!)]],
  [
    "linear_cross_entropy_value_and_grad",
    (h, w, t) => grad([h!, w!], ([a, b]) => linearCrossEntropy(a!, b!, t!).sum()),
  ],
];

describe("targets that name no class", () => {
  test.skipIf("missing" in backend).each(losses)(
    "%s fails on the native backend, naming row and value",
    async (name, f) => {
      if ("missing" in backend) return;
      const inputs = [floats("h", 4, 6), floats("w", 8, 6), targets];
      const failed = evaluate(createRuntime(backend), inputs, (xs) => {
        const step = jit(f);
        const results = step(...xs);
        step.release();
        return results;
      });
      await expect(failed).rejects.toThrow(BackendError);
      await expect(failed).rejects.toThrow(new RegExp(`^${name}.*row 2 is 9, but there are 8 classes`));
      await backend.sync().catch(() => {});
    },
  );

  test("are NaN where the loss is decomposed; ignored rows are 0", async () => {
    const inputs = [floats("h", 4, 6), floats("w", 8, 6), targets];
    const [loss] = await evaluate(
      reference,
      inputs,
      once((h, w, t) => [linearCrossEntropy(h!, w!, t!)]),
    );
    expect(loss!.values.map(Number.isNaN)).toEqual([false, false, true, false]);
    expect(loss!.values[1]).toBe(0);
  });
});
