import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import type { JobResult } from "../../src/pipeline/index.ts";
import { Checkpoints, type Event } from "../../src/runs/index.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { backends } from "../helpers/backends.ts";
import { runTiny, tinyJob } from "../support/tiny-job.ts";

const names = ["pretrain", "sft", "reward", "ppo", "report"];

describe("a whole job", () => {
  const job = tinyJob();
  let result: JobResult;
  let events: Event[];
  let models: string[];
  let leaked: Record<string, number>;
  beforeAll(async () => {
    useBackend(backends.at(-1)!);
    const before = liveTensors();
    models = [];
    leaked = {};
    ({ result, events } = await runTiny(job, {
      onModel: (news) => models.push(news.stage),
      onEvent: (event) => {
        if (event.type === "stage" && event.status === "finished") leaked[event.stage] = liveTensors() - before;
      },
    }));
  });
  afterAll(() => job.remove());

  test("starts and finishes every stage in the recipe's order", () => {
    const stages = events.flatMap((e) => (e.type === "stage" ? [`${e.stage} ${e.status} ${e.index}/${e.count}`] : []));
    expect(stages).toEqual(names.flatMap((name, i) => [`${name} started ${i}/5`, `${name} finished ${i}/5`]));
    expect(events.flatMap((e) => (e.type === "run" ? [e.status] : []))).toEqual(["started", "finished"]);
    expect(models).toEqual(["pretrain", "sft", "ppo"]);
  });

  test("reports metrics and progress of every stage, and of nothing that is no stage", () => {
    for (const type of ["metrics", "progress"] as const)
      expect([...new Set(events.flatMap((e) => (e.type === type ? [e.stage] : [])))]).toEqual(names);
    for (const e of events)
      if (e.type === "progress") {
        expect(e.done).toBeLessThanOrEqual(e.total);
        expect(e.rate).toBeGreaterThan(0);
        expect(e.secondsLeft).toBeGreaterThanOrEqual(0);
      }
    expect(events.some((e) => e.type === "sample" && e.stage === "pretrain" && e.text.length > 0)).toBe(true);
  });

  test("leaves no tensor behind after any stage", () => {
    expect(leaked).toEqual(Object.fromEntries(names.map((name) => [name, 0])));
  });

  test("gives the metrics of PPO the names that TRL gives them", () => {
    const round = events.find((e) => e.type === "metrics" && e.stage === "ppo" && e.step === 1);
    expect(Object.keys(round?.type === "metrics" ? round.values : {})).toEqual(
      expect.arrayContaining([
        ...["objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward"],
        ...["objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg"],
        ...[
          "val/clipfrac_avg",
          "policy/entropy_avg",
          "val/ratio",
          "val/ratio_var",
          "val/num_eos_tokens",
          "lr",
          "episode",
        ],
      ]),
    );
  });

  test("learns: bits per byte fall below the untrained model's, replies become likelier", () => {
    // 300 equally likely tokens of at least one byte are at most log2(300) = 8.2 bits per byte.
    const { pretrain, sft } = result.summaries;
    expect(pretrain!.bits_per_byte).toBeGreaterThan(0);
    expect(pretrain!.bits_per_byte).toBeLessThan(Math.log2(300));
    expect(sft!.loss_after).toBeLessThan(sft!.loss_before!);
  });

  test("leaves models, the report and the sampled replies, and no checkpoints", () => {
    expect(readdirSync(join(job.run, "models")).sort()).toEqual(["judge", "ppo", "pretrain", "reward", "sft"]);
    for (const name of names.slice(0, 4))
      expect(existsSync(join(job.run, "models", name, "model.safetensors"))).toBe(true);
    expect(new Checkpoints(join(job.run, "checkpoints")).list()).toEqual([]);
    expect(readdirSync(join(job.run, "samples")).sort()).toEqual(["judge.json", "reward.json"]);
    const report = readFileSync(join(job.run, "report.md"), "utf8");
    for (const line of ["Bits per byte", "Judge prefers PPO to SFT", "Distinct-2", "**SFT**", "**PPO**"])
      expect(report).toContain(line);
    expect(report).not.toMatch(/NaN|undefined|Infinity/);
  });

  test("a finished job that is asked to go on does nothing again and says the same", async () => {
    const again = await runTiny(job, { resume: true });
    expect(again.events.filter((e) => e.type !== "run")).toEqual([]);
    expect(again.result.summaries).toEqual(result.summaries);
    expect(again.result.seconds).toEqual(result.seconds);
    expect(again.result.parameters).toBe(result.parameters);
  });
});
