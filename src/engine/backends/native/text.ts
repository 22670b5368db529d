import { BackendError } from "../../../tensor/errors.ts";
import { loadAddon } from "./addon.ts";

/** A compiled tokenizer, or a trainer, of the addon; released with the object. */
export type NativeBpe = { readonly kind: "bpe" };
export type NativePieces = { readonly kind: "pieces" };
export type NativeBpeTrainer = { readonly kind: "trainer" };

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
  bpeTrainer(pattern: number): NativeBpeTrainer;
  /** One call at a time for each trainer. */
  bpeCount(trainer: NativeBpeTrainer, bytes: Uint8Array, ends: Float64Array, threads: number): Promise<void>;
  bpeCountWords(trainer: NativeBpeTrainer, bytes: Uint8Array, ends: Float64Array, counts: Float64Array): void;
  /** left, right, id of each merge in the order they were learnt. Once for each trainer. */
  bpeLearn(
    trainer: NativeBpeTrainer,
    byteIds: Uint32Array,
    tokenBytes: Uint8Array,
    tokenEnds: Float64Array,
    vocabulary: number,
    minFrequency: number,
  ): Promise<Uint32Array>;
  /** The same from words that are symbols already, with the counts of each; `limits` is vocabulary and minFrequency. */
  bpeLearnSymbols(
    trainer: NativeBpeTrainer,
    symbols: Uint32Array,
    ends: Float64Array,
    counts: Float64Array,
    tokenBytes: Uint8Array,
    tokenEnds: Float64Array,
    limits: Float64Array,
    prefix: Uint8Array,
  ): Promise<Uint32Array>;
  bpeProgress(trainer: NativeBpeTrainer): number;
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
