import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hostTensor, SafetensorsFile, type TensorToWrite, writeSafetensors } from "../../src/checkpoint/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import {
  configFromHub,
  configToHub,
  emptyCache,
  gptConfig,
  initModel,
  type LanguageModel,
  type LanguageModelBatch,
  languageModelLoss,
  llamaConfig,
  loadConfig,
  loadModel,
  logits,
  type ModelConfig,
  modelSkeleton,
  parameterCount,
  parseConfig,
  tokenLogProbabilities,
  trainingFlopsPerToken,
} from "../../src/models/index.ts";
import type { Context } from "../../src/nn/index.ts";
import { parameterCount as recipeCount } from "../../src/recipe/dial.ts";
import { jit } from "../../src/tensor/jit.ts";
import { logSoftmax } from "../../src/tensor/ops/nn.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves, mapTree } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { once } from "../helpers/once.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-models-"));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(() => void useBackend(backends.at(-1)!));
checkLeaks();

const golden = (name: string) => new URL(`../golden/models/${name}`, import.meta.url).pathname;
const i32 = (shape: number[], values: number[]) => tensor(Int32Array.from(values), { shape }) as Tensor<"i32">;
const sizes = { vocabulary: 40, context: 16, layers: 2, width: 16 };
const gpt = gptConfig.parse({ family: "gpt", ...sizes, heads: 2, mlpWidth: 40 });
const llama = llamaConfig.parse({ family: "llama", ...sizes, heads: 4, kvHeads: 2, headWidth: 4, mlpWidth: 24 });
const both: { config: ModelConfig; family: string }[] = [gpt, llama].map((config) => ({
  config,
  family: config.family,
}));

const forward = (model: LanguageModel, ids: Tensor<"i32">, context: Context = {}) => {
  const pass = jit((m: LanguageModel, x: Tensor<"i32">, c: Context) => logits(m, m.hidden(x, c).hidden));
  const out = pass(model, ids, context);
  pass.release();
  return out;
};
/** A model whose weights are large enough that every token matters. */
function loud(config: ModelConfig): LanguageModel {
  return once(() => mapTree(initModel(config, randomKey(3)), (t) => (t.rank === 2 ? t.mul(10) : t)));
}

describe.each(both)("$family", ({ config }) => {
  test("documents packed in one row see nothing of each other", async () => {
    const model = loud(config);
    const [a, b] = [
      [5, 6, 7, 8],
      [9, 10, 11],
    ];
    const inputs = {
      row: i32([1, 7], [...a, ...b]),
      context: { positions: i32([1, 7], [0, 1, 2, 3, 0, 1, 2]), first: i32([1, 7], [0, 0, 0, 0, 4, 4, 4]) },
      alone: [i32([1, 4], a), i32([1, 3], b)] as const,
    };
    const packed = forward(model, inputs.row, inputs.context);
    const [ya, yb] = [forward(model, inputs.alone[0]), forward(model, inputs.alone[1])];
    const apart = [...(await ya.numbers()), ...(await yb.numbers())];
    (await packed.numbers()).forEach((x, i) => {
      expect(x).toBeCloseTo(apart[i]!, 4);
    });
    dispose([model, inputs, packed, ya, yb]);
  });

  test("a token's logits depend on those before it and on none after", async () => {
    const model = loud(config);
    const [x, y] = [i32([1, 4], [1, 2, 3, 4]), i32([1, 4], [1, 2, 3, 39])];
    const [p, q] = [forward(model, x), forward(model, y)];
    const [a, b] = [await p.numbers(), await q.numbers()];
    const v = config.vocabulary;
    expect(a.slice(0, 3 * v)).toEqual(b.slice(0, 3 * v));
    expect(a.slice(3 * v)).not.toEqual(b.slice(3 * v));
    dispose([model, x, y, p, q]);
  });

  test("the loss is the mean of minus the log-probabilities of the targets that count", async () => {
    const model = loud(config);
    const batch: LanguageModelBatch = {
      ids: i32([2, 3], [1, 2, 3, 4, 5, 6]),
      targets: i32([2, 3], [2, 3, -1, -100, 6, 7]),
    };
    const both = jit((m: LanguageModel, b: LanguageModelBatch) => ({
      loss: languageModelLoss(m, b),
      tokens: tokenLogProbabilities(m, b),
      all: logSoftmax(logits(m, m.hidden(b.ids).hidden)),
      none: languageModelLoss(m, { ids: b.ids, targets: b.targets.mul(0).sub(1) as Tensor<"i32"> }),
    }));
    const out = both(model, batch);
    const tokens = await out.tokens.numbers();
    const all = await out.all.numbers();
    const targets = await batch.targets.numbers();
    expect(out.tokens.shape).toEqual([2, 3]);
    tokens.forEach((x, i) => {
      expect(x).toBeCloseTo(targets[i]! < 0 ? 0 : all[i * config.vocabulary + targets[i]!]!, 4);
    });
    expect(await out.loss.item()).toBeCloseTo(-tokens.reduce((a, b) => a + b, 0) / 4, 4);
    expect(await out.none.item()).toBe(0);
    dispose([model, batch, out]);
    both.release();
  });

  test("a seed gives the same weights again, another seed others", async () => {
    const all = async (seed: number) => {
      const model = once(() => initModel(config, randomKey(seed)));
      const values = [];
      for (const { tensor: t } of leaves(model)) values.push(...(await t.numbers()));
      dispose(model);
      return values;
    };
    expect(await all(1)).toEqual(await all(1));
    expect(await all(1)).not.toEqual(await all(2));
  });

  test("fresh weights have deviation 0.02, those into the residual stream 0.02 / sqrt(2 layers), and no two matrices are equal", async () => {
    const wide = { ...config, width: 64, mlpWidth: 128, vocabulary: 200 } as ModelConfig;
    const model = once(() => initModel(wide, randomKey(5)));
    const firsts = new Set<number>();
    for (const { path, tensor: t } of leaves(model)) {
      const x = await t.numbers();
      if (t.rank === 1)
        expect(
          x.every((v) => v === (path.endsWith("scale") ? 1 : 0)),
          path,
        ).toBe(true);
      else {
        const deviation = Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length);
        const expected = /(out|down)\.weight$/.test(path) ? 0.02 / Math.sqrt(4) : 0.02;
        expect(Math.abs(deviation / expected - 1), path).toBeLessThan(0.08);
        expect(firsts.has(x[0]!), path).toBe(false);
        firsts.add(x[0]!);
      }
    }
    dispose(model);
  });

  test("rows longer than its context are refused, and bad ids and caches too", () => {
    const model = modelSkeleton(config);
    const wrong = {
      long: i32([1, 17], new Array<number>(17).fill(0)),
      flat: i32([4], [1, 2, 3, 4]),
      good: i32([1, 2], [1, 2]),
    };
    expect(() => forward(model, wrong.long)).toThrow(/rows hold 17 tokens, but this model was made for at most 16/);
    expect(() => forward(model, wrong.flat)).toThrow(/ids must be i32 \(batch, time\), got i32\(4\)/);
    expect(() => forward(model, wrong.good, { positions: wrong.long })).toThrow(/positions must be/);
    const cache = emptyCache({ ...config, layers: 1 } as ModelConfig, 1, 4);
    expect(() => forward(model, wrong.good, { cache })).toThrow(/the cache has 1 layers, the model 2/);
    dispose([wrong, cache]);
  });

  test("its config survives Hugging Face's names", () => {
    const full = { ...config, tokens: { begin: 1, end: [2, 3], padding: 0 } } as ModelConfig;
    expect(configFromHub(configToHub(full), "config.json")).toEqual(full);
    expect(configFromHub(JSON.parse(JSON.stringify(configToHub(config))), "config.json")).toEqual(config);
  });
});

describe("dropout", () => {
  const dropping = { ...gpt, dropout: { embedding: 0.2, attention: 0.2, residual: 0.2 } };
  const inputs = () => ({ ids: i32([2, 4], [1, 2, 3, 4, 5, 6, 7, 8]), targets: i32([2, 4], [2, 3, 4, 5, 6, 7, 8, 9]) });

  test("depends on the key, and is off outside training", async () => {
    const model = loud(dropping);
    const batch = inputs();
    const loss = jit((m: LanguageModel, b: LanguageModelBatch, c: Context) => languageModelLoss(m, b, c));
    const run = async (training: boolean, seed: number | undefined) => {
      const key = seed === undefined ? undefined : randomKey(seed);
      const out = loss(model, batch, { training, key });
      const value = await out.item();
      dispose([out, key]);
      return value;
    };
    const plain = await run(false, undefined);
    expect(await run(false, 1)).toBe(plain);
    expect(await run(true, 1)).toBe(await run(true, 1));
    expect(await run(true, 1)).not.toBe(await run(true, 2));
    expect(await run(true, 1)).not.toBe(plain);
    dispose([model, batch]);
    loss.release();
  });

  test("without a key is an error, not training without dropout", () => {
    const batch = inputs();
    const model = modelSkeleton(dropping);
    const loss = jit((m: LanguageModel) => languageModelLoss(m, batch, { training: true }));
    expect(() => loss(model)).toThrow(/training with dropout needs context.key/);
    dispose(batch);
  });
});

describe("sizes", () => {
  test("GPT-2 small has 124,439,808 parameters, TinyLlama 1,100,048,384", () => {
    const gpt2 = { vocabulary: 50257, context: 1024, layers: 12, width: 768, heads: 12, mlpWidth: 3072 };
    expect(parameterCount(modelSkeleton(gptConfig.parse({ family: "gpt", ...gpt2 })))).toBe(124_439_808);
    const tiny = {
      vocabulary: 32000,
      context: 2048,
      layers: 22,
      width: 2048,
      heads: 32,
      kvHeads: 4,
      headWidth: 64,
      mlpWidth: 5632,
    };
    expect(parameterCount(modelSkeleton(llamaConfig.parse({ family: "llama", ...tiny })))).toBe(1_100_048_384);
  });

  test.each([true, false])("the recipe counts the same parameters, tied: %s", (tie_embeddings) => {
    const shared = { layers: 3, width: 48, heads: 6, context: 20, mlp_width: 80, tie_embeddings };
    const ours = {
      vocabulary: 70,
      context: 20,
      layers: 3,
      width: 48,
      heads: 6,
      mlpWidth: 80,
      tieEmbeddings: tie_embeddings,
    };
    const g = modelSkeleton(gptConfig.parse({ family: "gpt", ...ours }));
    const l = modelSkeleton(llamaConfig.parse({ family: "llama", ...ours, kvHeads: 2, headWidth: 8 }));
    expect(parameterCount(g)).toBe(recipeCount({ family: "gpt", kv_heads: 6, ...shared }, 70));
    expect(parameterCount(l)).toBe(recipeCount({ family: "llama", kv_heads: 2, ...shared }, 70));
  });

  test("training GPT-2 small takes 6 N + 12 L C T operations per token", () => {
    const config = gptConfig.parse({
      family: "gpt",
      vocabulary: 50257,
      context: 1024,
      layers: 12,
      width: 768,
      heads: 12,
      mlpWidth: 3072,
    });
    const model = modelSkeleton(config);
    // All but the positions' table is multiplied; the token table is the head.
    expect(trainingFlopsPerToken(model)).toBe(6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024);
    const untied = modelSkeleton({ ...config, tieEmbeddings: false });
    expect(trainingFlopsPerToken(untied, 256)).toBe(6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 256);
  });

  test("a cache beyond GPT-2's positions is refused", () => {
    expect(() => emptyCache(gpt, 1, 17)).toThrow(/capacity of 17 tokens, but the model has only 16 positions/);
  });
});

describe("a config", () => {
  const llama31 = {
    model_type: "llama",
    vocab_size: 128256,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    rope_theta: 500000.0,
    rope_scaling: {
      factor: 8.0,
      low_freq_factor: 1.0,
      high_freq_factor: 4.0,
      original_max_position_embeddings: 8192,
      rope_type: "llama3",
    },
    bos_token_id: 128000,
    eos_token_id: [128001, 128008, 128009],
    tie_word_embeddings: false,
    hidden_act: "silu",
  };
  test("of Llama 3.1, as it was published, is read", () => {
    expect(configFromHub(llama31, "config.json")).toMatchObject({
      family: "llama",
      kvHeads: 8,
      headWidth: 128,
      rotary: { theta: 500000, scaling: { kind: "llama3", factor: 8, originalContext: 8192 } },
      tokens: { begin: 128000, end: [128001, 128008, 128009] },
      attentionBias: "none",
    });
  });

  test.each<[string, unknown, RegExp]>([
    [
      "another architecture",
      { model_type: "mamba" },
      /model_type is "mamba"; supported are gpt2, llama, mistral, qwen2/,
    ],
    ["an encoder", { model_type: "bert" }, /model_type is "bert", an encoder.*loadEncoder/],
    ["no architecture", [], /model_type is undefined/],
    ["a method's name for one", { model_type: "constructor" }, /model_type is "constructor"/],
    ["a size in words", { ...llama31, hidden_size: "big" }, /hidden_size: .*expected number/],
    [
      "yarn",
      { ...llama31, rope_scaling: { rope_type: "yarn", factor: 2 } },
      /kind "yarn" are not supported; default, linear, llama3/,
    ],
    ["linear scaling without a factor", { ...llama31, rope_scaling: { type: "linear" } }, /kind linear need factor/],
    ["another activation", { ...llama31, hidden_act: "gelu" }, /hidden_act is gelu; only silu/],
    [
      "a partly turned head",
      { ...llama31, rope_scaling: { rope_type: "default", partial_rotary_factor: 0.5 } },
      /partial_rotary_factor is 0.5/,
    ],
    [
      "a sliding window",
      { ...llama31, model_type: "mistral", sliding_window: 4096 },
      /sliding windows are not supported/,
    ],
    ["heads that do not divide", { ...llama31, num_key_value_heads: 5 }, /32 heads cannot be shared by 5/],
    [
      "GPT-2 with an unknown activation",
      { model_type: "gpt2", activation_function: "tanh" },
      /activation_function is tanh: supported are gelu_new/,
    ],
    [
      "GPT-2 with a width that does not divide",
      { model_type: "gpt2", n_embd: 100 },
      /the width 100 does not divide into 12 heads/,
    ],
    [
      "GPT-2 scaled by layer",
      { model_type: "gpt2", scale_attn_by_inverse_layer_idx: true },
      /scaled by layer is not supported/,
    ],
  ])("with %s is refused by name", (_what, json, message) => {
    expect(() => configFromHub(json, "config.json")).toThrow(message);
  });

  test("of ours with a key that does not exist is refused", () => {
    expect(() => parseConfig(gptConfig, { ...gpt, layer: 3 }, "model")).toThrow(/model: .*layer/);
  });
});

describe("a model's folder", () => {
  /** A copy of a golden folder with other tensors. */
  async function altered(name: string, change: (tensors: Map<string, TensorToWrite>) => void): Promise<string> {
    const folder = mkdtempSync(join(root, "folder-"));
    copyFileSync(join(golden(name), "config.json"), join(folder, "config.json"));
    const source = await SafetensorsFile.open(join(golden(name), "model.safetensors"));
    const tensors = new Map<string, TensorToWrite>();
    for (const [key, { shape }] of source.tensors)
      tensors.set(key, hostTensor("f32", shape, await source.read(key, "f32")));
    await source.close();
    change(tensors);
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    return folder;
  }

  test("that does not fit its config names every tensor that is missing, misshapen or not expected", async () => {
    const folder = await altered("gpt2", (t) => {
      t.delete("transformer.h.1.ln_2.bias");
      t.set("transformer.h.0.mlp.c_fc.weight", hostTensor("f32", [80, 32], new Float32Array(80 * 32)));
      t.set("transformer.h.2.ln_1.weight", hostTensor("f32", [32], new Float32Array(32)));
    });
    const error = await loadModel(folder).catch((e: Error) => e.message);
    expect(error).toContain("transformer.h.1.ln_2.bias is missing (expected (32))");
    expect(error).toContain(
      "transformer.h.0.mlp.c_fc.weight is (80, 32) in the file, but the config asks for (32, 80)",
    );
    expect(error).toContain("transformer.h.2.ln_1.weight (32) is not expected");
  });

  test("as GPT-2 was first published, without prefix and with masks, is read", async () => {
    const folder = await altered("gpt2", (t) => {
      for (const [name, value] of [...t]) {
        t.delete(name);
        t.set(name.replace("transformer.", ""), value);
      }
      t.set("h.0.attn.bias", hostTensor("f32", [1, 1, 32, 32], new Float32Array(1024)));
    });
    const [a, b] = [(await loadModel(folder)).model, (await loadModel(golden("gpt2"))).model];
    for (const [i, { tensor: t }] of leaves(a).entries())
      expect(await t.numbers()).toEqual(await leaves(b)[i]!.tensor.numbers());
    dispose([a, b]);
  });

  test("in half precision is read as f32", async () => {
    const folder = await altered("llama-grouped", (t) => {
      for (const [name, { shape, data }] of [...t])
        t.set(name, {
          dtype: "bf16",
          shape,
          data: async () =>
            Uint16Array.from(new Uint32Array(((await data()) as Float32Array).slice().buffer), (b) => b >>> 16),
        });
    });
    const [a, b] = [(await loadModel(folder)).model, (await loadModel(golden("llama-grouped"))).model];
    const [x, y] = [await leaves(a)[0]!.tensor.numbers(), await leaves(b)[0]!.tensor.numbers()];
    x.forEach((v, i) => {
      expect(Math.abs(v - y[i]!)).toBeLessThanOrEqual(Math.abs(y[i]!) / 128);
    });
    expect(leaves(a).every(({ tensor: t }) => t.dtype === "f32")).toBe(true);
    dispose([a, b]);
  });

  test("lets generation_config.json say which tokens end a text", async () => {
    const folder = mkdtempSync(join(root, "folder-"));
    copyFileSync(join(golden("gpt2"), "config.json"), join(folder, "config.json"));
    writeFileSync(join(folder, "generation_config.json"), JSON.stringify({ eos_token_id: [7, 8] }));
    expect((await loadConfig(folder)).tokens).toEqual({ begin: 1, end: [7, 8], padding: 0 });
  });

  test("without a config, or with half of one, says so", async () => {
    const folder = mkdtempSync(join(root, "folder-"));
    await expect(loadModel(folder)).rejects.toThrow(/there is no config.json, so this is not a model's folder/);
    writeFileSync(join(folder, "config.json"), readFileSync(join(golden("gpt2"), "config.json")).subarray(0, 50));
    await expect(loadModel(folder)).rejects.toThrow(/config.json is not JSON/);
  });
});
