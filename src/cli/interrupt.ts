import { HowdahError } from "../tensor/errors.ts";

/** The person (Ctrl-C) or the system (SIGTERM) asked to stop, and the work stopped cleanly. */
export class Interrupted extends HowdahError {
  /** What is worth saying in the last line, such as the run to go on with. */
  readonly result: Record<string, unknown>;
  constructor(message = "Stopped.", result: Record<string, unknown> = {}) {
    super("interrupted", message);
    this.result = result;
  }
}

/**
 * The first Ctrl-C or SIGTERM aborts the returned signal: the work is to end cleanly (finish the step, save, say how to go on). The
 * second ends the process at once, after `force` has put the terminal back.
 */
export function listenForInterrupts(options: { ask(): void; force(): void }): { signal: AbortSignal; stop(): void } {
  const controller = new AbortController();
  const onSignal = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) {
      options.force();
      process.exit(name === "SIGTERM" ? 143 : 130);
    }
    options.ask();
    controller.abort(new Interrupted());
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const name of signals) process.on(name, onSignal);
  return {
    signal: controller.signal,
    stop() {
      for (const name of signals) process.removeListener(name, onSignal);
    },
  };
}

/** When work is asked to stop. The process lives until then, even where nothing else keeps it. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  const keep = setInterval(() => {}, 1 << 30);
  return new Promise((done) => {
    const stop = () => {
      clearInterval(keep);
      done();
    };
    signal.addEventListener("abort", stop, { once: true });
  });
}
