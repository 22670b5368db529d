import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/checkpoint/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { mappingOf } from "../../src/models/families.ts";
import {
  emptyCache,
  type LanguageModel,
  languageModelLoss,
  loadModel,
  logits,
  saveModel,
} from "../../src/models/index.ts";
import { writeMapped } from "../../src/models/mapping.ts";
import { causalIntervals } from "../../src/models/masks.ts";
import type { Cache } from "../../src/nn/cache.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { distance } from "../helpers/distance.ts";
import { greedy } from "../helpers/greedy.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const folder = (name: string) => new URL(`models/${name}`, import.meta.url).pathname;
const cases = ["gpt2", "llama-grouped", "llama-scaled", "qwen2"];

/** Hugging Face's labels as targets: shifted by one, -100 not counted. */
function shifted(labels: ArrayLike<number>, [batch, time]: readonly number[]): Tensor<"i32"> {
  const out = new Int32Array(labels.length).fill(-1);
  for (let b = 0; b < batch!; b++)
    for (let t = 0; t + 1 < time!; t++) out[b * time! + t] = Math.max(-1, labels[b * time! + t + 1]!);
  return tensor(out, { shape: [batch!, time!] }) as Tensor<"i32">;
}

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  describe.each(cases)("%s", (name) => {
    let model: LanguageModel;
    let expected: Map<string, Tensor>;
    const numbers = async (key: string) => (await expected.get(key)!.data()) as Float32Array;
    const i32 = (key: string) => expected.get(key) as Tensor<"i32">;

    beforeAll(async () => {
      useBackend(backend);
      model = (await loadModel(folder(name))).model;
      expected = await readSafetensors(join(folder(name), "expected.safetensors"));
    });
    afterAll(() => {
      dispose(model);
      dispose([...expected.values()]);
    });
    checkLeaks();

    test("logits and hidden states are those of transformers", async () => {
      const forward = jit((m: LanguageModel, ids: Tensor<"i32">) => {
        const { hidden } = m.hidden(ids);
        return { hidden, logits: logits(m, hidden) };
      });
      const out = forward(model, i32("input_ids"));
      expect(distance(await out.hidden.data(), await numbers("last_hidden_state"))).toBeLessThan(1e-4);
      expect(distance(await out.logits.data(), await numbers("logits"))).toBeLessThan(1e-4);
      dispose(out);
      forward.release();
    });

    test("the loss and the gradient of every parameter are those of transformers", async () => {
      const ids = i32("input_ids");
      const targets = shifted(await numbers("labels"), ids.shape);
      const step = jit((m: LanguageModel, ids: Tensor<"i32">, targets: Tensor<"i32">) =>
        valueAndGrad(m, (at) => languageModelLoss(at, { ids, targets })),
      );
      const [loss, gradients] = step(model, ids, targets);
      expect(await loss.item()).toBeCloseTo((await numbers("loss"))[0]!, 4);
      const named = writeMapped(gradients, mappingOf(model.config));
      const keys = [...expected.keys()].filter((key) => key.startsWith("gradients."));
      expect([...named.keys()].map((key) => `gradients.${key}`).sort()).toEqual(keys.sort());
      const far: string[] = [];
      for (const [key, gradient] of named) {
        const wanted = await numbers(`gradients.${key}`);
        const got = await gradient.data();
        const d = distance(got, wanted);
        if (!(d < 1e-4)) far.push(`${key}: ${d}`);
      }
      expect(far).toEqual([]);
      dispose([loss, gradients, targets]);
      step.release();
    });

    test.each([true, false])("padded rows give the logits of transformers, positions given: %s", async (given) => {
      const ids = i32("padded.input_ids");
      const [batch, time] = ids.shape as [number, number];
      const mask = await numbers("padded.attention_mask");
      const { first, end } = causalIntervals(mask, batch, time);
      const context = {
        first: tensor(first, { shape: [batch, time] }) as Tensor<"i32">,
        end: tensor(end, { shape: [batch, time] }) as Tensor<"i32">,
        positions: given ? i32("padded.position_ids") : undefined,
      };
      const forward = jit((m: LanguageModel, ids: Tensor<"i32">, c: typeof context) =>
        logits(m, m.hidden(ids, c).hidden),
      );
      const out = forward(model, ids, context);
      const wanted = await numbers(given ? "padded.logits" : "padded.logits_without_position_ids");
      const got = (await out.data()) as Float32Array;
      const v = out.shape[2]!;
      for (let i = 0; i < batch * time; i++) {
        if (!mask[i]) continue;
        expect(distance(got.subarray(i * v, (i + 1) * v), wanted.subarray(i * v, (i + 1) * v))).toBeLessThan(1e-4);
      }
      dispose([out, context.first, context.end]);
      forward.release();
    });

    test("greedy continuations are those of transformers, with a cache, prompts of different lengths in one batch", async () => {
      const wholes = [];
      for (const length of [2, 5, 7]) wholes.push({ length, ids: Array.from(await numbers(`greedy.${length}`)) });
      const got = await greedy(
        model,
        wholes.map(({ ids, length }) => ids.slice(0, length)),
        12,
      );
      wholes.forEach(({ ids }, i) => {
        // transformers stops after the end token, we go on.
        expect(got[i]!.slice(0, ids.length)).toEqual(ids);
      });
    });

    test("dropping the cache changes nothing", async () => {
      const ids = i32("input_ids");
      const [batch, time] = ids.shape as [number, number];
      const step = jit(
        (m: LanguageModel, cache: Cache, ids: Tensor<"i32">, positions: Tensor<"i32">, rows: Tensor<"i32">) => {
          const out = m.hidden(ids, { cache, positions, rows });
          return { logits: logits(m, out.hidden), cache: out.cache! };
        },
        { donate: [1] },
      );
      // Four slots for two rows, which take the second and the last; read in pieces of 4.
      let cache = emptyCache(model.config, 4, 28);
      const rows = tensor(Int32Array.of(3, 1)) as Tensor<"i32">;
      const plain = (await numbers("logits")) as Float32Array;
      const all = (await ids.data()) as Int32Array;
      for (let from = 0; from < time; from += 4) {
        const cut = (f: (b: number, t: number) => number) =>
          tensor(
            Int32Array.from({ length: batch * 4 }, (_, i) => f(Math.floor(i / 4), from + (i % 4))),
            { shape: [batch, 4] },
          ) as Tensor<"i32">;
        const piece = cut((b, t) => all[b * time + t]!);
        const positions = cut((_, t) => t);
        const out = step(model, cache, piece, positions, rows);
        cache = out.cache;
        const got = (await out.logits.data()) as Float32Array;
        const v = out.logits.shape[2]!;
        for (let b = 0; b < batch; b++) {
          const wanted = plain.subarray((b * time + from) * v, (b * time + from + 4) * v);
          expect(distance(got.subarray(b * 4 * v, (b + 1) * 4 * v), wanted)).toBeLessThan(1e-4);
        }
        dispose([out.logits, piece, positions]);
      }
      expect(step.programs).toBe(1);
      dispose([cache, rows]);
      step.release();
    });

    test("a folder that we save holds the same tensors and loads as the same model", async () => {
      const to = await mkdtemp(join(tmpdir(), "howdah-"));
      await saveModel(model, to);
      const [ours, theirs] = [
        await readSafetensors(join(to, "model.safetensors")),
        await readSafetensors(join(folder(name), "model.safetensors")),
      ];
      expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort());
      for (const [key, value] of theirs) expect(await ours.get(key)!.numbers()).toEqual(await value.numbers());
      const again = await loadModel(to);
      expect(again.config).toEqual(model.config);
      for (const [i, { path, tensor: t }] of leaves(again.model).entries()) {
        expect(path).toBe(leaves(model)[i]!.path);
        expect(await t.numbers()).toEqual(await leaves(model)[i]!.tensor.numbers());
      }
      const json = JSON.parse(await readFile(join(to, "config.json"), "utf8")) as Record<string, unknown>;
      const original = JSON.parse(await readFile(join(folder(name), "config.json"), "utf8")) as Record<string, unknown>;
      for (const key of ["model_type", "architectures", "vocab_size", "tie_word_embeddings", "eos_token_id"])
        expect(json[key]).toEqual(original[key]);
      dispose([again.model, [...ours.values()], [...theirs.values()]]);
      await rm(to, { recursive: true });
    });
  });
});
