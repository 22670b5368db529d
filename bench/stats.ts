/** Quantile by linear interpolation between order statistics (type 7 of Hyndman & Fan 1996). NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const below = Math.floor(at);
  const low = sorted[below]!;
  const high = sorted[Math.min(below + 1, sorted.length - 1)]!;
  return low + (high - low) * (at - below);
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

/** Half the distance between the quartiles, as a part of the median: 0 where all samples are equal. */
export function spread(values: readonly number[]): number {
  return (quantile(values, 0.75) - quantile(values, 0.25)) / 2 / median(values);
}

/** Appends numbers to the list of that name. */
export function append(lists: Record<string, number[]>, name: string, ...values: readonly number[]): void {
  const list = lists[name] ?? [];
  lists[name] = list;
  list.push(...values);
}
