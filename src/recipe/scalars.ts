import { z } from "zod";

/** How people write amounts in a recipe. What has been resolved is plain numbers, and reads the same again. */

const multiples: Record<string, number> = {
  "": 1,
  K: 1e3,
  M: 1e6,
  B: 1e9,
  G: 1e9,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
};

/** 8192, "8K", "5M", "1.3B", "8Ki": K, M and B are thousands, Ki and Mi are 1024 and its square. */
export function parseSize(text: string): number | undefined {
  const match = /^\s*(\d+(?:[._]?\d+)*)\s*([KMBG]i?|)\s*$/i.exec(text);
  if (match === null) return undefined;
  const unit = match[2]!;
  const multiple = multiples[unit.charAt(0).toUpperCase() + unit.slice(1).toLowerCase()];
  const value = Number(match[1]!.replaceAll("_", ""));
  return multiple === undefined || Number.isNaN(value) ? undefined : value * multiple;
}

const seconds: Record<string, number> = {
  ms: 0.001,
  s: 1,
  sec: 1,
  second: 1,
  seconds: 1,
  m: 60,
  min: 60,
  minute: 60,
  minutes: 60,
  h: 3600,
  hour: 3600,
  hours: 3600,
  d: 86400,
  day: 86400,
  days: 86400,
};

/** "90s", "3 min", "1h30m" in seconds; a bare number is seconds. */
export function parseDuration(text: string): number | undefined {
  if (/^\s*\d+(\.\d+)?\s*$/.test(text)) return Number(text);
  const part = /\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*/giy;
  let total = 0;
  while (part.lastIndex < text.length) {
    const match = part.exec(text);
    const unit = match === null ? undefined : seconds[match[2]!.toLowerCase()];
    if (match === null || unit === undefined) return undefined;
    total += Number(match[1]) * unit;
  }
  return text.trim() === "" ? undefined : total;
}

/** "10%" or 0.1. */
export function parseFraction(text: string): number | undefined {
  const match = /^\s*(\d+(?:\.\d+)?)\s*(%?)\s*$/.exec(text);
  if (match === null) return undefined;
  // 10 / 100 is exact where 10 * 0.01 is not.
  return match[2] === "%" ? Number(match[1]) / 100 : Number(match[1]);
}

/** A number written as text or as itself; `expected` completes the sentence "expected ...". */
function amount(read: (text: string) => number | undefined, expected: string, check: (value: number) => boolean) {
  return z.union([z.number(), z.string()], { error: `expected ${expected}` }).transform((given, context) => {
    const value = typeof given === "number" ? given : read(given);
    if (value !== undefined && Number.isFinite(value) && check(value)) return value;
    context.issues.push({ code: "custom", message: `expected ${expected}`, input: given });
    return z.NEVER;
  });
}

/** A count of at least `least`: 8192, "8K", "5M". */
export const size = (least = 1) =>
  amount(
    parseSize,
    `a whole number of at least ${least}, such as ${Math.max(least, 8)} or 8K`,
    (v) => Number.isInteger(v) && v >= least,
  );

/** Between 0 and 1, both included: 0.1 or "10%". */
export const fraction = () =>
  amount(parseFraction, "a fraction between 0 and 1, such as 0.1 or 10%", (v) => v >= 0 && v <= 1);

/** In seconds: "90s", "3 min", "1h30m". */
export const duration = () => amount(parseDuration, "a time such as 90s, 3 min or 1h30m", (v) => v > 0);

/** A length of training: steps if 1 or more, otherwise or with % a fraction of the stage. */
export const stepsOrFraction = () =>
  amount(
    (text) => (text.includes("%") ? parseFraction(text) : parseSize(text)),
    "steps (100) or a fraction of the stage (5%)",
    (v) => v >= 0 && (v < 1 || Number.isInteger(v)),
  );

/** Greater than 0. */
export const positive = (such: string) =>
  z
    .number({ error: `expected a number above 0, such as ${such}` })
    .positive(`expected a number above 0, such as ${such}`);

/** 0 or greater. */
export const nonnegative = (such: string) =>
  z
    .number({ error: `expected a number of at least 0, such as ${such}` })
    .nonnegative(`expected a number of at least 0, such as ${such}`);
