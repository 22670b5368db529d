import { afterEach, describe, expect, test } from "vitest";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import type { RuntimeOptions } from "../../src/engine/runtime.ts";
import {
  initResNet,
  initResNetStatistics,
  type ResNet,
  type ResNetConfig,
  type ResNetStatistics,
} from "../../src/models/index.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { crossEntropy } from "../../src/tensor/ops/loss.ts";
import { normal, randomKey } from "../../src/tensor/ops/random.ts";
import type { Precision } from "../../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { tensors } from "../../src/tensor/tree.ts";

const native = loadNativeBackend();
const hasBfloat16 = !("missing" in native) && native.facts.bf16;
const config: ResNetConfig = { classes: 10, channels: 3, blocks: 2, widths: [16, 24] };
const batch = 12;

interface Result {
  readonly loss: number;
  readonly gradients: number[][];
}

/** Loss and gradients of one batch of pictures of 14 x 14. */
async function gradients(options: RuntimeOptions, precision: Precision = "bf16"): Promise<Result> {
  if ("missing" in native) throw new Error(native.missing);
  useBackend(native, options);
  const key = randomKey(3);
  const model = initResNet(config, key);
  const running = initResNetStatistics(config);
  const images = normal(key, [batch, 14, 14, 3]);
  const labels = tensor(
    Int32Array.from({ length: batch }, (_, i) => (i * 7) % 10),
    { dtype: "i32", shape: [batch] },
  );
  const f = jit(
    (m: ResNet, statistics: ResNetStatistics, x: Tensor, y: Tensor<"i32">) =>
      valueAndGrad(m, (p) => crossEntropy(p.forward(x, statistics, { training: true })[0], y).mean()),
    { precision },
  );
  const [loss, grads] = f(model, running, images, labels);
  const all = await Promise.all(tensors(grads).map(async (t) => Array.from(await t.data()) as number[]));
  const value = await loss.item();
  for (const t of tensors([key, model, running, images, labels, loss, grads])) t.dispose();
  f.release();
  return { loss: value, gradients: all };
}

/** |a - b| / |b| over all gradients together. */
function distance(a: Result, b: Result): number {
  const [x, y] = [a.gradients.flat(), b.gradients.flat()];
  const norm = (v: readonly number[]) => Math.sqrt(v.reduce((sum, e) => sum + e * e, 0));
  return norm(x.map((v, i) => v - y[i]!)) / norm(y);
}

describe.runIf(hasBfloat16)("convolutions and batch norms whose results lie in memory as bf16", () => {
  afterEach(() => {
    if (!("missing" in native)) useBackend(native);
  });

  test("change no bit where convolutions round them anyway", async () => {
    expect(await gradients({ bfloat16: "exact" })).toEqual(await gradients({ bfloat16: "none" }));
  });

  test("move loss and gradients by no more than bf16 products do", async () => {
    const [wide, held, exact] = [
      await gradients({ bfloat16: "none" }),
      await gradients({}),
      await gradients({}, "f32"),
    ];
    expect(Math.abs(held.loss - wide.loss)).toBeLessThan(5e-3 * wide.loss);
    expect(distance(held, wide)).toBeGreaterThan(0);
    expect(distance(held, wide)).toBeLessThan(1.5 * distance(wide, exact));
    expect(distance(held, exact)).toBeLessThan(3e-2);
  });
});
