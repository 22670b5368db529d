/** Edit distance with swaps of neighbours counted once (optimal string alignment), for "did you mean". */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min(above[j]! + 1, row[j - 1]! + 1, above[j - 1]! + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) cost = Math.min(cost, before[j - 2]! + 1);
      row.push(cost);
    }
    before = above;
    above = row;
  }
  return above[b.length]!;
}

/** The known word that `word` was probably meant to be, or undefined if none is close. Case, `-` and `_` count little. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  const plain = (text: string) => text.toLowerCase().replaceAll("-", "_");
  let best: string | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const a = plain(word);
    const b = plain(candidate);
    // A beginning or an ending of a known word is a likely abbreviation: "lr_rate", "vocab".
    const abbreviates = a.length >= 3 && (b.startsWith(a) || b.endsWith(a));
    const distance = abbreviates ? 1 : editDistance(a, b);
    if (distance < least && distance <= Math.max(1, Math.floor(Math.max(a.length, b.length) / 3))) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}
