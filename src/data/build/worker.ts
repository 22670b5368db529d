// A thread that works units off: see pool.ts.
import { parentPort } from "node:worker_threads";
import { type UnitProgress, type UnitTask, UnitWorker } from "./unit.ts";

export interface WorkerReply {
  readonly task: string;
  readonly progress?: Parameters<UnitProgress>;
  readonly result?: Awaited<ReturnType<UnitWorker["run"]>>;
  readonly error?: { readonly code: string; readonly message: string };
}

const port = parentPort;
if (port) {
  const worker = new UnitWorker();
  port.on("message", async (task: UnitTask) => {
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
    try {
      const result = await worker.run(task, (d, b, r) => {
        documents += d;
        bytes += b;
        read += r;
        if (performance.now() - told > 100) tell();
      });
      tell();
      port.postMessage({ task: task.key, result } satisfies WorkerReply);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "internal";
      const message = error instanceof Error ? error.message : String(error);
      port.postMessage({ task: task.key, error: { code, message } } satisfies WorkerReply);
    }
  });
}
