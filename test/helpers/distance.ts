import { expect } from "vitest";

/** The largest difference, relative to the largest expected element. */
export function distance(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(got.length).toBe(expected.length);
  let [worst, scale] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(got[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return Number.isFinite(scale) && scale > 0 ? worst / scale : Number.POSITIVE_INFINITY;
}
