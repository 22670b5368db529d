import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Checkpoints, readRun } from "../../src/runs/index.ts";
import { buildCli, runCliProcess, startCli } from "../support/cli.ts";

let root: string;
const corpus = () => join(root, "corpus");
beforeAll(async () => {
  buildCli();
  root = mkdtempSync(join(tmpdir(), "howdah-train-corpus-"));
  mkdirSync(join(root, "crawl"));
  const speeches = readFileSync("data/tinyshakespeare.txt", "utf8").split("\n\n");
  const page = (i: number) => JSON.stringify({ text: speeches.slice(i * 8, i * 8 + 8).join("\n\n") });
  writeFileSync(join(root, "crawl", "a.jsonl"), Array.from({ length: 120 }, (_, i) => `${page(i)}\n`).join(""));
  writeFileSync(
    join(root, "build.yaml"),
    "name: plays\nsources: [{ name: plays, paths: crawl }]\ntokenizer: { vocabulary: 400 }\nshards: { tokens: 10000 }\nmix: { holdout: 10% }\n",
  );
  const built = await runCliProcess(["data", "build", join(root, "build.yaml"), "--out", corpus()]);
  expect(built.exitCode, built.stderr).toBe(0);
}, 180_000);
afterAll(() => rmSync(root, { recursive: true }));

/** A recipe of a tiny model on a corpus; a run is told by its name. */
function recipeOf(name: string, data = `corpus: ${corpus()}`, stages: readonly string[] = []): string {
  const file = join(root, `${name}.yaml`);
  const pretrain =
    "pretrain: { steps: 40, batch_tokens: 512, log_every: 1, evaluate_every: 20, sample_every: 40, checkpoint_every: 0.005s }";
  writeFileSync(
    file,
    `name: ${name}\ndata: { ${data} }\nmodel: { family: gpt, layers: 1, width: 32, context: 64 }\nstages:\n${[pretrain, ...stages].map((s) => `  - ${s}\n`).join("")}`,
  );
  return file;
}
const argv = (recipe: string, ...more: string[]) => ["train", recipe, "--runs", join(root, "runs"), ...more];
const model = (name: string) =>
  readFileSync(join(root, "runs", name, "models", "pretrain", "model.safetensors")).toString("base64");

describe("a model trained straight from a corpus's shards", () => {
  test("has the corpus's tokenizer, is measured on what was held out, and is the same after kill -9", async () => {
    const straight = await runCliProcess(argv(recipeOf("straight")));
    expect(straight.exitCode, straight.stderr).toBe(0);
    const tokenizer = (folder: string) => readFileSync(join(folder, "tokenizer.json"), "utf8");
    expect(tokenizer(join(root, "runs", "straight", "models", "pretrain"))).toBe(
      tokenizer(join(corpus(), "tokenizer")),
    );
    const config = JSON.parse(
      readFileSync(join(root, "runs", "straight", "models", "pretrain", "config.json"), "utf8"),
    ) as { vocab_size: number };
    expect(config.vocab_size).toBe(400);
    const summary = readRun(join(root, "runs"), "straight").state.stages[0]!.summary as Record<string, number>;
    expect(summary.heldout_loss).toBeLessThan(Math.log(400));
    const held = JSON.parse(readFileSync(join(corpus(), "shards", "holdout-00000.json"), "utf8")) as { tokens: number };
    const report = JSON.parse(readFileSync(join(corpus(), "report.json"), "utf8")) as {
      tokenizer: { bytesPerToken: number };
    };
    // About as many bytes a token as in the whole corpus.
    const bytes = (held.tokens * summary.heldout_loss!) / Math.LN2 / summary.bits_per_byte!;
    expect(bytes / held.tokens / report.tokenizer.bytesPerToken).toBeCloseTo(1, 1);

    const recipe = recipeOf("killed");
    let killed = 0;
    for (let round = 0; round < 2; round++) {
      const running = startCli(argv(recipe, ...(round ? ["--resume"] : [])));
      const checkpoints = new Checkpoints(join(root, "runs", "killed", "checkpoints"));
      const before = checkpoints.latest()?.step ?? 0;
      while ((checkpoints.latest()?.step ?? 0) <= before && existsSync(recipe)) await sleep(5);
      running.kill("SIGKILL");
      if ((await running.ended).signal === "SIGKILL") killed++;
    }
    expect(killed).toBe(2);
    const resumed = await runCliProcess(argv(recipe, "--resume"));
    expect(resumed.exitCode, resumed.stderr).toBe(0);
    expect(model("killed")).toBe(model("straight"));
  }, 180_000);

  test("several readers of one corpus learn from other windows", async () => {
    for (const reader of [0, 1]) {
      const name = `reader-${reader}`;
      const ended = await runCliProcess(argv(recipeOf(name, `corpus: ${corpus()}, reader: ${reader}, readers: 2`)));
      expect(ended.exitCode, ended.stderr).toBe(0);
    }
    expect(model("reader-0")).not.toBe(model("reader-1"));
  }, 120_000);

  test("a corpus that was built anew, or whose tokenizer was exchanged, is refused", async () => {
    const other = join(root, "other");
    cpSync(corpus(), other, { recursive: true });
    const recipe = recipeOf("moved", `corpus: ${other}`);
    const first = startCli(argv(recipe));
    const checkpoints = new Checkpoints(join(root, "runs", "moved", "checkpoints"));
    while (!checkpoints.latest()) await sleep(5);
    first.kill("SIGKILL");
    await first.ended;
    const index = join(other, "shards", "shard-00000.json");
    const kept = readFileSync(index, "utf8");
    writeFileSync(index, kept.replace(/"sha256":"[0-9a-f]{8}/, '"sha256":"00000000'));
    const changed = await runCliProcess(argv(recipe, "--resume"));
    expect(changed.exitCode).toBe(2);
    expect(changed.stderr).toMatch(/not the one that this run began with/);
    // A run that begins hashes the shards themselves.
    const damaged = await runCliProcess(argv(recipeOf("damaged", `corpus: ${other}`)));
    expect(damaged.exitCode).toBe(2);
    expect(damaged.stderr).toMatch(/shard-00000\.bin: damaged/);
    writeFileSync(index, kept);
    const file = join(other, "tokenizer", "tokenizer.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/\n?$/, "\n\n"));
    const exchanged = await runCliProcess(argv(recipeOf("exchanged", `corpus: ${other}`)));
    expect(exchanged.exitCode).toBe(2);
    expect(exchanged.stderr).toMatch(/is not the tokenizer that the shards .* were made with/);
  }, 120_000);

  test.each([
    ["nowhere", "corpus: nowhere", [], /there is no such file or folder .* make it with howdah data build/],
    ["no shards", "corpus: crawl", [], /there are no token shards in it/],
    ["both", "corpus: crawl, text: build.yaml", [], /a text and a corpus: give one of them/],
    ["neither", "holdout: 10%", [], /names nothing to learn from/],
    ["readers", "corpus: corpus, reader: 2, readers: 2", [], /"data.reader" is 2 of 2/],
    ["text readers", "text: build.yaml, readers: 2", [], /share a corpus, and this recipe has a text/],
    ["pairs", "corpus: corpus", ["sft"], /"sft" needs pairs, and a corpus has no text/],
  ])("a recipe that cannot be followed says why: %s", async (name, data, stages, message) => {
    const ended = await runCliProcess(argv(recipeOf(`wrong-${name.replaceAll(" ", "-")}`, data, stages)));
    expect(ended.exitCode).toBe(2);
    expect(ended.stderr).toMatch(message);
  });
});
