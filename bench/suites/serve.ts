import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { initLlama, llamaConfig, saveModel } from "../../src/models/index.ts";
import { BackendError, InputError } from "../../src/tensor/errors.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import type { Entrant, Work } from "../contest.ts";
import { disposeTree } from "../dispose.ts";
import { environmentOf, llamaTool, python, root, threads } from "../environment.ts";
import { burst } from "../load.ts";
import type { Contender, Prepared, Ran } from "../protocol.ts";
import { append } from "../stats.ts";
import { chooseWorks, contestShape, runContest } from "../suite.ts";

interface ServeParameters {
  readonly clients: number;
  readonly prompt: number;
  readonly reply: number;
}

const works: readonly { readonly name: string; readonly parameters: ServeParameters }[] = [
  { name: "16 clients 256+128", parameters: { clients: 16, prompt: 256, reply: 128 } },
  { name: "1 client 256+128", parameters: { clients: 1, prompt: 256, reply: 128 } },
];

export const VOCABULARY = 49152;

/** Seconds after which no further round of a work begins: a burst of the peer's slowest format takes half a minute. */
const BUDGET = 150;

const options = z.object({
  ...contestShape,
  rounds: z.number().int().min(1).default(3).describe("turns of each side"),
  seconds: z.number().positive().default(1).describe("length of a turn; a burst is one at least").meta({ value: "S" }),
  formats: z.string().default("BF16,Q8_0,Q4_0").describe("llama.cpp's weights").meta({ value: "A,B" }),
  serveOptions: z.string().default("").describe("more options of `howdah serve`").meta({ value: "TEXT" }),
});

export const serve = defineCommand({
  name: "serve",
  summary: "many clients of our HTTP server at once, beside llama.cpp's",
  description:
    "Clients that all ask at once for streamed completions over loopback, each with a prompt of its own, of our server and of llama-server (as many " +
    "slots, continuous batching). A llama of 135M parameters with random weights: 30 x 576, 9/3 heads, hidden 1,536, vocabulary 49,152.",
  options,
  async run({ works: chosen, rounds, seconds, alone, formats, serveOptions }, context) {
    const folder = await mkdtemp(join(tmpdir(), "howdah-bench-serve-"));
    try {
      context.print("Making the model ...");
      const model = join(folder, "llama-135M");
      await makeModel(model);
      const peers: Entrant[] = [];
      if (!alone) {
        const whole = join(folder, "BF16.gguf");
        execFileSync(python(), [join(root, "bench", "peers", "to_gguf.py"), model, whole]);
        for (const format of formats.split(",").map((f) => f.trim())) {
          const file = join(folder, `${format}.gguf`);
          if (!existsSync(file)) execFileSync(llamaTool("llama-quantize"), [whole, file, format], { stdio: "ignore" });
          peers.push({
            name: `llama.cpp ${format}`,
            variant: format,
            start: () => new ServerContender(format, llama(file)),
          });
        }
      }
      const ours: Entrant = {
        name: "howdah",
        variant: serveOptions || "default",
        start: () => new ServerContender("howdah", howdah(model, serveOptions.split(" ").filter(Boolean))),
      };
      const made = chooseWorks(works, chosen).map(
        ({ name, parameters }): Work => ({
          name,
          parameters,
          items: { count: parameters.clients * parameters.reply, name: "tokens" },
        }),
      );
      return await runContest(
        "serve",
        made,
        { ours, peers },
        { rounds, seconds, warmUp: 1, mostSteps: 8, budget: BUDGET },
        context,
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  },
});

/** Random weights, and a tokenizer whose every token is a word of its own, so that each token of a reply is a piece of text. */
export async function makeModel(folder: string): Promise<void> {
  const backend = loadNativeBackend();
  if ("missing" in backend) throw new BackendError(backend.missing);
  useBackend(backend);
  const config = llamaConfig.parse({
    family: "llama",
    vocabulary: VOCABULARY,
    context: 8192,
    layers: 30,
    width: 576,
    heads: 9,
    kvHeads: 3,
    headWidth: 64,
    mlpWidth: 1536,
    tieEmbeddings: true,
  });
  const model = initLlama(config, randomKey(1));
  await saveModel(model, folder);
  disposeTree(model);
  backend.trim();
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  const bytes = byteCharacters();
  const vocab = Object.fromEntries(Array.from({ length: VOCABULARY }, (_, i) => [bytes[i] ?? `Ġw${i}`, i]));
  const tokenizer = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: "BPE", dropout: null, unk_token: null, vocab, merges: [] },
  };
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
}

/** The 256 characters that stand for bytes in a byte-level vocabulary, in the order of the bytes. Radford et al. 2019. */
function byteCharacters(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const shown = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(shown ? byte : next++);
  });
}

interface Launch {
  readonly about: string;
  /** What a request says besides the prompt and its length, so that every reply has its full length. */
  readonly body: object;
  command(clients: number, context: number, port: number): readonly [command: string, args: readonly string[]];
}

function howdah(folder: string, more: readonly string[]): Launch {
  return {
    about: `howdah serve ${more.join(" ")}`.trim(),
    body: {},
    // As much room for keys and values as llama-server's -c gives.
    command: (clients, context, port) => [
      process.execPath,
      [
        join(root, "dist", "cli", "main.js"),
        "serve",
        ...["--model", `bench=${folder}`, "--port", String(port), "--slots", String(clients)],
        ...["--cache-tokens", String(clients * context)],
        ...["--runs", join(folder, "runs"), ...more],
      ],
    ],
  };
}

function llama(file: string): Launch {
  const n = String(threads());
  return {
    about: "llama-server",
    body: { ignore_eos: true, cache_prompt: false },
    command: (clients, context, port) => [
      llamaTool("llama-server"),
      [
        ...["-m", file, "--host", "127.0.0.1", "--port", String(port), "-t", n, "-tb", n],
        ...["-np", String(clients), "-c", String(clients * context), "--no-webui"],
      ],
    ],
  };
}

/** A server in a process of its own, and clients that ask all at once. */
class ServerContender implements Contender {
  readonly name: string;
  readonly #launch: Launch;
  #child: ChildProcess | undefined;
  #errors = "";
  #port = 0;
  #parameters: ServeParameters | undefined;
  #bursts = 0;

  constructor(name: string, launch: Launch) {
    this.name = name;
    this.#launch = launch;
  }

  async prepare({ parameters }: { readonly parameters: unknown }): Promise<Prepared> {
    await this.close();
    const p = parameters as ServeParameters;
    this.#parameters = p;
    this.#port = await freePort();
    // Room for a page more than is asked for, in multiples that both sides like.
    const context = Math.ceil((p.prompt + p.reply + 1) / 256) * 256;
    const [command, args] = this.#launch.command(p.clients, context, this.#port);
    const child = spawn(command, [...args], { stdio: ["ignore", "ignore", "pipe"], env: environmentOf() });
    child.stderr.on("data", (data: Buffer) => {
      this.#errors = (this.#errors + data.toString()).slice(-4000);
    });
    this.#child = child;
    const until = performance.now() + 60_000;
    for (;;) {
      const answer = await fetch(`http://127.0.0.1:${this.#port}/health`).catch(() => undefined);
      if (answer?.ok) break;
      if (child.exitCode !== null || performance.now() > until)
        throw new InputError(`${this.name} does not serve.\n${this.#errors.trimEnd()}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    return { about: this.#launch.about, threads: threads() };
  }

  async run(steps: number): Promise<Ran> {
    const { clients, prompt, reply } = this.#parameters!;
    const seconds: number[] = [];
    const metrics: Record<string, number[]> = { first_ms: [], first_p95_ms: [], gap_p95_ms: [] };
    for (let step = 0; step < steps; step++) {
      const salt = this.#bursts++;
      const bodies = Array.from({ length: clients }, (_, client) => ({
        model: "bench",
        prompt: promptOf(prompt, salt * 1000 + client),
        max_tokens: reply,
        temperature: 0,
        ...this.#launch.body,
      }));
      await this.#loop(); // since the last look
      const seen = await burst(this.#port, bodies, prompt, reply);
      const loop = await this.#loop();
      seconds.push(seen.seconds);
      metrics.first_ms!.push(seen.firstMedian);
      metrics.first_p95_ms!.push(seen.firstP95);
      metrics.gap_p95_ms!.push(seen.gapP95);
      if (loop) {
        append(metrics, "timer_late_p99_ms", loop.p99Ms);
        append(metrics, "timer_late_worst_ms", loop.maxMs);
      }
    }
    return { seconds, outputs: [], metrics, peakBytes: this.#peakBytes() };
  }

  /** How late timers of the server's JavaScript fired since the last look; only our server says it. */
  async #loop(): Promise<{ readonly p99Ms: number; readonly maxMs: number } | undefined> {
    const answer = await fetch(`http://127.0.0.1:${this.#port}/health`);
    const { eventLoop } = (await answer.json()) as { eventLoop?: { p99Ms: number; maxMs: number } };
    return eventLoop;
  }

  /** Linux says it; elsewhere 0. */
  #peakBytes(): number {
    try {
      const status = readFileSync(`/proc/${this.#child!.pid}/status`, "utf8");
      return Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
    } catch {
      return 0;
    }
  }

  async close(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (!child || child.exitCode !== null) return;
    const gone = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    const impatient = setTimeout(() => child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(impatient);
  }
}

/** Tokens that are words, other ones for each seed. */
export function promptOf(length: number, seed: number): number[] {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 256 + ((state >>> 8) % (VOCABULARY - 256));
  });
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}
