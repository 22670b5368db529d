import type { AddedTokenMatcher } from "./added-tokens.ts";
import { BpeMerger, NumberHeap } from "./bpe.ts";
import { encodeUtf8 } from "./bytes.ts";
import type { PieceModel } from "./models.ts";
import { PIECE, type SentencePieceParts } from "./sentencepiece-model.ts";

const SPACE = "\u2581";
/** Places in a text, in a number that has a rank too. */
const PLACES = 2 ** 30;

/**
 * SentencePiece's BPE: characters first, then always the neighbours that together make the piece with the best score, the leftmost among
 * equals. Characters without a piece become bytes or the unknown piece at the end, and pieces that a user defined never merge.
 */
export class ScoredBpe implements PieceModel {
  private readonly pieces: readonly string[];
  private readonly ids = new Map<string, number>();
  private readonly merger: BpeMerger;
  private readonly merges: readonly {
    readonly left: number;
    readonly right: number;
    readonly id: number;
    readonly rank: number;
  }[];
  private readonly unknown: number;
  private readonly bytes: Int32Array | undefined;
  private readonly userDefined: AddedTokenMatcher;
  /** Characters that are no piece may still be halves of one: they have numbers of their own beyond the vocabulary. */
  private readonly extra = new Map<string, number>();
  private readonly extraText: string[] = [];
  /** Whether no piece has a space symbol after another character, so that text may be cut before each run of them. */
  private readonly cuts: boolean;
  private readonly cache = new Map<string, readonly number[]>();
  private buffer = new Int32Array(256);
  /** Pieces that merge as others do, and are taken apart again at the end. */
  private readonly unused = new Set<number>();
  /** Ranks of the pieces that merges make, where there are unused ones. */
  private readonly ranks = new Map<number, number>();

  constructor(
    parts: SentencePieceParts,
    unknown: number,
    bytes: Int32Array | undefined,
    userDefined: AddedTokenMatcher,
  ) {
    const { pieces, types, scores } = parts;
    this.pieces = pieces;
    this.unknown = unknown;
    this.bytes = bytes;
    this.userDefined = userDefined;
    const mergeable = (id: number): boolean =>
      types[id] === PIECE.normal || types[id] === PIECE.userDefined || types[id] === PIECE.unused;
    if (parts.added === undefined) {
      types.forEach((type, id) => {
        if (type === PIECE.unused) this.unused.add(id);
      });
    }
    pieces.forEach((piece, id) => {
      if (mergeable(id) && !this.ids.has(piece)) this.ids.set(piece, id);
    });
    this.cuts = true;
    const merges: { left: number; right: number; id: number; score: number }[] = [];
    for (const [piece, id] of this.ids) {
      if (/[^\u2581]\u2581/.test(piece)) this.cuts = false;
      for (let at = 1; at < piece.length; at++) {
        const unit = piece.charCodeAt(at);
        if (unit >= 0xdc00 && unit <= 0xdfff) continue;
        const left = this.symbolOf(piece.slice(0, at), at === 1 || (at === 2 && piece.codePointAt(0)! > 0xffff));
        const right = this.symbolOf(
          piece.slice(at),
          piece.length - at === 1 || (piece.length - at === 2 && piece.codePointAt(at)! > 0xffff),
        );
        if (left !== undefined && right !== undefined) merges.push({ left, right, id, score: scores[id]! });
      }
    }
    // Pairs that make the same piece share a rank; so would different pieces with equal scores, of which the leftmost goes first.
    const levels = [...new Set(merges.map((merge) => merge.score))].sort((a, b) => b - a);
    const rankOf = new Map(levels.map((score, rank) => [score, rank]));
    if (this.unused.size > 0) for (const { id, score } of merges) this.ranks.set(id, rankOf.get(score)!);
    this.merges = merges.map(({ left, right, id, score }) => ({ left, right, id, rank: rankOf.get(score)! }));
    this.merger = new BpeMerger(this.merges);
  }

  /** The same model for the native kernels; undefined where a user defined pieces, or it is too large for them. */
  nativeParts() {
    const table = new Uint32Array(this.merges.length * 4);
    this.merges.forEach(({ left, right, id, rank }, i) => {
      table.set([left, right, rank, id], i * 4);
    });
    if (!this.userDefined.empty || this.unused.size > 0 || this.pieces.length + this.extraText.length >= 2 ** 21 - 2)
      return undefined;
    return {
      kind: "bpe",
      strings: [...this.ids.keys(), ...this.extra.keys()],
      ids: [...this.ids.values(), ...this.extra.values()],
      unknown: this.unknown,
      fuse: true,
      tokens: this.pieces.length,
      merges: table,
      bytes: this.bytes,
    } as const;
  }

  private symbolOf(text: string, single: boolean): number | undefined {
    const id = this.ids.get(text);
    if (id !== undefined || !single) return id;
    let number = this.extra.get(text);
    if (number === undefined) {
      number = this.pieces.length + this.extraText.length;
      this.extra.set(text, number);
      this.extraText.push(text);
    }
    return number;
  }

  encode(text: string, ids: number[], spans?: number[]): void {
    if (this.unused.size > 0) this.encodeWithUnused(text, ids, spans);
    else this.encodeParts(text, ids, spans);
    if (this.bytes === undefined) fuse(ids, this.unknown, spans);
  }

  private encodeParts(text: string, ids: number[], spans?: number[]): void {
    for (const segment of this.userDefined.split(text)) {
      if ("id" in segment) {
        ids.push(segment.id);
        spans?.push(segment.start, segment.end);
      } else if (this.cuts) this.encodeByWords(segment.text, ids, segment.start, spans);
      else this.encodeWhole(segment.text, ids, segment.start, spans);
    }
  }

  /**
   * The whole text at once: an unused piece is taken apart into the two that were last seen side by side as its halves, wherever in the text
   * that was, as SentencePiece does it.
   */
  private encodeWithUnused(text: string, ids: number[], spans?: number[]): void {
    const symbols: string[] = [];
    const frozen: boolean[] = [];
    for (const segment of this.userDefined.split(text)) {
      const whole = "id" in segment;
      for (const symbol of whole ? [this.pieces[segment.id]!] : segment.text) {
        symbols.push(symbol);
        frozen.push(whole);
      }
    }
    const next = symbols.map((_, i) => i + 1);
    const previous = symbols.map((_, i) => i - 1);
    const halves = new Map<string, readonly [string, string]>();
    const rankAt = (left: number): number | undefined => {
      const right = next[left]!;
      if (right >= symbols.length || frozen[left] || frozen[right]) return undefined;
      const id = this.ids.get(symbols[left]! + symbols[right]!);
      return id === undefined ? undefined : this.ranks.get(id);
    };
    const heap = new NumberHeap(symbols.length);
    const consider = (left: number): void => {
      const rank = left < 0 ? undefined : rankAt(left);
      if (rank === undefined) return;
      const right = symbols[next[left]!]!;
      heap.push(rank * PLACES + left);
      const whole = symbols[left]! + right;
      if (this.unused.has(this.ids.get(whole)!)) halves.set(whole, [symbols[left]!, right]);
    };
    for (let i = 0; i + 1 < symbols.length; i++) consider(i);
    for (let key = heap.pop(); key !== undefined; key = heap.pop()) {
      const left = key % PLACES;
      if (symbols[left] === "" || rankAt(left) !== (key - left) / PLACES) continue;
      const right = next[left]!;
      symbols[left] += symbols[right]!;
      symbols[right] = "";
      next[left] = next[right]!;
      if (next[left] < symbols.length) previous[next[left]] = left;
      consider(previous[left]!);
      consider(left);
    }
    let at = 0;
    const emit = (piece: string): void => {
      const id = this.ids.get(piece);
      const parts = id !== undefined && this.unused.has(id) ? halves.get(piece) : undefined;
      if (parts !== undefined) {
        for (const part of parts) emit(part);
        return;
      }
      const first = ids.length;
      if (id === undefined) this.emitUnknown(piece, ids);
      else ids.push(id);
      const end = at + piece.length;
      if (spans !== undefined) for (let i = first; i < ids.length; i++) spans.push(at, i + 1 < ids.length ? at : end);
      at = end;
    };
    for (const symbol of symbols) if (symbol !== "") emit(symbol);
  }

  private encodeByWords(text: string, ids: number[], place: number, spans?: number[]): void {
    let start = 0;
    while (start < text.length) {
      let end = start;
      while (text[end] === SPACE) end++;
      const next = text.indexOf(SPACE, end);
      end = next === -1 ? text.length : next;
      const word = text.slice(start, end);
      const known = spans === undefined ? this.cache.get(word) : undefined;
      if (known !== undefined) {
        for (const id of known) ids.push(id);
      } else {
        const first = ids.length;
        this.encodeWhole(word, ids, place + start, spans);
        if (word.length <= 64) {
          if (this.cache.size >= 1 << 16) this.cache.clear();
          this.cache.set(word, ids.slice(first));
        }
      }
      start = end;
    }
  }

  private encodeWhole(text: string, ids: number[], place: number, spans?: number[]): void {
    if (this.buffer.length < text.length) this.buffer = new Int32Array(text.length * 2);
    const symbols = this.buffer;
    const widths = spans === undefined ? undefined : new Int32Array(text.length);
    const foreign: string[] = [];
    let length = 0;
    // A character that no piece contains: a symbol that no merge knows.
    const beyond = this.pieces.length + this.extraText.length;
    for (const character of text) {
      const known = this.ids.get(character) ?? this.extra.get(character);
      if (known === undefined) foreign.push(character);
      if (widths !== undefined) widths[length] = character.length;
      symbols[length++] = known ?? beyond + foreign.length - 1;
    }
    const kept = this.merger.merge(symbols, length, widths);
    let at = place;
    for (let i = 0; i < kept; i++) {
      const symbol = symbols[i]!;
      const first = ids.length;
      if (symbol < this.pieces.length) ids.push(symbol);
      else
        this.emitUnknown(
          symbol < beyond ? this.extraText[symbol - this.pieces.length]! : foreign[symbol - beyond]!,
          ids,
        );
      if (spans === undefined || widths === undefined) continue;
      // Of the bytes of a character the last one stands for it, as in SentencePiece.
      for (let id = first; id < ids.length; id++) spans.push(at, id + 1 < ids.length ? at : at + widths[i]!);
      at += widths[i]!;
    }
  }

  private emitUnknown(text: string, ids: number[]): void {
    if (this.bytes === undefined) ids.push(this.unknown);
    else for (const byte of encodeUtf8(text)) ids.push(this.bytes[byte]!);
  }
}

/** Unknown pieces in a row are one. */
function fuse(ids: number[], unknown: number, spans?: number[]): void {
  let kept = 0;
  let previous: number | undefined;
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (id !== unknown || previous !== unknown) {
      ids[kept] = id;
      if (spans !== undefined) spans[2 * kept] = spans[2 * i]!;
      kept++;
    }
    if (spans !== undefined) spans[2 * kept - 1] = spans[2 * i + 1]!;
    previous = id;
  }
  ids.length = kept;
  if (spans !== undefined) spans.length = 2 * kept;
}
