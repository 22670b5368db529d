import { readFileSync } from "node:fs";
import { InputError } from "../../tensor/errors.ts";
import { c4Paragraphs, c4Quality } from "../clean/c4.ts";
import { chineseQuality } from "../clean/chinese.ts";
import type { Filter } from "../clean/filter.ts";
import { fineWebQuality } from "../clean/fineweb.ts";
import { gopherQuality, gopherRepetition } from "../clean/gopher.ts";
import { languageFilter } from "../clean/language.ts";
import { NGramModel, perplexityFilter } from "../clean/ngram-model.ts";
import { type PiiKind, replacePii } from "../clean/pii.ts";
import { QualityClassifier, qualityFilter } from "../clean/quality.ts";
import { repairText, type UnicodeOptions } from "../clean/unicode.ts";
import { parseWordList, wordList } from "../clean/word-list.ts";
import { isProblem } from "../document.ts";
import { readDocuments } from "../sources/read.ts";
import type { FilterStep } from "./recipe.ts";

const repair = (options: UnicodeOptions): Filter => ({
  name: "repair",
  source: "",
  rules: {},
  apply: ({ text }) => {
    const repaired = repairText(text, options);
    return repaired === text ? { keep: true } : { keep: true, text: repaired, taken: { repaired: 1 } };
  },
});

const pii = (kinds: readonly PiiKind[]): Filter => ({
  name: "pii",
  source: "",
  rules: {},
  apply: ({ text }) => {
    const { text: replaced, counts } = replacePii(text, { kinds });
    return replaced === text ? { keep: true } : { keep: true, text: replaced, taken: counts };
  },
});

/** The first `most` documents of some paths. @throws InputError when there are none */
export async function sampleTexts(paths: readonly string[], most: number, signal?: AbortSignal): Promise<string[]> {
  const texts: string[] = [];
  for await (const item of readDocuments(paths, {}, signal)) {
    if (isProblem(item)) continue;
    texts.push(item.text);
    if (texts.length >= most) break;
  }
  if (texts.length === 0) throw new InputError(`${paths.join(", ")}: there is no text to learn from.`);
  return texts;
}

/** Makes the filters of a source. @param quality the classifier's file, where one of the steps wants one */
export async function makeFilters(steps: readonly FilterStep[], quality: string | undefined): Promise<Filter[]> {
  const out: Filter[] = [];
  for (const step of steps) out.push(await makeFilter(step, quality));
  return out;
}

async function makeFilter(step: FilterStep, quality: string | undefined): Promise<Filter> {
  switch (step.name) {
    case "repair":
      return repair(step);
    case "pii":
      return pii(step.kinds);
    case "language":
      return languageFilter({ languages: step.languages, minConfidence: step.min_confidence });
    case "gopher_quality":
      return gopherQuality({
        minWords: step.min_words,
        maxWords: step.max_words,
        minStopWords: step.min_stop_words,
        stopWords: step.stop_words,
        minLetterWords: step.min_letter_words,
      });
    case "gopher_repetition":
      return gopherRepetition();
    case "c4":
      return c4Quality({
        minSentences: step.min_sentences,
        minWordsPerLine: step.min_words_per_line,
        terminalPunctuation: step.terminal_punctuation,
        curlyBrackets: step.curly_brackets,
      });
    case "c4_paragraphs":
      return c4Paragraphs(step);
    case "fineweb":
      return fineWebQuality({
        minEndedLines: step.min_ended_lines,
        maxShortLines: step.max_short_lines,
        maxDuplicateCharacters: step.max_duplicate_characters,
        maxLinesPerWord: step.max_lines_per_word,
      });
    case "chinese":
      return chineseQuality({
        minCharacters: step.min_characters,
        minHan: step.min_han,
        minMeanLine: step.min_mean_line,
      });
    case "word_list":
      return wordList({
        words: parseWordList(readFileSync(step.file, "utf8"), step.file),
        language: step.language,
        most: step.most,
      });
    case "quality": {
      if (quality === undefined) throw new InputError("quality: the classifier has not been trained.");
      const classifier = QualityClassifier.fromJSON(JSON.parse(readFileSync(quality, "utf8")), quality);
      return qualityFilter({ classifier, alpha: step.alpha });
    }
    case "perplexity": {
      const model = new NGramModel(step.order);
      for (const text of await sampleTexts(step.good, step.sample)) model.add(text);
      return perplexityFilter({ model, min: step.min, max: step.max });
    }
  }
}
