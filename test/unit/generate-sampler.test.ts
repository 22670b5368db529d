import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { checkSampling, Sampler, type SamplingParameters, uniformAt } from "../../src/generate/index.ts";

/** Exact probabilities of a sampler: it is a function of one uniform number, so a fine comb of them counts its intervals. */
function distribution(
  logits: Float32Array,
  parameters: SamplingParameters,
  history: number[],
  teeth = 20_000,
): number[] {
  const sampler = new Sampler(logits.length);
  const counts = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < teeth; i++)
    counts[sampler.sample(logits, parameters, history, (i + 0.5) / teeth, false).token]!++;
  return counts.map((n) => n / teeth);
}

interface Golden {
  readonly cases: readonly {
    readonly parameters: Readonly<Record<string, number>>;
    readonly logits: number[];
    readonly history: number[];
    readonly probabilities: number[];
  }[];
}

describe("transformers' processors", () => {
  const { cases } = JSON.parse(
    readFileSync(new URL("../golden/generate/sampling.json", import.meta.url), "utf8"),
  ) as Golden;

  test.each(cases.map((c, i) => [i, JSON.stringify(c.parameters), c] as const))(
    "case %i leave the same probabilities: %s",
    (_i, _name, { parameters: p, logits, history, probabilities }) => {
      const ours: SamplingParameters = {
        temperature: p.temperature!,
        topK: p.top_k,
        topP: p.top_p,
        minP: p.min_p,
        repetitionPenalty: p.repetition_penalty,
      };
      const got = distribution(Float32Array.from(logits), ours, history);
      expect(got.map((q) => q > 0).filter(Boolean).length).toBeLessThanOrEqual(
        probabilities.filter((q) => q > 0).length,
      );
      for (const [i, q] of probabilities.entries()) expect(Math.abs(got[i]! - q)).toBeLessThan(1.5e-4);
    },
  );
});

test("draws follow the distribution: chi-square against exact probabilities", () => {
  const logits = Float32Array.from([0.3, -1, 2, 0, 1.1, -0.4, 0.9, -2, 1.7, 0.2]);
  const temperature = 0.8;
  const weights = Array.from(logits, (x) => Math.exp(x / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  const sampler = new Sampler(logits.length);
  const n = 20_000;
  for (const [seed, stream] of [
    [1, 0],
    [2 ** 40 + 3, 0],
    [1, 7],
  ] as const) {
    const counts = new Array<number>(logits.length).fill(0);
    for (let i = 0; i < n; i++)
      counts[sampler.sample(logits, { temperature }, [], uniformAt(seed, stream, i), false).token]!++;
    const statistic = counts.reduce((sum, c, i) => {
      const expected = (n * weights[i]!) / total;
      return sum + (c - expected) ** 2 / expected;
    }, 0);
    // 9 degrees of freedom: 27.9 is exceeded once in a thousand times; the seeds are fixed.
    expect(statistic).toBeLessThan(27.9);
    expect(statistic).toBeGreaterThan(0.9);
  }
});

test("draws depend on seed, stream and position, and on nothing else", () => {
  const at = (seed: number, stream: number) => Array.from({ length: 50 }, (_, i) => uniformAt(seed, stream, i));
  expect(at(5, 0)).toEqual(at(5, 0));
  const different = [at(5, 0), at(6, 0), at(5, 1), at(5 + 2 ** 32, 0)].flat();
  expect(new Set(different).size).toBe(200);
  expect(different.every((u) => u >= 0 && u < 1)).toBe(true);
});

test("measuring changes no choice", () => {
  const logits = Float32Array.from({ length: 50 }, (_, i) => 3 * Math.sin(i * i));
  const sampler = new Sampler(50);
  for (const parameters of [
    { temperature: 0 },
    { temperature: 0.9 },
    { temperature: 1, topK: 7 },
    { temperature: 1, repetitionPenalty: 1.4 },
  ])
    for (let i = 0; i < 100; i++) {
      const pick = (measure: boolean) =>
        sampler.sample(logits, parameters, [1, 2, 40], uniformAt(3, 0, i), measure).token;
      expect(pick(true)).toBe(pick(false));
    }
});

test("temperature 0 takes the most likely token, of equals the lowest id", () => {
  const sampler = new Sampler(4);
  const pick = (logits: number[], more: Partial<SamplingParameters> = {}, history: number[] = []) =>
    sampler.sample(Float32Array.from(logits), { temperature: 0, ...more }, history, 0.99, false).token;
  expect(pick([1, 3, 3, 2])).toBe(1);
  expect(pick([-5, -5, -5, -5])).toBe(0);
  expect(pick([1, 3, 2.9, 2], { repetitionPenalty: 1.2 }, [1])).toBe(2);
  expect(pick([Number.NEGATIVE_INFINITY, -1e30, -2, Number.NEGATIVE_INFINITY])).toBe(2);
});

test("log-probability and entropy are those before penalty and filters, at the temperature", () => {
  const logits = Float32Array.from([2, -1, 0.5, 1]);
  const p = { temperature: 0.5, topK: 1, repetitionPenalty: 3 };
  const e = Array.from(logits, (x) => Math.exp(x / 0.5));
  const z = e.reduce((a, b) => a + b, 0);
  const s = new Sampler(4).sample(logits, p, [0], 0.3, true);
  expect(s.token).toBe(3);
  expect(s.logProbability).toBeCloseTo(Math.log(e[3]! / z), 12);
  expect(s.entropy).toBeCloseTo(-e.reduce((sum, x) => sum + (x / z) * Math.log(x / z), 0), 12);
});

test("a vocabulary of 200,000 is filtered as a full sort would filter it", () => {
  const n = 200_000;
  const logits = Float32Array.from({ length: n }, (_, i) => 8 * Math.sin(i * 12.9898) * Math.sin(i * 78.233));
  const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const sampler = new Sampler(n);
  const tokens = (parameters: SamplingParameters) =>
    new Set(
      Array.from({ length: 400 }, (_, i) => sampler.sample(logits, parameters, [], (i + 0.5) / 400, false).token),
    );
  const top = new Set(order.slice(0, 50));
  for (const token of tokens({ temperature: 1, topK: 50 })) expect(top.has(token)).toBe(true);

  const weights = order.map((i) => Math.exp(logits[i]! - logits[order[0]!]!));
  const total = weights.reduce((a, b) => a + b, 0);
  let kept = 0;
  for (let sum = 0; sum < 0.3 * total; kept++) sum += weights[kept]!;
  const nucleus = new Set(order.slice(0, kept));
  for (const token of tokens({ temperature: 1, topP: 0.3 })) expect(nucleus.has(token)).toBe(true);
  // The last draw of all is the last token kept, in whatever order they are.
  const last = sampler.sample(logits, { temperature: 1, topP: 0.3 }, [], 1 - 2 ** -53, false).token;
  expect(nucleus.has(last)).toBe(true);
});

test("logits that are not finite are refused, not sampled from", () => {
  const sampler = new Sampler(3);
  for (const bad of [[1, Number.NaN, 2], [Number.POSITIVE_INFINITY, 0, 0], new Array(3).fill(Number.NEGATIVE_INFINITY)])
    for (const temperature of [0, 1])
      expect(() => sampler.sample(Float32Array.from(bad), { temperature }, [], 0.5, false)).toThrow(/not finite/);
});

test("parameters out of their range are refused by name", () => {
  const good = { temperature: 1 };
  expect(() => checkSampling(good)).not.toThrow();
  for (const [name, bad] of [
    ["temperature", { temperature: -1 }],
    ["temperature", { temperature: Number.NaN }],
    ["top-k", { topK: 1.5 }],
    ["top-p", { topP: 0 }],
    ["min-p", { minP: 2 }],
    ["repetition penalty", { repetitionPenalty: 0 }],
  ] as const)
    expect(() => checkSampling({ ...good, ...bad })).toThrow(name);
});
