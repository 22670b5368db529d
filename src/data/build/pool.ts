import { Worker } from "node:worker_threads";
import { HowdahError } from "../../tensor/errors.ts";
import { type UnitProgress, type UnitResult, type UnitTask, UnitWorker } from "./unit.ts";
import type { WorkerReply } from "./worker.ts";

export interface PoolOptions {
  /** Threads; 0: in this one. */
  readonly workers: number;
  readonly onProgress: UnitProgress;
  readonly onResult: (result: UnitResult) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Works all tasks off, each on whichever thread is free. What they give depends on nothing but the tasks. */
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
  const threads = Array.from(
    { length: Math.min(workers, tasks.length) },
    () => new Worker(new URL("./worker.js", import.meta.url)),
  );
  let next = 0;
  try {
    await new Promise<void>((resolve, reject) => {
      let left = tasks.length;
      const abort = () => reject(signal?.reason);
      signal?.addEventListener("abort", abort, { once: true });
      const give = (thread: Worker) => {
        if (next < tasks.length) thread.postMessage(tasks[next++]);
      };
      for (const thread of threads) {
        thread.on("message", ({ progress, result, error }: WorkerReply) => {
          if (progress) onProgress(...progress);
          if (error) reject(new HowdahError(error.code, error.message));
          if (!result) return;
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
