import { beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import { Sampler, type SamplingParameters, uniformAt } from "../../src/generate/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { sampleSettings, sampleToken, wordsOf } from "../../src/tensor/ops/sample.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const ways: SamplingParameters[] = [
  { temperature: 0 },
  { temperature: 0, repetitionPenalty: 1.4 },
  { temperature: 1 },
  { temperature: 0.7, topK: 40 },
  { temperature: 1.1, topP: 0.9 },
  { temperature: 1.3, minP: 0.02 },
  { temperature: 0.9, topK: 200, topP: 0.95, minP: 0.01, repetitionPenalty: 1.2 },
];

const VOCABULARY = 4099;
const LONGEST = 12;
const PROMPT = 5;

/** Peaked like a model's: few tokens with most of the probability, a long tail. */
function logitsOf(seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: VOCABULARY }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const u = (state + 0.5) / 2 ** 32;
    return 3 * Math.log(u / (1 - u));
  });
}

describe.each(backends.map((b) => [b.name, b] as const))("tokens chosen in the program, %s", (_name, backend) => {
  beforeAll(() => {
    useBackend(backend);
  });
  checkLeaks();

  test("are those of the sampler on the same draws, and so are log-probabilities and entropies", async () => {
    const choose = jit(sampleToken);
    const sampler = new Sampler(VOCABULARY);
    const rows = ways.length;
    for (let round = 0; round < 12; round++) {
      const places = Int32Array.from({ length: rows }, (_, i) => PROMPT - 1 + ((round + i) % (LONGEST - PROMPT)));
      const history = Int32Array.from({ length: rows * LONGEST }, (_, i) => (i * 7919 + round * 31) % VOCABULARY);
      const logits = ways.map((_, i) => logitsOf(round * 100 + i));
      const seed = 2 ** 40 + round;
      const settings = ways.flatMap(({ temperature, topP = 1, minP = 0, repetitionPenalty = 1, topK = 0 }, i) => [
        ...[temperature, topP, minP, repetitionPenalty].flatMap(wordsOf),
        ...[topK, seed | 0, Math.floor(seed / 2 ** 32), i, PROMPT, 1],
      ]);
      const i32 = (data: Int32Array, shape: number[]) => tensor(data, { shape }) as Tensor<"i32">;
      const inputs = [
        tensor(Float32Array.from(logits.flatMap((x) => [...x])), { shape: [rows, VOCABULARY] }),
        i32(
          Int32Array.from({ length: rows }, (_, i) => history[i * LONGEST + places[i]!]!),
          [rows],
        ),
        i32(places, [rows]),
        i32(Int32Array.from(settings), [rows, sampleSettings.words]),
        i32(history, [rows, LONGEST]),
      ] as [Tensor, Tensor<"i32">, Tensor<"i32">, Tensor<"i32">, Tensor<"i32">];
      const out = choose(...inputs);
      const [tokens, measures] = [await out.token.numbers(), await out.measures.numbers()];
      for (const [i, way] of ways.entries()) {
        const seen = [...history.subarray(i * LONGEST, i * LONGEST + places[i]! + 1)];
        const uniform = uniformAt(seed, i, seen.length - PROMPT);
        const wanted = sampler.sample(logits[i]!, way, seen, uniform, true);
        expect(tokens[i], JSON.stringify(way)).toBe(wanted.token);
        expect(measures[2 * i]).toBeCloseTo(wanted.logProbability, 4);
        expect(measures[2 * i + 1]).toBeCloseTo(wanted.entropy, 4);
      }
      dispose([inputs, out]);
    }
    choose.release();
  });
});
