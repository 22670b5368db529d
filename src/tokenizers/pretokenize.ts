import { characterClasses } from "./native.ts";
import { type Dialect, literalRegex, matchesOf, translateRegex } from "./regex.ts";
import type { PreTokenizer } from "./schema.ts";

/** GPT-2's splitting expression (Radford et al. 2019; the same in `tokenizers`' ByteLevel). */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** Calls `emit` with each part of `text` and where it begins there, in order. */
export type Splitter = (text: string, emit: (part: string, start: number) => void) => void;

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
        emit(text.slice(start, at), start);
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
    emit(text.slice(start, at), start);
  }
};

/** The splitter for a `pre_tokenizer` of `tokenizer.json` that cuts by an expression. */
export function splitterOf(
  part: PreTokenizer & { type: "Split" | "Digits" },
  dialect: Dialect = "oniguruma",
): Splitter {
  if (part.type === "Digits") return splitBy(/\p{N}/gu, part.individual_digits ? "Isolated" : "Contiguous", false);
  if ("String" in part.pattern) return splitBy(literalRegex(part.pattern.String), part.behavior, part.invert);
  if (part.pattern.Regex === GPT2_PATTERN && part.behavior === "Isolated" && !part.invert) return splitGpt2;
  return splitBy(translateRegex(part.pattern.Regex, dialect), part.behavior, part.invert);
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
    const pieces: Piece[] = [];
    let done = 0;
    try {
      for (const [start, end] of matchesOf(expression, text)) {
        if (start > done) pieces.push({ start: done, end: start, match: invert });
        pieces.push({ start, end, match: !invert }); // an empty one also parts what is on its sides
        done = end;
      }
    } catch (error) {
      // One match of ten million characters or more exhausts the engine's stack. Such a text is cut in two, at a line's end if it
      // has one near the middle; only there can ids differ from those of an engine without the limit.
      if (!(error instanceof RangeError) || text.length < LONGEST_MATCH) throw error;
      const middle = cutNearMiddle(text);
      split(text.slice(0, middle), emit);
      split(text.slice(middle), (part, start) => emit(part, middle + start));
      return;
    }
    if (done < text.length) pieces.push({ start: done, end: text.length, match: invert });
    for (const { start, end } of arrange(pieces, behavior)) if (end > start) emit(text.slice(start, end), start);
  };
  return split;
}

interface Piece {
  readonly start: number;
  readonly end: number;
  readonly match: boolean;
}

/** What becomes of matches (delimiters) and the text between them; the names are `tokenizers`' SplitDelimiterBehavior. */
function arrange(pieces: readonly Piece[], behavior: Behavior): readonly Piece[] {
  switch (behavior) {
    case "Isolated":
      return pieces;
    case "Removed":
      return pieces.filter((piece) => !piece.match);
    default: {
      const out: Piece[] = [];
      const next = behavior === "MergedWithNext";
      let previous: boolean | undefined;
      for (const piece of next ? [...pieces].reverse() : pieces) {
        const joins = behavior === "Contiguous" ? piece.match === previous : piece.match && previous === false;
        const last = out.at(-1);
        if (!joins || last === undefined) out.push(piece);
        else out[out.length - 1] = next ? { ...last, start: piece.start } : { ...last, end: piece.end };
        previous = piece.match;
      }
      return next ? out.reverse() : out;
    }
  }
}
