import { StateError } from "../../tensor/errors.ts";
import { type Detector, loadDetector } from "./detector.ts";
import { drop, type Filter, kept, type Outcome, type Page, percent } from "./filter.ts";

export interface LanguageGuess {
  /** ISO 639-1, or `und` where there is nothing to go by. */
  readonly language: string;
  /** 0 to 1: how sure, from the distance to the runner-up and the amount of text. */
  readonly confidence: number;
}

/** Only those wait for the n-grams who guess languages. */
let detector: Detector | undefined;

/** Comes before {@link guessLanguage}. */
export async function loadLanguages(): Promise<void> {
  detector ??= await loadDetector();
}

/** Characters that are looked at: more text makes no guess better. */
const ENOUGH = 4000;
const kana = /[\p{Script=Hiragana}\p{Script=Katakana}]/gu;
const hanRuns = /\p{Script=Han}/gu;
const hangul = /\p{Script=Hangul}/gu;
const letters = /\p{L}/gu;

/** Written language by its script where the script says it, by n-grams (eld, Apache-2.0) elsewhere. @throws StateError before loadLanguages() */
export function guessLanguage(text: string): LanguageGuess {
  const sample =
    text.length > ENOUGH
      ? text.slice(0, ENOUGH / 2) + text.slice((text.length - ENOUGH / 2) >> 1, (text.length + ENOUGH / 2) >> 1)
      : text;
  const all = sample.match(letters)?.length ?? 0;
  if (all === 0) return { language: "und", confidence: 0 };
  const han = (sample.match(hanRuns)?.length ?? 0) / all;
  const japanese = (sample.match(kana)?.length ?? 0) / all;
  const korean = (sample.match(hangul)?.length ?? 0) / all;
  const sure = (share: number) => Math.min(1, share) * (1 - 1 / (1 + all));
  if (korean > 0.3) return { language: "ko", confidence: sure(korean + han) };
  if (japanese > 0.1 && japanese + han > 0.4) return { language: "ja", confidence: sure(japanese + han) };
  // A word of Chinese is one or two characters, a word of Latin letters five: a page can be Chinese with fewer characters of it.
  if (han > 0.25) return { language: "zh", confidence: sure(han / (han + (1 - han - japanese) / 4)) };
  if (!detector) throw new StateError("guessLanguage: await loadLanguages() first.");
  const found = detector.detect(sample);
  if (found.language === "") return { language: "und", confidence: 0 };
  const scores = Object.values(found.getScores()).sort((a, b) => b - a);
  const best = scores[0] ?? 0;
  const margin = best > 0 ? (best - (scores[1] ?? 0)) / best : 0;
  // The margin of running text is 0.1 to 0.3, between close relatives (Russian, Bulgarian) 0.02; what it means grows with the root of the length.
  const doubt = Math.exp(-1.5 * margin * Math.sqrt(all));
  return { language: found.language, confidence: found.isReliable() ? 1 - doubt / 2 : (1 - doubt) / 2 };
}

/** Keeps documents in the languages asked for, if the guess is sure enough. */
export function languageFilter(options: {
  readonly languages: readonly string[];
  readonly minConfidence?: number;
}): Filter {
  const { languages, minConfidence = 0.65 } = options;
  const name = "language";
  return {
    name,
    source: "FineWeb's threshold for fastText (Penedo et al. 2024, section 3.2), with eld's n-grams",
    rules: {
      other: `not in ${languages.join(", ")}`,
      unsure: `the guess is less sure than ${percent(minConfidence)}`,
    },
    apply(page: Page): Outcome {
      const { language, confidence } = guessLanguage(page.text);
      if (!languages.includes(language))
        return drop(name, "other", confidence, minConfidence, `It is in ${language} (${percent(confidence)} sure).`);
      if (confidence < minConfidence)
        return drop(
          name,
          "unsure",
          confidence,
          minConfidence,
          `It may be in ${language}, but only ${percent(confidence)} sure.`,
        );
      return kept;
    },
  };
}
