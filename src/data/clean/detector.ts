import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { StateError } from "../../tensor/errors.ts";

/** What eld (Apache-2.0) says of a text. */
export interface Detected {
  /** ISO 639-1; empty where it knows nothing. */
  readonly language: string;
  getScores(): Record<string, number>;
  isReliable(): boolean;
}
export interface Detector {
  detect(text: string): Detected;
}

/** Characters that n-grams are written with, at most; longest n-gram. Their code is a number below ALPHABET ** LONGEST, which a double holds. */
const ALPHABET = 128;
const LONGEST = 7;

/**
 * eld's n-grams in flat arrays. Its module is one object of 105,000 small objects: as JavaScript it takes 0.6 s and 200 MB to load, in every thread; read
 * as text into these arrays, a tenth of the time and 7 MB.
 */
export class NGramTable {
  readonly languages: Readonly<Record<string, string>>;
  readonly type: string;
  size = 0;
  /** From a character's code unit to its number, from 1; 0: not in any n-gram. */
  readonly #numbers = new Uint8Array(65536);
  /** Open addressing: codes of n-grams, 0 where free, and where their scores begin in #scores. */
  readonly #codes: Float64Array;
  readonly #begins: Uint32Array;
  /** Of each n-gram how many there are, then (language << 8) | score. */
  readonly #scores: Uint16Array;

  /** @param source the text of a file of eld's folder `ngrams`. @throws StateError where it is not of the form known here */
  constructor(source: string) {
    const head = /type:'(\w+)',languages:\{([^}]*)\},isSubset:false,ngrams:\{/.exec(source);
    if (!head) throw unknownForm("its head");
    this.type = head[1]!;
    this.languages = Object.fromEntries([...head[2]!.matchAll(/(\d+):'(\w+)'/g)].map(([, id, code]) => [id!, code!]));
    const places = 2 ** Math.ceil(Math.log2(Math.max(source.length / 10, 16)));
    this.#codes = new Float64Array(places);
    this.#begins = new Uint32Array(places);
    const scores = new Uint16Array(source.length / 4);
    let used = 0;
    let characters = 0;
    let at = head.index + head[0].length;
    const expect = (sign: string) => {
      if (source[at] !== sign) throw unknownForm(`${JSON.stringify(source.slice(at, at + 20))} at ${at}`);
      at++;
    };
    const number = (): number => {
      let n = 0;
      const from = at;
      for (let d = source.charCodeAt(at) - 48; d >= 0 && d <= 9; d = source.charCodeAt(++at) - 48) n = n * 10 + d;
      if (at === from || n > 255) throw unknownForm(`a number at ${from}`);
      return n;
    };
    while (source[at] !== "}") {
      const quote = source[at] === "'" || source[at] === '"' ? source[at++] : undefined;
      let code = 0;
      for (let length = 0; source[at] !== (quote ?? ":"); length++) {
        if (source[at] === "\\") at++;
        const unit = source.charCodeAt(at++);
        if (!(length < LONGEST)) throw unknownForm(`a long n-gram at ${at}`);
        this.#numbers[unit] ||= ++characters;
        code = code * ALPHABET + this.#numbers[unit]!;
      }
      if (quote !== undefined) at++;
      expect(":");
      expect("{");
      const place = this.#place(code);
      this.#codes[place] = code;
      this.#begins[place] = used++;
      this.size++;
      const begin = used;
      while (source[at] !== "}") {
        const language = number();
        expect(":");
        scores[used++] = (language << 8) | number();
        if (source[at] === ",") at++;
      }
      scores[begin - 1] = used - begin;
      at++;
      if (source[at] === ",") at++;
    }
    if (characters >= ALPHABET || this.size === 0)
      throw unknownForm(`${characters} characters in ${this.size} n-grams`);
    this.#scores = scores.slice(0, used);
  }

  #place(code: number): number {
    const mask = this.#codes.length - 1;
    const low = (code % 2 ** 32) | 0;
    let place = (Math.imul(low ^ Math.imul(code / 2 ** 32, 0x85ebca6b), 0x9e3779b1) >>> 8) & mask;
    while (this.#codes[place] !== 0 && this.#codes[place] !== code) place = (place + 1) & mask;
    return place;
  }

  /** Scores by language's number, as eld's object has them; undefined for an n-gram that it does not have. */
  get(ngram: string): Record<string, number> | undefined {
    if (ngram.length > LONGEST) return undefined;
    let code = 0;
    for (let i = 0; i < ngram.length; i++) {
      const n = this.#numbers[ngram.charCodeAt(i)]!;
      if (n === 0) return undefined;
      code = code * ALPHABET + n;
    }
    const place = this.#place(code);
    if (code === 0 || this.#codes[place] !== code) return undefined;
    const begin = this.#begins[place]! + 1;
    const out: Record<string, number> = {};
    for (let i = begin; i < begin + this.#scores[begin - 1]!; i++) out[this.#scores[i]! >> 8] = this.#scores[i]! & 255;
    return out;
  }
}

const unknownForm = (what: string) =>
  new StateError(
    `The n-grams of this version of eld are not of the form that is known here (${what}). Install eld 2.1.0.`,
  );

/** A file inside eld's package, which its `exports` do not name. */
export function eldFile(name: string): string {
  for (const folder of createRequire(import.meta.url).resolve.paths("eld") ?? []) {
    const path = join(folder, "eld", "src", name);
    if (existsSync(path)) return path;
  }
  throw new StateError(`eld/src/${name} is not there. Install the packages (npm ci).`);
}

/** eld's own detector over its medium n-grams, held in a {@link NGramTable}: it answers what `eld/medium` answers. */
export async function loadDetector(): Promise<Detector> {
  const table = new NGramTable(readFileSync(eldFile("ngrams/medium.js"), "utf8"));
  const { createEld } = (await import(pathToFileURL(eldFile("languageDetector.js")).href)) as {
    createEld(): { instance: Detector; loadData(data: object): void };
  };
  const { instance, loadData } = createEld();
  const ngrams = new Proxy({}, { get: (_, ngram) => (typeof ngram === "string" ? table.get(ngram) : undefined) });
  loadData({ type: table.type, languages: table.languages, ngrams });
  return instance;
}
