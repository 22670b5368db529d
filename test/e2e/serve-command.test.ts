import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { serve } from "../../src/cli/commands/serve.ts";
import { runCli } from "../../src/cli/frame.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, saveModel } from "../../src/models/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { CHAT_SPECIAL_TOKENS, CHAT_TOKENIZER_CONFIG, trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { backends } from "../helpers/backends.ts";
import { captureOutput } from "../support/output.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-serve-"));
const folder = join(root, "talker");

beforeAll(async () => {
  useBackend(backends.at(-1)!);
  const tokenizer = trainByteLevelBpe(["the thing that they thought"], {
    vocabulary: 270,
    minFrequency: 1,
    specialTokens: [...CHAT_SPECIAL_TOKENS],
    config: CHAT_TOKENIZER_CONFIG,
  });
  await tokenizer.save(folder);
  const sizes = { context: 512, layers: 2, width: 32, heads: 2, mlpWidth: 64 };
  const key = randomKey(1);
  const config = gptConfig.parse({ family: "gpt", vocabulary: tokenizer.vocabularySize, ...sizes });
  const model = initModel(config, key);
  await saveModel(model, folder);
  dispose([model, key]);
});
afterAll(() => rmSync(root, { recursive: true }));

const written = captureOutput();

const lastLine = () => JSON.parse(written.out.trimEnd().split("\n").at(-1)!) as Record<string, unknown>;
const howdah = (...argv: string[]) => runCli({ commands: [serve], version: "0" }, ["serve", ...argv]);

async function until(what: () => boolean): Promise<void> {
  const end = performance.now() + 30_000;
  while (!what()) {
    if (performance.now() > end) throw new Error(`still not so: ${what}\n${written.out}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe("howdah serve", () => {
  test("serves two folders to the openai client, many at once, and drains on SIGTERM", async () => {
    const before = liveTensors();
    const ended = howdah(
      ...["--model", folder, "--model", `other=${folder}`, "--port", "0", "--slots", "4", "--runs", join(root, "runs")],
    );
    await until(() => written.out.includes("API: "));
    const baseURL = /API: (\S+)/.exec(written.out)![1]!;
    const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
    const models = await client.models.list();
    expect(models.data.map(({ id }) => id)).toEqual(["talker", "other"]);

    // More than there are slots: the rest waits its turn, and the same seed gives the same text in any company.
    const ask = (model: string, seed: number) =>
      client.chat.completions.create({
        model,
        seed,
        messages: [{ role: "user", content: "Say something." }],
        max_completion_tokens: 12,
      });
    const replies = await Promise.all([1, 2, 3, 4, 1].map((seed, i) => ask(i % 2 ? "other" : "talker", seed)));
    expect(replies[4]!.choices[0]!.message.content).toBe(replies[0]!.choices[0]!.message.content);
    expect(replies[1]!.choices[0]!.message.content).not.toBe(replies[0]!.choices[0]!.message.content);

    const stream = await client.completions.create({
      ...{ model: "talker", prompt: "the", max_tokens: 40, temperature: 0, seed: 1, stream: true },
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    let terminated = false;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? "";
      usage = chunk.usage ?? usage;
      // In the middle of the reply: it still comes to its end.
      if (!terminated) process.emit("SIGTERM");
      terminated = true;
    }
    expect(text.length).toBeGreaterThan(0);
    expect(usage?.completion_tokens).toBeGreaterThan(0);
    expect(await ended).toBe(0);
    expect(lastLine()).toMatchObject({ models: ["talker", "other"], backend: backends.at(-1)!.name });
    await expect(client.models.list()).rejects.toThrow();
    expect(liveTensors()).toBe(before);
  });

  test("another address than this machine's own needs a key", async () => {
    expect(await howdah("--model", folder, "--host", "0.0.0.0", "--port", "0", "--runs", join(root, "runs"))).toBe(2);
    expect(lastLine()).toMatchObject({ error: { code: "input" } });
    expect(liveTensors()).toBe(0);
  });

  test("without a model it serves the pages, over the folders it was given", async () => {
    const data = join(root, "corpora");
    const ended = howdah("--port", "0", "--runs", join(root, "runs"), "--data", data);
    await until(() => written.out.includes("API: "));
    const url = /Pages: (\S+)/.exec(written.out)![1]!;
    expect(await (await fetch(`${url}/api/data`)).json()).toEqual({ folder: data, corpora: [] });
    process.emit("SIGTERM");
    expect(await ended).toBe(0);
    expect(lastLine()).toMatchObject({ models: [] });
  });

  test("two models of one name are refused, and a folder that is no model's", async () => {
    expect(await howdah("--model", folder, "--model", `talker=${root}`)).toBe(2);
    expect(JSON.stringify(lastLine())).toContain("--model NAME=DIR");
    expect(await howdah("--model", join(root, "nowhere"), "--port", "0")).toBe(2);
    expect(JSON.stringify(lastLine())).toContain("config.json");
  });
});
