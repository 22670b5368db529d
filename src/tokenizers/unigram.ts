import { InputError } from "../tensor/errors.ts";
import { encodeUtf8 } from "./bytes.ts";
import { byteTokens, type PieceModel } from "./models.ts";

/** What an unknown character costs below the worst piece (SentencePiece's kUnkPenalty). */
const UNKNOWN_PENALTY = 10;

/** Where the best sum so far is larger than this, it is taken off all sums (SentencePiece's kScoreResetThreshold). */
const REBASED = 100_000;

export interface UnigramOptions {
  readonly pieces: readonly string[];
  /** Log probabilities. */
  readonly scores: Float64Array;
  readonly unknown: number | undefined;
  readonly byteFallback: boolean;
  /** Ids that the search may not use (control tokens of a SentencePiece model). */
  readonly excluded?: ReadonlySet<number>;
  /** Ids that text may not become (special tokens spelled out in it), though they count for the worst score. */
  readonly hidden?: ReadonlySet<number> | undefined;
  /** Pieces a user defined: they win over anything else. */
  readonly userDefined?: ReadonlySet<number>;
  /** Sums in single precision, that begin at zero again past REBASED, as SentencePiece does (0.2.3); `tokenizers` sums in double. */
  readonly single?: boolean;
}

/**
 * Unigram (Kudo 2018): the segmentation with the largest sum of log probabilities, by the Viterbi algorithm from left to right. Among equals
 * the one found first stays, which is the one whose last piece is longest.
 */
export class UnigramModel implements PieceModel {
  private readonly trie: UnitTrie;
  private readonly scores: Float64Array;
  private readonly unknown: number;
  private readonly bytes: Int32Array | undefined;
  private readonly unknownScore: number;
  private readonly single: boolean;
  private readonly usable: readonly number[];
  private readonly pieces: readonly string[];
  private best = new Float64Array(256);
  private from = new Int32Array(256);
  private piece = new Int32Array(256);

  constructor(options: UnigramOptions) {
    const { pieces, scores, unknown, excluded, userDefined, single = false } = options;
    if (unknown !== undefined && unknown >= pieces.length)
      throw new InputError(`unk_id: ${unknown} is not in the vocabulary.`);
    this.single = single;
    this.scores = Float64Array.from(scores);
    this.unknown = unknown ?? -1;
    const ids = new Map(pieces.map((text, id) => [text, id]));
    this.bytes = options.byteFallback ? byteTokens((token) => ids.get(token)) : undefined;
    let least = Number.POSITIVE_INFINITY;
    this.trie = new UnitTrie();
    this.pieces = pieces;
    const usable: number[] = [];
    this.usable = usable;
    pieces.forEach((text, id) => {
      if (excluded?.has(id)) return;
      if (text !== "" && !options.hidden?.has(id)) {
        this.trie.add(text, id);
        usable.push(id);
      }
      if (userDefined?.has(id)) return;
      least = Math.min(least, scores[id]!);
    });
    this.unknownScore = single ? Math.fround(Math.fround(least) - UNKNOWN_PENALTY) : least - UNKNOWN_PENALTY;
    for (const id of userDefined ?? []) {
      // SentencePiece: any is worth more than what it could be cut into, which scores below zero, and longer ones are worth more.
      this.scores[id] = Math.fround(0.1 * (encodeUtf8(pieces[id]!).length - 1));
    }
  }

  /** The same model for the native kernels; undefined where it has no unknown piece, which they need. */
  nativeParts() {
    if (this.unknown === -1) return undefined;
    return {
      kind: "unigram",
      strings: this.usable.map((id) => this.pieces[id]!),
      ids: this.usable,
      unknown: this.unknown,
      unknownScore: this.unknownScore,
      scores: this.scores,
      single: this.single,
      bytes: this.bytes,
    } as const;
  }

  encode(text: string, ids: number[], spans?: number[]): void {
    const { trie, scores, unknown } = this;
    const length = text.length;
    if (this.best.length <= length) {
      this.best = new Float64Array(length * 2);
      this.from = new Int32Array(length * 2);
      this.piece = new Int32Array(length * 2);
    }
    const { best, from, piece, single } = this;
    from.fill(-1, 0, length + 1);
    best[0] = 0;
    let frontier = 0;
    for (let start = 0; start < length; ) {
      if (single && Math.abs(best[start]!) > REBASED) {
        const offset = best[start]!;
        for (let i = start; i <= frontier; i++) best[i] = Math.fround(best[i]! - offset);
      }
      const here = best[start]!;
      const unit = text.charCodeAt(start);
      const width = unit >= 0xd800 && unit <= 0xdbff ? 2 : 1;
      let whole = false;
      let node = 0;
      for (let end = start; end < length; ) {
        node = trie.step(node, text.charCodeAt(end++));
        if (node === -1) break;
        const id = trie.ids[node]!;
        if (id === -1) continue;
        if (end - start === width) whole = true;
        if (end > frontier) frontier = end;
        const score = single ? Math.fround(scores[id]! + here) : scores[id]! + here;
        if (from[end] === -1 || score > best[end]!) {
          best[end] = score;
          from[end] = start;
          piece[end] = id;
        }
      }
      if (!whole) {
        const end = start + width;
        if (end > frontier) frontier = end;
        const score = single ? Math.fround(this.unknownScore + here) : this.unknownScore + here;
        if (from[end] === -1 || score > best[end]!) {
          best[end] = score;
          from[end] = start;
          piece[end] = unknown;
        }
      }
      start += width;
    }
    this.collect(text, ids, spans);
  }

  /** The best path, unknown characters in a row as one token or as bytes. */
  private collect(text: string, ids: number[], spans?: number[]): void {
    const { from, piece, unknown, bytes } = this;
    const first = ids.length;
    const firstSpan = spans?.length ?? 0;
    for (let end = text.length; end > 0; ) {
      const start = from[end]!;
      const id = piece[end]!;
      if (id !== unknown) {
        ids.push(id);
        spans?.push(end, start);
        end = start;
        continue;
      }
      let begin = start;
      while (begin > 0 && piece[begin] === unknown) begin = from[begin]!;
      if (bytes !== undefined) {
        const encoded = encodeUtf8(text.slice(begin, end));
        for (let i = encoded.length - 1; i >= 0; i--) {
          ids.push(bytes[encoded[i]!]!);
          spans?.push(end, begin);
        }
      } else if (unknown === -1) {
        throw new InputError(
          `encode: ${JSON.stringify(text.slice(begin, end))} is not in the vocabulary, and there is no unknown token.`,
        );
      } else {
        ids.push(unknown);
        spans?.push(end, begin);
      }
      end = begin;
    }
    // Pushed from the end; turned round.
    reverseFrom(ids, first);
    if (spans !== undefined) reverseFrom(spans, firstSpan);
  }
}

function reverseFrom(list: number[], first: number): void {
  for (let i = first, j = list.length - 1; i < j; i++, j--) {
    const swap = list[i]!;
    list[i] = list[j]!;
    list[j] = swap;
  }
}

/** A trie over UTF-16 units; transitions in one open-addressing table, so that a step is a multiplication and a look. */
export class UnitTrie {
  /** node -> id of the piece that ends there, or -1 */
  ids = new Int32Array(1024).fill(-1);
  private nodes = 1;
  private keys = new Float64Array(4096).fill(-1);
  private targets = new Int32Array(4096);

  add(text: string, id: number): void {
    let node = 0;
    for (let i = 0; i < text.length; i++) {
      const next = this.step(node, text.charCodeAt(i));
      node = next === -1 ? this.grow(node, text.charCodeAt(i)) : next;
    }
    // Of two pieces with the same text the later one counts, as in a map that is filled in order.
    this.ids[node] = id;
  }

  /** The node after `unit`, or -1. */
  step(node: number, unit: number): number {
    const { keys } = this;
    const mask = keys.length - 1;
    const key = node * 0x10000 + unit;
    for (let at = slot(node, unit) & mask; ; at = (at + 1) & mask) {
      if (keys[at] === key) return this.targets[at]!;
      if (keys[at] === -1) return -1;
    }
  }

  private grow(node: number, unit: number): number {
    if ((this.nodes + 1) * 2 > this.keys.length) this.rehash();
    if (this.nodes + 1 >= this.ids.length) {
      const larger = new Int32Array(this.ids.length * 2).fill(-1);
      larger.set(this.ids);
      this.ids = larger;
    }
    const target = this.nodes++;
    this.put(node * 0x10000 + unit, target);
    return target;
  }

  private put(key: number, target: number): void {
    const mask = this.keys.length - 1;
    const node = Math.floor(key / 0x10000);
    let at = slot(node, key - node * 0x10000) & mask;
    while (this.keys[at] !== -1) at = (at + 1) & mask;
    this.keys[at] = key;
    this.targets[at] = target;
  }

  private rehash(): void {
    const { keys, targets } = this;
    this.keys = new Float64Array(keys.length * 2).fill(-1);
    this.targets = new Int32Array(keys.length * 2);
    for (let i = 0; i < keys.length; i++) if (keys[i] !== -1) this.put(keys[i]!, targets[i]!);
  }
}

function slot(node: number, unit: number): number {
  const h = Math.imul(node ^ Math.imul(unit, 0x85ebca6b), 0x9e3779b1);
  return (h ^ (h >>> 15)) >>> 0;
}
