import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { useBackend } from "../../src/engine/index.ts";
import { runJob } from "../../src/pipeline/index.ts";
import { ppo } from "../../src/pipeline/ppo.ts";
import { openWorkshop, type Workshop } from "../../src/pipeline/workshop.ts";
import { loadRecipe, type StageOf } from "../../src/recipe/index.ts";
import { type Event, Run } from "../../src/runs/index.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { backends } from "../helpers/backends.ts";
import { runTiny, smallPlay, tinyJob, tinyStages } from "../support/tiny-job.ts";

describe.each(backends.map((b) => [b.name, b] as const))("PPO, %s", (_name, backend) => {
  // The reference backend shows that the sums are right; what else there is to know is asked of the fast one.
  const fast = test.skipIf(backend !== backends.at(-1));
  const job = tinyJob({
    text: smallPlay(300),
    stages: [...tinyStages.slice(0, 3), "ppo: { steps: 2, reply_tokens: 8, batch: 8 }"],
  });
  let run: Run;
  let workshop: Workshop;
  let stage: StageOf<"ppo">;
  let events: Event[] = [];
  let tensorsBefore: number;

  beforeAll(async () => {
    useBackend(backend);
    tensorsBefore = liveTensors();
    const loaded = loadRecipe(job.recipe, []);
    const { recipe } = loaded;
    run = await Run.open(job.runs, "tiny", { recipe: "name: tiny\n", resume: false });
    await runJob(run, { ...loaded, recipe: { ...recipe, stages: recipe.stages.slice(0, 3) } });
    workshop = await openWorkshop(run, recipe);
    const last = recipe.stages[3]!;
    if (last.kind !== "ppo") throw new Error("the last stage is PPO");
    stage = last;
    run.events.add((event) => events.push(event));
  });
  afterAll(() => {
    run.close();
    job.remove();
  });

  /** Runs PPO with some options changed under a name of its own. @returns its summary and the metrics of each round */
  async function variant(name: string, change: Partial<StageOf<"ppo">>) {
    events = [];
    const summary = await ppo(workshop, { ...stage, ...change, name }, 3);
    run.checkpoints.remove(name);
    const rounds = events.flatMap((e) => (e.type === "metrics" && e.stage === name ? [e.values] : []));
    expect(liveTensors(), "tensors alive after the stage").toBe(tensorsBefore);
    return { summary, rounds };
  }
  const weights = (name: string) => readFileSync(join(run.modelFolder(name), "model.safetensors"));

  test("with a learning rate of 0 leaves every weight of the policy untouched, whatever the KL coefficient", async () => {
    for (const kl_coefficient of [0, 0.5]) {
      const still = { learning_rate: 0, value_learning_rate: 0, kl_coefficient, steps: 1 };
      const { summary, rounds } = await variant("still", still);
      expect(weights("still").equals(weights("sft"))).toBe(true);
      expect(summary.reward_after).toBe(summary.reward_before);
      expect(Math.abs(summary.kl!)).toBeLessThan(1e-4);
      for (const values of rounds) {
        expect(Math.abs(values["objective/kl"]!)).toBeLessThan(1e-4);
        expect(values["val/ratio"]).toBeCloseTo(1, 5);
        expect(values["policy/clipfrac_avg"]).toBe(0);
      }
    }
  });

  test.each([1, 0.7])(
    "at temperature %d the rollout's log-probabilities are the trainer's: the first update's ratio is 1 and nothing is clipped",
    async (temperature) => {
      const rounds = backend === backends.at(-1) ? 3 : 1;
      const { rounds: seen } = await variant("once", { epochs: 1, minibatches: 1, steps: rounds, temperature });
      // One update a round: the policy that is updated is the one that wrote the replies.
      expect(seen.length).toBe(rounds);
      for (const values of seen) {
        expect(Math.abs(values["val/ratio"]! - 1)).toBeLessThan(1e-5);
        // Differences of sums of squares in f32.
        expect(values["val/ratio_var"]!).toBeLessThan(1e-6);
        expect(values["policy/approxkl_avg"]!).toBeLessThan(1e-6);
        expect(values["policy/clipfrac_avg"]).toBe(0);
      }
      expect(weights("once").equals(weights("sft"))).toBe(false);
    },
  );

  fast("with a KL coefficient of 0 the reward is the score alone, and the coefficient stays 0", async () => {
    const { rounds } = await variant("free", { kl_coefficient: 0 });
    for (const values of rounds) {
      expect(values["objective/kl_coefficient"]).toBe(0);
      expect(values["objective/non_score_reward"]).toBeCloseTo(0, 12);
      expect(values["objective/rlhf_reward"]).toBe(values["objective/scores"]);
    }
  });

  fast(
    "the KL penalty in the reward is the coefficient times the divergence, and the coefficient moves towards the target",
    async () => {
      const { rounds } = await variant("penalised", { kl_coefficient: 0.3, steps: 3, kl_target: 100 });
      for (const values of rounds) {
        const penalty = values["objective/kl_coefficient"]! * values["objective/kl"]!;
        expect(values["objective/non_score_reward"]).toBeCloseTo(-penalty, 9);
        expect(values["objective/rlhf_reward"]).toBeCloseTo(values["objective/scores"]! - penalty, 9);
      }
      // The divergence is far below 100 nats: the penalty falls, by a fifth of 8 replies in 128 each round.
      const coefficients = rounds.map((values) => values["objective/kl_coefficient"]!);
      expect(coefficients[1]).toBeCloseTo(0.3 * (1 - (0.2 * 8) / 128), 9);
      expect(coefficients[2]).toBeCloseTo(0.3 * (1 - (0.2 * 8) / 128) ** 2, 9);
    },
  );

  fast("raises the reward model's score of held-out prompts, and diverges from the reference as it does", async () => {
    const { summary } = await variant("eager", {
      steps: 24,
      batch: 16,
      learning_rate: 4e-3,
      value_learning_rate: 5e-3,
      kl_coefficient: 0.001,
    });
    expect(summary.reward_after! - summary.reward_before!).toBeGreaterThan(0.01);
    expect(summary.kl).toBeGreaterThan(0.01);
  });

  fast("replies that leave no room for a prompt are refused with what to change", async () => {
    await expect(variant("narrow", { reply_tokens: 64 })).rejects.toThrow(/context of 64.*Lower reply_tokens/s);
    // What the attempt had loaded is not counted against the next test.
    tensorsBefore = liveTensors();
  });
});

const loadedNative = loadNativeBackend();
const native = "missing" in loadedNative ? undefined : loadedNative;
test.skipIf(!native)("PPO's four models need less than 2.5 times the memory of supervised tuning", async () => {
  useBackend(native!);
  const job = tinyJob({
    model: "layers: 2, width: 256, context: 96",
    text: smallPlay(300),
    stages: [
      "pretrain: { steps: 1, batch_tokens: 1024 }",
      "sft: { pairs: dialogue, steps: 2 }",
      "reward: { examples: 32, reply_tokens: 16, rejected: shuffled }",
      "ppo: { steps: 1, reply_tokens: 48 }",
    ],
  });
  try {
    const peaks: Record<string, number> = {};
    const { result } = await runTiny(job, {
      onEvent: (event) => {
        if (event.type !== "stage") return;
        if (event.status === "finished") peaks[event.stage] = native!.memory().peakBytes;
        native!.resetPeak();
      },
    });
    expect(result.parameters).toBeGreaterThan(1.5e6);
    expect(peaks.sft).toBeGreaterThan(4 * 4 * result.parameters);
    expect(peaks.ppo! / peaks.sft!).toBeLessThan(2.5);
    console.info(`peak memory: sft ${(peaks.sft! / 1e6).toFixed(0)} MB, ppo ${(peaks.ppo! / 1e6).toFixed(0)} MB`);
  } finally {
    job.remove();
  }
});
