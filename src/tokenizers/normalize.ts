import { BYTE_TO_CHARACTER, encodeUtf8 } from "./bytes.ts";
import { Charsmap } from "./charsmap.ts";
import type { AnyNormalizer } from "./file.ts";
import { characters, literalRegex, translateRegex } from "./regex.ts";
import { BERT_ACCENTS, BERT_REMOVED, MARKS } from "./unicode-bert.ts";

/** Text to text, before it is cut. */
export type Normalize = (text: string) => string;

/** The function for a `normalizer` of `tokenizer.json`. */
export function normalizeBy(part: AnyNormalizer | null): Normalize {
  if (part === null) return (text) => text;
  switch (part.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return (text) => text.normalize(part.type);
    case "Sequence": {
      const steps = part.normalizers.map(normalizeBy);
      return (text) => steps.reduce((current, step) => step(current), text);
    }
    case "Lowercase":
      return lowercase;
    case "Strip":
      return (text) => {
        const left = part.strip_left ? text.replace(/^\p{White_Space}+/u, "") : text;
        return part.strip_right ? left.replace(/\p{White_Space}+$/u, "") : left;
      };
    case "StripAccents":
      return (text) => text.replace(characters(MARKS), "");
    case "Prepend":
      return (text) => (text === "" ? "" : part.prepend + text);
    case "Replace": {
      const expression =
        "String" in part.pattern ? literalRegex(part.pattern.String) : translateRegex(part.pattern.Regex);
      return (text) => text.replace(expression, () => part.content);
    }
    case "Nmt":
      return nmt;
    case "ByteLevel":
      return (text) => Array.from(encodeUtf8(text), (byte) => BYTE_TO_CHARACTER[byte]!).join("");
    case "Precompiled": {
      const map = new Charsmap(Buffer.from(part.precompiled_charsmap, "base64"));
      return (text) => map.normalizeByGrapheme(text);
    }
    case "BertNormalizer":
      return bertNormalizer(part);
  }
}

/** Each character on its own (Rust's `char::to_lowercase`): a capital sigma at the end of a word is a small one like any other. */
export function lowercase(text: string): string {
  return text.includes("Σ")
    ? text
        .split("Σ")
        .map((part) => part.toLowerCase())
        .join("σ")
    : text.toLowerCase();
}

/** A set of characters from ranges of code points. */
const setOf = (...ranges: readonly (readonly [number, number])[]): RegExp =>
  new RegExp(`[${ranges.map(([from, to]) => `\\u{${from.toString(16)}}-\\u{${to.toString(16)}}`).join("")}]`, "gu");
const NMT_REMOVED = setOf([0x01, 0x08], [0x0b, 0x0b], [0x0e, 0x1f], [0x7f, 0x7f], [0x8f, 0x8f], [0x9f, 0x9f]);
const NMT_SPACES = setOf(
  [0x09, 0x0a],
  [0x0c, 0x0d],
  [0x1680, 0x1680],
  [0x200b, 0x200f],
  [0x2028, 0x2029],
  [0x2581, 0x2581],
  [0xfeff, 0xfeff],
  [0xfffd, 0xfffd],
);

/** What Google's NMT preparation removes and turns into spaces. */
const nmt = (text: string): string => text.replace(NMT_REMOVED, "").replace(NMT_SPACES, " ");

/** The blocks that BERT calls Chinese characters (Devlin et al. 2019, `tokenization.py`). */
const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

function bertNormalizer(part: AnyNormalizer & { type: "BertNormalizer" }): Normalize {
  const steps: Normalize[] = [];
  if (part.clean_text) {
    const removed = characters(BERT_REMOVED);
    steps.push((text) => text.replace(removed, "").replace(/\p{White_Space}/gu, " "));
  }
  if (part.handle_chinese_chars) steps.push((text) => text.replace(CHINESE, " $& "));
  if (part.strip_accents ?? part.lowercase) {
    const accents = characters(BERT_ACCENTS);
    steps.push((text) => text.normalize("NFD").replace(accents, ""));
  }
  if (part.lowercase) steps.push(lowercase);
  return (text) => steps.reduce((current, step) => step(current), text);
}
