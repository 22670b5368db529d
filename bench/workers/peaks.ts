// Not a work: what the machine can do at best, as its output.
import { measurePeaks } from "../../src/engine/backends/native/peaks.ts";
import type { Prepare } from "../worker.ts";

export const prepare: Prepare<unknown> = () => ({ step: async () => ({ output: await measurePeaks() }) });
