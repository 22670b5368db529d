// Our side of a comparison: `node worker.js NAME` answers the requests of protocol.ts with the work in workers/NAME.ts.
import { createInterface } from "node:readline";
import { loadNativeBackend, type NativeBackend, useBackend } from "../src/engine/index.ts";
import { BackendError } from "../src/tensor/errors.ts";
import type { Preparation, Prepared, Ran, Request } from "./protocol.ts";
import { append } from "./stats.ts";

/** What one step gave. */
export interface Step {
  /** Compared with the other side's. */
  readonly output?: unknown;
  /** In place of the time that the call took: for works that do something before what is measured. */
  readonly seconds?: number;
  readonly metrics?: Readonly<Record<string, number>>;
}

/** A work that is ready to be measured. */
export interface Ready {
  /** Beside what is said anyway (processor features, Node's version). */
  readonly about?: string;
  step(): Promise<Step>;
  /** Frees what it holds, before another takes its place. */
  close?(): void | Promise<void>;
}

/** What `workers/NAME.ts` exports as `prepare`. `parameters` are those of the suite's work: the module knows their type. */
export type Prepare<P> = (
  request: Preparation & { readonly parameters: P },
  backend: NativeBackend,
) => Ready | Promise<Ready>;

const { prepare } = (await import(`./workers/${process.argv[2]}.js`)) as { prepare: Prepare<unknown> };
let current: Ready | undefined;

async function answer(request: Request): Promise<Prepared | Ran | undefined> {
  if (request.command === "close") return undefined;
  if (request.command === "prepare") {
    const backend = loadNativeBackend();
    if ("missing" in backend) throw new BackendError(backend.missing);
    useBackend(backend);
    await current?.close?.();
    current = await prepare(request, backend);
    const { isa, threads } = backend.facts;
    const about = [isa, current.about, `node ${process.version}`].filter((part) => part !== undefined).join(", ");
    return { about, threads };
  }
  if (!current) throw new BackendError("run before prepare");
  const seconds: number[] = [];
  const outputs: unknown[] = [];
  const metrics: Record<string, number[]> = {};
  for (let i = 0; i < request.steps; i++) {
    const start = performance.now();
    const step = await current.step();
    seconds.push(step.seconds ?? (performance.now() - start) / 1000);
    outputs.push(step.output ?? null);
    for (const [name, value] of Object.entries(step.metrics ?? {})) append(metrics, name, value);
  }
  return { seconds, outputs, metrics, peakBytes: process.resourceUsage().maxRSS * 1024 };
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
