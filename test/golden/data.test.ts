import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { c4Paragraphs, c4Quality } from "../../src/data/clean/c4.ts";
import { type Filter, Page } from "../../src/data/clean/filter.ts";
import { fineWebQuality } from "../../src/data/clean/fineweb.ts";
import { gopherQuality, gopherRepetition } from "../../src/data/clean/gopher.ts";
import { strip } from "../../src/data/clean/text.ts";
import { englishSentences, englishWords } from "../../src/data/clean/words.ts";

interface Case {
  readonly text: string;
  readonly words: readonly string[];
  readonly sentences: readonly number[];
  readonly outcomes: Readonly<Record<string, string | true | { readonly no: string }>>;
}
const { cases } = JSON.parse(readFileSync(new URL("./data/clean-filters.json", import.meta.url), "utf8")) as {
  cases: readonly Case[];
};

/** datatrove's names of the rules that are called otherwise here. */
const names: Readonly<Record<string, string>> = {
  gopher_short_doc: "short",
  gopher_long_doc: "long",
  gopher_below_avg_threshold: "short_words",
  gopher_above_avg_threshold: "long_words",
  gopher_too_many_hashes: "hashes",
  gopher_too_many_ellipsis: "ellipses",
  gopher_too_many_bullets: "bullets",
  gopher_too_many_end_ellipsis: "ellipsis_lines",
  gopher_below_alpha_threshold: "letters",
  gopher_enough_stop_words: "stop_words",
  dup_para_frac: "paragraphs",
  dup_para_char_frac: "paragraph_characters",
  dup_line_frac: "lines",
  dup_line_char_frac: "line_characters",
  too_few_sentences: "few_sentences",
  "< 3 paragraphs": "few_paragraphs",
  line_punct_ratio: "line_ends",
  short_line_ratio: "short_lines",
  char_dup_ratio: "duplicate_characters",
  list_ratio: "list",
};
const ours = (theirs: string) => names[theirs] ?? theirs.replace(/duplicated_(\d+)_n_grams/, "repeated_$1_grams");

describe("English words and sentences are spaCy's", () => {
  test.each(cases.map((c, i) => [i, c] as const))("text %i", (_i, { text, words, sentences }) => {
    expect(englishWords(text)).toEqual(words);
    const lines = text.split("\n").map(strip);
    expect(lines.filter((l) => l !== "").map(englishSentences)).toEqual(sentences);
  });
});

describe("filters decide as datatrove's do", () => {
  const filters: readonly Filter[] = [
    gopherQuality(),
    gopherRepetition(),
    c4Quality(),
    c4Paragraphs(),
    fineWebQuality(),
  ];
  test.each(filters.map((f) => [f.name, f] as const))("%s", (name, filter) => {
    const said = new Set<string>();
    cases.forEach(({ text, outcomes }, i) => {
      const theirs = outcomes[name]!;
      const outcome = filter.apply(new Page(text));
      if (typeof theirs === "object") {
        expect(outcome.keep ? "kept" : outcome.reason.rule, `text ${i}`).toBe(ours(theirs.no));
        if (!outcome.keep) {
          said.add(outcome.reason.rule);
          expect(Object.keys(filter.rules)).toContain(outcome.reason.rule);
          expect(outcome.reason.why).toMatch(/\.$/);
        }
      } else {
        expect(outcome.keep, `text ${i}`).toBe(true);
        if (name === "c4" && outcome.keep) expect(outcome.text).toBe(theirs);
      }
    });
    expect(said.size, "rules that said no").toBeGreaterThan(0);
  });
});
