import { describe, expect, test } from "vitest";
import { tokensOf } from "../../src/data/index.ts";
import { secondsSpent } from "../../src/pipeline/job.ts";
import { bitsPerByte, heldOutWindows, someHeldOut } from "../../src/pipeline/pretrain.ts";
import { rowsOf } from "../../src/pipeline/sft.ts";
import type { Workshop } from "../../src/pipeline/workshop.ts";
import type { Event } from "../../src/runs/index.ts";

/** What held-out windows look at: token i of the text is i, so that a target says where it stands. */
function workshopOf(length: number, context: number): Workshop {
  const heldOut = tokensOf([Array.from({ length }, (_, i) => i)]);
  return { recipe: { model: { context } }, tokens: { heldOut } } as unknown as Workshop;
}

describe("held-out windows", () => {
  test.each([
    [9, 8, 1],
    [10, 8, 2],
    [16, 8, 3],
    [17, 8, 4],
    [100, 8, 4],
    [103, 16, 3],
    [250, 7, 5],
    [40, 1, 3],
  ])(
    "of %d tokens with a context of %d, in batches of %d, predict each token exactly once",
    (length, context, rows) => {
      const counts = new Map<number, number>();
      for (const batch of heldOutWindows(workshopOf(length, context), rows)) {
        expect([batch.rows, batch.length]).toEqual([rows, context]);
        batch.targets.forEach((target, i) => {
          expect(target).toBe(batch.inputs[i]! + 1);
          if (batch.weights[i] === 0) return;
          counts.set(target, (counts.get(target) ?? 0) + 1);
          // Beyond the first window, at least half a window is read before a token is predicted.
          const position = i % context;
          if (target > context) expect(position).toBeGreaterThanOrEqual(Math.ceil(context / 2) - 1);
        });
      }
      expect([...counts.keys()].sort((a, b) => a - b)).toEqual(Array.from({ length: length - 1 }, (_, i) => i + 1));
      expect(new Set(counts.values())).toEqual(new Set([1]));
    },
  );

  test("the quick part is the same each time, and all of it where there is little", () => {
    const workshop = workshopOf(300, 8);
    const starts = () => someHeldOut(workshop, 2, 4).map((batch) => batch.inputs[0]);
    expect(starts()).toEqual(starts());
    expect(new Set(starts()).size).toBe(4);
    expect(someHeldOut(workshopOf(20, 8), 2, 4).length).toBeLessThan(4);
  });
});

test("nats over all tokens are bits per byte of text by log 2 and the bytes", () => {
  expect(bitsPerByte(Math.LN2 * 30, 10)).toBeCloseTo(3, 12);
});

test("rows beyond a batch do not count and each of their positions sees only itself", () => {
  const batch = {
    rows: 3,
    length: 2,
    inputs: Int32Array.of(1, 2, 3, 4, 5, 6),
    targets: Int32Array.of(2, 3, 4, 5, 6, 7),
    weights: Float32Array.of(1, 1, 1, 1, 1, 1),
    first: Int32Array.of(0, 0, 0, 0, 0, 0),
  };
  expect(rowsOf(batch, 2, 2)).toEqual({
    rows: 2,
    length: 2,
    inputs: Int32Array.of(5, 6, 0, 0),
    targets: Int32Array.of(6, 7, 0, 0),
    weights: Float32Array.of(1, 1, 0, 0),
    first: Int32Array.of(0, 0, 0, 1),
  });
  expect(rowsOf(batch, 0, 2).inputs).toEqual(Int32Array.of(1, 2, 3, 4));
});

test("seconds of a stage are those of all its sittings, however they ended, and none of the time between them", () => {
  const stage = (t: number, name: string, status: "started" | "resumed" | "finished"): Event =>
    ({ t, type: "stage", stage: name, index: 0, count: 2, status }) as Event;
  const run = (t: number, status: "started" | "resumed" | "stopped"): Event => ({ t, type: "run", status });
  const metrics = (t: number): Event => ({ t, type: "metrics", stage: "b", step: 1, values: {} });
  const events = [
    ...[run(0, "started"), stage(0, "a", "started"), stage(5000, "a", "finished"), stage(6000, "b", "started")],
    metrics(9000), // killed
    ...[run(50_000, "resumed"), stage(51_000, "b", "resumed"), metrics(52_000), run(53_000, "stopped")],
    ...[run(90_000, "resumed"), stage(91_000, "b", "resumed"), metrics(95_000)],
  ];
  expect(secondsSpent(events, "b", 90_000)).toBe(3 + 2);
  expect(secondsSpent(events, "b", 50_000)).toBe(3);
  expect(secondsSpent(events, "c", 90_000)).toBe(0);
});
