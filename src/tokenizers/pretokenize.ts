import { characterClasses } from "./native.ts";
import { type Dialect, translateRegex } from "./regex.ts";
import type { Normalizer, PreTokenizer } from "./schema.ts";

/** GPT-2's splitting expression (Radford et al. 2019; the same in `tokenizers`' ByteLevel). */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Calls `emit` with each part of `text`, in order. */
export type Splitter = (text: string, emit: (part: string) => void) => void;

const OTHER = 0;
const LETTER = 1;
const NUMBER = 2;
const SPACE = 4;
const CLASSES = LETTER | NUMBER | SPACE;

/** Class of each code point; made on first use. */
let classes: Uint8Array | undefined;

function basicClasses(): Uint8Array {
  classes ??= characterClasses().map((flags) => flags & CLASSES);
  return classes;
}

/** Class of the character that starts at `at`. Surrogate pairs are looked up whole. */
function classAt(text: string, at: number, table: Uint8Array): number {
  const unit = text.charCodeAt(at);
  if (unit < 0xd800 || unit > 0xdbff) return table[unit]!;
  const point = text.codePointAt(at)!;
  return point < 0x10000 ? OTHER : table[point]!;
}

const CONTRACTIONS = ["s", "t", "m", "d", "re", "ve", "ll"];

/** `GPT2_PATTERN` written out by hand: linear time and constant memory on any text, and some times faster than the expression. */
export const splitGpt2: Splitter = (text, emit) => {
  const basic = basicClasses();
  const length = text.length;
  const widthAt = (at: number): number => (text.codePointAt(at)! > 0xffff ? 2 : 1);
  let at = 0;
  while (at < length) {
    const start = at;
    const unit = text.charCodeAt(at);
    if (unit === 0x27) {
      const contraction = CONTRACTIONS.find((ending) => text.startsWith(ending, at + 1));
      if (contraction !== undefined) {
        at += 1 + contraction.length;
        emit(text.slice(start, at));
        continue;
      }
    }
    let kind = classAt(text, at, basic);
    if (unit === 0x20 && at + 1 < length) {
      const following = classAt(text, at + 1, basic);
      if (following !== SPACE) {
        kind = following;
        at++;
      }
    }
    if (kind === SPACE) {
      // Whitespace is in the basic plane, one unit each. The last one before a word belongs to what follows.
      do at++;
      while (at < length && basic[text.charCodeAt(at)] === SPACE);
      if (at < length && at - start > 1) at--;
    } else {
      do at += widthAt(at);
      while (at < length && classAt(text, at, basic) === kind);
    }
    emit(text.slice(start, at));
  }
};

const whole: Splitter = (text, emit) => emit(text);

/** The splitter for a `pre_tokenizer` of `tokenizer.json`. */
export function splitterOf(part: PreTokenizer, dialect: Dialect = "oniguruma"): Splitter {
  switch (part.type) {
    case "ByteLevel": {
      const split = part.use_regex ? splitGpt2 : whole;
      if (!part.add_prefix_space) return split;
      return (text, emit) => split(text.startsWith(" ") ? text : ` ${text}`, emit);
    }
    case "Digits":
      return splitBy(/\p{N}/gu, part.individual_digits ? "Isolated" : "Contiguous", false);
    case "Split": {
      if ("String" in part.pattern) {
        const literal = part.pattern.String.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&");
        return splitBy(new RegExp(literal, "gu"), part.behavior, part.invert);
      }
      if (part.pattern.Regex === GPT2_PATTERN && part.behavior === "Isolated" && !part.invert) return splitGpt2;
      return splitBy(translateRegex(part.pattern.Regex, dialect), part.behavior, part.invert);
    }
    case "Sequence":
      return part.pretokenizers
        .map((step) => splitterOf(step, dialect))
        .reduceRight<Splitter>((rest, first) => (text, emit) => first(text, (piece) => rest(piece, emit)), whole);
  }
}

/** Shorter texts are always matched whole. */
const LONGEST_MATCH = 1 << 20;

function cutNearMiddle(text: string): number {
  const half = text.length >> 1;
  const line = text.indexOf("\n", half) + 1;
  if (line > 0 && line < text.length - 1) return line;
  const unit = text.charCodeAt(half);
  return unit >= 0xdc00 && unit <= 0xdfff ? half + 1 : half;
}

type Behavior = (PreTokenizer & { type: "Split" })["behavior"];

export function splitBy(expression: RegExp, behavior: Behavior, invert: boolean): Splitter {
  const split: Splitter = (text, emit) => {
    const pieces: { text: string; match: boolean }[] = [];
    const add = (start: number, end: number, match: boolean): void => {
      if (end > start) pieces.push({ text: text.slice(start, end), match: match !== invert });
    };
    let end = 0;
    try {
      for (const found of text.matchAll(expression)) {
        add(end, found.index, false);
        end = found.index + found[0].length;
        add(found.index, end, true);
      }
    } catch (error) {
      // One match of ten million characters or more exhausts the engine's stack. Such a text is cut in two, at a line's end if it
      // has one near the middle; only there can ids differ from those of an engine without the limit.
      if (!(error instanceof RangeError) || text.length < LONGEST_MATCH) throw error;
      const middle = cutNearMiddle(text);
      split(text.slice(0, middle), emit);
      split(text.slice(middle), emit);
      return;
    }
    add(end, text.length, false);
    for (const piece of arrange(pieces, behavior)) emit(piece);
  };
  return split;
}

/** What becomes of matches (delimiters) and the text between them; the names are `tokenizers`' SplitDelimiterBehavior. */
function arrange(pieces: readonly { text: string; match: boolean }[], behavior: Behavior): string[] {
  switch (behavior) {
    case "Isolated":
      return pieces.map((piece) => piece.text);
    case "Removed":
      return pieces.filter((piece) => !piece.match).map((piece) => piece.text);
    default: {
      const out: string[] = [];
      const ordered = behavior === "MergedWithNext" ? [...pieces].reverse() : pieces;
      let previous: boolean | undefined;
      for (const { text, match } of ordered) {
        const joins = behavior === "Contiguous" ? match === previous : match && previous === false;
        if (!joins) out.push(text);
        else
          out[out.length - 1] =
            behavior === "MergedWithNext" ? text + out[out.length - 1]! : out[out.length - 1]! + text;
        previous = match;
      }
      return behavior === "MergedWithNext" ? out.reverse() : out;
    }
  }
}

/** The text transformation for a `normalizer` of `tokenizer.json`. */
export function normalizerOf(part: Normalizer | null): (text: string) => string {
  if (part === null) return (text) => text;
  if (part.type === "Sequence") {
    const steps = part.normalizers.map(normalizerOf);
    return (text) => steps.reduce((current, step) => step(current), text);
  }
  return (text) => text.normalize(part.type);
}
