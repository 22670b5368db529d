/** Distinct n-grams over all n-grams of the texts together, by token. Li et al. 2016, "distinct-n". 0 when there are none. */
export function distinct(texts: readonly (readonly number[])[], n: number): number {
  const seen = new Set<string>();
  let total = 0;
  for (const ids of texts)
    for (let i = 0; i + n <= ids.length; i++) {
      seen.add(ids.slice(i, i + n).join());
      total++;
    }
  return total ? seen.size / total : 0;
}

/** The share of tokens that repeat one of the `window` tokens before them. Welleck et al. 2020, "rep/l". */
export function repetition(texts: readonly (readonly number[])[], window = 16): number {
  let repeated = 0;
  let total = 0;
  for (const ids of texts)
    for (let i = 1; i < ids.length; i++) {
      if (ids.slice(Math.max(0, i - window), i).includes(ids[i]!)) repeated++;
      total++;
    }
  return total ? repeated / total : 0;
}

export interface Rate {
  readonly rate: number;
  readonly low: number;
  readonly high: number;
}

/** A share with its 95 % interval. Wilson 1927. */
export function wilson(successes: number, total: number): Rate {
  if (total === 0) return { rate: Number.NaN, low: 0, high: 1 };
  const z = 1.959964;
  const p = successes / total;
  const centre = (p + (z * z) / (2 * total)) / (1 + (z * z) / total);
  const half = (z / (1 + (z * z) / total)) * Math.sqrt((p * (1 - p)) / total + (z * z) / (4 * total * total));
  return { rate: p, low: centre - half, high: centre + half };
}

/** Wins of the first against the second, ties counting half. */
export function winRate(first: ArrayLike<number>, second: ArrayLike<number>): Rate & { readonly n: number } {
  let wins = 0;
  for (let i = 0; i < first.length; i++) wins += first[i]! > second[i]! ? 1 : first[i] === second[i] ? 0.5 : 0;
  return { ...wilson(wins, first.length), n: first.length };
}
