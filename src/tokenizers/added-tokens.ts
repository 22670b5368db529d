import type { AddedToken } from "./schema.ts";
import type { AllowedSpecial } from "./types.ts";

/** A stretch of text, or an added token that was found in it. */
export type Segment =
  | { readonly text: string; readonly start: number }
  | { readonly id: number; readonly start: number; readonly end: number };

/** Finds added tokens in text: leftmost first, then longest, with the strip and whole-word rules of `tokenizers`. */
export class AddedTokenMatcher {
  private readonly expression: RegExp | undefined;
  private readonly byContent: ReadonlyMap<string, AddedToken>;

  /** @param spelling how a token's content appears in the text searched (normalised or not) */
  constructor(tokens: readonly AddedToken[], spelling: (content: string) => string) {
    // Of tokens that are spelled the same, the last counts; special ones come first.
    const inOrder = [...tokens.filter((token) => token.special), ...tokens.filter((token) => !token.special)];
    this.byContent = new Map(inOrder.map((token) => [spelling(token.content), token]));
    const alternatives = [...this.byContent.keys()]
      .sort((a, b) => b.length - a.length)
      .map((content) => content.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&"));
    this.expression = alternatives.length === 0 ? undefined : new RegExp(alternatives.join("|"), "gu");
  }

  /** Whether it finds nothing in any text. */
  get empty(): boolean {
    return this.expression === undefined;
  }

  split(text: string): Segment[] {
    if (text === "") return [];
    if (this.expression === undefined) return [{ text, start: 0 }];
    const segments: Segment[] = [];
    let done = 0;
    for (const found of text.matchAll(this.expression)) {
      const token = this.byContent.get(found[0])!;
      let start = found.index;
      let end = start + found[0].length;
      if (token.single_word && (endsInWord(text.slice(0, start)) || startsWithWord(text.slice(end)))) continue;
      if (token.lstrip) {
        while (start > done && isSpace(text[start - 1]!)) start--;
        start = Math.max(start, done);
      }
      if (token.rstrip) while (end < text.length && isSpace(text[end]!)) end++;
      if (start > done) segments.push({ text: text.slice(done, start), start: done });
      // Another token may have taken white space that this one is made of: it counts once more, unless nothing is left of it.
      if (end > start) segments.push({ id: token.id, start, end });
      done = end;
    }
    if (done < text.length) segments.push({ text: text.slice(done), start: done });
    return segments;
  }
}

/** Finds those special tokens, as they are spelled, that a text may spell out. */
export function specialMatcher(tokens: ReadonlyMap<string, number>, allowed: AllowedSpecial): AddedTokenMatcher {
  const wanted = (name: string): boolean => allowed === "all" || (allowed !== "none" && allowed.includes(name));
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return new AddedTokenMatcher(
    [...tokens].filter(([name]) => wanted(name)).map(([content, id]) => ({ ...plain, id, content })),
    (content) => content,
  );
}

const WORD = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
const lastWord = new RegExp(`${WORD}$`, "u");
const firstWord = new RegExp(`^${WORD}`, "u");
const endsInWord = (text: string): boolean => lastWord.test(text.slice(-2));
const startsWithWord = (text: string): boolean => firstWord.test(text);
const isSpace = (unit: string): boolean => /\p{White_Space}/u.test(unit);

/** The tokens that may be recognised in text: all that are not special, and the special ones that are allowed. */
export function recognisable(tokens: readonly AddedToken[], allowed: AllowedSpecial): AddedToken[] {
  if (allowed === "all") return [...tokens];
  const names = new Set(allowed === "none" ? [] : allowed);
  return tokens.filter((token) => !token.special || names.has(token.content));
}
