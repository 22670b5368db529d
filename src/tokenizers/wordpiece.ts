import { InputError } from "../tensor/errors.ts";
import type { PieceModel } from "./models.ts";

/** WordPiece (Schuster and Nakajima 2012; as in BERT): the longest piece of the vocabulary, again and again, from the left. */
export class WordPieceModel implements PieceModel {
  private readonly vocab: ReadonlyMap<string, number>;
  private readonly prefix: string;
  private readonly longest: number;
  private readonly most: number;
  private readonly unknown: number;

  constructor(
    part: {
      readonly vocab: ReadonlyMap<string, number>;
      readonly unk_token: string;
      readonly continuing_subword_prefix: string;
      readonly max_input_chars_per_word: number;
    },
    hidden?: ReadonlySet<number>,
  ) {
    this.vocab = without(part.vocab, hidden);
    this.prefix = part.continuing_subword_prefix;
    this.most = part.max_input_chars_per_word;
    const unknown = part.vocab.get(part.unk_token);
    if (unknown === undefined)
      throw new InputError(`unk_token: ${JSON.stringify(part.unk_token)} is not in the vocabulary.`);
    this.unknown = unknown;
    let longest = 0;
    for (const token of part.vocab.keys()) longest = Math.max(longest, token.length);
    this.longest = longest;
  }

  encode(word: string, ids: number[], spans?: number[]): void {
    // More characters than allowed, counted as characters: at least half as many units.
    if (word.length > this.most && (word.length > 2 * this.most || [...word].length > this.most)) {
      ids.push(this.unknown);
      spans?.push(0, word.length);
      return;
    }
    const first = ids.length;
    const firstSpan = spans?.length ?? 0;
    let start = 0;
    while (start < word.length) {
      let end = Math.min(word.length, start + this.longest);
      let id: number | undefined;
      for (; end > start; end--) {
        id = this.vocab.get(start === 0 ? word.slice(0, end) : this.prefix + word.slice(start, end));
        if (id !== undefined) break;
      }
      if (id === undefined) {
        ids.length = first;
        ids.push(this.unknown);
        if (spans !== undefined) {
          spans.length = firstSpan;
          spans.push(0, word.length);
        }
        return;
      }
      ids.push(id);
      spans?.push(start, end);
      start = end;
    }
  }
}

/** Whole words only. */
export class WordLevelModel implements PieceModel {
  private readonly vocab: ReadonlyMap<string, number>;
  private readonly unknown: number | undefined;

  constructor(
    part: { readonly vocab: ReadonlyMap<string, number>; readonly unk_token: string },
    hidden?: ReadonlySet<number>,
  ) {
    this.vocab = without(part.vocab, hidden);
    this.unknown = part.vocab.get(part.unk_token);
  }

  encode(word: string, ids: number[], spans?: number[]): void {
    const id = this.vocab.get(word) ?? this.unknown;
    if (id === undefined)
      throw new InputError(`encode: ${JSON.stringify(word)} is not in the vocabulary, and there is no unknown token.`);
    ids.push(id);
    spans?.push(0, word.length);
  }
}

const without = (
  vocab: ReadonlyMap<string, number>,
  hidden: ReadonlySet<number> = new Set(),
): ReadonlyMap<string, number> => new Map([...vocab].filter(([, id]) => !hidden.has(id)));
