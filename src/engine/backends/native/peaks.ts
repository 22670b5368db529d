import { BackendError } from "../../../tensor/errors.ts";
import { loadAddon } from "./addon.ts";

/** What the machine can do at best with the threads and instructions in use, in 10^9 a second. */
export interface Peaks {
  /** Floating-point operations, all operands in registers. */
  readonly f32: number;
  /** Null where the processor has no bf16 dot products. */
  readonly bf16: number | null;
  /** Bytes read from memory. */
  readonly read: number;
}

/**
 * Measures the ceilings of a roofline (Williams, Waterman & Patterson 2009). For benchmarks and profiles; it keeps all cores busy.
 * @param seconds of each of the three
 */
export async function measurePeaks(seconds = 0.1): Promise<Peaks> {
  const addon = loadAddon();
  if ("missing" in addon) throw new BackendError(addon.missing);
  const rate = async (kind: "f32" | "bf16" | "read") =>
    (await addon.probe(kind, seconds, new Float64Array(1)))[0]! / 1e9;
  const [f32, bf16, read] = [await rate("f32"), await rate("bf16"), await rate("read")];
  return { f32, bf16: bf16 > 0 ? bf16 : null, read };
}
