import { describe, expect, test } from "vitest";
import { type Schedule, scheduleAt } from "../../src/train/index.ts";

const base: Schedule = { kind: "cosine", warmup: 0, decay: 0.2, final: 0.1 };
const at = (over: Partial<Schedule>, step: number, steps: number) => scheduleAt({ ...base, ...over }, step, steps);

describe("schedules", () => {
  test.each(["cosine", "wsd", "linear", "constant"] as const)(
    "%s warms up in equal parts and reaches its peak after the warm-up",
    (kind) => {
      const warm = [0, 1, 2, 3].map((step) => at({ kind, warmup: 4 }, step, 100));
      expect(warm).toEqual([1 / 5, 2 / 5, 3 / 5, 4 / 5]);
      expect(at({ kind, warmup: 4 }, 4, 100)).toBe(1);
    },
  );

  test("a warm-up below 1 is a fraction of all steps", () => {
    for (const step of [0, 3, 19, 20, 60, 199])
      expect(at({ warmup: 0.1 }, step, 200)).toBe(at({ warmup: 20 }, step, 200));
  });

  test("cosine is half way down in the middle, and would be at the final share one step after the last", () => {
    expect(at({}, 50, 100)).toBeCloseTo(0.1 + 0.9 * 0.5, 12);
    expect(at({}, 25, 100)).toBeCloseTo(0.1 + 0.9 * 0.5 * (1 + Math.SQRT1_2), 12);
    expect(at({}, 100, 100)).toBeCloseTo(0.1, 12);
  });

  test("linear falls by the same amount each step", () => {
    const values = Array.from({ length: 10 }, (_, step) => at({ kind: "linear", final: 0 }, step, 10));
    values.forEach((value, step) => {
      expect(value).toBeCloseTo(1 - step / 10, 12);
    });
  });

  test("wsd stays at its peak until the last part, and only then falls", () => {
    const values = Array.from({ length: 100 }, (_, step) => at({ kind: "wsd", warmup: 10, decay: 0.2 }, step, 100));
    expect(new Set(values.slice(10, 81))).toEqual(new Set([1]));
    expect(values[90]).toBeCloseTo(0.1 + 0.9 * 0.5, 12);
    for (let i = 81; i < 100; i++) expect(values[i]!).toBeLessThan(values[i - 1]!);
    expect(at({ kind: "wsd", decay: 0.2 }, 100, 100)).toBeCloseTo(0.1, 12);
  });

  test("no schedule leaves (0, 1], whatever the numbers", () => {
    for (const kind of ["cosine", "wsd", "linear", "constant"] as const)
      for (const steps of [1, 2, 7, 50])
        for (const warmup of [0, 0.5, 3, 1000])
          for (let step = 0; step < steps; step++) {
            const value = at({ kind, warmup }, step, steps);
            expect(value).toBeGreaterThan(0);
            expect(value).toBeLessThanOrEqual(1);
          }
  });

  test("a schedule over no steps is refused", () => {
    expect(() => at({}, 0, 0)).toThrow(/at least one step/);
  });
});
