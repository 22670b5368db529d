// A thread that works units off, or helps another one with a large unit: see pool.ts.
import { type MessagePort, parentPort, receiveMessageOnPort } from "node:worker_threads";
import { HowdahError } from "../../tensor/errors.ts";
import { isRaw } from "../document.ts";
import {
  type Done,
  type Helpers,
  type Read,
  type UnitProgress,
  type UnitResult,
  type UnitTask,
  UnitWorker,
} from "./unit.ts";

/** What a thread is told: to work a unit off, to help with one, or that there is help for the one it works on. */
export type WorkerOrder =
  | { readonly kind: "run"; readonly task: UnitTask }
  | { readonly kind: "help"; readonly task: UnitTask; readonly port: MessagePort }
  | { readonly kind: "helper"; readonly key: string; readonly port: MessagePort };

interface Failure {
  readonly code: string;
  readonly message: string;
}
export interface WorkerReply {
  readonly task: string;
  readonly progress?: Parameters<UnitProgress>;
  readonly result?: UnitResult;
  /** The unit that this thread helped with is done. */
  readonly helped?: true;
  readonly error?: Failure;
}

const failureOf = (error: unknown): Failure => ({
  code: error instanceof Error && "code" in error ? String(error.code) : "internal",
  message: error instanceof Error ? error.message : String(error),
});

/** Batches that lie with a helper: one in work and one that waits, so that it never does. */
const WITH_EACH = 2;

interface Batch {
  readonly id: number;
  readonly items: readonly Read[];
}
interface Answer {
  readonly id: number;
  readonly done?: readonly Done[];
  readonly error?: Failure;
}

/** The threads that help this one. */
class Ports implements Helpers {
  readonly #ports = new Map<MessagePort, number>();
  readonly #waiting = new Map<number, { resolve(done: readonly Done[]): void; reject(error: unknown): void }>();
  #next = 0;

  get room(): number {
    return WITH_EACH * this.#ports.size;
  }
  add(port: MessagePort): void {
    this.#ports.set(port, 0);
    port.on("message", (answer: Answer) => this.#take(port, answer));
  }
  #take(port: MessagePort, { id, done, error }: Answer): void {
    this.#ports.set(port, this.#ports.get(port)! - 1);
    const { resolve, reject } = this.#waiting.get(id)!;
    this.#waiting.delete(id);
    if (done) resolve(done);
    else reject(new HowdahError(error!.code, error!.message));
  }
  give(items: readonly Read[]): Promise<readonly Done[]> | undefined {
    // Answers that came while this thread worked, too, before it says that nobody is free.
    for (const port of this.#ports.keys())
      for (let come = receiveMessageOnPort(port); come; come = receiveMessageOnPort(port))
        this.#take(port, come.message as Answer);
    const [port, load] = [...this.#ports].reduce<[MessagePort | undefined, number]>(
      (best, one) => (one[1] < best[1] ? one : best),
      [undefined, WITH_EACH],
    );
    if (!port) return undefined;
    this.#ports.set(port, load + 1);
    const id = this.#next++;
    // Bytes of pages are handed over; a view of something larger is copied first, for all of it would go.
    const own = items.map((item) => (isRaw(item) ? { ...item, bytes: new Uint8Array(item.bytes) } : item));
    const bytes = own.flatMap((item) => (isRaw(item) ? [item.bytes.buffer as ArrayBuffer] : []));
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      port.postMessage({ id, items: own } satisfies Batch, bytes);
    });
  }
  close(): void {
    for (const port of this.#ports.keys()) port.close();
  }
}

const port = parentPort;
if (port) {
  const worker = new UnitWorker();
  let current: { readonly key: string; readonly helpers: Ports } | undefined;
  const run = async (task: UnitTask) => {
    let documents = 0;
    let bytes = 0;
    let read = 0;
    let told = performance.now();
    const tell = () => {
      port.postMessage({ task: task.key, progress: [documents, bytes, read] } satisfies WorkerReply);
      documents = 0;
      bytes = 0;
      read = 0;
      told = performance.now();
    };
    const helpers = new Ports();
    current = { key: task.key, helpers };
    try {
      const onProgress: UnitProgress = (d, b, r) => {
        documents += d;
        bytes += b;
        read += r;
        if (performance.now() - told > 100) tell();
      };
      const result = await worker.run(task, onProgress, undefined, helpers);
      tell();
      port.postMessage({ task: task.key, result } satisfies WorkerReply);
    } catch (error) {
      port.postMessage({ task: task.key, error: failureOf(error) } satisfies WorkerReply);
    } finally {
      current = undefined;
      helpers.close();
    }
  };
  const help = (task: UnitTask, from: MessagePort) => {
    from.on("close", () => port.postMessage({ task: task.key, helped: true } satisfies WorkerReply));
    const work = worker.prepare(task);
    // An error is said of the first batch.
    work.catch(() => {});
    from.on("message", async ({ id, items }: Batch) => {
      try {
        from.postMessage({ id, done: await (await work)(items) } satisfies Answer);
      } catch (error) {
        from.postMessage({ id, error: failureOf(error) } satisfies Answer);
      }
    });
  };
  port.on("message", (order: WorkerOrder) => {
    if (order.kind === "run") void run(order.task);
    else if (order.kind === "help") help(order.task, order.port);
    // Too late, the unit is done: the one who would have helped is free again.
    else if (current?.key !== order.key) order.port.close();
    else current.helpers.add(order.port);
  });
}
