import { drop, type Filter, kept, type Outcome, type Page, percent } from "./filter.ts";
import { marks, sentenceEnds } from "./punctuation.ts";
import { codePoints, count, endsWithAny, strip, stripEnd, stripStart } from "./text.ts";

const signs = new Set([...marks, ...sentenceEnds]);
for (let c = 0; c < 160; c++) if ((c < 32 && c !== 9 && c !== 10) || c >= 127) signs.add(String.fromCharCode(c));

/** Whether a word has anything in it besides signs. */
function hasMore(word: string): boolean {
  for (const char of word) if (!signs.has(char)) return true;
  return false;
}
const letter = /\p{L}/u;

export interface GopherQualityOptions {
  readonly minWords?: number;
  readonly maxWords?: number;
  readonly minMeanLength?: number;
  readonly maxMeanLength?: number;
  readonly maxSymbolRatio?: number;
  readonly maxBulletLines?: number;
  readonly maxEllipsisLines?: number;
  /** Least share of words with a letter in them. */
  readonly minLetterWords?: number;
  readonly minStopWords?: number;
  readonly stopWords?: readonly string[];
}

/** Rae et al. 2021 (Gopher), appendix A.1.1, "quality filtering". Thresholds by default as there; counted as datatrove counts. */
export function gopherQuality(options: GopherQualityOptions = {}): Filter {
  const {
    minWords = 50,
    maxWords = 100_000,
    minMeanLength = 3,
    maxMeanLength = 10,
    maxSymbolRatio = 0.1,
    maxBulletLines = 0.9,
    maxEllipsisLines = 0.3,
    minLetterWords = 0.8,
    minStopWords = 2,
    stopWords = ["the", "be", "to", "of", "and", "that", "have", "with"],
  } = options;
  const name = "gopher_quality";
  const stops = new Set(stopWords);
  const no = (rule: string, value: number, threshold: number, why: string) => drop(name, rule, value, threshold, why);
  return {
    name,
    source: "Rae et al. 2021, appendix A.1.1",
    rules: {
      short: `fewer than ${minWords} words`,
      long: `more than ${maxWords} words`,
      short_words: `mean length of words below ${minMeanLength}`,
      long_words: `mean length of words above ${maxMeanLength}`,
      hashes: `more than ${maxSymbolRatio} "#" a word`,
      ellipses: `more than ${maxSymbolRatio} ellipses a word`,
      bullets: `more than ${percent(maxBulletLines)} of lines begin with a bullet`,
      ellipsis_lines: `more than ${percent(maxEllipsisLines)} of lines end with an ellipsis`,
      letters: `fewer than ${percent(minLetterWords)} of words have a letter`,
      stop_words: `fewer than ${minStopWords} of the words ${stopWords.join(", ")}`,
    },
    apply({ text, words, lines }: Page): Outcome {
      let counted = 0;
      let length = 0;
      for (const word of words)
        if (hasMore(word)) {
          counted++;
          length += codePoints(word);
        }
      if (counted < minWords) return no("short", counted, minWords, `It has ${counted} words.`);
      if (counted > maxWords) return no("long", counted, maxWords, `It has ${counted} words.`);
      const mean = length / counted;
      if (mean < minMeanLength)
        return no("short_words", mean, minMeanLength, `Its words have ${mean.toFixed(2)} letters.`);
      if (mean > maxMeanLength)
        return no("long_words", mean, maxMeanLength, `Its words have ${mean.toFixed(2)} letters.`);
      const hashes = count(text, "#") / words.length;
      if (hashes > maxSymbolRatio)
        return no("hashes", hashes, maxSymbolRatio, `It has ${hashes.toFixed(2)} "#" a word.`);
      const dots = (count(text, "...") + count(text, "…")) / words.length;
      if (dots > maxSymbolRatio)
        return no("ellipses", dots, maxSymbolRatio, `It has ${dots.toFixed(2)} ellipses a word.`);
      const bullets = lines.filter((l) => /^[•-]/.test(stripStart(l))).length / lines.length;
      if (bullets > maxBulletLines)
        return no("bullets", bullets, maxBulletLines, `${percent(bullets)} of its lines begin with a bullet.`);
      const open = lines.filter((l) => endsWithAny(stripEnd(l), ["...", "…"])).length / lines.length;
      if (open > maxEllipsisLines)
        return no("ellipsis_lines", open, maxEllipsisLines, `${percent(open)} of its lines end with an ellipsis.`);
      const lettered = words.filter((w) => letter.test(w)).length / words.length;
      if (lettered < minLetterWords)
        return no("letters", lettered, minLetterWords, `Only ${percent(lettered)} of its words have a letter.`);
      const found = new Set(words.filter((w) => stops.has(w))).size;
      if (found < minStopWords) return no("stop_words", found, minStopWords, `It has ${found} of the stop words.`);
      return kept;
    },
  };
}

/** How many elements stood in the list before, and how many code points they are. */
export function duplicates(list: readonly string[]): { count: number; characters: number } {
  const seen = new Set<string>();
  const out = { count: 0, characters: 0 };
  for (const x of list) {
    if (seen.has(x)) {
      out.count++;
      out.characters += codePoints(x);
    } else seen.add(x);
  }
  return out;
}

/** Code points of the most frequent n-gram (of equals the first), its spaces included, times how often it stands there. */
function topNGram(
  words: readonly string[],
  lengths: readonly number[],
  n: number,
): { characters: number; gram: string } {
  const counts = new Map<string, { times: number; at: number }>();
  let best = { times: 0, at: 0 };
  for (let i = 0; i + n <= words.length; i++) {
    let key = words[i]!;
    for (let k = 1; k < n; k++) key += ` ${words[i + k]!}`;
    const known = counts.get(key);
    if (known) known.times++;
    else counts.set(key, { times: 1, at: i });
  }
  for (const entry of counts.values()) if (entry.times > best.times) best = entry;
  let size = n - 1;
  for (let k = 0; k < n; k++) size += lengths[best.at + k]!;
  return { characters: size * best.times, gram: words.slice(best.at, best.at + n).join(" ") };
}

/** Code points of n-grams that stood in the text before; a repeated one is skipped as a whole. */
function repeatedNGrams(words: readonly string[], lengths: readonly number[], n: number): number {
  const seen = new Set<string>();
  let characters = 0;
  for (let i = 0; i + n <= words.length; ) {
    let key = "";
    for (let k = 0; k < n; k++) key += words[i + k]!;
    if (seen.has(key)) {
      for (let k = 0; k < n; k++) characters += lengths[i + k]!;
      i += n;
    } else {
      seen.add(key);
      i++;
    }
  }
  return characters;
}

export interface GopherRepetitionOptions {
  readonly lines?: number;
  readonly paragraphs?: number;
  readonly lineCharacters?: number;
  readonly paragraphCharacters?: number;
  /** Most of the text that the most frequent n-gram may be, by n. */
  readonly top?: Readonly<Record<number, number>>;
  /** Most of the text that repeated n-grams may be, by n. */
  readonly repeated?: Readonly<Record<number, number>>;
}

/** Rae et al. 2021 (Gopher), appendix A.1.1, table A1, "repetition removal"; counted as datatrove counts. */
export function gopherRepetition(options: GopherRepetitionOptions = {}): Filter {
  const {
    lines: lineShare = 0.3,
    paragraphs: paragraphShare = 0.3,
    lineCharacters = 0.2,
    paragraphCharacters = 0.2,
    top = { 2: 0.2, 3: 0.18, 4: 0.16 },
    repeated = { 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1 },
  } = options;
  const name = "gopher_repetition";
  const no = (rule: string, value: number, threshold: number, why: string) => drop(name, rule, value, threshold, why);
  const byN = (table: Readonly<Record<number, number>>) =>
    Object.entries(table).map(([n, x]) => [Number(n), x] as const);
  const tops = byN(top);
  const repeats = byN(repeated);
  return {
    name,
    source: "Rae et al. 2021, table A1",
    rules: {
      empty: "no text",
      paragraphs: `more than ${percent(paragraphShare)} of paragraphs stood there before`,
      paragraph_characters: `more than ${percent(paragraphCharacters)} of the text is such paragraphs`,
      lines: `more than ${percent(lineShare)} of lines stood there before`,
      line_characters: `more than ${percent(lineCharacters)} of the text is such lines`,
      ...Object.fromEntries(
        tops.map(([n, x]) => [`top_${n}_gram`, `one ${n}-gram is more than ${percent(x)} of the text`]),
      ),
      ...Object.fromEntries(
        repeats.map(([n, x]) => [`repeated_${n}_grams`, `repeated ${n}-grams are more than ${percent(x)} of the text`]),
      ),
    },
    apply(page: Page): Outcome {
      const { text } = page;
      if (text === "") return no("empty", 0, 1, "It has no text.");
      const size = codePoints(text);
      for (const [what, list, most, mostCharacters] of [
        ["paragraph", strip(text).split(/\n{2,}/), paragraphShare, paragraphCharacters],
        ["line", text.split(/\n+/), lineShare, lineCharacters],
      ] as const) {
        const d = duplicates(list);
        const share = d.count / list.length;
        if (share > most) return no(`${what}s`, share, most, `${percent(share)} of its ${what}s stood there before.`);
        const part = d.characters / size;
        if (part > mostCharacters)
          return no(
            `${what}_characters`,
            part,
            mostCharacters,
            `${percent(part)} of it is ${what}s that stood there before.`,
          );
      }
      const { words } = page;
      const lengths = words.map(codePoints);
      for (const [n, most] of tops) {
        if (words.length < n) continue;
        const { characters, gram } = topNGram(words, lengths, n);
        const share = characters / size;
        if (share > most)
          return no(`top_${n}_gram`, share, most, `${percent(share)} of it is ${JSON.stringify(gram)}.`);
      }
      for (const [n, most] of repeats) {
        const share = repeatedNGrams(words, lengths, n) / size;
        if (share > most)
          return no(
            `repeated_${n}_grams`,
            share,
            most,
            `${percent(share)} of it is runs of ${n} words that stood there before.`,
          );
      }
      return kept;
    },
  };
}
