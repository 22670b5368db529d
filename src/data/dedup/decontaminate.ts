import { createHash } from "node:crypto";
import { hash64 } from "./hash.ts";

const words = /\p{Script=Han}|(?:(?!\p{Script=Han})[\p{L}\p{M}\p{N}])+/gu;

interface Word {
  readonly text: string;
  readonly start: number;
  readonly end: number;
}
const wordsIn = (text: string): Word[] =>
  Array.from(text.matchAll(words), (m) => ({ text: m[0].toLowerCase(), start: m.index, end: m.index + m[0].length }));

export interface LeakOptions {
  /** Words (Chinese: characters) of an overlap. Default 13, as for GPT-3. */
  readonly ngram?: number;
  /** Items of fewer words than that are looked for as a whole, if they have this many. Default 8. */
  readonly least?: number;
}

/** A place where a text has the words of an evaluation. */
export interface Leak {
  readonly evaluation: string;
  /** Which of its items, from 0. */
  readonly item: number;
  /** UTF-16 units. */
  readonly start: number;
  readonly end: number;
}

/** Two halves of 64 bits as one number: the low 53. */
const key = new Uint32Array(2);
function keyOf(gram: string): number {
  hash64(gram, key);
  return key[0]! * 2 ** 21 + (key[1]! & 0x1fffff);
}

/**
 * Finds what a corpus has in common with evaluation sets: n-grams of words, case and signs not looked at (Brown et al. 2020, appendix C). Evaluations
 * fit in memory; the corpus is shown text by text.
 */
export class LeakFinder {
  readonly #ngram: number;
  readonly #least: number;
  /** By length of the n-gram: its key, and evaluation and item as one number. */
  readonly #grams = new Map<number, Map<number, number>>();
  readonly #evaluations: { name: string; items: number; short: number }[] = [];
  readonly #hash = createHash("sha256");

  constructor(options: LeakOptions = {}) {
    this.#ngram = options.ngram ?? 13;
    this.#least = Math.min(options.least ?? 8, this.#ngram);
  }

  /** Takes an evaluation's items in: question and answer, or whatever must not be seen before. */
  add(evaluation: string, items: Iterable<string>): void {
    const at = this.#evaluations.length;
    const entry = { name: evaluation, items: 0, short: 0 };
    this.#evaluations.push(entry);
    this.#hash.update(JSON.stringify([evaluation]));
    for (const item of items) {
      this.#hash.update(JSON.stringify(item));
      const list = wordsIn(item);
      const n = Math.min(this.#ngram, list.length);
      if (n < this.#least) entry.short++;
      else {
        let table = this.#grams.get(n);
        if (!table) {
          table = new Map();
          this.#grams.set(n, table);
        }
        for (let i = 0; i + n <= list.length; i++) {
          const k = keyOf(
            list
              .slice(i, i + n)
              .map((w) => w.text)
              .join(" "),
          );
          if (!table.has(k)) table.set(k, at * 2 ** 26 + entry.items);
        }
      }
      entry.items++;
    }
  }

  /** The same where the same items were taken in. */
  get fingerprint(): string {
    return this.#hash.copy().digest("hex").slice(0, 24);
  }

  /** Items taken in, and how many were too short to be looked for, by evaluation. */
  get evaluations(): readonly { readonly name: string; readonly items: number; readonly short: number }[] {
    return this.#evaluations;
  }

  /** All places of overlap, in order; those of one item that touch are one. */
  find(text: string): Leak[] {
    if (this.#grams.size === 0) return [];
    const list = wordsIn(text);
    const out: { evaluation: string; item: number; start: number; end: number }[] = [];
    for (const [n, table] of this.#grams)
      for (let i = 0; i + n <= list.length; i++) {
        let gram = list[i]!.text;
        for (let k = 1; k < n; k++) gram += ` ${list[i + k]!.text}`;
        const found = table.get(keyOf(gram));
        if (found === undefined) continue;
        const [start, end] = [list[i]!.start, list[i + n - 1]!.end];
        const evaluation = this.#evaluations[Math.floor(found / 2 ** 26)]!.name;
        const item = found % 2 ** 26;
        const last = out.at(-1);
        if (last?.evaluation === evaluation && last.item === item && start <= last.end)
          last.end = Math.max(last.end, end);
        else out.push({ evaluation, item, start, end });
      }
    return out.sort((a, b) => a.start - b.start || a.end - b.end);
  }
}

/**
 * Cuts leaks out of a text with `margin` characters on each side and gives the pieces that are left, those under `least` characters not (Brown et al.
 * 2020, appendix C: 200 both).
 */
export function cutLeaks(text: string, leaks: readonly Leak[], margin = 200, least = 200): string[] {
  const out: string[] = [];
  let at = 0;
  for (const { start, end } of leaks) {
    if (start - margin > at) out.push(text.slice(at, start - margin));
    at = Math.max(at, end + margin);
  }
  out.push(text.slice(at));
  return out.map((t) => t.trim()).filter((t) => t.length >= least);
}
