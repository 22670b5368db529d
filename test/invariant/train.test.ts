import { beforeAll, describe, expect, test } from "vitest";
import { packExamples, padExamples, type SequenceBatch } from "../../src/data/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, type LanguageModel, llamaConfig, type ModelConfig } from "../../src/models/index.ts";
import { evaluationStep, meanLoss, type TextBatch, textBatch, textLoss } from "../../src/pipeline/pretrain.ts";
import type { NewEvent } from "../../src/runs/index.ts";
import { scalar } from "../../src/tensor/ops/creation.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import {
  Optimizer,
  type StepLoss,
  StoppedError,
  type TrainState,
  trainLoop,
  trainStep,
} from "../../src/train/index.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const sizes = { vocabulary: 29, context: 12, layers: 2, width: 16, heads: 2, mlpWidth: 32 };
const gpt = gptConfig.parse({ family: "gpt", ...sizes });
const llama = llamaConfig.parse({ family: "llama", ...sizes, kvHeads: 1, headWidth: 8 });

function modelOf(config: ModelConfig, seed = 1): LanguageModel {
  const key = randomKey(seed);
  const model = initModel(config, key);
  dispose(key);
  return model;
}

/** Examples of many lengths; the first part of each is only read. */
const examples = Array.from({ length: 24 }, (_, i) => {
  const length = 2 + ((i * 5) % 11);
  return {
    ids: Array.from({ length }, (_x, t) => (3 + 7 * i + 5 * t + ((i * t) % 4)) % sizes.vocabulary),
    mask: Array.from({ length }, (_x, t) => (t < 1 + (i % 3) && t < length - 1 ? 0 : 1)),
  };
});

const adamw = { kind: "adamw", beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clip: 1 } as const;

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  beforeAll(() => useBackend(backend));
  checkLeaks();

  /** Trains on the same 8 rows for some steps. @returns losses, and all weights in a row */
  async function trained(accumulate: number, config: ModelConfig = gpt, kind: "adamw" | "muon" = "adamw", steps = 5) {
    const optimizer = new Optimizer({ ...adamw, kind, muonMomentum: 0.95 });
    const step = trainStep({ loss: textLoss, optimizer, accumulate, precision: "f32" });
    const model = modelOf(config);
    let state: TrainState<LanguageModel> = { model, optimizer: optimizer.init(model), key: randomKey(2) };
    const rates = { adamw: scalar(1e-2), muon: scalar(1e-2) };
    // Rows of different counts of targets: the mean is over targets, not over rows.
    const batch = textBatch(padExamples(examples.slice(0, 8), 12));
    const losses: number[] = [];
    for (let i = 0; i < steps; i++) {
      const next = step(state, batch, rates);
      state = next.state;
      losses.push(await next.metrics.loss!.item());
      dispose(next.metrics);
    }
    const weights = (await Promise.all(leaves(state.model).map((l) => l.tensor.numbers()))).flat();
    dispose([state, rates, batch]);
    step.release();
    return { losses, weights };
  }
  const distance = (a: readonly number[], b: readonly number[]) => {
    const norm = Math.hypot(...a);
    return Math.hypot(...a.map((x, i) => x - b[i]!)) / norm;
  };

  test.each([
    ["gpt", gpt],
    ["llama", llama],
  ] as const)("%s: one batch of 8 equals 8 batches of 1 by accumulation", async (_family, config) => {
    const whole = await trained(1, config);
    for (const parts of [2, 8]) {
      const split = await trained(parts, config);
      expect(distance(whole.losses, split.losses)).toBeLessThan(1e-5);
      expect(distance(whole.weights, split.weights)).toBeLessThan(1e-5);
    }
    expect(whole.losses.at(-1)!).toBeLessThan(whole.losses[0]!);
  });

  test("training twice gives the same bits, and Muon learns too", async () => {
    const [a, b] = [await trained(2, gpt, "muon"), await trained(2, gpt, "muon")];
    expect(a).toEqual(b);
    expect(a.losses.at(-1)!).toBeLessThan(a.losses[0]!);
  });

  test("dropout differs from step to step and between the parts of a step, and is the same each time", async () => {
    const dropping = gptConfig.parse({
      ...{ family: "gpt", ...sizes },
      dropout: { embedding: 0.3, attention: 0.3, residual: 0.3 },
    });
    const key = randomKey(3);
    const model = modelOf(dropping);
    const optimizer = new Optimizer({ ...adamw, muonMomentum: 0.95 });
    // The same row twice: its two losses are equal only if the same units are dropped.
    const one = examples[4]!;
    const batch = textBatch(padExamples([one, one], 12));
    const each: StepLoss<LanguageModel, TextBatch> = (m, b, k) => {
      const [loss] = textLoss(m, b, k);
      return [loss, { square: loss.square() }];
    };
    const step = trainStep({ loss: each, optimizer, accumulate: 2, precision: "f32" });
    const still = { adamw: scalar(0), muon: scalar(0) };
    const run = async () => {
      const start = modelOf(dropping);
      let state: TrainState<LanguageModel> = { model: start, optimizer: optimizer.init(start), key: randomKey(3) };
      const seen: number[][] = [];
      for (let i = 0; i < 2; i++) {
        const next = step(state, batch, still);
        state = next.state;
        seen.push([await next.metrics.loss!.item(), await next.metrics.square!.item()]);
        dispose(next.metrics);
      }
      dispose(state);
      return seen;
    };
    const [first, second] = await run();
    // Sum of squares and square of the sum agree only where the two halves are equal: a = b gives a^2 + b^2 = (a + b)^2 / 2.
    expect(Math.abs(first![1]! - first![0]! ** 2 / 2)).toBeGreaterThan(1e-5);
    expect(first![0]).not.toBe(second![0]);
    expect(await run()).toEqual([first, second]);
    dispose([key, model, batch, still]);
    step.release();
  });

  test("the loss of packed examples is that of the examples one by one", async () => {
    const model = modelOf(gpt);
    const step = evaluationStep("f32");
    const packed = packExamples(examples, 12).batch;
    expect(packed.rows).toBeLessThan(examples.length * 0.75);
    const together = await meanLoss(step, model, [packed]);
    let [total, count] = [0, 0];
    for (const example of examples) {
      const alone = await meanLoss(step, model, [padExamples([example], 12)]);
      total += alone.total;
      count += alone.count;
    }
    expect(together.count).toBe(count);
    expect(count).toBe(examples.reduce((n, e) => n + e.mask.slice(1).filter((m) => m === 1).length, 0));
    expect(together.total / total).toBeCloseTo(1, 5);
    dispose(model);
    step.release();
  });

  test("the gradient of packed examples is that of the examples one by one", async () => {
    const gradients = async (batch: SequenceBatch) => {
      // With beta 0, no decay and a large epsilon an update is the gradient.
      const config = { ...adamw, beta1: 0, beta2: 0, epsilon: 1e6, weightDecay: 0, clip: 1e9, muonMomentum: 0 };
      const optimizer = new Optimizer(config);
      const step = trainStep({ loss: textLoss, optimizer, precision: "f32" });
      const model = modelOf(llama);
      const before = (await Promise.all(leaves(model).map((l) => l.tensor.numbers()))).flat();
      const rates = { adamw: scalar(1e6), muon: scalar(0) };
      const rows = textBatch(batch);
      const next = step({ model, optimizer: optimizer.init(model), key: randomKey(1) }, rows, rates);
      const after = (await Promise.all(leaves(next.state.model).map((l) => l.tensor.numbers()))).flat();
      dispose([next, rates, rows]);
      step.release();
      return after.map((x, i) => x - before[i]!);
    };
    const packed = await gradients(packExamples(examples, 12).batch);
    const alone = await gradients(padExamples(examples, 12));
    expect(Math.hypot(...alone)).toBeGreaterThan(0.1);
    expect(distance(alone, packed)).toBeLessThan(1e-4);
  });
});

describe("the training loop", () => {
  beforeAll(() => useBackend(backends.at(-1)!));

  interface Told {
    readonly loss: (i: number) => number;
    readonly norm?: (i: number) => number;
    readonly steps?: number;
    readonly from?: number;
    readonly signal?: AbortSignal;
    readonly checkpointEvery?: number;
    readonly model?: () => unknown;
  }
  async function loop(o: Told) {
    const saved: number[] = [];
    const events: NewEvent[] = [];
    const error = await trainLoop({
      stage: "pretrain",
      from: o.from ?? 0,
      steps: o.steps ?? 30,
      emit: (event) => events.push(event),
      run: async (i) => {
        await new Promise((done) => setImmediate(done));
        return { loss: scalar(o.loss(i)), gradient_norm: o.norm?.(i) ?? 1 };
      },
      checkpointEvery: o.checkpointEvery ?? 1e9,
      save: async (step) => void saved.push(step),
      discard: (step) => {
        if (saved.at(-1) !== step) throw new Error(`step ${step} is not the last that was saved`);
        saved.pop();
      },
      lastGood: () => (saved.length ? `checkpoints/step-${saved.at(-1)}` : undefined),
      ...(o.signal ? { signal: o.signal } : {}),
      ...(o.model ? { model: o.model } : {}),
    }).then(
      () => undefined,
      (e: unknown) => e as Error,
    );
    return { error, saved, events };
  }
  checkLeaks();

  test.each([
    ["NaN", Number.NaN],
    ["Infinity", Number.POSITIVE_INFINITY],
  ])("stops at a loss of %s with the step, the tensor and the last good checkpoint named", async (name, bad) => {
    const model = { h: [{ weight: tensor([1, 2]) }, { weight: tensor([1, Number.NaN]) }], end: tensor([Number.NaN]) };
    let good = true;
    const { error } = await loop({
      loss: (i) => {
        good = i < 11;
        return good ? 2 : bad;
      },
      checkpointEvery: 0,
      model: () => (good ? { weight: model.end.shape } : model),
    });
    expect(error).toMatchObject({ code: "diverged" });
    expect(error!.message).toContain(`pretrain diverged at step 12: loss is ${name}`);
    expect(error!.message).toContain("h.1.weight");
    // The weights after step 11 were finite and were saved; the loss of step 12 says that they were wrong.
    expect(error!.message).toMatch(/last good checkpoint is checkpoints\/step-10\b/);
    dispose(model);
  });

  test("stops at a loss that explodes, also in its first steps, and names the largest weights", async () => {
    const model = { small: tensor([1]), large: tensor([-2e8]) };
    const { error, saved } = await loop({ loss: (i) => (i < 4 ? 5 : 500), model: () => model });
    expect(error!.message).toContain("diverged at step 5: loss rose to 500.0 from 5.000");
    expect(error!.message).toContain("is in large");
    expect(error!.message).toContain("There is no checkpoint yet.");
    expect(saved).toEqual([]);
    dispose(model);
  });

  test("goes on where a loss merely doubles, or falls from far up", async () => {
    expect((await loop({ loss: (i) => (i % 2 ? 2 : 4) })).error).toBeUndefined();
    expect((await loop({ loss: (i) => 1000 / (i + 1) })).error).toBeUndefined();
    expect((await loop({ loss: (i) => -i })).error).toBeUndefined();
  });

  test("saves no weights that are not finite, though the loss before them was", async () => {
    const model = { weight: tensor([Number.NaN]) };
    const { error, saved } = await loop({ loss: () => 1, checkpointEvery: 0, model: () => model });
    expect(error).toMatchObject({ code: "diverged" });
    expect(error!.message).toContain("weight is not finite");
    expect(saved).toEqual([]);
    dispose(model);
  });

  test("asked to stop, saves what is done, and says where", async () => {
    const controller = new AbortController();
    const { error, saved } = await loop({
      loss: (i) => {
        if (i === 6) controller.abort();
        return 1;
      },
      signal: controller.signal,
    });
    expect(error).toBeInstanceOf(StoppedError);
    expect(error).toMatchObject({ code: "stopped", stage: "pretrain", step: 7 });
    expect(saved).toEqual([7]);
  });

  test("from a checkpoint does only the steps that are left", async () => {
    const done: number[] = [];
    await loop({
      loss: (i) => {
        done.push(i);
        return 1;
      },
      from: 27,
    });
    expect(done).toEqual([27, 28, 29]);
  });
});
