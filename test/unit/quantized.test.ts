import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import { perplexity, textLoss } from "../../src/evaluate/index.ts";
import { Decoder } from "../../src/generate/index.ts";
import { gptConfig } from "../../src/models/gpt/config.ts";
import { initModel, languageModelLoss, loadModel, packModel, readLlama2c, saveModel } from "../../src/models/index.ts";
import { llamaConfig } from "../../src/models/llama/config.ts";
import { grad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { linear } from "../../src/tensor/ops/dot.ts";
import { round } from "../../src/tensor/ops/elementwise.ts";
import { swiglu } from "../../src/tensor/ops/nn.ts";
import { rmsNorm } from "../../src/tensor/ops/norm.ts";
import type { PageType } from "../../src/tensor/ops/paged.ts";
import {
  packedShape,
  packGated,
  packWeight,
  quantizedLinear,
  unpackWeight,
  type WeightFormat,
  weightFormats,
} from "../../src/tensor/ops/quantized.ts";
import { normal, randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import { Llama2cTokenizer } from "../../src/tokenizers/index.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const golden = (name: string) => new URL(`../golden/${name}`, import.meta.url).pathname;

/** A random matrix; its rows differ in size as those of trained ones do. */
function matrix(seed: number, out: number, inner: number): Tensor {
  const make = jit((key: Tensor<"i32">) => {
    const [a, b] = [normal(key, [out, inner]), normal(key.add(1) as Tensor<"i32">, [out, 1])];
    return a.mul(b.exp()).mul(0.05);
  });
  const key = randomKey(seed);
  const w = make(key);
  dispose(key);
  make.release();
  return w;
}

const once = <R>(f: () => R): R => {
  const run = jit(f);
  const result = run();
  run.release();
  return result;
};

describe.each(backends.map((b) => [b.name, b] as const))("packed weights, %s", (_name, backend) => {
  beforeAll(() => {
    useBackend(backend);
  });
  checkLeaks();

  test.each(weightFormats)("%s: unpacking gives the weights back, within half a step", async (format) => {
    const [out, inner] = [37, 70];
    const w = matrix(1, out, inner);
    const result = once(() => {
      const p = packWeight(w, format);
      return { ...p, back: unpackWeight(p, format, out, inner) };
    });
    const want = packedShape(format, out, inner);
    expect(result.packed.shape).toEqual(want.packed);
    expect(result.scales?.shape).toEqual(want.scales);
    const [before, after] = [await w.numbers(), await result.back.numbers()];
    const group = format === "int8" ? 64 : 32;
    for (let row = 0; row < out; row++)
      for (let from = 0; from < inner; from += group) {
        const at = Array.from({ length: Math.min(group, inner - from) }, (_, i) => row * inner + from + i);
        const peak = Math.max(...at.map((i) => Math.abs(before[i]!)));
        // int4 may cut the largest weight for the sake of the others: never by more than a step.
        const bound = format === "bf16" ? peak / 256 : format === "int8" ? peak / 250 : peak / 6;
        for (const i of at) expect(Math.abs(before[i]! - after[i]!)).toBeLessThanOrEqual(bound * 1.01);
      }
    dispose([w, result]);
  });

  test("int4 has three quarters of the squared error of evenly spaced levels up to the largest weight", async () => {
    const w = matrix(2, 32, 256);
    const result = once(() => {
      const back = unpackWeight(packWeight(w, "int4"), "int4", 32, 256);
      const groups = w.reshape(32, 8, 32);
      const step = groups.abs().max(-1, { keep: true }).div(7);
      return {
        ours: back.sub(w).square().sum(),
        even: round(groups.div(step)).mul(step).sub(groups).square().sum(),
      };
    });
    expect(await result.ours.item()).toBeLessThan(0.75 * (await result.even.item()));
    dispose([w, result]);
  });

  test.each(weightFormats)("%s: the compiler's joined form is the chain it stands for", async (format) => {
    const [rows, inner, hidden] = [5, 70, 40];
    const [x, gate, up, down] = [
      matrix(3, rows, inner),
      matrix(4, hidden, inner),
      matrix(5, hidden, inner),
      matrix(6, inner, hidden),
    ];
    const scale = matrix(7, 1, inner);
    const result = once(() => {
      const pair = { ...packGated(gate, up, format), format, shape: [hidden, inner] as const };
      const back = { ...packWeight(down, format), format, shape: [inner, hidden] as const };
      const h = rmsNorm(x, scale.reshape(inner), 1e-5);
      const y = x.add(quantizedLinear(quantizedLinear(h, pair, { gated: true }), back));
      const exact = x.add(linear(swiglu(linear(h, gate), linear(h, up)), down));
      return { y, exact };
    });
    const [y, exact] = [await result.y.numbers(), await result.exact.numbers()];
    const size = Math.sqrt(exact.reduce((s, v) => s + v * v, 0));
    const error = Math.sqrt(exact.reduce((s, v, i) => s + (v - y[i]!) ** 2, 0));
    expect(error / size).toBeLessThan({ bf16: 0.005, int8: 0.01, int4: 0.12 }[format]);
    dispose([x, gate, up, down, scale, result]);
  });

  test.each(weightFormats)("%s: the gradient of x is that of the weights as they are stored", async (format) => {
    const [w, x] = [matrix(8, 20, 70), matrix(9, 3, 70)];
    const result = once(() => {
      const p = packWeight(w, format);
      const back = unpackWeight(p, format, 20, 70);
      const [mine] = grad([x], (y) => quantizedLinear(y[0]!, { ...p, format, shape: [20, 70] }).sum());
      const [theirs] = grad([x], (y) => linear(y[0]!, back).sum());
      return { mine: mine!, theirs: theirs! };
    });
    const [mine, theirs] = [await result.mine.numbers(), await result.theirs.numbers()];
    mine.forEach((v, i) => {
      expect(v).toBeCloseTo(theirs[i]!, 4);
    });
    dispose([w, x, result]);
  });

  test.each(weightFormats)("%s: a row's result does not depend on the rows beside it", async (format) => {
    const [w, x] = [matrix(10, 70, 130), matrix(11, 23, 130)];
    const result = once(() => {
      const p = { ...packWeight(w, format), format, shape: [70, 130] as const };
      return {
        all: quantizedLinear(x, p),
        one: quantizedLinear(x.slice(0, 7, 8), p),
        two: quantizedLinear(x.slice(0, 7, 9), p),
      };
    });
    const all = await result.all.numbers();
    expect(await result.one.numbers()).toEqual(all.slice(7 * 70, 8 * 70));
    expect(await result.two.numbers()).toEqual(all.slice(7 * 70, 9 * 70));
    dispose([w, x, result]);
  });
});

/** In the manner of the stories that stories260K was trained on. */
const story = `Once upon a time, there was a little boy named Tim. Tim had a big red ball. He loved to play with his ball in the park every day.
One day, Tim saw a small dog. The dog was sad. "Why are you sad?" asked Tim. The dog said, "I lost my bone and I can not find it."
Tim wanted to help the dog. They looked under the tree. They looked behind the big rock. They looked near the water, but they did not find the bone.
Then Tim had an idea. He kicked his ball and it rolled into a bush. When he went to get the ball, he saw something white. It was the bone! The dog was very happy.
"Thank you, Tim," said the dog. "You are my friend." Tim and the dog played with the ball until the sun went down. Then Tim went home to his mom.
His mom gave him a hug and said, "I am proud of you. It is good to help others." Tim smiled. He was happy and he went to sleep.`;

describe("a trained model, stories260K", () => {
  checkLeaks();
  const native = backends.at(-1)!;
  beforeAll(() => {
    useBackend(native);
  });

  const storyIds = async (): Promise<number[]> => {
    const tokenizer = Llama2cTokenizer.parse(await readFile(golden("tokenizers/tok512.bin")), "tok512.bin");
    return [1, ...tokenizer.encode(story.replace(/\n/g, " ")).filter((id) => id !== 1)].slice(0, 513);
  };

  test("perplexity: int8 within 1 % of f32, int4 within 6 %", async () => {
    const ids = await storyIds();
    expect(ids.length).toBeGreaterThan(300);
    const loss = jit(languageModelLoss);
    const perplexity = async (format: WeightFormat | "f32"): Promise<number> => {
      const loaded = await readLlama2c(golden("models/stories260K/stories260K.bin"));
      const model = format === "f32" ? loaded : packModel(loaded, { format });
      const n = ids.length - 1;
      const batch = {
        ids: tensor(ids.slice(0, n), { dtype: "i32", shape: [1, n] }) as Tensor<"i32">,
        targets: tensor(ids.slice(1), { dtype: "i32", shape: [1, n] }) as Tensor<"i32">,
      };
      const mean = loss(model, batch);
      const result = Math.exp(await mean.item());
      dispose([model, batch, mean]);
      return result;
    };
    const exact = await perplexity("f32");
    // A model that has learned something: uniform guessing would be 512.
    expect(exact).toBeLessThan(8);
    const change: Record<string, number> = {};
    for (const format of weightFormats) change[format] = (await perplexity(format)) / exact - 1;
    loss.release();
    console.log(`perplexity ${exact.toFixed(3)}, ${JSON.stringify(change)}`);
    expect(Math.abs(change.bf16!)).toBeLessThan(0.005);
    expect(Math.abs(change.int8!)).toBeLessThan(0.01);
    expect(change.int4!).toBeLessThan(0.06);
  });

  test("perplexity as it is read in pieces is that of the whole; with keys and values in bf16 or int8 it is within 1 %", async () => {
    const ids = await storyIds();
    const model = await readLlama2c(golden("models/stories260K/stories260K.bin"));
    const measure = async (cache: PageType, ahead: number, capacity?: number) => {
      const decoder = new Decoder({ slots: 1, ahead, chunks: [ahead + 1], cache, capacity });
      const loss = await textLoss(model, decoder, ids);
      decoder.release();
      expect(loss.tokens).toBe(ids.length - 1);
      return perplexity(loss);
    };
    const n = ids.length - 1;
    const batch = {
      ids: tensor(ids.slice(0, n), { dtype: "i32", shape: [1, n] }) as Tensor<"i32">,
      targets: tensor(ids.slice(1), { dtype: "i32", shape: [1, n] }) as Tensor<"i32">,
    };
    const whole = jit(languageModelLoss);
    const mean = whole(model, batch);
    const exact = Math.exp(await mean.item());
    whole.release();
    dispose([batch, mean]);
    expect((await measure("f32", 63)) / exact).toBeCloseTo(1, 5);
    expect((await measure("bf16", 255)) / exact).toBeCloseTo(1, 2);
    expect((await measure("i8", 255)) / exact).toBeCloseTo(1, 2);
    // Less than the whole text before each token costs something, and never pays.
    expect((await measure("f32", 63, 64)) / exact).toBeGreaterThan(1);
    dispose(model);
  });

  test("attention in bf16 beside packed weights and rounded keys changes perplexity by less than 0.5 %", async () => {
    const ids = await storyIds();
    const model = packModel(await readLlama2c(golden("models/stories260K/stories260K.bin")), { format: "int8" });
    const measured: number[] = [];
    for (const precision of ["f32", "auto"] as const) {
      const decoder = new Decoder({ slots: 1, ahead: 255, chunks: [256], cache: "bf16", precision });
      measured.push(perplexity(await textLoss(model, decoder, ids)));
      decoder.dispose();
    }
    const change = measured[1]! / measured[0]! - 1;
    console.log(`perplexity ${measured}`);
    expect(Math.abs(change)).toBeLessThan(0.005);
    dispose(model);
  });
});

describe("a folder's weights packed while they are read", () => {
  checkLeaks();
  beforeAll(() => {
    useBackend(backends.at(-1)!);
  });

  // Token tables of 576,000 elements go in several parts, whose last begins earlier; GPT-2's matrices are stored transposed, Llama's q, k and v apart.
  const small = { vocabulary: 6001, context: 32, layers: 1, width: 96, heads: 3 };
  test.each([
    [
      "llama",
      llamaConfig.parse({ ...small, family: "llama", kvHeads: 1, headWidth: 32, mlpWidth: 200, tieEmbeddings: false }),
    ],
    ["gpt", gptConfig.parse({ ...small, family: "gpt", mlpWidth: 200 })],
  ] as const)("%s: the same bits as packed afterwards", async (_family, config) => {
    const folder = await mkdtemp(join(tmpdir(), "howdah-packed-"));
    try {
      const key = randomKey(3);
      const fresh = initModel(config, key);
      await saveModel(fresh, folder);
      dispose([fresh, key]);
      for (const format of weightFormats) {
        const { model } = await loadModel(folder, { weights: format });
        const after = packModel((await loadModel(folder)).model, { format });
        const [got, want] = [leaves(model), leaves(after)];
        expect(got.map(({ path }) => path)).toEqual(want.map(({ path }) => path));
        for (const [i, { path, tensor: t }] of got.entries())
          expect(await t.data(), `${format} ${path}`).toEqual(await want[i]!.tensor.data());
        dispose([model, after]);
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
