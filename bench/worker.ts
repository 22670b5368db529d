// Our side of a comparison: a process that answers the requests of protocol.ts.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { loadNativeBackend, useBackend } from "../src/engine/index.ts";
import { type GPT, loadModel } from "../src/models/index.ts";
import { BackendError } from "../src/tensor/errors.ts";
import type { Precision } from "../src/tensor/runtime.ts";
import type { Prepared, Ran, Request } from "./protocol.ts";
import { type Trainer, trainer } from "./step.ts";

let current: Trainer | undefined;

async function answer(request: Request): Promise<Prepared | Ran | undefined> {
  if (request.command === "close") return undefined;
  if (request.command === "prepare") {
    const backend = loadNativeBackend();
    if ("missing" in backend) throw new BackendError(backend.missing);
    useBackend(backend);
    const { model } = await loadModel(request.weights);
    const bytes = await readFile(request.batches);
    const data = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const precision = request.variant as Precision;
    current = trainer(request.work, model as GPT, data, backend, precision);
    const { facts } = backend;
    const matmul = precision === "bf16" || (precision === "auto" && facts.bf16) ? "bf16" : "f32";
    return { about: `${facts.isa}, ${matmul}, node ${process.version}`, threads: facts.threads };
  }
  if (!current) throw new BackendError("run before prepare");
  const seconds: number[] = [];
  const losses: number[] = [];
  for (let i = 0; i < request.steps; i++) {
    const start = performance.now();
    losses.push(await current.step());
    seconds.push((performance.now() - start) / 1000);
  }
  return { seconds, losses, peakBytes: process.resourceUsage().maxRSS * 1024 };
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    const result = await answer(JSON.parse(line) as Request);
    if (!result) break;
    console.log(JSON.stringify(result));
  } catch (error) {
    console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }));
  }
}
process.exit(0);
