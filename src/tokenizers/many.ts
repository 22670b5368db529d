import { decodeUtf8 } from "./bytes.ts";
import type { EncodeManyOptions, Tokenizer } from "./types.ts";

/**
 * The ids of many texts, given as strings or UTF-8 (broken parts count as U+FFFD): with the tokenizer's native encoder, on several threads
 * and away from the JavaScript thread, where it has one. The ids are those of `tokenizer.encode`, whatever the number of threads.
 */
export async function encodeMany(
  tokenizer: Tokenizer,
  texts: readonly (string | Uint8Array)[],
  options: EncodeManyOptions = {},
): Promise<Uint32Array<ArrayBuffer>[]> {
  if (tokenizer.encodeMany !== undefined) return tokenizer.encodeMany(texts, options);
  return texts.map((text) =>
    Uint32Array.from(tokenizer.encode(typeof text === "string" ? text : decodeUtf8(text), options)),
  );
}
