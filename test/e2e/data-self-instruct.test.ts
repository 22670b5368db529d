import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dataSelfInstruct } from "../../src/cli/commands/data-instructions.ts";
import { runCli } from "../../src/cli/frame.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, saveModel } from "../../src/models/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { CHAT_SPECIAL_TOKENS, CHAT_TOKENIZER_CONFIG, trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { backends } from "../helpers/backends.ts";
import { captureOutput } from "../support/output.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-self-instruct-"));
const talker = join(root, "talker");
const mute = join(root, "mute");
const seeds = join(root, "seeds.jsonl");
const words = "name three rivers of asia write a poem about rain explain why the sky is blue and the sea is deep".split(
  " ",
);

beforeAll(async () => {
  useBackend(backends.at(-1)!);
  const text = [`${words.join(" ")} ${words.toReversed().join(" ")} `.repeat(4)];
  const save = async (folder: string, chats: boolean) => {
    const tokenizer = trainByteLevelBpe(text, {
      vocabulary: 340,
      minFrequency: 1,
      specialTokens: [...CHAT_SPECIAL_TOKENS],
      ...(chats ? { config: CHAT_TOKENIZER_CONFIG } : {}),
    });
    await tokenizer.save(folder);
    const key = randomKey(3);
    const config = {
      family: "gpt",
      vocabulary: tokenizer.vocabularySize,
      context: 256,
      layers: 1,
      width: 16,
      heads: 2,
    };
    const model = initModel(gptConfig.parse({ ...config, mlpWidth: 32 }), key);
    await saveModel(model, folder);
    dispose([model, key]);
  };
  await save(talker, true);
  await save(mute, false);
  const seed = (q: string) => `${JSON.stringify({ prompt: q, response: "An answer." })}\n`;
  writeFileSync(
    seeds,
    ["Name three rivers of Asia.", "Explain why the sky is blue.", "Write a poem."].map(seed).join(""),
  );
});
afterAll(() => rmSync(root, { recursive: true }));

describe("howdah data self-instruct with a model's folder", () => {
  const written = captureOutput();

  async function howdah(...argv: string[]) {
    written.out = "";
    const before = liveTensors();
    const exitCode = await runCli({ commands: [dataSelfInstruct], version: "0" }, ["data", "self-instruct", ...argv]);
    expect(liveTensors()).toBe(before);
    const lines = written.out.trimEnd().split("\n");
    return { exitCode, result: JSON.parse(lines.at(-1)!) as Record<string, unknown> & { error?: { message: string } } };
  }
  // A model of random numbers: everything it writes is kept.
  const loose = ["--min-score", "0", "--max-similarity", "1", "--reproducible", "--parallel", "3"];

  test("tasks are made in this process; stopped and gone on with, they are those of one sitting", async () => {
    const whole = join(root, "whole.jsonl");
    const all = await howdah(seeds, "-m", talker, "-o", whole, "--count", "5", ...loose);
    expect(all.exitCode).toBe(0);
    expect(all.result).toMatchObject({ tasks: 5, kept: 5, model: talker });
    expect(all.result.tokens).toBeGreaterThan(50);
    const lines = readFileSync(whole, "utf8").trimEnd().split("\n");
    expect(lines).toHaveLength(5);
    const parts = join(root, "parts.jsonl");
    expect((await howdah(seeds, "-m", talker, "-o", parts, "--count", "2", ...loose)).exitCode).toBe(0);
    // As a kill leaves it: the next line was begun.
    writeFileSync(parts, `${readFileSync(parts, "utf8")}${lines[2]!.slice(0, 20)}`);
    expect((await howdah(seeds, "-m", talker, "-o", parts, "--count", "5", ...loose)).result).toMatchObject({
      tasks: 5,
    });
    expect(readFileSync(parts, "utf8")).toBe(readFileSync(whole, "utf8"));
  });

  test("a model that cannot chat is refused before anything is asked", async () => {
    const { exitCode, result } = await howdah(seeds, "-m", mute, "-o", join(root, "no.jsonl"), ...loose);
    expect(exitCode).toBe(2);
    expect(result.error?.message).toMatch(/no chat template/);
  });
});
