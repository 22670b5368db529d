/**
 * A plain text as it is looked for: in any case, with any run of white space where it has one. The server and the page look with the same.
 * @returns a global expression, so `lastIndex` is the caller's to reset; undefined for nothing to look for
 */
export function finder(query: string): RegExp | undefined {
  const words = query.trim().split(/\s+/u);
  if (words[0] === "") return undefined;
  const plain = words.map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  return new RegExp(plain.join("\\s+"), "giu");
}

/** Every place in `text`, [from, to), at most `most`. */
export function places(text: string, what: RegExp | undefined, most: number): [number, number][] {
  const found: [number, number][] = [];
  if (what === undefined) return found;
  what.lastIndex = 0;
  for (let match = what.exec(text); match && found.length < most; match = what.exec(text))
    found.push([match.index, match.index + match[0].length]);
  return found;
}
