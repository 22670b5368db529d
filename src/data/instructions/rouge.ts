const tokens = /\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{M}\p{N}])+/gu;

/** Words in lower case; Chinese by characters. */
export const rougeTokens = (text: string): string[] => Array.from(text.toLowerCase().matchAll(tokens), (m) => m[0]);

/** Length of the longest common subsequence. */
export function commonSubsequence(a: readonly string[], b: readonly string[]): number {
  let row = new Uint32Array(b.length + 1);
  for (const x of a) {
    const next = new Uint32Array(b.length + 1);
    for (let j = 0; j < b.length; j++) next[j + 1] = x === b[j] ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!);
    row = next;
  }
  return row[b.length]!;
}

/** ROUGE-L (Lin 2004): F1 of the longest common subsequence of words. */
export function rougeL(a: string | readonly string[], b: string | readonly string[]): number {
  const [x, y] = [a, b].map((t) => (typeof t === "string" ? rougeTokens(t) : t)) as [
    readonly string[],
    readonly string[],
  ];
  const common = commonSubsequence(x, y);
  return common === 0 ? 0 : (2 * common) / (x.length + y.length);
}
