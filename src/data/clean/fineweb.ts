import { drop, type Filter, kept, type Outcome, type Page, percent } from "./filter.ts";
import { duplicates } from "./gopher.ts";
import { sentenceEnds } from "./punctuation.ts";
import { codePoints, count, lastCharacter, strip } from "./text.ts";

const ends = new Set(sentenceEnds);

export interface FineWebOptions {
  readonly minEndedLines?: number;
  readonly maxShortLines?: number;
  readonly shortLine?: number;
  readonly maxDuplicateCharacters?: number;
  readonly maxLinesPerWord?: number;
}

/** Penedo et al. 2024 (FineWeb), section 3.6: the filters found by comparing good and bad dumps; counted as datatrove counts. */
export function fineWebQuality(options: FineWebOptions = {}): Filter {
  const {
    minEndedLines = 0.12,
    maxShortLines = 0.67,
    shortLine = 30,
    maxDuplicateCharacters = 0.01,
    maxLinesPerWord = 0.3,
  } = options;
  const name = "fineweb";
  return {
    name,
    source: "Penedo et al. 2024, section 3.6",
    rules: {
      empty: "no text",
      line_ends: `fewer than ${percent(minEndedLines)} of lines end with a sign that ends a sentence`,
      short_lines: `more than ${percent(maxShortLines)} of lines have at most ${shortLine} characters`,
      duplicate_characters: `more than ${percent(maxDuplicateCharacters)} of the text is lines that stood there before`,
      list: `more than ${maxLinesPerWord} ends of lines a word`,
    },
    apply(page: Page): Outcome {
      const { text } = page;
      const lines = text.split("\n").filter((l) => strip(l) !== "");
      if (lines.length === 0) return drop(name, "empty", 0, 1, "It has no text.");
      const ended = lines.filter((l) => ends.has(lastCharacter(l))).length / lines.length;
      if (ended < minEndedLines)
        return drop(name, "line_ends", ended, minEndedLines, `Only ${percent(ended)} of its lines end a sentence.`);
      const short = lines.filter((l) => codePoints(l) <= shortLine).length / lines.length;
      if (short > maxShortLines)
        return drop(name, "short_lines", short, maxShortLines, `${percent(short)} of its lines are short.`);
      const newLines = count(text, "\n");
      const again = duplicates(lines).characters / (codePoints(text) - newLines);
      if (again > maxDuplicateCharacters)
        return drop(
          name,
          "duplicate_characters",
          again,
          maxDuplicateCharacters,
          `${percent(again)} of it is repeated lines.`,
        );
      const list = newLines / page.words.length;
      if (list > maxLinesPerWord)
        return drop(name, "list", list, maxLinesPerWord, `It has ${list.toFixed(2)} ends of lines a word: a list.`);
      return kept;
    },
  };
}
