import { type Aligned, type Change, unicodeChanges } from "./aligned.ts";
import { byteCharacters } from "./bytes.ts";
import { Charsmap } from "./charsmap.ts";
import { characters, literalRegex, replaceMatches, translateRegex } from "./regex.ts";
import type { Normalizer } from "./schema.ts";
import { BERT_ACCENTS, BERT_REMOVED, MARKS } from "./unicode-bert.ts";

/** Text to text, before it is cut. */
export type Normalize = (text: string) => string;

/** The function for a `normalizer` of `tokenizer.json`. */
export function normalizeBy(part: Normalizer | null): Normalize {
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
      return (text) => replaceMatches(text, expression, part.content);
    }
    case "Nmt":
      return nmt;
    case "ByteLevel":
      return byteCharacters;
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

function bertNormalizer(part: Normalizer & { type: "BertNormalizer" }): Normalize {
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

/** The same for a text that remembers where its characters come from. */
export type AlignedNormalize = (text: Aligned) => Aligned;

export function alignedNormalizeBy(part: Normalizer | null): AlignedNormalize {
  if (part === null) return (text) => text;
  switch (part.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = part.type;
      return (text) => text.transform(unicodeChanges(text.text, form));
    }
    case "Sequence": {
      const steps = part.normalizers.map(alignedNormalizeBy);
      return (text) => steps.reduce((current, step) => step(current), text);
    }
    case "Lowercase":
      return (text) => text.map((c) => c.toLowerCase());
    case "Strip":
      return (text) => {
        const left = part.strip_left ? /^\p{White_Space}*/u.exec(text.text)![0].length : 0;
        const right = part.strip_right ? text.text.length - /\p{White_Space}*$/u.exec(text.text)![0].length : undefined;
        return text.slice(left, right === undefined ? undefined : Math.max(left, right));
      };
    case "StripAccents":
      return (text) => text.without(characters(MARKS));
    case "Prepend":
      return (text) => text.prepend(part.prepend);
    case "Replace": {
      const expression =
        "String" in part.pattern ? literalRegex(part.pattern.String) : translateRegex(part.pattern.Regex);
      return (text) => text.replace(expression, part.content);
    }
    case "Nmt":
      return (text) => text.without(NMT_REMOVED).map((c) => c.replace(NMT_SPACES, " "));
    case "ByteLevel":
      return (text) => text.bytes();
    case "Precompiled": {
      const map = new Charsmap(Buffer.from(part.precompiled_charsmap, "base64"));
      return (text) => text.transform(mapped(map, text.text));
    }
    case "BertNormalizer": {
      const steps: AlignedNormalize[] = [];
      if (part.clean_text) {
        steps.push((text) => text.without(characters(BERT_REMOVED)).map((c) => c.replace(/\p{White_Space}/u, " ")));
      }
      if (part.handle_chinese_chars) steps.push((text) => text.map((c) => c.replace(CHINESE, " $& ")));
      if (part.strip_accents ?? part.lowercase) {
        steps.push((text) => text.transform(unicodeChanges(text.text, "NFD")).without(characters(BERT_ACCENTS)));
      }
      if (part.lowercase) steps.push((text) => text.map((c) => c.toLowerCase()));
      return (text) => steps.reduce((current, step) => step(current), text);
    }
  }
}

/** Of more characters than before the last are new; of fewer, the last stands for the rest as well. */
function mapped(map: Charsmap, text: string): Change[] {
  const changes: [string, number][] = [];
  map.eachByGrapheme(text, (part, made) => {
    const before = [...part].length;
    const after = [...made];
    after.forEach((c, i) => {
      changes.push([c, i < before ? 0 : 1]);
    });
    const last = changes.at(-1);
    if (after.length < before && last !== undefined) last[1] -= before - after.length;
  });
  return changes;
}
