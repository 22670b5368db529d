import { spawn } from "node:child_process";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";
import { type CommandContext, defineCommand } from "../../src/cli/command.ts";
import { commands as realCommands } from "../../src/cli/commands/index.ts";
import { type Cli, runCli } from "../../src/cli/frame.ts";
import { InputError, ShapeError } from "../../src/tensor/errors.ts";
import { bundle } from "../helpers/bundle.ts";
import { captureOutput } from "../support/output.ts";

const seen: unknown[] = [];
const options = z.object({
  text: z.string().describe("what to say"),
  topP: z.number().min(0).max(1).default(0.9).describe("share of probability kept"),
  seeds: z.array(z.number().int()).default([]).describe("seeds"),
  mode: z.enum(["greedy", "sample"]).default("greedy").describe("how to choose"),
  stream: z.boolean().default(true).describe("do not print as it comes"),
  loud: z.boolean().default(false).describe("in capitals"),
  output: z.string().optional().describe("where to write").meta({ short: "o", value: "FILE" }),
});
const cli: Cli = {
  version: "1.2.3",
  commands: [
    defineCommand({
      name: "say",
      summary: "say something",
      options,
      positional: ["text"],
      examples: [["howdah say hello", "says hello"]],
      async run(given, { print }: CommandContext) {
        seen.push(given);
        print(given.text);
        return { said: given.text, loss: Number.NaN };
      },
    }),
    defineCommand({
      name: "tokenizer train",
      summary: "train",
      options: z.object({ files: z.array(z.string()).min(1).describe("files") }),
      positional: ["files"],
      async run({ files }) {
        return { files };
      },
    }),
    defineCommand({
      name: "fail",
      summary: "fail",
      options: z.object({ how: z.string().describe("how") }),
      positional: ["how"],
      async run({ how }) {
        if (how === "input") throw new InputError("The file is empty: choose another.");
        if (how === "shape") throw new ShapeError("matmul: the inner sizes differ.");
        throw new TypeError("x is not a function");
      },
    }),
  ],
};

const written = captureOutput();
beforeEach(() => {
  seen.length = 0;
});
const run = (...argv: string[]) => runCli(cli, argv);
const lastLine = () => JSON.parse(written.out.trimEnd().split("\n").at(-1)!) as Record<string, unknown>;

describe("a command line", () => {
  test("is parsed by the command's schema, and ends with one line of JSON", async () => {
    expect(
      await run("say", "hello", "--top-p", "0.5", "--seeds", "1", "--seeds", "2", "--no-stream", "-o", "a.txt"),
    ).toBe(0);
    expect(seen).toEqual([
      { text: "hello", topP: 0.5, seeds: [1, 2], mode: "greedy", stream: false, loud: false, output: "a.txt" },
    ]);
    expect(written.out).toBe('hello\n{"said":"hello","loss":"NaN"}\n');
  });

  test("leaves defaults to the schema, and takes options before and after the arguments", async () => {
    await run("say", "--loud", "hello");
    expect(seen).toEqual([{ text: "hello", topP: 0.9, seeds: [], mode: "greedy", stream: true, loud: true }]);
    await run("tokenizer", "train", "a", "b");
    expect(lastLine()).toEqual({ files: ["a", "b"] });
  });

  test.each([
    [["sya"], "Did you mean say?"],
    [["say", "x", "--top", "1"], "Did you mean --top-p?"],
    [["tokenizer", "trian"], "Did you mean train?"],
    [["say"], "missing required argument 'text'"],
    [["say", "x", "y"], "too many arguments"],
    [["say", "x", "--top-p"], "argument missing"],
    [["say", "x", "--top-p", "2"], "--top-p is 2: expected at most 1."],
    [["say", "x", "--top-p", "hot"], '--top-p is "hot": expected a number.'],
    [["say", "x", "--seeds", "1.5"], "--seeds is [1.5]: expected a whole number."],
    [["say", "x", "--mode", "beam"], '--mode is "beam": expected one of greedy, sample.'],
    [[], "Usage: howdah"],
  ])("that is wrong is refused with code 2 and a way out: %j", async (argv, message) => {
    expect(await run(...argv)).toBe(2);
    expect(written.err).toContain(message);
    expect(written.err).not.toMatch(/^ +at /m);
    expect(lastLine()).toMatchObject({ error: { code: expect.stringMatching(/^(usage|input)$/) } });
    expect(seen).toEqual([]);
  });

  test.each([
    ["input", 2, "input", "The file is empty: choose another."],
    ["shape", 1, "shape", "matmul: the inner sizes differ."],
    ["bug", 1, "internal", "x is not a function"],
  ])("that fails says code and message, on both streams: %s", async (how, exitCode, code, message) => {
    expect(await run("fail", how)).toBe(exitCode);
    expect(written.err).toContain(`error (${code}): ${message}`);
    expect(written.err).not.toMatch(/^ +at /m);
    expect(lastLine()).toEqual({ error: { code, message } });
  });

  test("shows where an error came from with --debug only, before or after the command", async () => {
    for (const argv of [
      ["--debug", "fail", "bug"],
      ["fail", "bug", "--debug"],
    ]) {
      written.err = "";
      await run(...argv);
      expect(written.err).toMatch(/TypeError: x is not a function\n +at /);
    }
  });
});

describe("help", () => {
  test("of a command has every option with its default and choices, and the examples", async () => {
    expect(await run("say", "--help")).toBe(0);
    for (const piece of [
      "--top-p <N>",
      "default 0.9",
      "one of greedy, sample",
      "--no-stream",
      "-o, --output <FILE>",
      "several times",
      "howdah say hello",
    ]) {
      expect(written.out).toContain(piece);
    }
    expect(written.err).toBe("");
  });

  test("of the program lists the commands, and --version prints the version", async () => {
    expect(await run("--help")).toBe(0);
    expect(written.out).toMatch(/say.*say something[\s\S]*tokenizer/);
    written.out = "";
    expect(await run("--version")).toBe(0);
    expect(written.out).toBe("1.2.3\n");
  });
});

describe("the commands of howdah", () => {
  test("all have descriptions for themselves and for each option", () => {
    for (const command of realCommands) {
      expect(command.summary.length, command.name).toBeGreaterThan(5);
      for (const [key, schema] of Object.entries(command.options.shape)) {
        let text: string | undefined;
        for (let at: z.ZodType | undefined = schema as z.ZodType; at !== undefined; ) {
          text ??= z.globalRegistry.get(at)?.description;
          const def: { innerType?: z.ZodType } = at.def as { innerType?: z.ZodType };
          at = def.innerType;
        }
        expect(text, `${command.name} ${key}`).toBeTruthy();
      }
      for (const name of command.positional ?? []) expect(Object.keys(command.options.shape)).toContain(name);
    }
    expect(new Set(realCommands.map(({ name }) => name)).size).toBe(realCommands.length);
  });
});

describe("Ctrl-C", () => {
  let program: Awaited<ReturnType<typeof bundle>>;
  beforeAll(async () => {
    program = await bundle(`
      import { z } from "zod";
      import { defineCommand } from "src/cli/command.ts";
      import { main } from "src/cli/frame.ts";
      import { Interrupted } from "src/cli/interrupt.ts";
      import { HowdahError } from "src/tensor/errors.ts";
      const wait = defineCommand({
        name: "wait",
        summary: "wait for a signal",
        options: z.object({
          deaf: z.boolean().default(false).describe("do not stop"),
          fail: z.boolean().default(false).describe("fail while stopping"),
        }),
        async run({ deaf, fail }, { signal, print }) {
          const timer = setInterval(() => {}, 1000);
          print("ready");
          await new Promise((resolve) => { if (!deaf) signal.addEventListener("abort", resolve); });
          clearInterval(timer);
          if (fail) throw new HowdahError("disk", "The disk is full.");
          throw new Interrupted("Stopped after step 7; go on with --resume.", { step: 7 });
        },
      });
      await main({ commands: [wait], version: "1" });
    `);
  });
  afterAll(() => program.remove());

  const start = async (...argv: string[]) => {
    const child = spawn(process.execPath, [program.file, "wait", ...argv]);
    let text = "";
    let errors = "";
    child.stdout.on("data", (chunk) => {
      text += chunk;
    });
    child.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    const until = async (what: () => boolean) => {
      while (!what()) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    await until(() => text.includes("ready"));
    const ended = new Promise<number | null>((resolve) => child.once("close", resolve));
    return { child, ended, until, output: () => ({ text, errors }) };
  };

  test("once asks for a clean stop: exit code 130 and a last line that says how to go on", async () => {
    const { child, ended, output } = await start();
    child.kill("SIGINT");
    expect(await ended).toBe(130);
    expect(output().errors).toBe(
      "Stopping cleanly; press Ctrl-C again to stop at once.\nStopped after step 7; go on with --resume.\n",
    );
    expect(output().text.trimEnd().split("\n").at(-1)).toBe(
      '{"interrupted":true,"message":"Stopped after step 7; go on with --resume.","step":7}',
    );
  });

  test("does not hide what fails while stopping", async () => {
    const { child, ended, output } = await start("--fail");
    child.kill("SIGTERM");
    expect(await ended).toBe(1);
    expect(output().text.trimEnd().split("\n").at(-1)).toBe('{"error":{"code":"disk","message":"The disk is full."}}');
  });

  test("twice ends a command that does not stop", async () => {
    const { child, ended, until, output } = await start("--deaf");
    child.kill("SIGINT");
    await until(() => output().errors.includes("Stopping"));
    child.kill("SIGINT");
    expect(await ended).toBe(130);
  });

  test("a reader that goes away ends the command quietly", async () => {
    const { child, ended, output } = await start();
    child.stdout.destroy();
    child.kill("SIGINT");
    expect([0, 130]).toContain(await ended);
    expect(output().errors).not.toContain("EPIPE");
  });
});
