import { drop, type Filter, kept, type Outcome, type Page } from "./filter.ts";
import { codePoints, endsWithAny, splitWhitespace, strip } from "./text.ts";
import { sentencesOf } from "./words.ts";

const citation = /\[\d*\]|\[edit\]|\[citation needed\]/g;
const ends = [".", "?", "!", '"', "'"];
const policies = [
  "terms of use",
  "privacy policy",
  "cookie policy",
  "uses cookies",
  "use of cookies",
  "use cookies",
] as const;

export interface C4Options {
  readonly minSentences?: number;
  readonly minWordsPerLine?: number;
  readonly maxWordLength?: number;
  /** FineWeb turns this rule off: it takes too much. */
  readonly terminalPunctuation?: boolean;
  readonly curlyBrackets?: boolean;
}

/** Raffel et al. 2020 (T5), section 2.2: lines and pages of the Colossal Clean Crawled Corpus; counted as datatrove counts. */
export function c4Quality(options: C4Options = {}): Filter {
  const {
    minSentences = 5,
    minWordsPerLine = 3,
    maxWordLength = 1000,
    terminalPunctuation = true,
    curlyBrackets = true,
  } = options;
  const name = "c4";
  return {
    name,
    source: "Raffel et al. 2020, section 2.2",
    rules: {
      "line: long_word": `a word of more than ${maxWordLength} letters`,
      "line: no_terminal_punctuation": "does not end with . ? ! or a quotation mark, or ends with an ellipsis",
      "line: few_words": `fewer than ${minWordsPerLine} words`,
      "line: javascript": 'says "javascript"',
      "line: policy": `says ${policies.map((p) => `"${p}"`).join(", ")}`,
      lorem_ipsum: 'the page says "lorem ipsum"',
      curly_bracket: 'the page has a "{"',
      few_sentences: `fewer than ${minSentences} sentences are left`,
    },
    apply(page: Page): Outcome {
      const taken: Record<string, number> = {};
      const take = (rule: string) => {
        taken[rule] = (taken[rule] ?? 0) + 1;
      };
      const lines: string[] = [];
      let sentences = 0;
      for (const raw of page.lines) {
        let line = strip(raw);
        const words = splitWhitespace(line);
        if (words.some((w) => w.length > maxWordLength && codePoints(w) > maxWordLength)) {
          take("line: long_word");
          continue;
        }
        line = line.replace(citation, "");
        if (terminalPunctuation && (!endsWithAny(line, ends) || line.endsWith("..."))) {
          take("line: no_terminal_punctuation");
          continue;
        }
        if (words.length < minWordsPerLine) {
          take("line: few_words");
          continue;
        }
        const lower = line.toLowerCase();
        if (lower.includes("lorem ipsum"))
          return drop(name, "lorem_ipsum", Number.NaN, 0, "It is a page of filler text.");
        if (lower.includes("javascript")) {
          take("line: javascript");
          continue;
        }
        if (curlyBrackets && line.includes("{"))
          return drop(name, "curly_bracket", Number.NaN, 0, `It has a "{": ${JSON.stringify(line.slice(0, 80))}.`);
        if (policies.some((p) => lower.includes(p))) {
          take("line: policy");
          continue;
        }
        if (minSentences > 0) sentences += Math.max(sentencesOf(line, page.language), 1);
        lines.push(line);
      }
      if (minSentences > 0 && sentences < minSentences)
        return drop(
          name,
          "few_sentences",
          sentences,
          minSentences,
          `${sentences} sentences are left after its lines were looked at.`,
        );
      return { keep: true, text: strip(lines.join("\n")), taken };
    },
  };
}

/** mC4's page rule (Xue et al. 2021, section 3.1): at least three lines of 200 characters. */
export function c4Paragraphs(options: { readonly lines?: number; readonly length?: number } = {}): Filter {
  const { lines: least = 3, length = 200 } = options;
  const name = "c4_paragraphs";
  return {
    name,
    source: "Xue et al. 2021, section 3.1",
    rules: { few_paragraphs: `fewer than ${least} lines of ${length} characters or more` },
    apply({ text }: Page): Outcome {
      const long = text.split("\n").filter((l) => codePoints(l) >= length).length;
      return long < least
        ? drop(name, "few_paragraphs", long, least, `It has ${long} lines of ${length} characters or more.`)
        : kept;
    },
  };
}
