import { InputError } from "../tensor/errors.ts";
import { BpeMerger } from "./bpe.ts";
import { encodeUtf8 } from "./bytes.ts";
import type { BpePart, TokenizerFile } from "./schema.ts";
import { UnigramModel } from "./unigram.ts";
import { WordLevelModel, WordPieceModel } from "./wordpiece.ts";

/** Turns one piece of text into ids. */
export interface PieceModel {
  /**
   * Appends the ids of `piece`, which is not empty and well formed.
   * @param spans receives, for each id, the start and the end in `piece` of what it stands for
   */
  encode(piece: string, ids: number[], spans?: number[]): void;
}

/**
 * The model of a `tokenizer.json`.
 * @param hidden ids that no text may become: special tokens that a text spells out
 * @param ranks of BPE's merges, where they are not their order
 */
export function modelOf(
  part: TokenizerFile["model"],
  hidden?: ReadonlySet<number>,
  ranks?: readonly number[],
): PieceModel {
  switch (part.type) {
    case "BPE":
      return new CharacterBpe(part, hidden, ranks);
    case "Unigram":
      return new UnigramModel({
        pieces: part.vocab.map(([piece]) => piece),
        scores: Float64Array.from(part.vocab, ([, score]) => asTokenizersReads(score)),
        unknown: part.unk_id ?? undefined,
        byteFallback: part.byte_fallback,
        hidden,
      });
    case "WordPiece":
      return new WordPieceModel(part, hidden);
    case "WordLevel":
      return new WordLevelModel(part, hidden);
  }
}

/**
 * A score as `tokenizers` reads it from JSON: the digits as one integer, divided by a power of ten, which is off by a bit now and then
 * (-9.330469131469727 becomes ...728). Where two cuts of a text are equally good, that bit decides.
 */
function asTokenizersReads(score: number): number {
  const found = /^(-?)(\d+)(?:\.(\d+))?(?:e([+-]\d+))?$/.exec(String(score));
  if (found === null) return score;
  const [, sign, whole, fraction = "", exponent = "0"] = found;
  const power = Number(exponent) - fraction.length;
  const digits = Number(whole! + fraction);
  const size = power < 0 ? digits / Number(`1e${-power}`) : digits * Number(`1e${power}`);
  return sign === "-" ? -size : size;
}

/** How a byte is written as a token: <0x00> ... <0xFF>. */
export const byteToken = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;

/** The ids of <0x00> ... <0xFF>, or undefined if one is missing. */
export function byteTokens(idOf: (token: string) => number | undefined): Int32Array | undefined {
  const ids = new Int32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    const id = idOf(byteToken(byte));
    if (id === undefined) return undefined;
    ids[byte] = id;
  }
  return ids;
}

/** BPE whose first symbols are characters, with bytes or an unknown token for those the vocabulary lacks. */
class CharacterBpe implements PieceModel {
  private readonly part: BpePart;
  private readonly hidden: ReadonlySet<number>;
  private readonly merger: BpeMerger;
  private readonly unknown: number;
  private readonly bytes: Int32Array;
  private buffer = new Int32Array(256);

  constructor(part: BpePart, hidden: ReadonlySet<number> = new Set(), ranks?: readonly number[]) {
    this.part = part;
    this.hidden = hidden;
    const { vocab } = part;
    const prefix = part.continuing_subword_prefix ?? "";
    const idOf = (token: string, left: string, right: string): number => {
      const id = vocab.get(token);
      if (id !== undefined) return id;
      throw new InputError(
        `merges: ${JSON.stringify(left)} + ${JSON.stringify(right)} needs ${JSON.stringify(token)}, which is not in the vocabulary.`,
      );
    };
    this.merger = new BpeMerger(
      part.merges.map(([left, right], i) => ({
        rank: ranks?.[i] ?? i,
        left: idOf(left, left, right),
        right: idOf(right, left, right),
        id: idOf(left + right.slice(prefix.length), left, right),
      })),
    );
    this.unknown = part.unk_token === null ? -1 : (vocab.get(part.unk_token) ?? -1);
    if (part.unk_token !== null && this.unknown === -1) {
      throw new InputError(`unk_token: ${JSON.stringify(part.unk_token)} is not in the vocabulary.`);
    }
    // A byte that the vocabulary lacks is -1: a character with such a byte is unknown.
    this.bytes = Int32Array.from({ length: 256 }, (_, byte) =>
      part.byte_fallback ? (vocab.get(byteToken(byte)) ?? -1) : -1,
    );
  }

  encode(piece: string, ids: number[], spans?: number[]): void {
    const { part, bytes } = this;
    if (part.ignore_merges) {
      const whole = part.vocab.get(piece);
      if (whole !== undefined && !this.hidden.has(whole)) {
        ids.push(whole);
        spans?.push(0, piece.length);
        return;
      }
    }
    const prefix = part.continuing_subword_prefix ?? "";
    const suffix = part.end_of_word_suffix ?? "";
    const room = piece.length * (3 + 3 * prefix.length) + 3 * suffix.length;
    if (this.buffer.length < room) this.buffer = new Int32Array(room * 2);
    const symbols = this.buffer;
    /** How many bytes of the piece each symbol stands for, as `tokenizers` counts: it adds these up, and knows no places. */
    const widths = spans === undefined ? undefined : new Int32Array(room);
    let length = 0;
    let unknownBytes = 0;
    const add = (symbol: number, bytes: number): void => {
      if (widths !== undefined) widths[length] = bytes;
      symbols[length++] = symbol;
    };
    const flush = (): void => {
      if (unknownBytes > 0) add(this.unknown, unknownBytes);
      unknownBytes = 0;
    };
    let at = 0;
    for (const character of piece) {
      let spelled = at === 0 ? character : prefix + character;
      at += character.length;
      if (at === piece.length) spelled += suffix;
      const id = part.vocab.get(spelled);
      if (id !== undefined) {
        flush();
        add(id, utf8Width(character));
        continue;
      }
      const encoded = part.byte_fallback ? encodeUtf8(spelled) : undefined;
      if (encoded?.every((byte) => bytes[byte] !== -1)) {
        for (const byte of encoded) add(bytes[byte]!, 1);
        continue;
      }
      if (this.unknown === -1) continue;
      if (!part.fuse_unk) flush();
      unknownBytes += utf8Width(character);
    }
    flush();
    const kept = this.merger.merge(symbols, length, widths);
    for (let i = 0; i < kept; i++) ids.push(symbols[i]!);
    if (spans === undefined || widths === undefined) return;
    const { starts, ends } = bytePlaces(piece);
    for (let i = 0, byte = 0; i < kept; i++) {
      const end = byte + widths[i]!;
      spans.push(starts[byte] ?? piece.length, ends[end - 1] ?? piece.length);
      byte = end;
    }
  }
}

const utf8Width = (character: string): number => {
  const point = character.codePointAt(0)!;
  return point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
};

/** For each byte of a text's UTF-8, where its character begins and ends in the text. */
function bytePlaces(text: string): { readonly starts: number[]; readonly ends: number[] } {
  const starts: number[] = [];
  const ends: number[] = [];
  let at = 0;
  for (const character of text) {
    for (let i = utf8Width(character); i > 0; i--) {
      starts.push(at);
      ends.push(at + character.length);
    }
    at += character.length;
  }
  return { starts, ends };
}
