import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import { writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import { AddedTokenMatcher, recognisable } from "./added-tokens.ts";
import { decodeUtf8, incompleteTail, wellFormed } from "./bytes.ts";
import { Charsmap } from "./charsmap.ts";
import { aroundEach, type Encoding, type EncodingInput, encodingsOf, Gatherer } from "./encoding.ts";
import { NO_FRAME } from "./file-tokenizer.ts";
import { specialTokenName, type TokenizerConfig } from "./folder.ts";
import { byteTokens } from "./models.ts";
import { nativeText } from "./native.ts";
import { encodePlans } from "./native-batch.ts";
import { NativePieces } from "./native-pieces.ts";
import { Fields } from "./protobuf.ts";
import type { AddedToken } from "./schema.ts";
import { ScoredBpe } from "./scored-bpe.ts";
import type {
  AllowedSpecial,
  DecodeOptions,
  EncodeManyOptions,
  EncodeOptions,
  EncodingOptions,
  StreamOptions,
  Tokenizer,
  TokenStream,
} from "./types.ts";
import { UnigramModel } from "./unigram.ts";

/** Texts shorter than this are not worth a call into the native code. */
const NATIVE_LENGTH = 64;

/** What a piece is (`ModelProto.SentencePiece.Type`). */
export const PIECE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** A SentencePiece model, as its `.model` file or a GGUF file holds it. */
export interface SentencePieceParts {
  readonly type: "unigram" | "bpe";
  readonly pieces: readonly string[];
  readonly scores: Float32Array;
  /** A value of PIECE for each piece. */
  readonly types: Uint8Array;
  readonly charsmap: Uint8Array;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
  readonly whitespaceAsSuffix: boolean;
  readonly byteFallback: boolean;
  /** What an unknown piece decodes to. */
  readonly unknownSurface: string;
  /** Beginning, end and padding; -1 for none. */
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  /** Whether encoding adds them (the model itself never does; a GGUF file or `tokenizer_config.json` says so). */
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** The unknown piece, where not the one of that type. */
  readonly unknownId?: number | undefined;
  /**
   * Tokens that are found in the text itself, before it is normalised, each part between them as a text of its own, as llama.cpp does it.
   * Where this is given, pieces that a user defined are among them, and unused ones are as good as others.
   */
  readonly added?: readonly AddedToken[];
}

/**
 * Reads a `.model` file (sentencepiece_model.proto).
 * @param place file name for messages
 * @throws InputError when it is cut short, or uses something this reader does not know
 */
export function parseSentencePiece(file: Uint8Array, place: string): SentencePieceParts {
  const model = new Fields(file, place);
  const pieces: string[] = [];
  const scores: number[] = [];
  const types: number[] = [];
  const places = new Map<string, number>();
  for (const bytes of model.messages(1)) {
    const piece = new Fields(bytes, place);
    const text = piece.text(1) ?? "";
    const score = piece.float(2) ?? 0;
    const type = piece.number(3) ?? PIECE.normal;
    const id = pieces.length;
    const wrong = (what: string): InputError =>
      new InputError(`${place}: piece ${id}, ${JSON.stringify(text)}, ${what}.`);
    if (text === "") throw wrong("has no text");
    if (places.has(text)) throw wrong(`is piece ${places.get(text)} already`);
    if (Number.isNaN(score)) throw wrong("has a score that is no number");
    if (!Object.values<number>(PIECE).includes(type)) {
      throw wrong(`has the unknown type ${type}; known are ${Object.entries(PIECE).flat().join(" ")}`);
    }
    places.set(text, id);
    pieces.push(text);
    scores.push(score);
    types.push(type);
  }
  if (pieces.length === 0) throw new InputError(`${place}: no pieces in it. Is it a SentencePiece model?`);
  const trainer = new Fields(model.bytes(2) ?? new Uint8Array(0), place);
  const normalizer = new Fields(model.bytes(3) ?? new Uint8Array(0), place);
  const denormalizer = new Fields(model.bytes(5) ?? new Uint8Array(0), place);
  const kind = trainer.number(3) ?? 1;
  const type = kind === 1 ? "unigram" : kind === 2 ? "bpe" : undefined;
  if (type === undefined) {
    throw new InputError(
      `${place}: the model type ${["", "", "", "WORD", "CHAR"][kind] ?? kind} is not supported; known are UNIGRAM and BPE.`,
    );
  }
  if ((denormalizer.bytes(2)?.length ?? 0) > 0) throw new InputError(`${place}: a denormalizer is not supported yet.`);
  const idOf = (field: number, usual: number): number => {
    const id = trainer.number(field) ?? usual;
    return id < pieces.length && types[id] === PIECE.control ? id : -1;
  };
  return {
    type,
    pieces,
    scores: Float32Array.from(scores),
    types: Uint8Array.from(types),
    charsmap: normalizer.bytes(2) ?? new Uint8Array(0),
    addDummyPrefix: (normalizer.number(3) ?? 1) !== 0,
    removeExtraWhitespaces: (normalizer.number(4) ?? 1) !== 0,
    escapeWhitespaces: (normalizer.number(5) ?? 1) !== 0,
    whitespaceAsSuffix: (trainer.number(24) ?? 0) !== 0,
    byteFallback: types.includes(PIECE.byte),
    unknownSurface: trainer.text(44) ?? " \u2047 ",
    bosId: idOf(41, 1),
    eosId: idOf(42, 2),
    padId: idOf(43, -1),
    addBos: false,
    addEos: false,
  };
}

const SPACE = "\u2581";

/** A tokenizer from a SentencePiece model (Kudo and Richardson 2018), of type BPE or Unigram: the ids of `sentencepiece` itself. */
export class SentencePieceTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly chatTemplate: string | undefined;

  private readonly parts: SentencePieceParts;
  private readonly source: Uint8Array | undefined;
  private readonly config: TokenizerConfig;
  private readonly ids: ReadonlyMap<string, number>;
  private readonly unknown: number;
  private readonly model: UnigramModel | ScoredBpe;
  /** The native encoder; null where there is none, undefined before it was asked for. */
  private native: NativePieces | null | undefined;
  private readonly charsmap: Charsmap | undefined;
  private readonly userDefined: AddedTokenMatcher;
  /** Whether a piece of a user's has a space in it. */
  private readonly spacedPieces: boolean;
  private readonly added: readonly AddedToken[];
  /** What `matcherFor` gave. */
  private readonly matchers = new Map<string, AddedTokenMatcher>();
  private readonly bytes: ReadonlyMap<number, number>;

  /**
   * @param source the `.model` file, kept for `save`
   * @throws InputError when the parts do not fit together
   */
  constructor(parts: SentencePieceParts, config: TokenizerConfig = {}, source?: Uint8Array) {
    this.parts = parts;
    this.config = config;
    this.source = source;
    const { pieces, types, scores } = parts;
    this.vocabularySize = pieces.length;
    this.unknown = parts.unknownId ?? types.indexOf(PIECE.unknown);
    if (this.unknown === -1) throw new InputError("The SentencePiece model has no unknown piece.");
    const ids = new Map<string, number>();
    pieces.forEach((piece, id) => {
      if (!ids.has(piece)) ids.set(piece, id);
    });
    this.ids = ids;
    const of = (type: number): number[] => pieces.flatMap((_, id) => (types[id] === type ? [id] : []));
    this.specialTokens = new Map([this.unknown, ...of(PIECE.control)].map((id) => [pieces[id]!, id]));
    this.bosId = this.named("bos_token") ?? valid(parts.bosId);
    this.eosId = this.named("eos_token") ?? valid(parts.eosId);
    this.padId = this.named("pad_token") ?? valid(parts.padId);
    this.chatTemplate = config.chat_template;
    this.charsmap = parts.charsmap.length === 0 ? undefined : new Charsmap(parts.charsmap);
    const apart = parts.added !== undefined;
    const userDefined = apart ? [] : of(PIECE.userDefined);
    const token = (id: number) => ({
      id,
      content: pieces[id]!,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: false,
    });
    this.userDefined = new AddedTokenMatcher(userDefined.map(token), (content) => content);
    this.spacedPieces = userDefined.some((id) => pieces[id]!.includes(" "));
    this.added = parts.added ?? [...this.specialTokens.values()].map((id) => ({ ...token(id), special: true }));
    const bytes = parts.byteFallback ? byteTokens((text) => ids.get(text)) : undefined;
    if (parts.byteFallback && bytes === undefined) {
      throw new InputError("The SentencePiece model has byte pieces, but not all of <0x00> to <0xFF>.");
    }
    this.bytes = new Map(Array.from(bytes ?? [], (id, byte) => [id, byte]));
    const usable = (id: number): boolean =>
      types[id] === PIECE.normal || types[id] === PIECE.userDefined || (apart && types[id] === PIECE.unused);
    const excluded = new Set(pieces.flatMap((_, id) => (usable(id) ? [] : [id])));
    this.model =
      parts.type === "unigram"
        ? new UnigramModel({
            pieces,
            scores: Float64Array.from(scores),
            unknown: this.unknown,
            byteFallback: parts.byteFallback,
            excluded,
            userDefined: new Set(userDefined),
            single: true,
          })
        : new ScoredBpe(parts, this.unknown, bytes, this.userDefined);
  }

  private named(key: "bos_token" | "eos_token" | "pad_token"): number | undefined {
    const name = specialTokenName(this.config, key);
    return name === undefined ? undefined : this.ids.get(name);
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const { addSpecialTokens = true, allowedSpecial = "none" } = options;
    const native = text.length < NATIVE_LENGTH ? undefined : this.nativeEncoder();
    const { before, after } = addSpecialTokens ? this.frame : NO_FRAME;
    const ids: number[] = [...before];
    for (const item of this.planOf(text, allowedSpecial)) {
      if (typeof item === "number") ids.push(item);
      else {
        const made = native?.encode(item) ?? [];
        for (const id of made) ids.push(id);
        // A text of which nothing is left has rules of its own.
        const normalized = made.length > 0 ? "" : this.normalize(item);
        if (normalized !== "") this.model.encode(normalized, ids);
      }
    }
    ids.push(...after);
    return ids;
  }

  async encodeMany(
    texts: readonly (string | Uint8Array)[],
    options: EncodeManyOptions = {},
  ): Promise<Uint32Array<ArrayBuffer>[]> {
    const { addSpecialTokens = true, allowedSpecial = "none", threads = 0 } = options;
    const native = this.nativeEncoder();
    const strings = texts.map((text) => (typeof text === "string" ? text : decodeUtf8(text)));
    if (native === undefined) return strings.map((text) => Uint32Array.from(this.encode(text, options)));
    const { before, after } = addSpecialTokens ? this.frame : NO_FRAME;
    const encoded = await encodePlans(
      strings.map((text) => this.planOf(text, allowedSpecial)),
      native.batch(threads),
      before,
      after,
    );
    // A text of which nothing is left has rules of its own.
    const nothing = before.length + after.length;
    return encoded.map((ids, i) =>
      ids.length === nothing && strings[i] !== "" ? Uint32Array.from(this.encode(strings[i]!, options)) : ids,
    );
  }

  /** Special tokens that were found, and the text between them. */
  private planOf(text: string, allowed: AllowedSpecial): (number | string)[] {
    return this.matcherFor(allowed)
      .split(wellFormed(text))
      .map((segment) => ("id" in segment ? segment.id : segment.text));
  }

  private matcherFor(allowed: AllowedSpecial): AddedTokenMatcher {
    const key = typeof allowed === "string" ? allowed : JSON.stringify([...allowed].sort());
    let matcher = this.matchers.get(key);
    if (matcher === undefined) {
      matcher = new AddedTokenMatcher(recognisable(this.added, allowed), (content) => content);
      this.matchers.set(key, matcher);
    }
    return matcher;
  }

  /** The native encoder, where the kernels are built and know this model; it gives the same ids. */
  private nativeEncoder(): NativePieces | undefined {
    if (this.native === undefined) {
      const { addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces, whitespaceAsSuffix, charsmap } = this.parts;
      const known = this.userDefined.empty && escapeWhitespaces && !whitespaceAsSuffix;
      const text = known ? nativeText() : undefined;
      const parts = text && this.model.nativeParts();
      const shape = {
        shape: "sentencepiece",
        dummyPrefix: addDummyPrefix,
        removeExtra: removeExtraWhitespaces,
      } as const;
      this.native = text && parts ? NativePieces.make(text, { ...parts, ...shape, map: charsmap }) : null;
    }
    return this.native ?? undefined;
  }

  /** Beginning and end, where encoding adds them. */
  private get frame(): { readonly before: readonly number[]; readonly after: readonly number[] } {
    const addsEos = this.parts.addEos || this.config.add_eos_token === true;
    return {
      before: this.addsBos && this.bosId !== undefined ? [this.bosId] : [],
      after: addsEos && this.eosId !== undefined ? [this.eosId] : [],
    };
  }

  private get addsBos(): boolean {
    return this.parts.addBos || this.config.add_bos_token === true;
  }

  encodeBatch(texts: readonly string[], options: EncodeOptions = {}): number[][] {
    return texts.map((text) => this.encode(text, options));
  }

  /**
   * Offsets are those of SentencePiece's own output: the white space that a piece's space symbols stand for belongs to it, and of the bytes of a
   * character the last one has the character, the others nothing. Words begin where a piece begins with the space symbol.
   */
  encoding(text: string, second?: string, options: EncodingOptions = {}): Encoding {
    return this.encodings([second === undefined ? text : [text, second]], options)[0]!;
  }

  encodings(inputs: readonly EncodingInput[], options: EncodingOptions = {}): Encoding[] {
    const { before, after } = this.frame;
    const post_processor = aroundEach(before, after, (id) => this.parts.pieces[id]!);
    return encodingsOf(inputs, options, { truncation: null, padding: null, post_processor }, (text, which) =>
      this.sequence(wellFormed(text), which, options),
    );
  }

  private sequence(text: string, which: 0 | 1, { allowedSpecial = "none", offsets }: EncodingOptions): Encoding {
    const { pieces } = this.parts;
    const gatherer = new Gatherer(text, which, offsets);
    let word = -1;
    for (const segment of this.matcherFor(allowedSpecial).split(text)) {
      if ("id" in segment) {
        gatherer.add(segment.id, pieces[segment.id]!, segment.start, segment.end, ++word);
        continue;
      }
      const { text: normalized, places } = this.aligned(segment.text);
      const ids: number[] = [];
      const spans: number[] = [];
      if (normalized !== "") this.model.encode(normalized, ids, spans);
      if (this.parts.type === "unigram") bytesApart(normalized, ids, spans, this.bytes);
      ids.forEach((id, i) => {
        const start = spans[2 * i]!;
        if (start === 0 || normalized[start] === SPACE) word++;
        const [from, to] = [places[start]!, places[spans[2 * i + 1]!]!];
        gatherer.add(id, pieces[id]!, segment.start + from, segment.start + to, word);
      });
    }
    return gatherer.encoding;
  }

  /** What `normalize` makes of a text, and for each of its units, and its end, the place in the text that it comes from. */
  private aligned(text: string): { readonly text: string; readonly places: readonly number[] } {
    const { addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces, whitespaceAsSuffix } = this.parts;
    const units: string[] = [];
    const places: number[] = [];
    /** Whether something else than a space was there, even if nothing became of it. */
    let solid = !removeExtraWhitespaces;
    /** Spaces after one are left out, but for those inside of what is taken as one thing: a user's piece, what a character becomes. */
    let spaced = removeExtraWhitespaces;
    const put = (made: string, placeOf: (unit: number) => number): void => {
      solid ||= made !== " ";
      let from = 0;
      while (spaced && made[from] === " ") from++;
      for (let i = from; i < made.length; i++) {
        units.push(made[i]!);
        places.push(placeOf(i));
      }
      if (from < made.length) spaced = removeExtraWhitespaces && made.endsWith(" ");
    };
    const copy = (start: number, end: number): void => {
      for (let i = start; i < end; i++) put(text[i]!, () => i);
    };
    for (const segment of this.userDefined.split(text)) {
      if ("id" in segment) {
        put(text.slice(segment.start, segment.end), (unit) => segment.start + unit);
        continue;
      }
      let copied = 0;
      this.charsmap?.eachLongest(segment.text, (start, end, made) => {
        copy(segment.start + copied, segment.start + start);
        put(made, () => segment.start + start);
        copied = end;
      });
      copy(segment.start + copied, segment.start + segment.text.length);
    }
    let end = text.length;
    /** Without the units from `stop` on. */
    const cutTo = (stop: number): void => {
      if (stop === units.length) return;
      end = places[stop]!;
      units.length = stop;
      places.length = stop;
    };
    const endWithout = (symbol: string): number => {
      let stop = units.length;
      while (stop > 0 && units[stop - 1] === symbol) stop--;
      return stop;
    };
    if (text === "" || !solid) return { text: "", places: [end] };
    if (addDummyPrefix && !whitespaceAsSuffix) {
      units.unshift(" ");
      places.unshift(places[0] ?? end);
    }
    if (escapeWhitespaces) for (const [i, unit] of units.entries()) if (unit === " ") units[i] = SPACE;
    // Space symbols that the text itself ends with go as well, as in SentencePiece.
    if (removeExtraWhitespaces) cutTo(endWithout(escapeWhitespaces ? SPACE : " "));
    if (addDummyPrefix && whitespaceAsSuffix) {
      units.push(escapeWhitespaces ? SPACE : " ");
      places.push(end);
    }
    places.push(end);
    return { text: units.join(""), places };
  }

  /** The text as the model sees it: characters mapped, spaces visible, collapsed where the model says so, one put in front. */
  private normalize(text: string): string {
    const { addDummyPrefix, removeExtraWhitespaces, escapeWhitespaces, whitespaceAsSuffix } = this.parts;
    let out = this.mapped(text);
    if (removeExtraWhitespaces) out = out.replace(/^ +| +$/g, "").replace(/ {2,}/g, " ");
    // Rules that turn on what was there before: they are in one place.
    if (out === "" || (removeExtraWhitespaces && this.spacedPieces)) return this.aligned(text).text;
    if (addDummyPrefix && !whitespaceAsSuffix) out = ` ${out}`;
    if (escapeWhitespaces) out = out.replaceAll(" ", SPACE);
    // Space symbols that the text itself ends with go as well, as in SentencePiece.
    if (removeExtraWhitespaces && escapeWhitespaces) out = out.replace(/\u2581+$/, "");
    return addDummyPrefix && whitespaceAsSuffix ? out + (escapeWhitespaces ? SPACE : " ") : out;
  }

  /** Characters mapped, the longest key at each place; pieces a user defined stay as they are. */
  private mapped(text: string): string {
    const { charsmap } = this;
    if (charsmap === undefined) return text;
    if (this.userDefined.empty) return charsmap.normalize(text);
    return this.userDefined
      .split(text)
      .map((segment) => ("id" in segment ? this.parts.pieces[segment.id]! : charsmap.normalize(segment.text)))
      .join("");
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const stream = this.stream(options);
    return ids.map((id) => stream.push(id)).join("") + stream.end();
  }

  stream({ skipSpecialTokens = false, after = [] }: StreamOptions = {}): TokenStream {
    const { parts } = this;
    /** Bytes of a character that is not complete yet. */
    let bytes: number[] = [];
    /** Whether any text came out, and whether the space in front of the text has been dropped. */
    let begun = false;
    let dropped = false;
    const said = (text: string): string => {
      begun ||= text !== "";
      return text;
    };
    const flush = (): string => {
      const rest = "\ufffd".repeat(bytes.length);
      bytes = [];
      return said(rest);
    };
    const push = (id: number): string => {
      const piece = parts.pieces[id];
      if (piece === undefined) {
        throw new InputError(`decode: there is no token with id ${id}; ids go from 0 to ${this.vocabularySize - 1}.`);
      }
      const byte = this.bytes.get(id);
      if (byte !== undefined) {
        bytes.push(byte);
        const ready = completed(bytes);
        return said(ready);
      }
      const before = flush();
      const type = parts.types[id];
      // sentencepiece leaves control pieces out; here that is asked for, as everywhere else.
      if (type === PIECE.control) return before + said(skipSpecialTokens ? "" : piece);
      if (type === PIECE.unknown) return before + said(skipSpecialTokens ? "" : parts.unknownSurface);
      let rest = piece;
      if (!begun && !dropped && (parts.addDummyPrefix || parts.removeExtraWhitespaces) && rest.startsWith(SPACE)) {
        rest = rest.slice(1);
        dropped = !parts.removeExtraWhitespaces;
      }
      return before + said(rest.replaceAll(SPACE, " "));
    };
    for (const id of after) push(id);
    bytes = [];
    return { push, end: flush };
  }

  tokenId(token: string): number | undefined {
    return this.ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.parts.pieces[id];
  }

  async save(folder: string): Promise<void> {
    if (this.source === undefined) {
      throw new InputError(
        "This tokenizer came without a SentencePiece file, so there is none to write. Keep the file it came in.",
      );
    }
    writeFileAtomic(join(folder, "tokenizer.model"), this.source);
    writeFileAtomic(join(folder, "tokenizer_config.json"), `${JSON.stringify(this.config, null, 2)}\n`);
  }
}

/** Spans of the bytes of unknown characters: from the whole run of them to the character each ends, or nothing. */
function bytesApart(text: string, ids: readonly number[], spans: number[], bytes: ReadonlyMap<number, number>): void {
  let at = 0;
  let left = 0;
  for (let i = 0; i < ids.length; i++) {
    if (!bytes.has(ids[i]!)) continue;
    const sameRun = i > 0 && bytes.has(ids[i - 1]!);
    if (!sameRun) at = spans[2 * i]!;
    const character = String.fromCodePoint(text.codePointAt(at)!);
    if (left === 0) left = Buffer.byteLength(character);
    left--;
    spans[2 * i] = at;
    if (left === 0) at += character.length;
    spans[2 * i + 1] = at;
  }
}

const valid = (id: number): number | undefined => (id < 0 ? undefined : id);

/**
 * Takes what is certain off the front of `bytes`, as text: sentencepiece reads one U+FFFD for each byte that is not part of a character.
 * Left in it is the beginning of a character that more bytes may complete.
 */
function completed(bytes: number[]): string {
  let out = "";
  while (bytes.length > 0) {
    const lead = bytes[0]!;
    const width = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const part = Uint8Array.from(bytes.slice(0, width));
    if (part.length < width && incompleteTail(part) === part.length) break;
    const whole = part.length === width && isUtf8(part);
    out += whole ? decodeUtf8(part) : "\ufffd";
    bytes.splice(0, whole ? width : 1);
  }
  return out;
}
