import { describe, expect, test } from "vitest";
import { distinct, repetition, wilson, winRate } from "../../src/evaluate/index.ts";

describe("distinct-n", () => {
  test("is the share of different n-grams over all texts together", () => {
    expect(distinct([[1, 2, 3, 4]], 2)).toBe(1);
    expect(distinct([[1, 1, 1, 1]], 2)).toBe(1 / 3);
    expect(distinct([[1, 2, 1, 2]], 1)).toBe(1 / 2);
    // (1,2) twice, (2,3) once; nothing crosses from one text to the next.
    expect(
      distinct(
        [
          [1, 2],
          [1, 2, 3],
        ],
        2,
      ),
    ).toBe(2 / 3);
  });

  test("tells ids apart whose digits run together", () => {
    expect(
      distinct(
        [
          [1, 11],
          [11, 1],
        ],
        2,
      ),
    ).toBe(1);
  });

  test("of texts shorter than n is 0", () => {
    expect(distinct([[1], []], 2)).toBe(0);
  });
});

describe("repetition", () => {
  test("counts tokens seen within the window before them", () => {
    expect(repetition([[1, 2, 3, 4]])).toBe(0);
    expect(repetition([[1, 1, 1]])).toBe(1);
    expect(repetition([[1, 2, 1, 3]])).toBe(1 / 3);
    expect(repetition([[1, 2, 1, 3]], 1)).toBe(0);
    expect(repetition([[1], []])).toBe(0);
  });
});

describe("win rates", () => {
  test("Wilson's interval has its published values", () => {
    // Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29, by the score method.
    for (const [r, n, low, high] of [
      [81, 263, 0.2553, 0.3662],
      [15, 148, 0.0624, 0.1605],
      [0, 20, 0, 0.1611],
      [1, 29, 0.0061, 0.1718],
    ] as const) {
      const rate = wilson(r, n);
      expect(rate.rate).toBe(r / n);
      expect(rate.low).toBeCloseTo(low, 4);
      expect(rate.high).toBeCloseTo(high, 4);
    }
  });

  test("of no comparisons nothing is known", () => {
    expect(wilson(0, 0)).toEqual({ rate: Number.NaN, low: 0, high: 1 });
  });

  test("ties count half, and the two sides add up to 1", () => {
    const [a, b] = [
      [1, 2, 3, 4],
      [0, 2, 5, 3],
    ];
    expect(winRate(a!, b!)).toMatchObject({ rate: 0.625, n: 4 });
    expect(winRate(b!, a!).rate).toBe(0.375);
    expect(winRate(b!, a!).low).toBeCloseTo(1 - winRate(a!, b!).high, 12);
  });
});
