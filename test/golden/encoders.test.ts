import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/checkpoint/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { bertMapping } from "../../src/models/bert/convert.ts";
import { type Bert, loadEncoder, loadModel, maskedLanguageModelLoss, saveEncoder } from "../../src/models/index.ts";
import { writeMapped } from "../../src/models/mapping.ts";
import { bidirectionalIntervals } from "../../src/models/masks.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { distance } from "../helpers/distance.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const folder = new URL("encoders/bert", import.meta.url).pathname;

describe.each(backends.map((b) => [b.name, b] as const))("BERT on %s", (_name, backend) => {
  let model: Bert;
  let expected: Map<string, Tensor>;
  const numbers = async (key: string) => (await expected.get(key)!.data()) as Float32Array;
  const i32 = (key: string) => expected.get(key) as Tensor<"i32">;

  beforeAll(async () => {
    useBackend(backend);
    model = (await loadEncoder(folder)).model;
    expected = await readSafetensors(join(folder, "expected.safetensors"));
  });
  afterAll(() => {
    dispose(model);
    dispose([...expected.values()]);
  });
  checkLeaks();

  test("hidden states, pooled vector and logits are those of transformers", async () => {
    const forward = jit((m: Bert, ids: Tensor<"i32">, segments: Tensor<"i32">) => {
      const hidden = m.hidden(ids, { segments });
      return { hidden, pooled: m.pooled(hidden), logits: m.logits(hidden) };
    });
    const out = forward(model, i32("input_ids"), i32("token_type_ids"));
    expect(distance(await out.hidden.data(), await numbers("last_hidden_state"))).toBeLessThan(1e-4);
    expect(distance(await out.pooled.data(), await numbers("pooled"))).toBeLessThan(1e-4);
    expect(distance(await out.logits.data(), await numbers("logits"))).toBeLessThan(1e-4);
    dispose(out);
    forward.release();
  });

  test("the masked loss and the gradient of every parameter are those of transformers", async () => {
    const ids = i32("input_ids");
    const labels = (await numbers("labels")).map((x) => Math.max(-1, x));
    const targets = tensor(Int32Array.from(labels), { shape: [...ids.shape] }) as Tensor<"i32">;
    const step = jit((m: Bert, ids: Tensor<"i32">, targets: Tensor<"i32">, segments: Tensor<"i32">) => {
      const [, gradients] = valueAndGrad(m, (at) =>
        maskedLanguageModelLoss(at, ids, targets, { segments }).add(
          at.pooled(at.hidden(ids, { segments })).square().mean(),
        ),
      );
      return { loss: maskedLanguageModelLoss(m, ids, targets, { segments }), gradients };
    });
    const { loss, gradients } = step(model, ids, targets, i32("token_type_ids"));
    expect(await loss.item()).toBeCloseTo((await numbers("loss"))[0]!, 4);
    const named = writeMapped(gradients, bertMapping(model.config));
    const keys = [...expected.keys()].filter((key) => key.startsWith("gradients."));
    expect([...named.keys()].map((key) => `gradients.${key}`).sort()).toEqual(keys.sort());
    const far: string[] = [];
    for (const [key, gradient] of named) {
      const wanted = await numbers(`gradients.${key}`);
      // A key's bias shifts all scores of a query alike: its gradient is rounding errors on both sides.
      if (/self\.key\.bias$/.test(key)) continue;
      const d = distance(await gradient.data(), wanted);
      if (!(d < 2e-4)) far.push(`${key}: ${d}`);
    }
    expect(far).toEqual([]);
    dispose([loss, gradients, targets]);
    step.release();
  });

  test("rows padded at either end give the hidden states of transformers", async () => {
    const ids = i32("padded.input_ids");
    const [batch, time] = ids.shape as [number, number];
    const mask = await numbers("padded.attention_mask");
    const { first, end } = bidirectionalIntervals(mask, batch, time);
    const context = {
      first: tensor(first, { shape: [batch, time] }) as Tensor<"i32">,
      end: tensor(end, { shape: [batch, time] }) as Tensor<"i32">,
    };
    const forward = jit((m: Bert, ids: Tensor<"i32">, c: typeof context) => m.hidden(ids, c));
    const out = forward(model, ids, context);
    const wanted = await numbers("padded.last_hidden_state");
    const got = (await out.data()) as Float32Array;
    const w = out.shape[2]!;
    for (let i = 0; i < batch * time; i++)
      if (mask[i])
        expect(distance(got.subarray(i * w, (i + 1) * w), wanted.subarray(i * w, (i + 1) * w))).toBeLessThan(1e-4);
    dispose([out, context]);
    forward.release();
  });

  test("what is saved is loaded again, bit for bit", async () => {
    const to = await mkdtemp(join(tmpdir(), "howdah-bert-"));
    try {
      await saveEncoder(model, to);
      const again = await loadEncoder(to);
      expect(again.config).toEqual(model.config);
      const copies = new Map(leaves(again.model).map(({ path, tensor }) => [path, tensor]));
      for (const { path, tensor } of leaves(model)) expect(await copies.get(path)!.data()).toEqual(await tensor.data());
      dispose(again.model);
    } finally {
      await rm(to, { recursive: true, force: true });
    }
  });
});

test("a language model's folder is not an encoder's, and the other way round; both errors say what there is", async () => {
  await expect(loadModel(folder)).rejects.toThrow(/model_type is "bert".*loadEncoder/);
  await expect(loadEncoder(new URL("models/gpt2", import.meta.url).pathname)).rejects.toThrow(/"gpt2".*bert/);
});
