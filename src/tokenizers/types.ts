import type { Encoding, EncodingInput } from "./encoding.ts";
import type { Padding, Truncation } from "./schema.ts";

/** Which special tokens the text itself may spell out. */
export type AllowedSpecial = "all" | "none" | readonly string[];

export interface EncodeOptions {
  /** Add what the tokenizer's post-processor adds (a beginning token, ...). Default true, as in Hugging Face `tokenizers`. */
  readonly addSpecialTokens?: boolean;
  /**
   * Special tokens that are recognised inside `text`. Default "none": a person's text that happens to contain
   * `<|end|>` is encoded as those characters, so that it cannot end a turn or open another role.
   */
  readonly allowedSpecial?: AllowedSpecial;
}

export interface EncodeManyOptions extends EncodeOptions {
  /** Threads of the native encoder; default HOWDAH_THREADS, or every core. The ids do not depend on it. */
  readonly threads?: number;
}

export interface EncodingOptions extends EncodeOptions {
  /** Instead of the file's truncation; null for none. */
  readonly truncation?: Truncation | null;
  /** Instead of the file's padding; null for none. */
  readonly padding?: Padding | null;
  /** What offsets count: UTF-16 units, so that `text.slice(start, end)` is what a token stands for, or code points, as Python does. */
  readonly offsets?: "utf16" | "codepoints";
}

export interface DecodeOptions {
  /** Leave special tokens out of the text. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** Turns ids into text one by one; the pieces joined are `decode(ids)`, and no piece ever ends inside a character. */
export interface TokenStream {
  /** The text that became certain with this id (often "", when a character is still incomplete). */
  push(id: number): string;
  /** What was held back: U+FFFD for bytes of a character that never became complete. */
  end(): string;
}

export interface StreamOptions extends DecodeOptions {
  /** Ids that came before the stream (a prompt): a tokenizer that drops a leading space at the start of a text then does not. */
  readonly after?: readonly number[];
}

/** Text to ids and back. Ids are in [0, vocabularySize). */
export interface Tokenizer {
  /** One more than the largest id: the number of rows an embedding table needs. */
  readonly vocabularySize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  /** Jinja source of the chat template stored with the tokenizer. */
  readonly chatTemplate: string | undefined;
  /** Never throws on any string; lone surrogates count as U+FFFD. */
  encode(text: string, options?: EncodeOptions): number[];
  encodeBatch(texts: readonly string[], options?: EncodeOptions): number[][];
  /**
   * Ids with what they stand for: offsets, words, masks, types of a text or a pair.
   * @throws InputError when the truncation cannot be done
   */
  encoding(text: string, second?: string, options?: EncodingOptions): Encoding;
  /** The encodings of texts or pairs; padding to the longest, where asked for, is to the longest of these. */
  encodings(inputs: readonly EncodingInput[], options?: EncodingOptions): Encoding[];
  /**
   * The ids of many texts (strings or UTF-8), on several threads and away from the JavaScript thread where the tokenizer has a native
   * encoder. Arrays of bytes must not change meanwhile. Use the function `encodeMany`, which works for every tokenizer.
   */
  encodeMany?(
    texts: readonly (string | Uint8Array)[],
    options?: EncodeManyOptions,
  ): Promise<Uint32Array<ArrayBuffer>[]>;
  /** @throws InputError for an id outside the vocabulary. */
  decode(ids: readonly number[], options?: DecodeOptions): string;
  stream(options?: StreamOptions): TokenStream;
  tokenId(token: string): number | undefined;
  idToToken(id: number): string | undefined;
  /** Writes the tokenizer's files into `folder` (made if missing), each one atomically. */
  save(folder: string): Promise<void>;
}
