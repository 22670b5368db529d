import { execFile, execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { z } from "zod";
import type { CommandContext, CommandResult } from "../../src/cli/command.ts";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { Generator } from "../../src/generate/index.ts";
import { loadModel, type WeightChoice } from "../../src/models/index.ts";
import { BackendError, InputError } from "../../src/tensor/errors.ts";
import type { WeightFormat } from "../../src/tensor/ops/quantized.ts";
import type { Entrant, Work } from "../contest.ts";
import { disposeTree } from "../dispose.ts";
import { environmentOf, llamaTool, ours, python, root, threads } from "../environment.ts";
import type { Contender, Prepared, Ran } from "../protocol.ts";
import { chooseWorks, contestShape, runContest } from "../suite.ts";
import type { LlamaParameters } from "../workers/llama.ts";
import { freePort, makeModel, promptOf } from "./serve.ts";

/** Our weights beside llama.cpp's format of the same width. */
const formats = { bf16: "BF16", int8: "Q8_0", int4: "Q4_0" } as const satisfies Record<WeightFormat, string>;

const shape = {
  ...contestShape,
  seconds: z.number().positive().default(1).describe("length of a turn").meta({ value: "S" }),
  folder: z
    .string()
    .optional()
    .describe("where the model is made, and found again by the next run; default a folder that is removed")
    .meta({ value: "DIR" }),
  cache: z.enum(["f32", "bf16", "i8"]).default("bf16").describe("of our keys and values; llama.cpp's are f16"),
};

const about =
  "A llama of 135M parameters with random weights: 30 x 576, 9/3 heads, hidden 1,536, vocabulary 49,152, tied. Before anything is timed, our greedy " +
  "tokens in bf16 and their log-probabilities are compared with llama-server's.";

/** Bytes of weights read for each token, of our formats: packed matrices with their scales, the head among them. */
function weightBytes(weights: WeightFormat): number {
  const layers = 30 * (960 * 576 + 576 * 576 + 3 * 1536 * 576);
  const head = 49152 * 576;
  const each = { bf16: 2, int8: 1 + 2 / 64, int4: 0.5 + 2 / 32 };
  return layers * each[weights] + head * (weights === "int4" ? each.int8 : each[weights]);
}

export const decode = defineCommand({
  name: "decode",
  summary: "one stream of tokens, beside llama.cpp",
  description: `A greedy reply of 128 tokens to a prompt of one, with weights in bf16, int8 and int4, beside llama-bench with BF16, Q8_0 and Q4_0. ${about}`,
  options: z.object(shape),
  run: (o, context) =>
    withModel(o, context, async (model) => {
      const reply = 128;
      const all = (Object.keys(formats) as WeightFormat[]).map((weights): Work => {
        const parameters: LlamaParameters = { folder: model.folder, weights, cache: o.cache, prompt: [300], reply };
        return {
          name: weights,
          parameters,
          bytes: reply * weightBytes(weights),
          items: { count: reply, name: "tokens" },
        };
      });
      const results: CommandResult[] = [];
      // Each of our formats has a peer of its own, so each is a contest of its own.
      for (const work of chooseWorks(all, o.works)) {
        const format = formats[work.name as WeightFormat];
        const peers = o.alone ? [] : [bench(format, await model.gguf(format), ["-p", "0", "-n", String(reply)])];
        results.push(await runContest("decode", [work], { ours: ours("llama"), peers }, o, context));
      }
      return { results };
    }),
});

export const prompt = defineCommand({
  name: "prompt",
  summary: "reading a prompt, beside llama.cpp",
  description: `Prompts of 512 and 4,096 tokens up to the first token of the reply, beside llama-bench in its best format. ${about}`,
  options: z.object({
    ...shape,
    weights: z.enum(["f32", "bf16", "int8", "int4"]).default("int8").describe("of ours"),
    peers: z.string().default("BF16,Q8_0,Q4_0").describe("llama.cpp's weights").meta({ value: "A,B" }),
  }),
  run: (o, context) =>
    withModel(o, context, async (model) => {
      const all = [512, 4096].map((length): Work => {
        const weights: WeightChoice = o.weights;
        const parameters: LlamaParameters = {
          folder: model.folder,
          weights,
          cache: o.cache,
          prompt: promptOf(length, 1),
          reply: 1,
        };
        // Two per weight of the layers and token, and the attention of each token to those before it.
        const flops = length * (2 * 30 * (960 * 576 + 576 * 576 + 3 * 1536 * 576) + 2 * 30 * length * 576);
        return { name: `${length} tokens`, parameters, flops, peak: "bf16", items: { count: length, name: "tokens" } };
      });
      const results: CommandResult[] = [];
      for (const work of chooseWorks(all, o.works)) {
        const { length } = (work.parameters as LlamaParameters).prompt;
        const peers: Entrant[] = [];
        for (const format of o.alone ? [] : o.peers.split(",").map((f) => f.trim()))
          peers.push(bench(format, await model.gguf(format), ["-p", String(length), "-n", "0"]));
        results.push(
          await runContest("prompt", [work], { ours: ours("llama"), peers }, { ...o, warmUp: 1, budget: 150 }, context),
        );
      }
      return { results };
    }),
});

interface BenchModel {
  readonly folder: string;
  /** The model as a GGUF file with weights of this format. */
  gguf(format: string): Promise<string>;
}

async function withModel(
  { folder, alone }: { readonly folder?: string | undefined; readonly alone: boolean },
  { print }: Pick<CommandContext, "print">,
  body: (model: BenchModel) => Promise<CommandResult>,
): Promise<CommandResult> {
  const home = folder === undefined ? await mkdtemp(join(tmpdir(), "howdah-bench-llama-")) : resolve(folder);
  try {
    await mkdir(home, { recursive: true });
    const model = join(home, "llama-135M");
    if (!existsSync(join(model, "tokenizer.json"))) {
      print("Making the model ...");
      await makeModel(model);
    }
    const file = (format: string) => join(home, `${format}.gguf`);
    const gguf = async (format: string): Promise<string> => {
      if (!existsSync(file("BF16")))
        execFileSync(python(), [join(root, "bench", "peers", "to_gguf.py"), model, file("BF16")]);
      if (!existsSync(file(format)))
        execFileSync(llamaTool("llama-quantize"), [file("BF16"), file(format), format], { stdio: "ignore" });
      return file(format);
    };
    if (!alone) await compareGreedy(model, await gguf("BF16"), print);
    return await body({ folder: model, gguf });
  } finally {
    if (folder === undefined) await rm(home, { recursive: true, force: true });
  }
}

/** llama-bench as a side: each turn is a process that loads the model, warms up, and times its repetitions itself. */
function bench(format: string, file: string, args: readonly string[]): Entrant {
  const name = `llama.cpp ${format}`;
  return { name, variant: format, start: () => new LlamaBench(name, file, args) };
}

class LlamaBench implements Contender {
  readonly name: string;
  readonly #file: string;
  readonly #args: readonly string[];

  constructor(name: string, file: string, args: readonly string[]) {
    this.name = name;
    this.#file = file;
    this.#args = args;
  }

  async prepare(): Promise<Prepared> {
    return { about: "llama-bench", threads: threads() };
  }

  async run(steps: number): Promise<Ran> {
    const args = ["-m", this.#file, "-t", String(threads()), ...this.#args, "-r", String(steps), "-o", "json"];
    const { stdout } = await promisify(execFile)(llamaTool("llama-bench"), args, { env: environmentOf() });
    const [test] = JSON.parse(stdout) as { n_threads: number; samples_ns: number[] }[];
    if (test?.n_threads !== threads()) throw new InputError(`${this.name} uses ${test?.n_threads} threads.`);
    return { seconds: test.samples_ns.map((ns) => ns / 1e9), outputs: [], peakBytes: 0 };
  }

  async close(): Promise<void> {}
}

/** Greedy tokens after a prompt, and their log-probabilities, from both sides with the same bf16 weights. */
async function compareGreedy(folder: string, file: string, print: (line: string) => void): Promise<void> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const ids = promptOf(40, 7);
  const count = 6;
  const { model } = await loadModel(folder, { weights: "bf16" });
  const generator = new Generator({ slots: 1, capacity: 128 });
  const [mine] = await generator.run(model, [ids], { maxTokens: count, temperature: 0, seed: 1 });
  generator.dispose();
  disposeTree(model);
  backend.trim();

  const port = await freePort();
  const n = String(threads());
  const args = [
    "-m",
    file,
    "--host",
    "127.0.0.1",
    "--port",
    String(port),
    "-t",
    n,
    "-c",
    "256",
    "-np",
    "1",
    "--no-webui",
  ];
  const server = spawn(llamaTool("llama-server"), args, { stdio: "ignore", env: environmentOf() });
  try {
    const until = performance.now() + 60_000;
    while (!(await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined))?.ok) {
      if (server.exitCode !== null || performance.now() > until) throw new InputError("llama-server does not serve.");
      await new Promise((done) => setTimeout(done, 100));
    }
    const answer = await fetch(`http://127.0.0.1:${port}/completion`, {
      method: "POST",
      body: JSON.stringify({ prompt: ids, n_predict: count, temperature: 0, n_probs: 1, ignore_eos: true }),
    });
    const { completion_probabilities: theirs } = (await answer.json()) as {
      completion_probabilities: { id: number; logprob: number }[];
    };
    let worst = 0;
    for (const [i, { id, logprob }] of theirs.entries()) {
      const difference = Math.abs(mine!.logProbabilities[i]! - logprob);
      worst = Math.max(worst, difference);
      if (mine!.tokens[i] !== id || !(difference < 0.05))
        throw new InputError(
          `The two sides do not read the same model: at place ${i} we chose ${mine!.tokens[i]} at ${mine!.logProbabilities[i]}, llama.cpp ${id} at ${logprob}.`,
        );
    }
    print(
      `Both sides choose the same ${theirs.length} tokens; their log-probabilities differ by at most ${worst.toFixed(4)}.`,
    );
  } finally {
    server.kill("SIGKILL");
  }
}
