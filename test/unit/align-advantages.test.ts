import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { AdaptiveKl, generalizedAdvantages, spread, whiten } from "../../src/align/index.ts";

const number = fc.double({ min: -10, max: 10, noNaN: true });
const rollout = fc.array(fc.tuple(number, number), { minLength: 1, maxLength: 12 }).map((list) => ({
  rewards: Float64Array.from(list, ([r]) => r),
  values: Float64Array.from(list, ([, v]) => v),
}));
const share = fc.double({ min: 0, max: 1, noNaN: true });

const closeTo = (got: ArrayLike<number>, wanted: readonly number[], digits = 9) => {
  expect(got.length).toBe(wanted.length);
  wanted.forEach((x, i) => {
    expect(got[i]!).toBeCloseTo(x, digits);
  });
};

describe("generalised advantage estimation", () => {
  test("is the double sum of Schulman et al. 2016, equation 16", () => {
    fc.assert(
      fc.property(rollout, share, share, ({ rewards, values }, gamma, lambda) => {
        const n = rewards.length;
        const delta = (t: number) => rewards[t]! + gamma * (t + 1 < n ? values[t + 1]! : 0) - values[t]!;
        const wanted = Array.from({ length: n }, (_, t) => {
          let sum = 0;
          for (let l = 0; t + l < n; l++) sum += (gamma * lambda) ** l * delta(t + l);
          return sum;
        });
        const { advantages, returns } = generalizedAdvantages({ rewards, values }, gamma, lambda);
        closeTo(advantages, wanted);
        closeTo(
          returns,
          wanted.map((a, t) => a + values[t]!),
        );
      }),
    );
  });

  const example = { rewards: Float64Array.of(1, 0, 2), values: Float64Array.of(0.5, -1, 3) };

  test("with lambda 0 is the one-step error of the critic", () => {
    closeTo(generalizedAdvantages(example, 0.9, 0).advantages, [1 - 0.9 - 0.5, 0 + 2.7 + 1, 2 - 3]);
  });

  test("with lambda 1 is what was earned from here on, less the value", () => {
    const { advantages, returns } = generalizedAdvantages(example, 0.5, 1);
    closeTo(returns, [1 + 0.25 * 2, 0.5 * 2, 2]);
    closeTo(advantages, [1.5 - 0.5, 1 + 1, 2 - 3]);
  });

  test("of a perfect critic is 0", () => {
    const values = Float64Array.of(3, 2, 2);
    closeTo(generalizedAdvantages({ rewards: Float64Array.of(1, 0, 2), values }, 1, 0.95).advantages, [0, 0, 0]);
  });
});

describe("whitening", () => {
  test("gives all numbers together mean 0 and deviation 1, and keeps their order", () => {
    const white = whiten([Float64Array.of(5, 7, 1), Float64Array.of(-2), Float64Array.of(0, 9)]);
    expect(white.map((list) => list.length)).toEqual([3, 1, 2]);
    const all = white.flatMap((list) => [...list]);
    expect(all.reduce((a, b) => a + b, 0)).toBeCloseTo(0, 9);
    expect(all.reduce((a, b) => a + b * b, 0) / (all.length - 1)).toBeCloseTo(1, 6);
    expect(all.indexOf(Math.max(...all))).toBe(5);
  });

  test("of equal numbers is 0, not a division by 0", () => {
    closeTo(
      whiten([Float64Array.of(4, 4), Float64Array.of(4)]).flatMap((list) => [...list]),
      [0, 0, 0],
    );
    expect(whiten([])).toEqual([]);
  });
});

describe("the adaptive KL coefficient", () => {
  const coefficientAfter = (kl: number, target: number, replies = 100, horizon = 1000) => {
    const controller = new AdaptiveKl(0.2, target, horizon);
    controller.update(kl, replies);
    return controller.coefficient;
  };

  test("rises when the divergence is above its target, falls below it, and stays on it", () => {
    expect(coefficientAfter(6.6, 6)).toBeCloseTo(0.2 * (1 + 0.1 * 0.1), 12);
    expect(coefficientAfter(5.4, 6)).toBeCloseTo(0.2 * (1 - 0.1 * 0.1), 12);
    expect(coefficientAfter(6, 6)).toBe(0.2);
  });

  test("moves by at most a fifth of the share of the horizon, however far off the divergence is", () => {
    expect(coefficientAfter(600, 6)).toBeCloseTo(0.2 * 1.02, 12);
    expect(coefficientAfter(-5, 6)).toBeCloseTo(0.2 * 0.98, 12);
  });

  test("brings a divergence that answers to it to the target", () => {
    const controller = new AdaptiveKl(0.01, 6, 1000);
    const divergence = () => 1 / controller.coefficient;
    for (let i = 0; i < 2000; i++) controller.update(divergence(), 64);
    expect(divergence()).toBeCloseTo(6, 2);
  });
});

test("spread gives mean and population variance", () => {
  expect(spread([1, 3])).toEqual({ mean: 2, variance: 1 });
  expect(spread([])).toEqual({ mean: 0, variance: 0 });
});
