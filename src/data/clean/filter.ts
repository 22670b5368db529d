import { splitLines } from "./text.ts";
import { wordsOf } from "./words.ts";

/** Why a document went: which rule, the number it looked at, and where the line is. */
export interface Reason {
  readonly filter: string;
  readonly rule: string;
  /** What was measured, in the rule's own unit; NaN where the rule is a yes or no. */
  readonly value: number;
  readonly threshold: number;
  /** One sentence for a person. */
  readonly why: string;
}

/** What a filter makes of a text. `lines` counts what it took out of a text that stays, by rule. */
export type Outcome =
  | { readonly keep: true; readonly text?: string; readonly taken?: Readonly<Record<string, number>> }
  | { readonly keep: false; readonly reason: Reason };

export const kept: Outcome = { keep: true };

/** A text on its way through the filters, with what several of them look at, made once. */
export class Page {
  readonly text: string;
  /** BCP 47, as far as known: decides how words are cut. */
  readonly language: string;
  #words: readonly string[] | undefined;
  #lines: readonly string[] | undefined;

  constructor(text: string, language = "en") {
    this.text = text;
    this.language = language;
  }
  get words(): readonly string[] {
    this.#words ??= wordsOf(this.text, this.language);
    return this.#words;
  }
  get lines(): readonly string[] {
    this.#lines ??= splitLines(this.text);
    return this.#lines;
  }
}

/** A named set of rules with a source. Pure: the same page gives the same outcome, whatever was seen before. */
export interface Filter {
  readonly name: string;
  /** The paper or code the rules and thresholds are from. */
  readonly source: string;
  /** Every rule by name, in the order they are tried, with what it does to whom. */
  readonly rules: Readonly<Record<string, string>>;
  apply(page: Page): Outcome;
}

/** Shows a share as a person would write it. */
export const percent = (x: number): string => `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`;

/** The outcome of a rule that says no. */
export function drop(filter: string, rule: string, value: number, threshold: number, why: string): Outcome {
  return { keep: false, reason: { filter, rule, value, threshold, why } };
}

/** What became of a document that went through several filters. */
export interface Cleaned {
  readonly text: string;
  readonly reason?: Reason;
  /** Lines or places taken out, by `filter/rule`. */
  readonly taken: Readonly<Record<string, number>>;
}

/** Runs filters one after the other until one says no. */
export function clean(filters: readonly Filter[], text: string, language: string): Cleaned {
  let page = new Page(text, language);
  const taken: Record<string, number> = {};
  for (const filter of filters) {
    const outcome = filter.apply(page);
    if (!outcome.keep) return { text: page.text, reason: outcome.reason, taken };
    for (const [rule, n] of Object.entries(outcome.taken ?? {})) {
      const key = `${filter.name}/${rule}`;
      taken[key] = (taken[key] ?? 0) + n;
    }
    if (outcome.text !== undefined && outcome.text !== page.text) page = new Page(outcome.text, page.language);
  }
  return { text: page.text, taken };
}
