import { englishRules } from "./english-rules.ts";
import { isSpace } from "./text.ts";

const pattern = (source: string, flags: string) => new RegExp(source, flags);
const prefix = pattern(englishRules.prefix, "u");
const suffix = pattern(englishRules.suffix, "u");
const infix = pattern(englishRules.infix, "gu");
const url = pattern(englishRules.url, "u");
const exceptions = new Map(englishRules.exceptions.map(([word, ...pieces]) => [word!, pieces]));

/** A word of nothing but letters is cut only if it is an exception ("cannot"). */
const plain = /^[A-Za-z]+$/;

/** The exceptions that the rules would cut, as the pieces that the rules make of them: found again where they were cut. */
const sequences = new Map<string, { readonly pieces: readonly string[]; readonly word: string }[]>();
for (const word of exceptions.keys()) {
  infix.lastIndex = 0;
  if (!prefix.test(word) && !suffix.test(word) && !infix.test(word)) continue;
  const pieces = cut(word, false);
  const known = sequences.get(pieces[0]!);
  if (known) known.push({ pieces, word });
  else sequences.set(pieces[0]!, [{ pieces, word }]);
}

/** The pieces of one run of characters without white space. */
function cut(chunk: string, withExceptions: boolean): string[] {
  const before: string[] = [];
  const after: string[] = [];
  const special = (s: string) => withExceptions && exceptions.has(s);
  let word = chunk;
  let last = -1;
  while (word !== "" && word.length !== last && !special(word)) {
    last = word.length;
    const p = prefix.exec(word)?.[0].length ?? 0;
    const withoutPrefix = word.slice(p);
    if (p > 0 && special(withoutPrefix)) {
      before.push(word.slice(0, p));
      word = withoutPrefix;
      break;
    }
    const s = suffix.exec(withoutPrefix)?.[0].length ?? 0;
    const withoutSuffix = word.slice(0, word.length - s);
    if (s > 0 && special(withoutSuffix)) {
      after.push(word.slice(word.length - s));
      word = withoutSuffix;
      break;
    }
    if (p > 0) before.push(word.slice(0, p));
    if (s > 0) after.push(word.slice(word.length - s));
    word = word.slice(p, word.length - s);
  }
  const inside = word === "" ? [] : special(word) ? exceptions.get(word)! : url.test(word) ? [word] : cutInside(word);
  return [...before, ...inside, ...after.reverse()];
}

function cutInside(word: string): string[] {
  const out: string[] = [];
  let start = 0;
  for (const match of word.matchAll(infix)) {
    if (match.index === 0) continue;
    if (match.index !== start) out.push(word.slice(start, match.index));
    if (match[0] !== "") out.push(match[0]);
    start = match.index + match[0].length;
  }
  if (start < word.length) out.push(word.slice(start));
  return out;
}

/** Cuts of runs seen before. The same few runs are most of a text. */
const memory = new Map<string, readonly string[]>();
const MEMORY = 200_000;

function cutCached(chunk: string): readonly string[] {
  const known = memory.get(chunk);
  if (known) return known;
  if (memory.size >= MEMORY) memory.clear();
  const pieces = exceptions.get(chunk) ?? cut(chunk, true);
  // A slice of a document would keep the whole document in memory.
  if (chunk.length < 64) memory.set(Buffer.from(chunk).toString(), pieces);
  return pieces;
}

/** Words, and in between the runs of white space that are more than one space, with a note of which words touched. */
interface Cut {
  readonly tokens: string[];
  /** Whether a token follows the one before without anything between. */
  readonly touches: boolean[];
  /** Whether a token may begin or end an exception that the rules have cut. */
  candidates: boolean;
}

function cutText(text: string): Cut {
  const tokens: string[] = [];
  const touches: boolean[] = [];
  let candidates = false;
  let start = 0;
  let inSpace = text !== "" && isSpace(text[0]!);
  const take = (end: number) => {
    if (start >= end) return;
    const run = text.slice(start, end);
    if (inSpace) {
      tokens.push(run);
      touches.push(true);
      return;
    }
    if (plain.test(run) && !exceptions.has(run)) {
      tokens.push(run);
      touches.push(start > 0 && text.charCodeAt(start - 1) !== 32);
      return;
    }
    let first = start > 0 && text.charCodeAt(start - 1) !== 32;
    for (const piece of cutCached(run)) {
      tokens.push(piece);
      touches.push(first);
      first = true;
      candidates ||= sequences.has(piece);
    }
  };
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    const space = c < 128 ? (c >= 9 && c <= 13) || (c >= 28 && c <= 32) : isSpace(text[i]!);
    if (space === inSpace) continue;
    take(i);
    start = c === 32 ? i + 1 : i;
    inSpace = space;
  }
  take(text.length);
  return { tokens, touches, candidates };
}

/** Puts exceptions together again that the rules have cut, longest first and then from the left; what overlaps a longer one stays. */
function joinExceptions({ tokens, touches }: Cut): string[] {
  const found: { start: number; end: number; word: string }[] = [];
  tokens.forEach((token, start) => {
    for (const { pieces, word } of sequences.get(token) ?? [])
      if (pieces.every((piece, k) => tokens[start + k] === piece))
        found.push({ start, end: start + pieces.length, word });
  });
  found.sort((a, b) => b.end - b.start - (a.end - a.start) || a.start - b.start);
  const seen = new Set<number>();
  const chosen = new Map<number, { end: number; word: string }>();
  for (const { start, end, word } of found) {
    if (!seen.has(start) && !seen.has(end - 1)) chosen.set(start, { end, word });
    for (let i = start; i < end; i++) seen.add(i);
  }
  const out: string[] = [];
  for (let i = 0; i < tokens.length; i++) {
    const match = chosen.get(i);
    // Pieces with a space between them look like the exception, but are not its text.
    const joined = match && Array.from({ length: match.end - i - 1 }, (_, k) => touches[i + 1 + k]!).every(Boolean);
    if (match && joined) {
      out.push(...exceptions.get(match.word)!);
      i = match.end - 1;
    } else if (match) {
      out.push(...tokens.slice(i, match.end));
      i = match.end - 1;
    } else out.push(tokens[i]!);
  }
  return out;
}

/** All pieces, white space among them. */
function englishTokens(text: string): string[] {
  const found = cutText(text);
  return found.candidates ? joinExceptions(found) : found.tokens;
}

/** The words and signs of English text as spaCy's blank English pipeline cuts them, without white space. */
export function englishWords(text: string): string[] {
  return englishTokens(text).filter((t) => !isSpace(t[0]!));
}

const ends = new Set(englishRules.sentenceEnds);
const punctuation = /^\p{P}+$/u;

/** How many sentences there are: one begins after a sign that ends one and whatever punctuation follows. spaCy's "sentencizer". */
export function englishSentences(text: string): number {
  let sentences = 0;
  let ended = true;
  for (const token of englishTokens(text)) {
    if (sentences === 0) {
      sentences = 1;
      ended = ends.has(token);
      continue;
    }
    if (ends.has(token)) ended = true;
    else if (ended && !punctuation.test(token)) {
      sentences++;
      ended = false;
    }
  }
  return sentences;
}

let chinese: Intl.Segmenter | undefined;

/** Words of Chinese text by the dictionary that comes with JavaScript's engine (ICU); signs are words too, white space is not. */
export function chineseWords(text: string): string[] {
  chinese ??= new Intl.Segmenter("zh", { granularity: "word" });
  const out: string[] = [];
  // The segmenter's time grows faster than its text's length.
  for (let at = 0; at < text.length; ) {
    let end = Math.min(at + 2000, text.length);
    while (end < text.length && end > at + 1000 && !isSpace(text[end]!) && !"，。！？；、".includes(text[end]!)) end--;
    for (const { segment } of chinese.segment(text.slice(at, end))) if (!isSpace(segment[0]!)) out.push(segment);
    at = end;
  }
  return out;
}

/** @param language BCP 47; languages other than Chinese, Japanese and Thai are cut as English is */
export function wordsOf(text: string, language: string): string[] {
  return /^(zh|ja|th)\b/.test(language) ? chineseWords(text) : englishWords(text);
}

const chineseEnds = /[。！？!?…]+[”’」』）)]*/gu;

export function sentencesOf(text: string, language: string): number {
  if (!/^(zh|ja)\b/.test(language)) return englishSentences(text);
  const found = text.match(chineseEnds)?.length ?? 0;
  return found + (/[^\s。！？!?…”’」』）)]\s*$/u.test(text) ? 1 : 0);
}
