import type { Peaks } from "../src/engine/backends/native/peaks.ts";
import { ours } from "./environment.ts";

/** A process that measures what the machine can do, whenever it is asked. */
export function machinePeaks(): { measure(): Promise<Peaks>; close(): Promise<void> } {
  const contender = ours("peaks").start();
  let ready: Promise<unknown> | undefined;
  return {
    async measure() {
      ready ??= contender.prepare({ work: "peaks", variant: "", parameters: {} });
      await ready;
      const { outputs } = await contender.run(1);
      return outputs[0] as Peaks;
    },
    close: () => contender.close(),
  };
}
