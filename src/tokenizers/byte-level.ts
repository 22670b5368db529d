import { isUtf8 } from "node:buffer";
import { join } from "node:path";
import { writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import type { Segment } from "./added-tokens.ts";
import { BpeMerger } from "./bpe.ts";
import {
  BYTE_TO_CHARACTER,
  byteCharacters,
  decodeUtf8,
  encodeUtf8,
  tokenBytes,
  Utf8Stream,
  wellFormed,
} from "./bytes.ts";
import { FileTokenizer, NO_FRAME } from "./file-tokenizer.ts";
import { type TokenizerConfig, writeTokenizerFolder } from "./folder.ts";
import { encodePlans, type Plan } from "./native-batch.ts";
import { NativeEncoder } from "./native-encoder.ts";
import { type Cutter, cutterOf } from "./pieces.ts";
import type { BpePart, TokenizerFile } from "./schema.ts";
import type { AllowedSpecial, DecodeOptions, EncodeManyOptions, StreamOptions, TokenStream } from "./types.ts";

/** Words longer than this are not remembered, nor more words than this: text repeats short words. */
const CACHED_LENGTH = 64;
const CACHED_WORDS = 1 << 16;

/** Texts shorter than this are not worth a call into the native code. */
const NATIVE_LENGTH = 128;

/** What a file of tiktoken's has beyond a `tokenizer.json`. */
export interface TiktokenSource {
  /** The rank of each merge: that of the token it makes. */
  readonly ranks: readonly number[];
  /** The file, kept for `save`, and its name. */
  readonly source: string;
  readonly name: string;
}

/** A file that `ByteLevelTokenizer` takes: BPE over bytes, in a vocabulary that spells each byte as one character. */
export type ByteLevelFile = TokenizerFile & { readonly model: BpePart };

export function isByteLevel(file: TokenizerFile): file is ByteLevelFile {
  const { model, decoder, pre_tokenizer: part } = file;
  const steps = part?.type === "Sequence" ? part.pretokenizers : part === null ? [] : [part];
  // Bytes written as characters, and then the bytes of these: not what this tokenizer does.
  if (steps.slice(0, -1).some((step) => step.type === "ByteLevel" || step.type === "Sequence")) return false;
  const last = steps.at(-1);
  return (
    model.type === "BPE" &&
    !model.byte_fallback &&
    !model.continuing_subword_prefix &&
    !model.end_of_word_suffix &&
    last?.type === "ByteLevel" &&
    (decoder === null || decoder.type === "ByteLevel")
  );
}

/** Byte-level BPE (Radford et al. 2019, section 2.2), with the parts of `tokenizer.json` around it. */
export class ByteLevelTokenizer extends FileTokenizer {
  declare protected readonly file: ByteLevelFile;
  private readonly tiktoken: TiktokenSource | undefined;
  /** id -> the bytes it stands for. */
  private readonly bytes: (Uint8Array | undefined)[] = [];
  private readonly texts: (string | null | undefined)[] = [];
  /** byte -> id, -1 where the vocabulary lacks the byte. */
  private readonly byteIds: Int32Array;
  private readonly unknownId: number;
  private readonly merger: BpeMerger;
  private readonly cut: Cutter;
  private readonly cache = new Map<string, readonly number[]>();
  private buffer = new Int32Array(256);
  /** The native encoder; null where there is none, undefined before it was asked for. */
  private native: NativeEncoder | null | undefined;
  /** What `encoderFor` gives, once it was asked for. */
  private guarded: ByteLevelTokenizer | undefined;

  /** @throws InputError when the parts do not fit together (a merge of unknown tokens, no byte-level step, ...) */
  constructor(file: TokenizerFile, config: TokenizerConfig = {}, tiktoken?: TiktokenSource) {
    const dialect = tiktoken === undefined ? "oniguruma" : "fancy-regex";
    super(file, config, dialect);
    if (!isByteLevel(file)) {
      throw new InputError(
        "This is not byte-level BPE: the pre_tokenizer must be ByteLevel, or a Sequence that ends with it, and the decoder ByteLevel.",
      );
    }
    this.tiktoken = tiktoken;
    const { vocab } = file.model;
    for (const [token, id] of vocab) this.bytes[id] = tokenBytes(token) ?? encodeUtf8(token);
    for (const { id, content } of file.added_tokens) {
      const spelled = this.spelled(id);
      // The normalizer may have written bytes as characters. A content as it is stands for itself, where `tokenizers` takes "é" for a byte.
      this.bytes[id] = (spelled === content ? undefined : tokenBytes(spelled)) ?? encodeUtf8(spelled);
    }
    this.byteIds = Int32Array.from(BYTE_TO_CHARACTER, (character) => vocab.get(character) ?? -1);
    this.unknownId = this.requireUnknown();
    const ranks = tiktoken?.ranks;
    this.merger = new BpeMerger(
      file.model.merges.map(([left, right], i) => ({ ...this.mergeIds(left, right), rank: ranks?.[i] ?? i })),
    );
    this.cut = cutterOf(file.pre_tokenizer, { raw: true, dialect });
    if (file.decoder === null) {
      throw new InputError(
        "decoder: it is null, so text could not be given back. A byte-level tokenizer needs the decoder ByteLevel.",
      );
    }
  }

  protected override get mergeRanks(): readonly number[] | undefined {
    return this.tiktoken?.ranks;
  }

  /**
   * Who encodes: this tokenizer, or, unless all special tokens are allowed, one that makes them of no text. Its like is needed only where a
   * special token stands in the model's vocabulary and a merge or `ignore_merges` could give it.
   */
  private encoderFor(allowed: AllowedSpecial): ByteLevelTokenizer {
    if (allowed === "all") return this;
    this.guarded ??= this.withoutSpecial();
    return this.guarded;
  }

  private withoutSpecial(): ByteLevelTokenizer {
    const { vocab, merges, ignore_merges } = this.file.model;
    // One byte stays what it is: without its token it could not be written.
    const hidden = new Set<string>();
    for (const [token, id] of vocab) if (this.specialIds.has(id) && [...token].length > 1) hidden.add(token);
    const kept = merges.map(([left, right]) => ![left, right, left + right].some((token) => hidden.has(token)));
    if (hidden.size === 0 || (!ignore_merges && !kept.includes(false))) return this;
    const { unk_token } = this.file.model;
    // A name that no bytes spell.
    const renamed = (token: string): string => (hidden.has(token) ? `\ufdd0${token}` : token);
    const model = {
      ...this.file.model,
      vocab: new Map([...vocab].map(([token, id]) => [renamed(token), id])),
      merges: merges.filter((_, i) => kept[i]),
      unk_token: unk_token === null ? null : renamed(unk_token),
    };
    const file: ByteLevelFile = { ...this.file, model };
    const rankOf = (i: number): number => this.tiktoken?.ranks[i] ?? i;
    const merger = new BpeMerger(
      merges.flatMap(([left, right], i) => (kept[i] ? [{ ...this.mergeIds(left, right), rank: rankOf(i) }] : [])),
    );
    const tiktoken = this.tiktoken && { ...this.tiktoken, ranks: this.tiktoken.ranks.filter((_, i) => kept[i]) };
    const own = { file, merger, tiktoken, cache: new Map(), buffer: new Int32Array(256), native: undefined };
    // All else is this tokenizer's.
    const twin = Object.create(this) as ByteLevelTokenizer;
    Object.assign<object, typeof own>(twin, own);
    twin.guarded = twin;
    return twin;
  }

  private requireUnknown(): number {
    const name = this.file.model.unk_token;
    if (name === null) return -1;
    const id = this.file.model.vocab.get(name);
    if (id === undefined) throw new InputError(`unk_token: ${JSON.stringify(name)} is not in the vocabulary.`);
    return id;
  }

  private mergeIds(left: string, right: string): { left: number; right: number; id: number } {
    const { vocab } = this.file.model;
    const idOf = (token: string): number => {
      const id = vocab.get(token);
      if (id !== undefined) return id;
      throw new InputError(
        `merges: ${JSON.stringify(left)} + ${JSON.stringify(right)} needs ${JSON.stringify(token)}, which is not in the vocabulary.`,
      );
    };
    return { left: idOf(left), right: idOf(right), id: idOf(left + right) };
  }

  protected encodeText(text: string, allowed: AllowedSpecial): number[] {
    const encoder = this.encoderFor(allowed);
    if (encoder !== this) return encoder.encodeText(text, allowed);
    const ids: number[] = [];
    const emit = (word: string): void => this.encodeWord(word, ids);
    for (const [i, segment] of this.segments(text, allowed).entries()) {
      if ("id" in segment) {
        ids.push(segment.id);
        continue;
      }
      const native = segment.text.length < NATIVE_LENGTH ? undefined : this.nativeEncoder();
      if (native === undefined) this.cut(segment.text, emit, i === 0 && this.keepsStart(text));
      else for (const id of native.encode(segment.text)) ids.push(id);
    }
    return ids;
  }

  /** The text between added tokens, normalised, and the added tokens. */
  private segments(text: string, allowed: AllowedSpecial): Segment[] {
    const { raw, normalized } = this.matchersFor(allowed);
    return raw
      .split(wellFormed(text))
      .flatMap((piece) => ("id" in piece ? [piece] : normalized.split(this.normalize(piece.text))));
  }

  /** The native encoder, where the kernels are built and know this file's splitting; it gives the same ids. */
  private nativeEncoder(): NativeEncoder | undefined {
    if (this.native === undefined)
      this.native = NativeEncoder.of(this.file, this.byteIds, this.tiktoken?.ranks) ?? null;
    return this.native ?? undefined;
  }

  async encodeMany(
    texts: readonly (string | Uint8Array)[],
    options: EncodeManyOptions = {},
  ): Promise<Uint32Array<ArrayBuffer>[]> {
    const { addSpecialTokens = true, allowedSpecial = "none", threads = 0 } = options;
    const encoder = this.encoderFor(allowedSpecial);
    if (encoder !== this) return encoder.encodeMany(texts, options);
    const native = this.nativeEncoder();
    if (native === undefined || this.file.truncation !== null || this.file.padding !== null) {
      return texts.map((text) =>
        Uint32Array.from(this.encode(typeof text === "string" ? text : decodeUtf8(text), options)),
      );
    }
    // Whether a text has to be looked at before it is cut.
    const { raw, normalized } = this.matchersFor(allowedSpecial);
    const plain = this.file.normalizer === null && raw.empty && normalized.empty;
    const plans = texts.map((text): Plan => {
      if (plain && typeof text !== "string" && isUtf8(text)) return [native.planned(text)];
      const given = typeof text === "string" ? text : decodeUtf8(text);
      if (plain) return [native.planned(given)];
      return this.segments(given, allowedSpecial).map((item) => ("id" in item ? item.id : native.planned(item.text)));
    });
    const { before, after } = addSpecialTokens ? this.frame : NO_FRAME;
    return encodePlans(plans, native.batch(threads), before, after);
  }

  /** Appends the ids of one pre-token. */
  private encodeWord(word: string, ids: number[]): void {
    const known = this.cache.get(word);
    if (known !== undefined) {
      for (const id of known) ids.push(id);
      return;
    }
    const first = ids.length;
    const bytes = encodeUtf8(word);
    const complete = this.file.model.ignore_merges ? this.file.model.vocab.get(byteCharacters(word)) : undefined;
    if (complete !== undefined) {
      ids.push(complete);
    } else {
      if (this.buffer.length < bytes.length) this.buffer = new Int32Array(bytes.length * 2);
      const symbols = this.buffer;
      const length = this.merger.merge(symbols, this.byteSymbols(bytes, symbols));
      for (let i = 0; i < length; i++) ids.push(symbols[i]!);
    }
    if (word.length <= CACHED_LENGTH) {
      if (this.cache.size >= CACHED_WORDS) this.cache.clear();
      this.cache.set(word, ids.slice(first));
    }
  }

  /**
   * One symbol per byte. A byte that the vocabulary lacks becomes the unknown token, or nothing where there is none, as in
   * `tokenizers`; vocabularies trained here, and GPT-2's, have all 256.
   */
  private byteSymbols(bytes: Uint8Array, symbols: Int32Array): number {
    let length = 0;
    let unknownBefore = false;
    for (const byte of bytes) {
      const id = this.byteIds[byte]!;
      if (id !== -1) symbols[length++] = id;
      else if (this.unknownId !== -1 && !(unknownBefore && this.file.model.fuse_unk))
        symbols[length++] = this.unknownId;
      unknownBefore = id === -1;
    }
    return length;
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const parts = ids.map((id) => this.bytesOf(id, options));
    const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      all.set(part, at);
      at += part.length;
    }
    return decodeUtf8(all);
  }

  stream(options: StreamOptions = {}): TokenStream {
    const stream = new Utf8Stream();
    const push = (id: number): string => {
      const bytes = this.bytesOf(id, options);
      const whole = stream.pending || bytes.length === 0 ? null : this.wholeText(id, bytes);
      return whole ?? stream.push(bytes);
    };
    return { push, end: () => stream.end() };
  }

  /** The text of an id whose bytes are whole characters, else null. Remembered: most ids are, and streams ask again and again. */
  private wholeText(id: number, bytes: Uint8Array): string | null {
    let text = this.texts[id];
    if (text === undefined) {
      text = isUtf8(bytes) ? decodeUtf8(bytes) : null;
      this.texts[id] = text;
    }
    return text;
  }

  private bytesOf(id: number, { skipSpecialTokens = false }: DecodeOptions): Uint8Array {
    this.stringOf(id);
    return skipSpecialTokens && this.specialIds.has(id) ? new Uint8Array(0) : this.bytes[id]!;
  }

  /** The same tokenizer with another chat template stored beside it. */
  withChatTemplate(template: string): ByteLevelTokenizer {
    return new ByteLevelTokenizer(this.file, { ...this.config, chat_template: template }, this.tiktoken);
  }

  async save(folder: string): Promise<void> {
    if (this.tiktoken === undefined) {
      await writeTokenizerFolder(folder, this.file, this.config);
      return;
    }
    // Ranks of several merges that are equal cannot be said in tokenizer.json.
    writeFileAtomic(join(folder, this.tiktoken.name), this.tiktoken.source);
    writeFileAtomic(join(folder, "tokenizer_config.json"), `${JSON.stringify(this.config, null, 2)}\n`);
  }
}
