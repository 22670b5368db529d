import { BackendError } from "../../../tensor/errors.ts";
import { loadAddon } from "./addon.ts";

/** A compiled tokenizer, or a trainer, of the addon; released with the object. */
export type NativeBpe = { readonly kind: "bpe" };
export type NativePieces = { readonly kind: "pieces" };
export type NativeTrainer = { readonly kind: "trainer" };

/** What the counting of a training's words found. */
export interface CountedWords {
  readonly distinct: number;
  /** Fewer than `distinct` where not all can be learnt from: then the rarer ones are a sample, and count for those left out. */
  readonly kept: number;
  /** Bytes that went to a temporary file. */
  readonly spilled: number;
  /** The characters, in the order of code points. */
  readonly points: Uint32Array;
  /** How often each occurs. */
  readonly counts: Float64Array;
  /** How often it occurs elsewhere than at the beginning of a word. */
  readonly inner: Float64Array;
}

/**
 * What the addon does for tokenizers (native/src/addon_text.cpp). Texts are well-formed UTF-8; several documents lie one after another in
 * one array and end at `ends`. Arrays given to a call that returns a promise must not be changed before it settles.
 * `threads` 0 means HOWDAH_THREADS, or every core.
 */
export interface NativeText {
  /** The flags of each code point (0x110000 of them), before anything else here. */
  textClasses(flags: Uint8Array): void;
  bpeCreate(
    pattern: number,
    byteIds: Uint32Array,
    /** left, right, rank, id of each merge */
    merges: Uint32Array,
    wholeBytes: Uint8Array,
    wholeEnds: Uint32Array,
    wholeIds: Uint32Array,
  ): NativeBpe;
  /** At once, on this thread. */
  bpeEncode(model: NativeBpe, bytes: Uint8Array): Uint32Array;
  bpeEncodeMany(
    model: NativeBpe,
    bytes: Uint8Array,
    ends: Float64Array,
    threads: number,
  ): Promise<Uint32Array<ArrayBuffer>[]>;
  /**
   * A vocabulary of pieces (native/src/text_pieces.hpp says what each is). The settings: kind, shape, unknown, fuse, single, splitAtSpace,
   * dummyPrefix, removeExtra, mostCharacters, unknownScore, tokens, firsts, words, stripLeft, stripRight, spaces.
   */
  piecesCreate(
    settings: Float64Array,
    text: Uint8Array,
    ends: Float64Array,
    ids: Uint32Array,
    scores: Float64Array,
    merges: Uint32Array,
    byteIds: Uint32Array,
    map: Uint8Array,
  ): NativePieces;
  piecesEncode(model: NativePieces, bytes: Uint8Array): Uint32Array;
  piecesEncodeMany(
    model: NativePieces,
    bytes: Uint8Array,
    ends: Float64Array,
    threads: number,
  ): Promise<Uint32Array<ArrayBuffer>[]>;
  /**
   * @param cut 0: by a splitting expression (`pattern`), 1: as SentencePiece, 2: as BERT (`table`)
   * @param memory bytes that counting and learning may take
   * @param folder path in UTF-8, of where words go that do not fit
   */
  trainer(cut: number, pattern: number, memory: number, folder: Uint8Array, table: Uint8Array): NativeTrainer;
  /** One call at a time for each trainer. */
  trainerCount(trainer: NativeTrainer, bytes: Uint8Array, ends: Float64Array, threads: number): Promise<void>;
  /** Words that were cut already. */
  trainerCountWords(trainer: NativeTrainer, bytes: Uint8Array, ends: Float64Array, counts: Float64Array): Promise<void>;
  /** Ends the counting: what was found, and the characters of the words that are kept. */
  trainerGather(trainer: NativeTrainer): Promise<CountedWords>;
  /**
   * left, right, id of each merge in the order they were learnt. `limits` is vocabulary and minFrequency; `symbols` 256 ids of bytes, or for each
   * character its code point, its id at the beginning of a word and its id elsewhere (2^32 - 1: none).
   */
  trainerMerges(
    trainer: NativeTrainer,
    limits: Float64Array,
    prefix: Uint8Array,
    tokenBytes: Uint8Array,
    tokenEnds: Float64Array,
    symbols: Uint32Array,
  ): Promise<Uint32Array>;
  /** `alphabet` in the order of code points; `settings`: pieces, the longest one in characters, seeds, the part that survives a pruning. */
  trainerUnigram(
    trainer: NativeTrainer,
    alphabet: Uint32Array,
    settings: Float64Array,
    threads: number,
  ): Promise<{ readonly bytes: Uint8Array; readonly ends: Float64Array; readonly scores: Float64Array }>;
  trainerProgress(trainer: NativeTrainer): number;
  /** Learning under way ends soon, with an error. */
  trainerStop(trainer: NativeTrainer): void;
}

let prepared: NativeText | undefined;

/**
 * The addon's functions for tokenizers, or undefined where it is not built.
 * @param classes makes the table of character flags; called once
 */
export function loadNativeText(classes: () => Uint8Array): NativeText | undefined {
  if (prepared !== undefined) return prepared;
  const addon = loadAddon();
  if ("missing" in addon) return undefined;
  const text = addon as unknown as NativeText;
  if (typeof text.textClasses !== "function")
    throw new BackendError("The native kernels are older than this code. Run npm run setup to build them again.");
  text.textClasses(classes());
  prepared = text;
  return text;
}
