import { InputError } from "../../tensor/errors.ts";
import { drop, type Filter, kept, type Outcome, type Page } from "./filter.ts";
import { splitLines, strip } from "./text.ts";

const literal = (s: string) => s.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
/** Languages that put no space between words. */
const unspaced = /^(zh|ja|th)\b/;

/** A list of words: one a line, `#` begins a comment. @throws InputError when there is none in it */
export function parseWordList(text: string, where: string): string[] {
  const words = splitLines(text)
    .map((l) => strip(l.replace(/#.*$/, "")).toLowerCase())
    .filter((l) => l !== "");
  if (words.length === 0)
    throw new InputError(`${where}: there is no word in this list. One word or phrase a line is expected.`);
  return [...new Set(words)];
}

/** C4's rule for pages with offensive words (Raffel et al. 2020, section 2.2), with a list of one's own; `most` occurrences are let pass. */
export function wordList(options: {
  readonly words: readonly string[];
  readonly language: string;
  readonly most?: number;
}): Filter {
  const { words, language, most = 0 } = options;
  const name = "word_list";
  const alternatives = [...words]
    .sort((a, b) => b.length - a.length)
    .map(literal)
    .join("|");
  const pattern = unspaced.test(language)
    ? new RegExp(alternatives, "gu")
    : new RegExp(`(?<![\\p{L}\\p{N}_])(?:${alternatives})(?![\\p{L}\\p{N}_])`, "gu");
  return {
    name,
    source: "Raffel et al. 2020, section 2.2",
    rules: { listed: `more than ${most} of the ${words.length} listed words` },
    apply({ text }: Page): Outcome {
      const found = text.toLowerCase().match(pattern) ?? [];
      return found.length > most
        ? drop(
            name,
            "listed",
            found.length,
            most,
            `It has ${found.length} listed words, such as ${JSON.stringify(found[0])}.`,
          )
        : kept;
    },
  };
}
