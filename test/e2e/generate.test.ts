import { spawn } from "node:child_process";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chat, converse } from "../../src/cli/commands/chat.ts";
import { generate } from "../../src/cli/commands/generate.ts";
import { runCli } from "../../src/cli/frame.ts";
import { openHost } from "../../src/cli/generation.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, readLlama2c, saveModel } from "../../src/models/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { CHAT_SPECIAL_TOKENS, CHAT_TOKENIZER_CONFIG, trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { backends } from "../helpers/backends.ts";
import { bundle } from "../helpers/bundle.ts";
import { captureOutput } from "../support/output.ts";

const golden = (name: string) => new URL(`../golden/${name}`, import.meta.url).pathname;
const root = mkdtempSync(join(tmpdir(), "howdah-generate-"));
const stories = join(root, "stories");
const talker = join(root, "talker");
const answer =
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball";

beforeAll(async () => {
  useBackend(backends.at(-1)!);
  const model = await readLlama2c(golden("models/stories260K/stories260K.bin"));
  await saveModel(model, stories);
  copyFileSync(golden("tokenizers/tok512.bin"), join(stories, "tokenizer.bin"));
  dispose(model);
  const tokenizer = trainByteLevelBpe(["the thing that they thought"], {
    vocabulary: 270,
    minFrequency: 1,
    specialTokens: [...CHAT_SPECIAL_TOKENS],
    config: CHAT_TOKENIZER_CONFIG,
  });
  await tokenizer.save(talker);
  const key = randomKey(1);
  const small = initModel(
    gptConfig.parse({
      family: "gpt",
      vocabulary: tokenizer.vocabularySize,
      context: 128,
      layers: 1,
      width: 16,
      heads: 2,
      mlpWidth: 32,
    }),
    key,
  );
  await saveModel(small, talker);
  dispose([small, key]);
});
afterAll(() => rmSync(root, { recursive: true }));

describe("howdah generate", () => {
  const written = captureOutput();

  async function howdah(...argv: string[]) {
    written.out = "";
    const before = liveTensors();
    const exitCode = await runCli({ commands: [generate, chat], version: "0" }, argv);
    expect(liveTensors()).toBe(before);
    const lines = written.out.trimEnd().split("\n");
    return {
      exitCode,
      result: JSON.parse(lines.at(-1)!) as Record<string, unknown>,
      text: lines.slice(0, -1).join("\n"),
    };
  }

  test.each(backends.map((b) => b.name))(
    "tells the story that llama2.c tells at temperature 0, %s",
    async (backend) => {
      const { exitCode, result, text } = await howdah(
        ...["generate", "-m", stories, "-p", "Once upon a time", "-t", "0", "-n", "40", "--stop", " ball"],
        ...["--backend", backend],
      );
      expect(exitCode).toBe(0);
      expect(`Once upon a time${text} ball`).toBe(answer);
      expect(result).toMatchObject({ text, finish: "stop", prompt_tokens: 5, backend, model: stories });
      expect(result.tokens_per_second).toBeGreaterThan(0);
    },
  );

  test("the seed that was drawn gives the same text again", async () => {
    const same = ["generate", "-m", stories, "-p", "Lily", "-n", "24", "--temperature", "1.2", "--top-p", "0.95"];
    const first = await howdah(...same);
    const again = await howdah(...same, "--seed", String(first.result.seed));
    expect(again.result.text).toBe(first.result.text);
    expect(first.result.tokens).toBe(24);
    expect(first.result.finish).toBe("length");
  });

  test("an empty prompt begins with the token that begins texts", async () => {
    const { result } = await howdah("generate", "-m", stories, "-p", "", "-t", "0", "-n", "8");
    expect(String(result.text).trim()).toMatch(/^Once upon a time/);
  });

  test("wrong options and folders are refused before anything runs", async () => {
    const wrong = async (...argv: string[]) => {
      const { exitCode, result } = await howdah("generate", ...argv);
      expect(exitCode).toBe(2);
      return (result.error as { message: string }).message;
    };
    expect(await wrong("-m", stories, "-p", "x", "--top-p", "1.5")).toMatch(/--top-p is 1.5: expected at most 1/);
    expect(await wrong("-m", join(root, "nowhere"), "-p", "x")).toMatch(/config\.json/);
    expect(await wrong("-m", stories, "-p", "word ".repeat(600))).toMatch(/no room for a reply/);
    expect(written.err).toContain("error (input)");
  });

  test("chat refuses a model without a chat template", async () => {
    const { exitCode, result } = await howdah("chat", "-m", stories);
    expect(exitCode).toBe(2);
    expect((result.error as { message: string }).message).toMatch(/no chat template/);
  });
});

describe("a conversation", () => {
  interface Options {
    readonly terminal?: boolean;
    readonly maxTokens?: number;
  }
  /** Talks over streams that a terminal could be. */
  async function talk({ terminal = false, maxTokens = 6 }: Options = {}) {
    const host = await openHost(talker, { slots: 1 });
    const input = Object.assign(new PassThrough(), { isTTY: terminal, setRawMode: () => input });
    const output = Object.assign(new PassThrough(), { isTTY: terminal, columns: 80 });
    let text = "";
    output.on("data", (chunk) => {
      text += chunk;
    });
    const encoded: unknown[] = [];
    const { encodeChat } = host;
    const spied = {
      ...host,
      encodeChat: (messages: Parameters<typeof encodeChat>[0]) => {
        encoded.push(messages);
        return encodeChat(messages);
      },
    };
    const control = new AbortController();
    const done = converse(spied, {
      input,
      output,
      signal: control.signal,
      request: { maxTokens, temperature: 1 },
      seed: 5,
      system: undefined,
      name: undefined,
      me: undefined,
    }).finally(() => host.close());
    const until = async (what: () => boolean) => {
      const end = performance.now() + 20_000;
      while (!what()) {
        if (performance.now() > end) throw new Error(`still not so: ${what}\n${text}`);
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    };
    return { input, text: () => text, encoded, control, done, until, host };
  }

  test("lines of a pipe are answered one by one, with what was said before", async () => {
    const { input, done, encoded } = await talk();
    input.end("Hello\n\n/name JULIET\n/me ROMEO\n/system Be kind.\nAnd now?\n/clear\nAgain\n/quit\nnever said\n");
    expect(await done).toMatchObject({ replies: 3 });
    expect(encoded).toHaveLength(3);
    expect(encoded[0]).toEqual([
      { role: "user", content: "Hello" },
      { role: "assistant", content: "" },
    ]);
    expect(encoded[1]).toMatchObject([
      { role: "system", content: "Be kind." },
      { role: "user", content: "Hello" },
      { role: "assistant" },
      { role: "user", name: "ROMEO", content: "And now?" },
      { role: "assistant", name: "JULIET", content: "" },
    ]);
    expect(encoded[2]).toMatchObject([{ role: "system" }, { role: "user", name: "ROMEO", content: "Again" }, {}]);
  });

  test("the oldest turns are left out when the context is full; what is too long alone is said", async () => {
    const { input, done, encoded } = await talk();
    input.end(`${"x".repeat(80)}\n${"y".repeat(80)}\n`);
    expect(await done).toMatchObject({ replies: 2 });
    expect(encoded.at(-1)).toMatchObject([{ role: "user", content: "y".repeat(80) }, { role: "assistant" }]);
    const long = await talk();
    long.input.end(`${"z".repeat(200)}\n`);
    await expect(long.done).rejects.toThrow(/too long/);
  });

  test("on a terminal, Ctrl-C stops the reply, and once more ends the chat", async () => {
    const { input, text, done, until, host } = await talk({ terminal: true, maxTokens: 10_000 });
    await until(() => text().includes("> "));
    input.write("Go on\r");
    await until(() => host.engine.running === 1);
    input.write("\u0003");
    // Whatever had been written by then; a short reply may have ended by itself.
    await until(() => host.engine.running === 0 && text().split("> ").length > 2);
    input.write("/nonsense\r");
    await until(() => text().includes("There is no /nonsense"));
    input.write("\u0003");
    expect(await done).toMatchObject({ replies: 1 });
    expect(text().endsWith("\n")).toBe(true);
  });

  test("a signal from outside ends it at once", async () => {
    const { control, input, done, until, host } = await talk({ maxTokens: 10_000 });
    input.write("Go on\n");
    await until(() => host.engine.running === 1);
    control.abort(new Error("terminated"));
    await expect(done).rejects.toThrow("terminated");
    expect(host.engine.running).toBe(0);
  });
});

describe("in processes of their own", () => {
  let program: Awaited<ReturnType<typeof bundle>>;
  beforeAll(async () => {
    program = await bundle(`
      import { chat } from "src/cli/commands/chat.ts";
      import { generate } from "src/cli/commands/generate.ts";
      import { main } from "src/cli/frame.ts";
      await main({ commands: [chat, generate], version: "1" });
    `);
  });
  afterAll(() => program.remove());

  const run = (argv: string[], input: string) =>
    new Promise<{ code: number | null; lines: string[] }>((resolve) => {
      const child = spawn(process.execPath, [program.file, ...argv, "--backend", "reference"]);
      let text = "";
      child.stdout.on("data", (chunk) => {
        text += chunk;
      });
      child.once("close", (code) => resolve({ code, lines: text.trimEnd().split("\n") }));
      child.stdin.end(input);
    });

  test("chat answers the lines of a pipe and ends with one line of JSON", async () => {
    const { code, lines } = await run(["chat", "-m", talker, "-n", "4", "--seed", "1"], "Hello\nAnd you?\n");
    expect(code).toBe(0);
    expect(JSON.parse(lines.at(-1)!)).toMatchObject({ replies: 2, backend: "reference", model: talker });
  });

  test("generate continues the text of a pipe", async () => {
    const { code, lines } = await run(["generate", "-m", stories, "-t", "0", "-n", "6"], "Once upon a time\n");
    expect(code).toBe(0);
    const result = JSON.parse(lines.at(-1)!) as { text: string };
    expect(answer.startsWith(`Once upon a time${result.text}`)).toBe(true);
    expect(lines.slice(0, -1).join("\n")).toBe(result.text);
  });
});
