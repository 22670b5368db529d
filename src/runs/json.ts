/**
 * JSON that keeps the numbers JSON has no words for: NaN and the infinities are written as the strings "NaN",
 * "Infinity" and "-Infinity". Reading turns exactly those strings back into numbers, except under the keys named in
 * `textKeys`, whose values are somebody's words.
 */

const names = new Map<string, number>([
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
]);

/** Keys whose values are always text: a model may well answer "NaN". */
const textKeys = new Set(["message", "prompt", "text", "stage", "unit", "name"]);

/** One line of JSON, without the line feed. */
export function stringify(value: unknown, indent?: number): string {
  return JSON.stringify(
    value,
    (_key, item: unknown) => (typeof item === "number" && !Number.isFinite(item) ? String(item) : item),
    indent,
  );
}

/** @throws SyntaxError if the text is not JSON */
export function parse(text: string): unknown {
  return JSON.parse(text, (key, item: unknown) =>
    typeof item === "string" && !textKeys.has(key) ? (names.get(item) ?? item) : item,
  );
}
