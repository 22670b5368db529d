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
  const kinds = ["f32", "bf16", "read"] as const;
  const best = [0, 0, 0];
  // In turns: a neighbour that is busy for a moment does not spoil one of them.
  for (let turn = 0; turn < 3; turn++)
    for (const [i, kind] of kinds.entries()) {
      const [rate] = await addon.probe(kind, seconds / 3, new Float64Array(1));
      best[i] = Math.max(best[i]!, rate! / 1e9);
    }
  const [f32, bf16, read] = best as [number, number, number];
  return { f32, bf16: bf16 > 0 ? bf16 : null, read };
}
