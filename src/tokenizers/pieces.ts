import { BYTE_TO_CHARACTER, encodeUtf8 } from "./bytes.ts";
import type { AnyPreTokenizer, Metaspace } from "./file.ts";
import { type Splitter, splitBy, splitterOf } from "./pretokenize.ts";
import { characters } from "./regex.ts";
import { PUNCTUATION } from "./unicode-bert.ts";

/** Cuts a text into what the model sees; `first` says whether the text is at the start of the input. */
export type Cutter = (text: string, emit: (piece: string) => void, first: boolean) => void;

/** The function for a `pre_tokenizer` of `tokenizer.json`. */
export function cutterOf(part: AnyPreTokenizer | null): Cutter {
  if (part === null) return (text, emit) => emit(text);
  switch (part.type) {
    case "Sequence":
      return part.pretokenizers.map(cutterOf).reduceRight<Cutter>(
        (rest, step) => (text, emit, first) => {
          let at = first;
          step(
            text,
            (piece) => {
              rest(piece, emit, at);
              at = false;
            },
            first,
          );
        },
        (text, emit) => emit(text),
      );
    case "ByteLevel": {
      const split = splitterOf(part);
      return (text, emit) =>
        split(text, (piece) => emit(Array.from(encodeUtf8(piece), (byte) => BYTE_TO_CHARACTER[byte]!).join("")));
    }
    case "Metaspace":
      return metaspace(part);
    case "BertPreTokenizer": {
      const words = splitBy(/\p{White_Space}/gu, "Removed", false);
      const marks = splitBy(characters(PUNCTUATION), "Isolated", false);
      return (text, emit) => words(text, (word) => marks(word, emit));
    }
    case "Whitespace":
      return plain(
        splitBy(
          /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu,
          "Removed",
          true,
        ),
      );
    case "WhitespaceSplit":
      return plain(splitBy(/\p{White_Space}/gu, "Removed", false));
    case "Punctuation":
      return plain(splitBy(characters(PUNCTUATION), part.behavior, false));
    case "CharDelimiterSplit":
      return plain(
        splitterOf({ type: "Split", pattern: { String: part.delimiter }, behavior: "Removed", invert: false }),
      );
    case "Digits":
    case "Split":
      return plain(splitterOf(part));
  }
}

const plain =
  (split: Splitter): Cutter =>
  (text, emit) =>
    split(text, emit);

/** Spaces become a visible character, which begins each piece. */
function metaspace({ replacement, prepend_scheme, split }: Metaspace): Cutter {
  return (text, emit, first) => {
    let all = text.replaceAll(" ", replacement);
    const prepends = prepend_scheme === "always" || (prepend_scheme === "first" && first);
    if (prepends && !all.startsWith(replacement)) all = replacement + all;
    if (!split) {
      emit(all);
      return;
    }
    let start = 0;
    for (let at = all.indexOf(replacement, 1); at !== -1; at = all.indexOf(replacement, at + 1)) {
      emit(all.slice(start, at));
      start = at;
    }
    emit(all.slice(start));
  };
}
