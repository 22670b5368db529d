import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import { ReplyEngine, type ReplyRequest } from "../../src/generate/index.ts";
import { uniformAt } from "../../src/generate/sampler.ts";
import { check, lookUp } from "../../src/generate/speculative.ts";
import { gptConfig, initModel, type LanguageModel } from "../../src/models/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { normal, randomKey } from "../../src/tensor/ops/random.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { dispose, mapTree } from "../../src/tensor/tree.ts";
import { trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { checkLeaks } from "../helpers/leaks.ts";

test("what is looked up is what followed the last time the text ended like this, by the longest end that is found", () => {
  expect(lookUp([1, 2, 3, 9, 1, 2, 3], 2)).toEqual([9, 1]);
  expect(lookUp([5, 2, 3, 7, 1, 2, 3, 8, 6, 2, 3], 3)).toEqual([8, 6, 2]);
  expect(lookUp([1, 2, 3, 4], 2)).toEqual([]);
  expect(lookUp([4, 4], 2)).toEqual([]);
  expect(lookUp([4, 4, 4], 2)).toEqual([4]);
});

describe("checking guesses", () => {
  const p = [0.5, 0.2, 0.2, 0.1, 0].map(Number);
  const q = [0.1, 0.6, 0.1, 0.1, 0.1];
  const draws = 40_000;

  /** Counts of the first token over many draws. */
  function counts(guess: (i: number) => { tokens: number[]; from?: Float64Array[] }): number[] {
    const seen = p.map(() => 0);
    for (let i = 0; i < draws; i++) {
      const tokens = check({ seed: 3, stream: i }, 0, guess(i), () => Float64Array.from(p));
      seen[tokens[0]!]!++;
    }
    return seen;
  }
  /** Pearson's statistic against p; with 3 degrees of freedom it is above 16.3 once in a thousand. */
  const chiSquare = (seen: number[]) =>
    seen.reduce((sum, n, i) => sum + (p[i]! > 0 ? (n - draws * p[i]!) ** 2 / (draws * p[i]!) : 0), 0);

  test("tokens that are guessed by another distribution come out with the model's", () => {
    const from = Float64Array.from(q);
    const seen = counts((i) => {
      let left = uniformAt(99, i, 0);
      const token = q.findIndex((x) => {
        left -= x;
        return left < 0;
      });
      return { tokens: [token], from: [from] };
    });
    expect(seen[4]).toBe(0);
    expect(chiSquare(seen)).toBeLessThan(16.3);
  });

  test("and so does a token that is always guessed", () => {
    for (const token of [0, 3]) {
      const seen = counts(() => ({ tokens: [token] }));
      expect(chiSquare(seen)).toBeLessThan(16.3);
    }
    expect(counts(() => ({ tokens: [4] }))[4]).toBe(0);
  });

  test("a guess is right as often as the distributions overlap, and then one more token follows", () => {
    const from = Float64Array.from(q);
    let right = 0;
    for (let i = 0; i < draws; i++) {
      let left = uniformAt(99, i, 0);
      const token = q.findIndex((x) => {
        left -= x;
        return left < 0;
      });
      const tokens = check({ seed: 3, stream: i }, 0, { tokens: [token], from: [from] }, () => Float64Array.from(p));
      if (tokens.length === 2) right++;
    }
    const overlap = p.reduce((sum, x, i) => sum + Math.min(x, q[i]!), 0);
    expect(right / draws).toBeCloseTo(overlap, 2);
  });
});

describe("replies", () => {
  const tokenizer = trainByteLevelBpe(["the the"], { vocabulary: 258, minFrequency: 1 });
  const config = { family: "gpt", vocabulary: 258, context: 160, layers: 1, width: 16, heads: 2, mlpWidth: 32 };
  let model: LanguageModel;
  let draft: LanguageModel;
  beforeAll(() => {
    useBackend(new ReferenceBackend());
    const keys = [randomKey(1), randomKey(2)];
    const first = initModel(gptConfig.parse(config), keys[0]!);
    // Sharp enough that not every token is as likely as another; the draft is the model with noise, so that it is right now and then.
    const make = jit((m: LanguageModel, key: Tensor<"i32">) => {
      const sharp = mapTree(m, (t) => t.mul(6));
      return [sharp, mapTree(sharp, (t) => t.add(normal(key, t.shape).mul(0.05)))] as const;
    });
    [model, draft] = make(first, keys[1]!);
    make.release();
    dispose(first);
    dispose(keys);
  });
  afterAll(() => dispose([model, draft]));
  checkLeaks();

  async function replies(options: object, requests: readonly ReplyRequest[]) {
    const engine = new ReplyEngine({ model, tokenizer, slots: 2, chunks: [16], endIds: [], ...options });
    const all = await Promise.all(
      requests.map(async (request) => {
        const tokens: number[] = [];
        for await (const chunk of engine.reply(request)) tokens.push(...chunk.tokens);
        return tokens;
      }),
    );
    const { guesses, pages } = engine.status;
    await engine.close();
    return { all, guesses, pages };
  }
  const prompt = (n: number) => tokenizer.encode("abcabcab the the ".repeat(3).slice(n, n + 20));

  test("greedy replies with guesses, looked up or by a draft, are those without", async () => {
    const requests = [0, 1, 2].map((n) => ({ prompt: prompt(n), maxTokens: 60, temperature: 0 }));
    const plain = await replies({}, requests);
    expect(plain.guesses).toEqual({ made: 0, right: 0 });
    for (const options of [{ lookUp: true }, { draft, ahead: 3 }]) {
      const guessed = await replies(options, requests);
      expect(guessed.all).toEqual(plain.all);
      expect(guessed.guesses.right).toBeGreaterThan(0);
      expect(guessed.pages.held).toBe(0);
    }
  });

  test("sampled replies have the same distribution of tokens with a draft as without", async () => {
    const requests = Array.from({ length: 100 }, (_, n) => ({
      prompt: prompt(0),
      maxTokens: 3,
      temperature: 1,
      topK: 6,
      seed: n,
    }));
    const [plain, guessed] = [await replies({}, requests), await replies({ draft, ahead: 3 }, requests)];
    expect(guessed.guesses.right).toBeGreaterThan(0);
    // Total variation between the two samples of second tokens: both are drawn from one distribution over at most 36 pairs.
    const share = (all: number[][]) => {
      const counts = new Map<number, number>();
      for (const tokens of all) counts.set(tokens[1]!, (counts.get(tokens[1]!) ?? 0) + 1 / all.length);
      return counts;
    };
    const [a, b] = [share(plain.all), share(guessed.all)];
    const distance = [...new Set([...a.keys(), ...b.keys()])].reduce(
      (sum, token) => sum + Math.abs((a.get(token) ?? 0) - (b.get(token) ?? 0)) / 2,
      0,
    );
    expect(distance).toBeLessThan(0.3);
  });

  test("after warm() a reply compiles nothing more, of the draft neither", async () => {
    const engine = new ReplyEngine({ model, tokenizer, draft, ahead: 3, slots: 1, chunks: [16], endIds: [] });
    await engine.warm();
    const { programs } = engine;
    expect(programs).toBeGreaterThan(2);
    for await (const _ of engine.reply({ prompt: prompt(0), maxTokens: 30, temperature: 0 }));
    expect(engine.status.guesses.made).toBeGreaterThan(0);
    expect(engine.programs).toBe(programs);
    await engine.close();
  });

  test("a draft with another vocabulary is refused, and so are guesses beside reproducible decoding", () => {
    const key = randomKey(1);
    const other = initModel(gptConfig.parse({ ...config, vocabulary: 300 }), key);
    expect(() => new ReplyEngine({ model, tokenizer, draft: other })).toThrow(/300 tokens, the model 258/);
    expect(() => new ReplyEngine({ model, tokenizer, lookUp: true, reproducible: true })).toThrow(/Leave out one/);
    dispose([other, key]);
  });
});
