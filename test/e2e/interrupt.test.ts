import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Event, readEvents, runStateOf } from "../../src/runs/index.ts";
import { buildCli, type Ended, runCliProcess, startCli } from "../support/cli.ts";
import { tinyJob, tinyStages } from "../support/tiny-job.ts";

// Checkpoints as often as can be, and stages long enough to be hit.
const job = tinyJob({
  stages: tinyStages.map((s) =>
    s
      .replace("pretrain: { steps: 12", "pretrain: { steps: 60")
      .replace("sft: { pairs: dialogue, steps: 6", "sft: { pairs: dialogue, steps: 40")
      .replace("examples: 48", "examples: 160, epochs: 2, checkpoint_every: 0.005s")
      .replace(", batch: 8, log_every: 1, checkpoint_every: 0.005s", ", batch: 8, log_every: 1")
      .replace("ppo: { steps: 3", "ppo: { steps: 8"),
  ),
  more: ["optimizer: { kind: muon }"],
});
const stageNames = ["pretrain", "sft", "reward", "ppo", "report"];

function train(runs: string, resume: boolean, env?: Record<string, string>) {
  return startCli(["train", job.recipe, "--runs", runs, ...(resume ? ["--resume"] : [])], env);
}
const eventsOf = (runs: string): Event[] => readEvents(join(runs, "tiny", "events.jsonl")).events;

/** Everything a run ends with that must not depend on how it got there: models bit for bit, metrics, summaries. */
function outcome(runs: string): Record<string, unknown> {
  const folder = join(runs, "tiny");
  const files = ["judge", "ppo", "pretrain", "reward", "sft"].flatMap((name) =>
    readdirSync(join(folder, "models", name)).map((file) => {
      const bytes = readFileSync(join(folder, "models", name, file));
      return [`${name}/${file}`, bytes.toString("base64")] as const;
    }),
  );
  const state = runStateOf(eventsOf(runs));
  return {
    files: Object.fromEntries(files),
    samples: readdirSync(join(folder, "samples")).map((f) => readFileSync(join(folder, "samples", f), "utf8")),
    summaries: state.stages.map((s) => [s.name, s.status, s.summary]),
    metrics: state.stages.map((s) => [s.name, [...s.metrics].sort(([a], [b]) => a - b)]),
    recipe: readFileSync(join(folder, "recipe.yaml"), "utf8"),
  };
}

/** Resolves when the run's log says so, or the process has ended. */
async function until(
  runs: string,
  ended: Promise<unknown>,
  said: (events: readonly Event[]) => boolean,
): Promise<void> {
  let over = false;
  void ended.then(() => {
    over = true;
  });
  while (!over) {
    if (existsSync(join(runs, "tiny", "events.jsonl")) && said(eventsOf(runs))) return;
    await new Promise((done) => setTimeout(done, 5));
  }
}

let undisturbed: Record<string, unknown>;
let first: Ended;
beforeAll(async () => {
  buildCli();
  first = await train(job.runs, false, { HOWDAH_THREADS: "2" }).ended;
  undisturbed = outcome(job.runs);
}, 240_000);
afterAll(() => job.remove());

test("the last line of a job is JSON with every number of the report", () => {
  expect(first).toMatchObject({ exitCode: 0, signal: null });
  const number = expect.any(Number);
  expect(first.result).toMatchObject({
    seconds: number,
    stage_seconds: Object.fromEntries(stageNames.map((name) => [name, number])),
    parameters: number,
    pretrain: { bits_per_byte: number },
    sft: { loss_before: number, loss_after: number },
    reward: { accuracy: number },
    ppo: { reward_before: number, reward_after: number, kl: number },
    judge: { win_rate: number, low: number, high: number },
    peak_memory_mb: number,
  });
});

test("one thread gives the same bits as two, through all stages", async () => {
  const runs = join(job.folder, "one-thread");
  expect(await train(runs, false, { HOWDAH_THREADS: "1" }).ended).toMatchObject({ exitCode: 0 });
  expect(outcome(runs)).toEqual(undisturbed);
});

test("a job killed in every stage and resumed ends with the same bits", async () => {
  const runs = join(job.folder, "killed");
  const killedIn: string[] = [];
  for (const stage of stageNames) {
    const running = train(runs, killedIn.length > 0);
    let seen = 0;
    await until(runs, running.ended, (events) => {
      // Some way into the stage: after its first metrics (the report may be about to sample: its start).
      seen = events.filter((e) => (e.type === "metrics" || e.type === "progress") && e.stage === stage).length;
      return seen >= 3;
    });
    running.kill("SIGKILL");
    const { signal } = await running.ended;
    if (signal === "SIGKILL") killedIn.push(stage);
  }
  expect(killedIn).toEqual(stageNames);
  const last = await train(runs, true).ended;
  expect(last).toMatchObject({ exitCode: 0 });
  expect(outcome(runs)).toEqual(undisturbed);
  // Every stage went on after its beginning, most of them from the middle; seconds count all sittings.
  const resumed = eventsOf(runs).flatMap((e) => (e.type === "stage" && e.status === "resumed" ? [e] : []));
  expect(resumed.map((e) => e.stage)).toEqual(stageNames);
  expect(resumed.filter((e) => (e.step ?? 0) > 0).length).toBeGreaterThanOrEqual(3);
  for (const { seconds, began, name } of runStateOf(eventsOf(runs)).stages) {
    const end = eventsOf(runs).find((e) => e.type === "stage" && e.stage === name && e.status === "finished")!;
    expect(seconds).toBeGreaterThan((end.t - began!) / 1000 - 0.1);
  }
}, 240_000);

test("a job killed at moments that nobody chose ends with the same bits", async () => {
  const runs = join(job.folder, "random");
  let sittings = 0;
  for (let wait = 350; sittings < 12; sittings++) {
    const running = train(runs, existsSync(join(runs, "tiny", "recipe.yaml")));
    await Promise.race([running.ended, new Promise((done) => setTimeout(done, wait))]);
    running.kill("SIGKILL");
    if ((await running.ended).exitCode === 0) break;
    wait = 350 + ((wait * 7919) % 1300);
  }
  expect(sittings).toBeGreaterThan(1);
  expect(await train(runs, true).ended).toMatchObject({ exitCode: 0 });
  expect(outcome(runs)).toEqual(undisturbed);
}, 240_000);

describe("Ctrl-C", () => {
  test.each(["pretrain", "ppo"])(
    "in %s stops cleanly with code 130, says how to go on, and loses nothing",
    async (stage) => {
      const runs = join(job.folder, `stopped-${stage}`);
      const running = train(runs, false);
      await until(runs, running.ended, (events) => events.some((e) => e.type === "metrics" && e.stage === stage));
      running.kill("SIGINT");
      const stopped = await running.ended;
      expect(stopped).toMatchObject({ exitCode: 130, signal: null, result: { interrupted: true } });
      expect(stopped.result?.message).toMatch(new RegExp(`Stopped in ${stage} after step \\d+`));
      expect(stopped.result?.resume).toMatch(/^howdah train .* --resume$/);
      expect(runStateOf(eventsOf(runs)).status).toBe("stopped");
      expect(await train(runs, true).ended).toMatchObject({ exitCode: 0 });
      expect(outcome(runs)).toEqual(undisturbed);
    },
    240_000,
  );
});

test("a run that another process works on is refused by name of that process, and goes on undisturbed", async () => {
  const runs = join(job.folder, "shared");
  const running = train(runs, false);
  await until(runs, running.ended, (events) => events.some((e) => e.type === "metrics"));
  const other = await runCliProcess(["train", job.recipe, "--runs", runs, "--resume"]);
  expect(other.exitCode).toBe(1);
  expect(other.result).toMatchObject({ error: { code: "locked" } });
  expect(other.stderr).toContain(`process ${running.pid}`);
  running.kill("SIGINT");
  expect((await running.ended).exitCode).toBe(130);
});
