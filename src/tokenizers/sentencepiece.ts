import { join } from "node:path";
import { writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import { specialMatcher } from "./added-tokens.ts";
import { NumberHeap } from "./bpe.ts";
import { encodeUtf8, Utf8Stream, wellFormed } from "./bytes.ts";
import { aroundEach, type Encoding, type EncodingInput, encodingsOf, Gatherer } from "./encoding.ts";
import type { DecodeOptions, EncodeOptions, EncodingOptions, StreamOptions, Tokenizer, TokenStream } from "./types.ts";

/** A SentencePiece vocabulary of type BPE: each piece's text and score; the best score among neighbours is merged first. */
export interface ScoredPieces {
  /** Piece texts as bytes; the index is the id. Spaces are spaces (U+2581 already replaced). */
  readonly pieces: readonly Uint8Array[];
  readonly scores: Float32Array;
}

const BOS = 1;
const EOS = 2;
/** Byte 0 has this id: 0, 1 and 2 are unknown, beginning and end. */
const FIRST_BYTE = 3;
/** Score and position share one number in the heap; scores are turned into ranks first. */
const POSITIONS = 0x1_0000_0000;

/**
 * The tokenizer of llama2.c (its `tokenizer.bin`): SentencePiece BPE with a dummy leading space and byte fallback.
 * Ids are those of its `encode`: characters first, bytes where a character has no piece, then merges by best score.
 */
export class Llama2cTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly specialTokens: ReadonlyMap<string, number> = new Map([
    ["<unk>", 0],
    ["<s>", BOS],
    ["</s>", EOS],
  ]);
  readonly bosId = BOS;
  readonly eosId = EOS;
  readonly padId = undefined;
  readonly chatTemplate = undefined;

  private readonly source: Uint8Array;
  private readonly pieces: readonly Uint8Array[];
  private readonly strings: readonly string[];
  private readonly ids: ReadonlyMap<string, number>;
  /** id -> place in the order of merging: 0 is the best score; equal scores share a place. */
  private readonly places: Int32Array;

  private constructor(source: Uint8Array, { pieces, scores }: ScoredPieces) {
    this.source = source;
    this.vocabularySize = pieces.length;
    this.strings = pieces.map((piece, id) =>
      id <= EOS
        ? ([...this.specialTokens.keys()][id] as string)
        : new TextDecoder("utf-8", { ignoreBOM: true }).decode(piece),
    );
    this.pieces = pieces.map((piece, id) => rawByte(this.strings[id]!) ?? piece);
    const ids = new Map<string, number>();
    for (let id = FIRST_BYTE; id < pieces.length; id++) {
      if (!ids.has(this.strings[id]!)) ids.set(this.strings[id]!, id);
    }
    this.ids = ids;
    const levels = [...new Set(scores)].sort((a, b) => b - a);
    const placeOf = new Map(levels.map((score, place) => [score, place]));
    this.places = Int32Array.from(scores, (score) => placeOf.get(score)!);
  }

  /**
   * Reads llama2.c's file: int32 longest piece, then for each piece float32 score, int32 length, bytes (little-endian).
   * @param place file name for messages
   */
  static parse(file: Uint8Array, place: string): Llama2cTokenizer {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    const broken = (at: number): InputError =>
      new InputError(`${place}: not a llama2.c tokenizer: the piece at byte ${at} runs past the end of the file.`);
    const pieces: Uint8Array[] = [];
    const scores: number[] = [];
    let at = 4;
    while (at < file.length) {
      if (at + 8 > file.length) throw broken(at);
      const length = view.getInt32(at + 4, true);
      if (length < 0 || at + 8 + length > file.length) throw broken(at);
      scores.push(view.getFloat32(at, true));
      pieces.push(file.slice(at + 8, at + 8 + length));
      at += 8 + length;
    }
    if (pieces.length < FIRST_BYTE + 256) {
      throw new InputError(`${place}: ${pieces.length} pieces; a llama2.c tokenizer has at least ${FIRST_BYTE + 256}.`);
    }
    return new Llama2cTokenizer(file.slice(), { pieces, scores: Float32Array.from(scores) });
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const { addSpecialTokens = true, allowedSpecial = "none" } = options;
    const ids: number[] = addSpecialTokens ? [BOS] : [];
    for (const segment of specialMatcher(this.specialTokens, allowedSpecial).split(wellFormed(text))) {
      if ("id" in segment) ids.push(segment.id);
      else for (const id of this.encodePlain(segment.text)) ids.push(id);
    }
    return ids;
  }

  /**
   * Offsets as SentencePiece gives them: of the bytes of a character the last one has the character, the others nothing. Words begin where a piece
   * begins with a space.
   */
  encoding(text: string, second?: string, options: EncodingOptions = {}): Encoding {
    return this.encodings([second === undefined ? text : [text, second]], options)[0]!;
  }

  encodings(inputs: readonly EncodingInput[], options: EncodingOptions = {}): Encoding[] {
    const post_processor = aroundEach([BOS], [], (id) => this.strings[id]!);
    return encodingsOf(inputs, options, { truncation: null, padding: null, post_processor }, (text, which) =>
      this.sequence(wellFormed(text), which, options),
    );
  }

  private sequence(text: string, which: 0 | 1, { allowedSpecial = "none", offsets }: EncodingOptions): Encoding {
    const gatherer = new Gatherer(text, which, offsets);
    let word = -1;
    for (const segment of specialMatcher(this.specialTokens, allowedSpecial).split(text)) {
      if ("id" in segment) {
        gatherer.add(segment.id, this.strings[segment.id]!, segment.start, segment.end, ++word);
        continue;
      }
      const starts: number[] = [];
      const ids = this.encodePlain(segment.text, starts);
      ids.forEach((id, i) => {
        if (this.strings[id]!.startsWith(" ") || i === 0) word++;
        const end = segment.start + (starts[i + 1] ?? segment.text.length);
        gatherer.add(id, this.strings[id]!, segment.start + starts[i]!, end, word);
      });
    }
    return gatherer.encoding;
  }

  /**
   * One stretch of text without special tokens: a leading space, pieces of single characters, then merges.
   * @param starts receives where each piece begins
   */
  private encodePlain(text: string, starts: number[] = []): number[] {
    if (text === "") return [];
    const symbols: number[] = [];
    // The space in front stands at the place of the first character.
    let at = -1;
    for (const character of ` ${text}`) {
      const id = this.ids.get(character);
      const made = id === undefined ? Array.from(encodeUtf8(character), (byte) => FIRST_BYTE + byte) : [id];
      for (const symbol of made) {
        symbols.push(symbol);
        starts.push(Math.max(0, at));
      }
      at += character.length;
    }
    return this.mergeByScore(symbols, starts);
  }

  /** Merges the neighbours that make the piece with the best score, the leftmost among equals, until none is left. */
  private mergeByScore(symbols: number[], starts: number[]): number[] {
    const count = symbols.length;
    const next = Int32Array.from(symbols, (_, i) => (i + 1 < count ? i + 1 : -1));
    const previous = Int32Array.from(symbols, (_, i) => i - 1);
    const queue = new NumberHeap(count);
    const madeOf = new Map<number, number>();
    const makes = (left: number, right: number): number => {
      const key = left * this.vocabularySize + right;
      let made = madeOf.get(key);
      if (made === undefined) {
        made = this.ids.get(this.strings[left]! + this.strings[right]!) ?? -1;
        madeOf.set(key, made);
      }
      return made;
    };
    const offer = (at: number): void => {
      const made = next[at] === -1 ? -1 : makes(symbols[at]!, symbols[next[at]!]!);
      if (made !== -1) queue.push(this.places[made]! * POSITIONS + at);
    };
    for (let i = 0; i + 1 < count; i++) offer(i);
    for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
      const place = Math.floor(key / POSITIONS);
      const at = key - place * POSITIONS;
      const right = next[at]!;
      if (symbols[at] === -1 || right === -1) continue;
      const made = makes(symbols[at]!, symbols[right]!);
      if (made === -1 || this.places[made] !== place) continue; // stale
      symbols[at] = made;
      symbols[right] = -1;
      next[at] = next[right]!;
      if (next[right] !== -1) previous[next[right]!] = at;
      offer(at);
      if (previous[at] !== -1) offer(previous[at]!);
    }
    let kept = 0;
    symbols.forEach((id, i) => {
      if (id === -1) return;
      symbols[kept] = id;
      starts[kept++] = starts[i]!;
    });
    symbols.length = kept;
    starts.length = kept;
    return symbols;
  }

  encodeBatch(texts: readonly string[], options: EncodeOptions = {}): number[][] {
    return texts.map((text) => this.encode(text, options));
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const stream = this.stream(options);
    return ids.map((id) => stream.push(id)).join("") + stream.end();
  }

  stream(options: StreamOptions = {}): TokenStream {
    const utf8 = new Utf8Stream();
    const { skipSpecialTokens = false, after = [] } = options;
    let atStart = after.every((id) => id === BOS);
    return {
      push: (id) => {
        const piece = this.pieces[id];
        if (piece === undefined) {
          throw new InputError(`decode: there is no token with id ${id}; ids go from 0 to ${this.vocabularySize - 1}.`);
        }
        if (id <= EOS) return skipSpecialTokens ? "" : utf8.end() + this.strings[id]!;
        // The space that encoding put in front of the text.
        const dropped = atStart && piece[0] === 0x20 ? 1 : 0;
        atStart = false;
        return utf8.push(piece.subarray(dropped));
      },
      end: () => utf8.end(),
    };
  }

  tokenId(token: string): number | undefined {
    return this.specialTokens.get(token) ?? this.ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.strings[id];
  }

  async save(folder: string): Promise<void> {
    writeFileAtomic(join(folder, "tokenizer.bin"), this.source);
  }
}

/** The byte that a piece of the form <0x0A> stands for. */
function rawByte(piece: string): Uint8Array | undefined {
  const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(piece)?.[1];
  return hex === undefined ? undefined : Uint8Array.of(Number.parseInt(hex, 16));
}
