import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { commands } from "../../src/cli/commands/index.ts";
import { runCli } from "../../src/cli/frame.ts";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { Run } from "../../src/runs/index.ts";
import { captureOutput } from "../support/output.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-cli-"));
afterAll(() => rmSync(root, { recursive: true }));

const written = captureOutput();

/** Runs a command line as a person would type it; what the last line says, and the exit code. */
async function howdah(...argv: string[]): Promise<{ exitCode: number; result: Record<string, unknown>; text: string }> {
  written.out = "";
  const exitCode = await runCli({ commands, version: "0" }, argv);
  const lines = written.out.trimEnd().split("\n");
  return {
    exitCode,
    result: JSON.parse(lines.at(-1)!) as Record<string, unknown>,
    text: lines.slice(0, -1).join("\n"),
  };
}

describe("howdah tokenizer", () => {
  test("trains on files and folders, and decode undoes encode", async () => {
    const texts = join(root, "texts");
    mkdirSync(texts);
    writeFileSync(join(texts, "a.txt"), "to be or not to be, that is the question. ".repeat(20));
    writeFileSync(join(root, "b.md"), "生存还是毁灭 ".repeat(20));
    const folder = join(root, "tokenizer");
    const trained = await howdah(
      "tokenizer",
      "train",
      texts,
      join(root, "b.md"),
      "-o",
      folder,
      "--vocabulary",
      "300",
      "--chat",
    );
    expect(trained).toMatchObject({ exitCode: 0, result: { vocabulary: 300, documents: 2, output: folder } });
    expect(JSON.parse(readFileSync(join(folder, "tokenizer.json"), "utf8"))).toHaveProperty("model.merges");
    const line = "not to be, 生存 🙂";
    const { result } = await howdah("tokenizer", "encode", "-t", folder, line);
    const ids = result.ids as number[];
    expect(ids.length).toBe(result.count);
    const decoded = await howdah("tokenizer", "decode", "--tokenizer", folder, "--skip-special", ...ids.map(String));
    expect(decoded.result.text).toBe(line);
    expect(decoded.text).toBe(line);
  });

  test("takes a special token in the text for plain text unless told otherwise", async () => {
    const folder = join(root, "tokenizer");
    const plain = await howdah("tokenizer", "encode", "-t", folder, "--no-add-special", "<|end|>");
    const special = await howdah("tokenizer", "encode", "-t", folder, "--no-add-special", "--allow-special", "<|end|>");
    expect((special.result.ids as number[]).length).toBe(1);
    expect((plain.result.ids as number[]).length).toBeGreaterThan(1);
  });

  test.each([
    [["tokenizer", "train", "nowhere.txt", "-o", "x"], "no such file"],
    [["tokenizer", "encode", "-t", "nowhere", "x"], "nowhere"],
    [["tokenizer", "decode", "-t", join(root, "tokenizer"), "1", "two"], '"two" is not a token id'],
    [["tokenizer", "decode", "-t", join(root, "tokenizer"), "999999"], "999999"],
    [["tokenizer", "train", "x", "-o", "y", "--vocabulary", "10"], "--vocabulary is 10: expected at least 257"],
  ])("says what is wrong: %j", async (argv, message) => {
    const { exitCode, result } = await howdah(...argv);
    expect(exitCode).toBe(2);
    expect(written.err).toContain(message);
    expect(result).toHaveProperty("error.code", "input");
  });
});

describe("howdah runs", () => {
  test("lists runs and shows one with its stages, checkpoints and report", async () => {
    const folder = join(root, "runs");
    expect(await howdah("runs", "--runs", folder)).toMatchObject({ exitCode: 0, result: { runs: [] } });
    const run = await Run.open(folder, "first", { recipe: "name: first\n", resume: false });
    const stage = { type: "stage", stage: "pretrain", index: 0, count: 2 } as const;
    run.events.emit({ type: "run", status: "started" });
    run.events.emit({ ...stage, status: "started" });
    for (const [i, loss] of [4, 3, 2].entries()) {
      run.events.emit({ type: "metrics", stage: "pretrain", step: i + 1, values: { loss } });
    }
    run.events.emit({ ...stage, status: "finished", seconds: 12, summary: { bits_per_byte: 2.2 } });
    await run.checkpoints.save({ stage: "pretrain", stageIndex: 0, step: 3, keep: 2 }, async (at) =>
      writeFileSync(join(at, "model"), "weights"),
    );
    expect((await howdah("runs", "--runs", folder)).result.runs).toMatchObject([{ name: "first", status: "running" }]);
    run.writeReport("# Report\n");
    run.events.emit({ type: "run", status: "finished" });
    run.close();
    const { exitCode, result, text } = await howdah("runs", "first", "--runs", folder);
    expect(exitCode).toBe(0);
    expect(result).toMatchObject({
      status: "finished",
      stages: [{ stage: "pretrain", status: "finished", seconds: 12, summary: { bits_per_byte: 2.2 } }],
      checkpoints: [{ stage: "pretrain", step: 3 }],
      report: join(folder, "first", "report.md"),
    });
    expect(text).toMatch(/pretrain +finished +12 s +loss 2/);
  });

  test("names the runs there are when one is not", async () => {
    const { exitCode } = await howdah("runs", "frist", "--runs", join(root, "runs"));
    expect(exitCode).toBe(2);
    expect(written.err).toContain("There are: first.");
  });
});

describe("howdah doctor", () => {
  test("says what the machine has and what is missing, with or without the native kernels", async () => {
    const { exitCode, result, text } = await howdah("doctor", "--no-measure", "--python", "no-such-python");
    expect(exitCode).toBe(0);
    expect(text).toContain(process.versions.node);
    expect(result).toMatchObject({ node: process.versions.node, python: { packages: {} } });
    const native = loadNativeBackend();
    if ("missing" in native) expect(result.problems).toContain(native.missing);
    else {
      expect(result.native).toEqual(native.facts);
      expect(text).toMatch(/programs +not kept on disk/);
    }
  });

  test.skipIf("missing" in loadNativeBackend())("measures plausible speeds on the native backend", async () => {
    const { result } = await howdah("doctor", "--python", "no-such-python");
    const speed = result.speed as Record<string, number>;
    // Slower than the slowest machine worth the name, or faster than any, would be a mistake of the measurement.
    expect(speed.f32_gflops).toBeGreaterThan(0.5);
    expect(speed.f32_gflops).toBeLessThan(100_000);
    expect(speed.read_gb_per_second).toBeGreaterThan(0.2);
    expect(speed.read_gb_per_second).toBeLessThan(10_000);
  });
});

describe("howdah generate --weights", () => {
  test("a format that there is not is refused by name, before anything is loaded", async () => {
    const { exitCode, text } = await howdah("generate", "--model", "nowhere", "--prompt", "x", "--weights", "int3");
    expect(exitCode).toBe(2);
    expect(`${written.err}${text}${written.out}`).toMatch(/weights.*(bf16|int8|int4)/is);
  });
});
