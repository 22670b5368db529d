import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Checkpoints, readRun } from "../../src/runs/index.ts";
import { buildCli, runCliProcess, startCli } from "../support/cli.ts";
import { smallDisk } from "../support/small-disk.ts";
import { smallPlay, tinyJob, tinyStages } from "../support/tiny-job.ts";

const jobs: { remove(): void }[] = [];
function jobOf(options: Parameters<typeof tinyJob>[0] = {}) {
  const job = tinyJob(options);
  jobs.push(job);
  return job;
}
beforeAll(buildCli, 120_000);
afterAll(() => {
  for (const job of jobs) job.remove();
});

const train = (job: { recipe: string; runs: string }, ...more: string[]) =>
  runCliProcess(["train", job.recipe, "--runs", job.runs, ...more]);
const pretrainOnly = [tinyStages[0]];

describe("training that goes wrong", () => {
  test("a learning rate of 1e9 stops with the step, a tensor and the last good checkpoint named", async () => {
    const job = jobOf({ stages: pretrainOnly });
    const ended = await train(job, "--set", "stages.pretrain.learning_rate=1e9");
    expect(ended).toMatchObject({ exitCode: 1, result: { error: { code: "diverged" } } });
    const { message } = (ended.result as { error: { message: string } }).error;
    expect(message).toMatch(/pretrain diverged at step \d+: /);
    expect(message).toMatch(
      /(first tensor that is not finite is|largest, \S+, is in) [\w.]+\.(weight|bias|gain)|is not finite after the update/,
    );
    expect(message).toMatch(/last good checkpoint is |no checkpoint yet/);
    expect(message).toContain("lower learning rate");
    expect(readRun(job.runs, "tiny").status).toBe("failed");
  });

  test("a run that diverges after a good checkpoint names it, keeps it, and ends from it as if nothing had happened", async () => {
    const stages = [tinyStages[0].replace("steps: 12", "steps: 300").replace("0.005s", "0.05s")];
    const [job, undisturbed] = [jobOf({ stages }), jobOf({ stages })];
    expect((await train(undisturbed)).exitCode).toBe(0);
    const running = startCli(["train", job.recipe, "--runs", job.runs]);
    while (!new Checkpoints(join(job.run, "checkpoints")).latest()) await new Promise((done) => setTimeout(done, 5));
    running.kill("SIGINT");
    expect((await running.ended).exitCode).toBe(130);
    const good = new Checkpoints(join(job.run, "checkpoints")).latest()!;

    // Someone sets an impossible learning rate, in the recipe and in the run's own copy.
    const files = [job.recipe, join(job.run, "recipe.yaml")];
    const texts = files.map((file) => readFileSync(file, "utf8"));
    writeFileSync(files[0]!, texts[0]!.replace("steps: 300", "learning_rate: 1e30, steps: 300"));
    writeFileSync(files[1]!, texts[1]!.replace(/(?<!_)learning_rate: 0\.\d+/, "learning_rate: 1e30"));
    const ended = await train(job, "--resume");
    expect(ended).toMatchObject({ exitCode: 1, result: { error: { code: "diverged" } } });
    expect(ended.stderr).toContain(`The last good checkpoint is ${good.path}.`);
    expect(new Checkpoints(join(job.run, "checkpoints")).latest()?.path).toBe(good.path);

    files.forEach((file, i) => {
      writeFileSync(file, texts[i]!);
    });
    expect((await train(job, "--resume")).exitCode).toBe(0);
    const model = (run: string) => readFileSync(join(run, "models", "pretrain", "model.safetensors"));
    expect(model(job.run).equals(model(undisturbed.run))).toBe(true);
  });
});

describe("input that cannot be used", () => {
  test("a text that is too small is refused before anything is trained", async () => {
    const job = jobOf({ text: "ANNE:\nToo short.\n" });
    const ended = await train(job);
    expect(ended).toMatchObject({ exitCode: 2, result: { error: { code: "input" } } });
    expect(ended.stderr).toMatch(/play\.txt.*bytes/);
    expect(existsSync(join(job.run, "models", "pretrain"))).toBe(false);
  });

  test("a held-out part shorter than a window is refused with its length", async () => {
    const job = jobOf({ stages: pretrainOnly });
    const ended = await train(job, "--set", "data.holdout=0.1%");
    expect(ended).toMatchObject({ exitCode: 2, result: { error: { code: "input" } } });
    expect(ended.stderr).toMatch(/held-out part has \d+ tokens, fewer than one window of 65/);
  });

  test("a text that is not there, and bytes that are no text, are refused by name", async () => {
    const gone = jobOf();
    rmSync(join(gone.folder, "play.txt"));
    expect((await train(gone)).stderr).toContain("play.txt");
    const binary = jobOf();
    writeFileSync(join(binary.folder, "play.txt"), Buffer.from(Array.from({ length: 9000 }, (_, i) => (i * 37) % 256)));
    const ended = await train(binary);
    expect(ended.exitCode).toBe(2);
    expect(ended.stderr).toMatch(/play\.txt/);
  });

  test("a text without dialogue has no dialogue pairs, and the message says what dialogue looks like", async () => {
    const job = jobOf({ text: "The king went home and the queen stayed where she was. ".repeat(400) });
    const ended = await train(job);
    expect(ended.exitCode).toBe(2);
    expect(ended.stderr).toMatch(/too little dialogue.*NAME:/);
  });

  test("a tokenizer without a chat template cannot be used for dialogue, and says so by name", async () => {
    const job = jobOf();
    const folder = join(job.folder, "tokenizer");
    const trained = await runCliProcess([
      ...["tokenizer", "train", join(job.folder, "play.txt"), "-o", folder, "--vocabulary", "280"],
    ]);
    expect(trained.exitCode).toBe(0);
    const ended = await train(job, "--set", `tokenizer.from=${folder}`);
    expect(ended.exitCode).toBe(2);
    expect(ended.stderr).toMatch(/chat template/i);
  });

  test("a run whose tokenizer was exchanged for another one is refused, and its models are left alone", async () => {
    const job = jobOf({ stages: tinyStages.slice(0, 2) });
    expect((await train(job, "--set", "stages.sft.steps=1")).exitCode).toBe(0);
    const other = jobOf({ stages: pretrainOnly, text: smallPlay(400).replaceAll("king", "zebra") });
    expect((await train(other, "--set", "tokenizer.vocabulary=320")).exitCode).toBe(0);
    // The finished tuning stage is forgotten, so that it would be done again.
    const events = join(job.run, "events.jsonl");
    const lines = readFileSync(events, "utf8").split("\n");
    writeFileSync(
      events,
      `${lines
        .slice(
          0,
          lines.findIndex((l) => l.includes('"stage":"sft"')),
        )
        .join("\n")}\n`,
    );
    cpSync(join(other.run, "tokenizer"), join(job.run, "tokenizer"), { recursive: true });
    const before = readFileSync(join(job.run, "models", "pretrain", "model.safetensors"));
    const ended = await train(job, "--set", "stages.sft.steps=1", "--resume");
    expect(ended.exitCode).toBe(2);
    expect(ended.stderr).toMatch(/has 320 tokens, but the model in .*pretrain was trained with 300/);
    expect(readFileSync(join(job.run, "models", "pretrain", "model.safetensors")).equals(before)).toBe(true);
  });

  test("a run that is there is refused without --resume, and with another recipe", async () => {
    const job = jobOf({ stages: pretrainOnly });
    expect((await train(job)).exitCode).toBe(0);
    const again = await train(job);
    expect(again.exitCode).toBe(2);
    expect(again.stderr).toContain("--resume");
    const changed = await train(job, "--set", "model.width=48", "--resume");
    expect(changed.exitCode).toBe(2);
    expect(changed.stderr).toMatch(/another recipe.*width/);
  });
});

test("a full disk ends the run with its name, keeps what was saved, and the run goes on when there is room", async ({
  skip,
}) => {
  const disk = smallDisk(6);
  if (!disk) return skip("it takes root on Linux to mount a small disk");
  try {
    const stages = [tinyStages[0].replace("0.005s", "0.05s").replace("steps: 12", "steps: 60")];
    const job = { ...jobOf({ stages, model: "layers: 1, width: 64, context: 64" }), runs: join(disk.folder, "runs") };
    const filler = join(disk.folder, "filler");
    writeFileSync(filler, new Uint8Array(4_500_000));
    const ended = await train(job);
    expect(ended.exitCode).toBe(1);
    expect(ended.result).toMatchObject({ error: { code: "disk" } });
    expect(ended.stderr).toContain("the disk is full");
    rmSync(filler);
    const resumed = await train(job, "--resume");
    expect(resumed.exitCode).toBe(0);
    const whole = jobOf({ stages, model: "layers: 1, width: 64, context: 64" });
    expect((await train(whole)).exitCode).toBe(0);
    const model = (runs: string) => readFileSync(join(runs, "tiny", "models", "pretrain", "model.safetensors"));
    expect(model(job.runs).equals(model(whole.runs))).toBe(true);
  } finally {
    disk.remove();
  }
});
