import { loadNativeText, type NativeText } from "../engine/backends/native/text.ts";
import { CHARACTER_RUNS } from "./unicode-classes.ts";

/** Splitting expressions that the native scanner knows by heart; the numbers are those of native/src/text_scan.hpp. */
const SCANNERS: ReadonlyMap<string, number> = new Map([
  ["'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", 1],
  ["'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s", 1],
  ["'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", 1],
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    2,
  ],
  [
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    3,
  ],
  [
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
    4,
  ],
  [
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
      "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    5,
  ],
]);

/** No splitting at all: a text is one piece. */
export const WHOLE_TEXT = 0;

/** The native scanner for an expression whose matches are the pieces, or undefined. */
export const scannerOf = (expression: string): number | undefined => SCANNERS.get(expression);

/** The flags of each code point (0x110000 of them): see `CHARACTER_RUNS`. */
export function characterClasses(): Uint8Array {
  const flags = new Uint8Array(0x110000);
  let at = 0;
  for (const run of CHARACTER_RUNS.split(" ")) {
    const [length, value] = run.split(".") as [string, string];
    const end = at + Number.parseInt(length, 36);
    flags.fill(Number.parseInt(value, 36), at, end);
    at = end;
  }
  return flags;
}

/** The native side, or undefined where it is not built or where HOWDAH_TOKENIZER=typescript forbids it. */
export function nativeText(): NativeText | undefined {
  return process.env.HOWDAH_TOKENIZER === "typescript" ? undefined : loadNativeText(characterClasses);
}
