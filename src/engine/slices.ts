/** Work that may pause wherever it yields. What it gives does not depend on whether it did. */
export type Sliced<T> = Generator<undefined, T, undefined>;

/** Milliseconds after which the event loop is given a turn. Code that runs for the first time is slow: a step between two yields may take as long again. */
const SLICE = 1.5;

/** All of it now. */
export function whole<T>(work: Sliced<T>): T {
  for (;;) {
    const next = work.next();
    if (next.done) return next.value;
  }
}

/** A few milliseconds at a time, with turns of the event loop between; nothing of it in the call itself. */
export async function inSlices<T>(work: Sliced<T>): Promise<T> {
  for (;;) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    const end = performance.now() + SLICE;
    do {
      const next = work.next();
      if (next.done) return next.value;
    } while (performance.now() < end);
  }
}
