import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/checkpoint/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { loadResNet, saveResNet, type TrainedResNet } from "../../src/models/index.ts";
import { writeMapped } from "../../src/models/mapping.ts";
import { resNetMapping } from "../../src/models/resnet/convert.ts";
import { GRU, LSTM, RecurrentWeights } from "../../src/nn/index.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { crossEntropy } from "../../src/tensor/ops/loss.ts";
import { sliceAxis } from "../../src/tensor/ops/structure.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { distance } from "../helpers/distance.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const path = (name: string) => new URL(`layers/${name}.safetensors`, import.meta.url).pathname;

/** Our names of a layer's weights, PyTorch's. */
const names = { input: "weight_ih", hidden: "weight_hh", inputBias: "bias_ih", hiddenBias: "bias_hh" } as const;

/** Two layers' states, stacked by PyTorch along the first axis. */
const layerOf = (state: Tensor, i: number) => sliceAxis(state, 0, i, i + 1).reshape(...state.shape.slice(1));

describe.each(backends.map((b) => [b.name, b] as const))("on %s", (_name, backend) => {
  const expected = new Map<string, Map<string, Tensor>>();
  let trained: TrainedResNet;
  const numbers = async (file: string, key: string) => (await expected.get(file)!.get(key)!.data()) as Float32Array;

  beforeAll(async () => {
    useBackend(backend);
    for (const file of ["lstm", "gru", "resnet.expected"]) expected.set(file, await readSafetensors(path(file)));
    trained = await loadResNet(path("resnet"));
  });
  afterAll(() => {
    for (const file of expected.values()) dispose([...file.values()]);
    dispose(trained);
  });
  checkLeaks();

  const weightsOf = (file: string) =>
    [0, 1].map((i) => {
      const part = (name: string) => expected.get(file)!.get(`parameters.${name}_l${i}`)!;
      return new RecurrentWeights(part("weight_ih"), part("weight_hh"), part("bias_ih"), part("bias_hh"));
    });
  const compare = async (file: string, found: Record<string, Tensor>) => {
    const far: string[] = [];
    for (const [key, tensor] of Object.entries(found)) {
      const d = distance(await tensor.data(), await numbers(file, key));
      if (!(d < 2e-5)) far.push(`${key}: ${d}`);
    }
    expect(far).toEqual([]);
  };
  const byName = (gradients: { layers: readonly RecurrentWeights[] }) =>
    Object.fromEntries(
      gradients.layers.flatMap((layer, i) =>
        Object.entries(names).map(([ours, theirs]) => [
          `gradients.${theirs}_l${i}`,
          layer[ours as keyof typeof names] as Tensor,
        ]),
      ),
    );

  test("an LSTM's outputs, last states and gradients are those of PyTorch", async () => {
    const t = expected.get("lstm")!;
    const given = Object.fromEntries(["x", "h0", "c0", "weigh.y", "weigh.h", "weigh.c"].map((k) => [k, t.get(k)!]));
    const step = jit((model: LSTM, given: Record<string, Tensor>) =>
      valueAndGrad({ model, x: given.x!, h0: given.h0!, c0: given.c0! }, ({ model, x, h0, c0 }) => {
        const states = [0, 1].map((i) => ({ h: layerOf(h0, i), c: layerOf(c0, i) }));
        const [y, last] = model.forward(x, states);
        const ends = last.flatMap(({ h, c }, i) => [
          h.mul(layerOf(given["weigh.h"]!, i)).sum(),
          c.mul(layerOf(given["weigh.c"]!, i)).sum(),
        ]);
        return [ends.reduce((a, b) => a.add(b), y.mul(given["weigh.y"]!).sum()), { y, last }] as const;
      }),
    );
    const [loss, g, { y, last }] = step(new LSTM(weightsOf("lstm")), given);
    await compare("lstm", { y, dx: g.x, dh0: g.h0, dc0: g.c0, ...byName(g.model) });
    expect(distance(await last[1]!.c.data(), (await numbers("lstm", "c")).subarray(18))).toBeLessThan(2e-5);
    dispose([loss, g, y, last]);
    step.release();
  });

  test("a GRU's outputs and gradients are those of PyTorch", async () => {
    const t = expected.get("gru")!;
    const given = Object.fromEntries(["x", "h0", "weigh.y", "weigh.h"].map((k) => [k, t.get(k)!]));
    const step = jit((model: GRU, given: Record<string, Tensor>) =>
      valueAndGrad({ model, x: given.x!, h0: given.h0! }, ({ model, x, h0 }) => {
        const [y, last] = model.forward(x, [layerOf(h0, 0), layerOf(h0, 1)]);
        const ends = last.map((h, i) => h.mul(layerOf(given["weigh.h"]!, i)).sum());
        return [ends.reduce((a, b) => a.add(b), y.mul(given["weigh.y"]!).sum()), y] as const;
      }),
    );
    const [loss, g, y] = step(new GRU(weightsOf("gru")), given);
    await compare("gru", { y, dx: g.x, dh0: g.h0, ...byName(g.model) });
    dispose([loss, g, y]);
    step.release();
  });

  test("a residual network's logits, gradients and running statistics are those of PyTorch", async () => {
    const t = expected.get("resnet.expected")!;
    const given = { images: t.get("images")!, labels: t.get("labels") as Tensor<"i32"> };
    const step = jit(({ model, statistics }: TrainedResNet, { images, labels }: typeof given) => {
      const [loss, gradients, more] = valueAndGrad(model, (m) => {
        const [logits, next] = m.forward(images, statistics, { training: true });
        return [crossEntropy(logits, labels).mean(), { logits, statistics: next }] as const;
      });
      const [evaluated] = model.forward(images, more.statistics, { training: false });
      return { loss, gradients, evaluated, ...more };
    });
    const out = step(trained, given);
    await compare("resnet.expected", { logits: out.logits, loss: out.loss, evaluated: out.evaluated });
    const mapping = resNetMapping(trained.model.config);
    const named = writeMapped({ model: out.gradients, statistics: out.statistics }, mapping);
    const far: string[] = [];
    for (const [name, tensor] of named) {
      const key = `${name.includes("running") ? "statistics" : "gradients"}.${name}`;
      const d = distance(await tensor.data(), await numbers("resnet.expected", key));
      if (!(d < 1e-4)) far.push(`${key}: ${d}`);
    }
    expect(far).toEqual([]);
    expect(named.size).toBe([...t.keys()].filter((key) => /^(gradients|statistics)\./.test(key)).length);
    dispose(out);
    step.release();
  });

  test("a residual network that is saved is loaded again, bit for bit", async () => {
    const folder = await mkdtemp(join(tmpdir(), "howdah-resnet-"));
    try {
      await saveResNet(trained, join(folder, "model.safetensors"));
      const again = await loadResNet(join(folder, "model.safetensors"));
      const copies = new Map(leaves(again).map(({ path, tensor }) => [path, tensor]));
      for (const { path, tensor } of leaves(trained))
        expect(await copies.get(path)!.data()).toEqual(await tensor.data());
      expect(again.model.config).toEqual(trained.model.config);
      dispose(again);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
