/**
 * Text as Python sees it. The thresholds of Gopher, C4 and FineWeb were set, and are counted elsewhere, with Python's strings: lengths in code
 * points, its white space, its ends of lines.
 */

/** What `str.isspace` holds for white space. JavaScript's `\s` has U+FEFF and lacks the separators U+001C to U+001F and U+0085. */
const space = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const leading = new RegExp(`^[${space}]+`, "u");
const runs = new RegExp(`[${space}]+`, "u");
const one = new RegExp(`^[${space}]$`, "u");

const isSpaceAscii = (c: number) => (c >= 9 && c <= 13) || (c >= 28 && c <= 32);

export function isSpace(char: string): boolean {
  const c = char.charCodeAt(0);
  return c < 128 ? isSpaceAscii(c) : one.test(char);
}

export const stripStart = (text: string): string => text.replace(leading, "");

/** A long run of white space inside the text would make the pattern's search quadratic: the end is found from the end. */
export function stripEnd(text: string): string {
  let end = text.length;
  while (end > 0 && isSpace(text[end - 1]!)) end--;
  return text.slice(0, end);
}

export const strip = (text: string): string => stripEnd(stripStart(text));

/** Pieces between white space, none of them empty: `str.split()`. */
export const splitWhitespace = (text: string): string[] => text.split(runs).filter((w) => w !== "");

// As a text, because lint takes control characters in a pattern for a mistake.
const lineEndCharacters = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const lineEnds = new RegExp(`\\r\\n|[${lineEndCharacters}]`, "u");

/** `str.splitlines()`: ends of lines are not kept, and text that ends with one has no empty line after it. */
export function splitLines(text: string): string[] {
  const lines = text.split(lineEnds);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** Length in code points. */
export function codePoints(text: string): number {
  let pairs = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c >= 0xd800 && c < 0xdc00 && i + 1 < text.length && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      pairs++;
      i++;
    }
  }
  return text.length - pairs;
}

/** How often `part` stands in the text, places that overlap counted once. */
export function count(text: string, part: string): number {
  let n = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) n++;
  return n;
}

/** The last code point, or nothing of an empty text. */
export function lastCharacter(text: string): string {
  const last = text.slice(-2);
  return codePoints(last) === 1 ? last : last.slice(-1);
}

/** Whether the text ends with one of the endings. */
export const endsWithAny = (text: string, endings: readonly string[]): boolean => endings.some((e) => text.endsWith(e));
