import type { Aligned } from "./aligned.ts";
import { byteCharacters } from "./bytes.ts";
import { type Splitter, splitBy, splitGpt2, splitterOf } from "./pretokenize.ts";
import { characters, type Dialect } from "./regex.ts";
import type { Metaspace, PreTokenizer } from "./schema.ts";
import { PUNCTUATION } from "./unicode-bert.ts";

/** Cuts a text into what the model sees; `first` says whether the text, or a piece of it, is at the start of the input. */
export type Cutter = (text: string, emit: (piece: string, first: boolean) => void, first: boolean) => void;

export interface CutterOptions {
  /** Whether pieces of a ByteLevel step are text still, for a model that works on bytes; otherwise a character for each byte. */
  readonly raw?: boolean;
  readonly dialect?: Dialect;
}

/** The function for a `pre_tokenizer` of `tokenizer.json`. */
export function cutterOf(part: PreTokenizer | null, options: CutterOptions = {}): Cutter {
  if (part === null) return (text, emit, first) => emit(text, first);
  switch (part.type) {
    case "Sequence":
      return part.pretokenizers
        .map((step) => cutterOf(step, options))
        .reduceRight<Cutter>(
          (rest, step) => (text, emit, first) => step(text, (piece, at) => rest(piece, emit, at), first),
          (text, emit, first) => emit(text, first),
        );
    case "ByteLevel": {
      const split = part.use_regex ? splitGpt2 : whole;
      const spelled = options.raw ? (piece: string): string => piece : byteCharacters;
      return (text, emit, first) => {
        const space = part.add_prefix_space && text !== "" && !text.startsWith(" ") ? " " : "";
        split(space + text, (piece, start) => emit(spelled(piece), first && start <= space.length));
      };
    }
    case "Metaspace":
      return metaspace(part);
    default: {
      const split = plainSplitter(part, options.dialect);
      return (text, emit, first) => split(text, (piece, start) => emit(piece, first && start === 0));
    }
  }
}

const whole: Splitter = (text, emit) => emit(text, 0);

/** The pre-tokenizers that cut text and change nothing in it. */
export function plainSplitter(
  part: Exclude<PreTokenizer, { type: "Sequence" | "ByteLevel" | "Metaspace" }>,
  dialect?: Dialect,
): Splitter {
  switch (part.type) {
    case "BertPreTokenizer": {
      const words = splitBy(/\p{White_Space}/gu, "Removed", false);
      const marks = splitBy(characters(PUNCTUATION), "Isolated", false);
      return (text, emit) => words(text, (word, at) => marks(word, (piece, start) => emit(piece, at + start)));
    }
    case "Whitespace":
      return splitBy(
        /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu,
        "Removed",
        true,
      );
    case "WhitespaceSplit":
      return splitBy(/\p{White_Space}/gu, "Removed", false);
    case "Punctuation":
      return splitBy(characters(PUNCTUATION), part.behavior, false);
    case "FixedLength":
      return splitBy(new RegExp(`[^]{1,${part.length}}`, "gu"), "Isolated", false);
    case "CharDelimiterSplit":
      return splitterOf({ type: "Split", pattern: { String: part.delimiter }, behavior: "Removed", invert: false });
    case "Digits":
    case "Split":
      return splitterOf(part, dialect);
  }
}

/** Where the pieces of text begin that Metaspace cuts: before each replaced space. */
export function metaspaceStarts(text: string, { replacement, split }: Metaspace): number[] {
  const starts = [0];
  if (split)
    for (let at = text.indexOf(replacement, 1); at !== -1; at = text.indexOf(replacement, at + 1)) starts.push(at);
  return starts;
}

/** Spaces become a visible character, which begins each piece. */
function metaspace(part: Metaspace): Cutter {
  const { replacement, prepend_scheme } = part;
  return (text, emit, first) => {
    let all = text.replaceAll(" ", replacement);
    const prepends = prepend_scheme === "always" || (prepend_scheme === "first" && first);
    if (prepends && !all.startsWith(replacement)) all = replacement + all;
    metaspaceStarts(all, part).forEach((start, i, starts) => {
      emit(all.slice(start, starts[i + 1]), first && i === 0);
    });
  };
}

/** The same for a text that remembers where its characters come from; pieces that are empty are left out. */
export type AlignedCutter = (text: Aligned) => Aligned[];

export function alignedCutterOf(part: PreTokenizer | null, dialect?: Dialect): AlignedCutter {
  const by = (split: Splitter, text: Aligned): Aligned[] => {
    const out: Aligned[] = [];
    split(text.text, (piece, start) => {
      if (piece !== "") out.push(text.slice(start, start + piece.length));
    });
    return out;
  };
  if (part === null) return (text) => [text];
  switch (part.type) {
    case "Sequence": {
      const steps = part.pretokenizers.map((step) => alignedCutterOf(step, dialect));
      return (text) => steps.reduce((pieces, step) => pieces.flatMap(step), [text]);
    }
    case "ByteLevel":
      return (text) => {
        const prefixed = part.add_prefix_space && !text.text.startsWith(" ") ? text.prepend(" ") : text;
        return by(part.use_regex ? splitGpt2 : whole, prefixed).map((piece) => piece.bytes());
      };
    case "Metaspace":
      return (text) => {
        const { replacement, prepend_scheme } = part;
        const first = text.from === 0;
        let all = text.map((c) => (c === " " ? replacement : c));
        const prepends = prepend_scheme === "always" || (prepend_scheme === "first" && first);
        if (prepends && !all.text.startsWith(replacement)) all = all.prepend(replacement);
        return metaspaceStarts(all.text, part).map((start, i, starts) => all.slice(start, starts[i + 1]));
      };
    default: {
      const split = plainSplitter(part, dialect);
      return (text) => by(split, text);
    }
  }
}
