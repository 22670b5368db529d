import { MessageChannel, Worker } from "node:worker_threads";
import { HowdahError } from "../../tensor/errors.ts";
import { type UnitProgress, type UnitResult, type UnitTask, UnitWorker } from "./unit.ts";
import type { WorkerOrder, WorkerReply } from "./worker.ts";

/** Bytes of an input that are worth a thread of their own. */
const WORTH = 4 * 2 ** 20;
/** What an input counts as that does not say its size. */
const UNKNOWN = 16 * WORTH;

export interface PoolOptions {
  /** Threads; 0: in this one. */
  readonly workers: number;
  readonly onProgress: UnitProgress;
  readonly onResult: (result: UnitResult) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Works all tasks off, each on whichever thread is free. Where there are fewer tasks than threads, those that are left over help with the largest: one
 * thread reads, all of them extract and clean. What tasks give depends on nothing but the tasks.
 */
export async function runUnits(tasks: readonly UnitTask[], options: PoolOptions): Promise<void> {
  const { workers, onProgress, onResult, signal } = options;
  signal?.throwIfAborted();
  if (workers === 0 || tasks.length === 0) {
    const worker = new UnitWorker();
    for (const task of tasks) {
      signal?.throwIfAborted();
      onResult(await worker.run(task, onProgress, signal));
    }
    return;
  }
  const sizeOf = (task: UnitTask) => task.input.size ?? UNKNOWN;
  const worth = tasks.reduce((n, task) => n + Math.max(1, Math.floor(sizeOf(task) / WORTH)), 0);
  const threads = Array.from(
    { length: Math.min(workers, worth) },
    () => new Worker(new URL("./worker.js", import.meta.url)),
  );
  const tell = (thread: Worker, order: WorkerOrder) =>
    thread.postMessage(order, order.kind === "run" ? [] : [order.port]);
  /** By key: what is being worked on, where, with how many helping, and how much of it is left to read. */
  const running = new Map<string, { task: UnitTask; thread: Worker; helping: number; left: number }>();
  let next = 0;
  try {
    await new Promise<void>((resolve, reject) => {
      let left = tasks.length;
      const abort = () => reject(signal?.reason);
      signal?.addEventListener("abort", abort, { once: true });
      const give = (thread: Worker) => {
        const task = tasks[next++];
        if (task) {
          running.set(task.key, { task, thread, helping: 0, left: sizeOf(task) });
          tell(thread, { kind: "run", task });
          return;
        }
        const [most] = [...running.values()].sort((a, b) => b.left / (b.helping + 2) - a.left / (a.helping + 2));
        if (!most || most.left < WORTH) return;
        most.helping++;
        const { port1, port2 } = new MessageChannel();
        tell(thread, { kind: "help", task: most.task, port: port1 });
        tell(most.thread, { kind: "helper", key: most.task.key, port: port2 });
      };
      for (const thread of threads) {
        thread.on("message", ({ task, progress, result, helped, error }: WorkerReply) => {
          const at = running.get(task);
          if (progress) {
            onProgress(...progress);
            if (at) at.left -= progress[2];
          }
          if (error) reject(new HowdahError(error.code, error.message));
          if (helped) give(thread);
          if (!result) return;
          running.delete(task);
          onResult(result);
          if (--left === 0) resolve();
          else give(thread);
        });
        thread.on("error", reject);
        thread.on("exit", (code) => {
          if (left > 0)
            reject(new HowdahError("worker", `A worker thread ended with code ${code} before its work was done.`));
        });
        give(thread);
      }
    });
  } finally {
    await Promise.all(threads.map((t) => t.terminate()));
  }
}
