import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readSafetensors } from "../../src/checkpoint/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { Generator, generateBatch } from "../../src/generate/index.ts";
import { type LanguageModel, loadModel, logits, tokenLogProbabilities } from "../../src/models/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, mapTree } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const folder = (name: string) => fileURLToPath(new URL(`../golden/models/${name}`, import.meta.url));
const greedy = { temperature: 0, seed: 0 };

/** Prompts of these lengths with ids that are no special tokens. */
const promptsOf = (lengths: readonly number[], vocabulary: number): number[][] =>
  lengths.map((length, row) =>
    Array.from({ length }, (_, t) => 3 + ((7 * row + 13 * t + ((row * t) % 5)) % (vocabulary - 3))),
  );

const row = (ids: readonly number[]) => tensor(Int32Array.from(ids), { shape: [1, ids.length] }) as Tensor<"i32">;

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  describe.each(["gpt2", "llama-grouped", "llama-scaled", "qwen2"])("%s", (name) => {
    checkLeaks();

    test("greedy replies are those of transformers' generate", async () => {
      useBackend(backend);
      const { model } = await loadModel(folder(name));
      const expected = await readSafetensors(`${folder(name)}/expected.safetensors`);
      const wholes: number[][] = [];
      for (const length of [2, 5, 7]) wholes.push(await expected.get(`greedy.${length}`)!.numbers());
      const prompts = [2, 5, 7].map((length, i) => wholes[i]!.slice(0, length));
      const endIds = model.config.tokens.end!;
      const replies = await generateBatch(model, prompts, { ...greedy, maxTokens: 12, endIds, chunks: [4] });
      expect(replies.map(({ tokens }, i) => [...prompts[i]!, ...tokens])).toEqual(wholes);
      dispose([model, [...expected.values()]]);
    });
  });

  describe.each(["gpt2", "llama-grouped"])("%s", (name) => {
    let model: LanguageModel;
    beforeAll(async () => {
      useBackend(backend);
      ({ model } = await loadModel(folder(name)));
    });
    afterAll(() => dispose(model));
    checkLeaks();

    /** The most likely next token by reading the whole text anew each time. */
    async function withoutCache(prompt: readonly number[], count: number): Promise<number[]> {
      const forward = jit((m: LanguageModel, ids: Tensor<"i32">) => {
        const { hidden } = m.hidden(ids);
        return logits(m, hidden.slice(1, ids.shape[1]! - 1));
      });
      const text = [...prompt];
      for (let i = 0; i < count; i++) {
        const ids = row(text);
        const out = forward(model, ids);
        const scores = await out.numbers();
        dispose([ids, out]);
        text.push(scores.indexOf(Math.max(...scores)));
      }
      forward.release();
      return text.slice(prompt.length);
    }

    test("dropping the KV cache changes nothing, for prompts of different lengths in one batch", async () => {
      const prompts = promptsOf([2, 5, 9, 1, 7], model.config.vocabulary);
      // Pieces of 4 and 2, so that prompts are read in one, two and three pieces; three slots for five prompts.
      const replies = await generateBatch(model, prompts, { ...greedy, maxTokens: 8, slots: 3, chunks: [2, 4] });
      for (const [i, prompt] of prompts.entries()) expect(replies[i]!.tokens).toEqual(await withoutCache(prompt, 8));
    });

    test("a sampled row of a batch is the same to the last bit in other company", async () => {
      const prompts = promptsOf([3, 8, 1, 5, 2, 6], model.config.vocabulary);
      const sampling = { temperature: 1.3, topP: 0.95, repetitionPenalty: 1.1, seed: 11, maxTokens: 10 };
      const wide = { slots: 4, chunks: [8], capacity: 24, reproducible: true };
      using generator = new Generator(wide);
      const together = await generator.run(model, prompts, sampling);
      // The others' prompts are cut to one token, so that slots and steps are shared differently.
      for (const [i, prompt] of prompts.entries()) {
        const company = prompts.map((one, j) => (j === i ? prompt : one.slice(0, 1)));
        const other = await generator.run(model, company, sampling);
        expect(other[i]!.tokens).toEqual(together[i]!.tokens);
        expect(other[i]!.logProbabilities).toEqual(together[i]!.logProbabilities);
      }
      // Prompts in steps of 4 and 8 tokens, and the replies of all slots.
      expect(generator.programs).toBe(3);
    });

    test("log-probabilities of a rollout are those of the trainer, at its temperature too", async () => {
      const prompts = promptsOf([4, 9, 2, 6, 7], model.config.vocabulary);
      for (const temperature of [1, 0.7]) {
        const replies = await generateBatch(model, prompts, {
          temperature,
          topK: 20,
          seed: 5,
          maxTokens: 12,
          slots: 3,
        });
        for (const [i, prompt] of prompts.entries()) {
          const { tokens, logProbabilities, entropies } = replies[i]!;
          const text = [...prompt, ...tokens];
          const [ids, targets] = [row(text.slice(0, -1)), row(text.slice(1))];
          const forward = jit((m: LanguageModel, ids: Tensor<"i32">, targets: Tensor<"i32">) => ({
            trained: tokenLogProbabilities(m, { ids, targets }),
            logits: logits(m, m.hidden(ids).hidden),
          }));
          const out = forward(model, ids, targets);
          const trained = await out.trained.numbers();
          const scores = await out.logits.numbers();
          const v = model.config.vocabulary;
          for (const [n, token] of tokens.entries()) {
            const at = prompt.length - 1 + n;
            const x = scores.slice(at * v, (at + 1) * v).map((s) => s / temperature);
            const total = x.reduce((sum, s) => sum + Math.exp(s), 0);
            const p = x.map((s) => Math.exp(s) / total);
            expect(Math.abs(logProbabilities[n]! - Math.log(p[token]!))).toBeLessThan(1e-5);
            expect(entropies[n]!).toBeCloseTo(-p.reduce((sum, q) => sum + q * Math.log(q), 0), 4);
            if (temperature === 1) expect(Math.abs(logProbabilities[n]! - trained[at]!)).toBeLessThan(1e-5);
          }
          dispose([ids, targets, out]);
          forward.release();
        }
      }
    });

    test("other weights of the same form need no new programs", async () => {
      const prompts = promptsOf([3, 4], model.config.vocabulary);
      using generator = new Generator({ slots: 2, chunks: [4], capacity: 16 });
      const before = await generator.run(model, prompts, { ...greedy, maxTokens: 5 });
      const programs = generator.programs;
      const other = jit((m: LanguageModel) => {
        const halves = (t: Tensor) => t.mul(0.5);
        return mapTree(m, halves);
      });
      const half = other(model);
      const after = await generator.run(half, prompts, { ...greedy, maxTokens: 5 });
      expect(after[0]!.logProbabilities).not.toEqual(before[0]!.logProbabilities);
      expect(generator.programs).toBe(programs);
      dispose(half);
      other.release();
    });

    test("a reply ends at an end token, at max tokens, and where the capacity ends", async () => {
      const prompts = promptsOf([3, 6], model.config.vocabulary);
      using generator = new Generator({ slots: 2, chunks: [8], capacity: 12 });
      const free = await generator.run(model, prompts, { ...greedy, maxTokens: 100 });
      expect(free.map((r) => [r.tokens.length, r.finish])).toEqual([
        [9, "length"],
        [6, "length"],
      ]);
      const short = await generator.run(model, prompts, { ...greedy, maxTokens: 4 });
      expect(short.map((r) => r.tokens)).toEqual(free.map((r) => r.tokens.slice(0, 4)));
      const end = free[0]!.tokens[2]!;
      const stopped = await generator.run(model, prompts, { ...greedy, maxTokens: 100, endIds: [end] });
      const first = free[0]!.tokens.indexOf(end);
      expect(stopped[0]).toMatchObject({ tokens: free[0]!.tokens.slice(0, first + 1), finish: "stop" });
    });
  });
});
