// How long JavaScript stands still while training, generating and serving: delays of a timer that is due every millisecond.
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createModelHost, Generator, Registry } from "../../src/generate/index.ts";
import { initGPT } from "../../src/models/index.ts";
import { createServer } from "../../src/serve/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { median, quantile } from "../stats.ts";
import { configOf, trainer } from "../step.ts";
import type { Prepare, Ready } from "../worker.ts";
import { batches, type GPTWork } from "../works.ts";

export interface EventLoopParameters {
  readonly work: GPTWork;
  /** Units (training steps, replies of 32 tokens) in a step that is measured. */
  readonly units: number;
}

/** Nanoseconds of processor time of this thread (Linux, to a few milliseconds); NaN where the system does not tell. */
function worked(): number {
  try {
    return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0]);
  } catch {
    return Number.NaN;
  }
}

/** Runs it with a timer that is due every millisecond: how late it comes, and how long JavaScript worked between two of its calls. */
async function watched(units: number, run: () => Promise<unknown>) {
  // What earlier work left to collect is not this work's.
  await new Promise((resolve) => setTimeout(resolve, 20));
  const late: number[] = [];
  const own: number[] = [];
  let [last, before] = [performance.now(), worked()];
  const tick = () => {
    const [now, work] = [performance.now(), worked()];
    late.push(Math.max(now - last - 1, 0));
    own.push((work - before) / 1e6);
    [last, before] = [now, work];
  };
  const start = performance.now();
  const timer = setInterval(tick, 1);
  for (let i = 0; i < units; i++) await run();
  // A block at the very end shows with the next tick only.
  await new Promise((resolve) => setTimeout(resolve, 2));
  clearInterval(timer);
  const metrics = { p50: median(late), p99: quantile(late, 0.99), longest: Math.max(...late), own: Math.max(...own) };
  return { seconds: (performance.now() - start) / 1e3, metrics };
}

export const prepare: Prepare<EventLoopParameters> = async ({ variant, parameters: { work, units } }, backend) => {
  const unit = await (variant === "training" ? training : variant === "generation" ? generation : server)(work);
  return { about: variant, step: () => watched(units, unit.run), close: unit.close };

  function server(work: GPTWork) {
    return serving(work, variant === "serving");
  }
  async function training(): Promise<{ run: () => Promise<unknown>; close: NonNullable<Ready["close"]> }> {
    const run = trainer(work, initGPT(configOf(work), randomKey(1)), batches(work), backend, "auto");
    return { run: () => run.step(), close: () => {} };
  }
};

async function generation(work: GPTWork) {
  const model = initGPT(configOf(work), randomKey(1));
  const generator = new Generator({ slots: 1, capacity: work.context });
  const run = () => generator.run(model, [[1, 2, 3, 4]], { maxTokens: 32, temperature: 0.8, seed: 1 });
  return { run, close: () => generator.dispose() };
}

/** The client is in this process too: what its first request loads (all of fetch, and streams) is not the server's. */
async function readyClient(): Promise<void> {
  const other = createHttpServer((request, response) => {
    request.resume().on("end", () => response.end("data: {}"));
  });
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port } = other.address() as AddressInfo;
  await (await fetch(`http://127.0.0.1:${port}/`, { method: "POST", body: "{}" })).text();
  other.closeAllConnections();
  await new Promise((resolve) => other.close(resolve));
}

async function serving(work: GPTWork, warmed: boolean) {
  const tokenizer = trainByteLevelBpe(["to be or not to be, that is the question"], { vocabulary: 256 });
  const model = initGPT({ ...configOf(work), vocabulary: tokenizer.vocabularySize }, randomKey(1));
  const registry = new Registry();
  const host = createModelHost({ id: "m", model, tokenizer, slots: 4 });
  registry.add(host);
  // As `howdah serve` does before it listens.
  if (warmed) await host.engine.warm();
  await readyClient();
  const folder = await mkdtemp(join(tmpdir(), "howdah-bench-serve-"));
  const server = await createServer({ models: registry, runsDir: folder });
  const ask = async () => {
    const body = JSON.stringify({
      model: "m",
      prompt: "to be",
      max_tokens: 32,
      stream: true,
      temperature: 0.8,
      seed: 1,
    });
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`${server.url}/v1/completions`, { method: "POST", headers, body });
    const text = await answer.text();
    if (!answer.ok || !text.includes("[DONE]"))
      throw new Error(`The server answered ${answer.status}: ${text.slice(0, 300)}`);
  };
  const close = async () => {
    await server.close();
    await registry.close();
    await rm(folder, { recursive: true, force: true });
  };
  // Two at a time, as two people would.
  return { run: () => Promise.all([ask(), ask()]), close };
}
