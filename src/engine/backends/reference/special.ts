/** Functions JavaScript's Math lacks, accurate to a few units in the last place of f64. */

/**
 * The error function. Up to 3 by the series with positive terms only (Abramowitz & Stegun 7.1.6), beyond by the continued fraction
 * of its complement (7.1.14).
 */
export function erf(x: number): number {
  if (Number.isNaN(x)) return x;
  const a = Math.abs(x);
  if (a >= 6) return Math.sign(x);
  if (a < 3) {
    let term = a;
    let sum = a;
    for (let n = 1; term > sum * 1e-17; n++) {
      term *= (2 * a * a) / (2 * n + 1);
      sum += term;
    }
    return Math.sign(x) * ((2 / Math.sqrt(Math.PI)) * Math.exp(-a * a) * sum);
  }
  let tail = 0;
  for (let k = 60; k >= 1; k--) tail = k / 2 / (a + tail);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + tail));
}

export function logistic(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const e = Math.exp(x);
  return e / (1 + e);
}

/** To the nearest whole number, halves to the even one. */
export function roundNearestEven(x: number): number {
  const down = Math.floor(x);
  const rest = x - down;
  if (rest < 0.5) return rest === 0 ? x : down;
  if (rest > 0.5) return down + 1;
  return down % 2 === 0 ? down : down + 1;
}

/** IEEE 754's pow; JavaScript differs where the base is 1 or -1. */
export function power(x: number, y: number): number {
  if (x === 1 || (x === -1 && Math.abs(y) === Number.POSITIVE_INFINITY)) return 1;
  return x ** y;
}
