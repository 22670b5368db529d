import type { NativeBpe, NativeText } from "../engine/backends/native/text.ts";
import { encodeUtf8, tokenBytes } from "./bytes.ts";
import { nativeText, scannerOf, WHOLE_TEXT } from "./native.ts";
import type { NativeBatch } from "./native-batch.ts";
import { GPT2_PATTERN } from "./pretokenize.ts";
import type { BpePart, PreTokenizer, TokenizerFile } from "./schema.ts";

/** The native encoder of a byte-level BPE file. It gives the ids of `ByteLevelTokenizer`'s TypeScript, which stays the oracle. */
export class NativeEncoder {
  private readonly text: NativeText;
  private readonly model: NativeBpe;
  private readonly prefixSpace: boolean;

  private constructor(text: NativeText, model: NativeBpe, prefixSpace: boolean) {
    this.text = text;
    this.model = model;
    this.prefixSpace = prefixSpace;
  }

  /**
   * @param byteIds byte -> id, -1 where the vocabulary lacks it
   * @param ranks of the merges, where not their order (tiktoken)
   * @returns undefined where the kernels are not built, or do not know how this file cuts text
   */
  static of(
    file: TokenizerFile & { readonly model: BpePart },
    byteIds: Int32Array,
    ranks?: readonly number[],
  ): NativeEncoder | undefined {
    const cut = file.pre_tokenizer === null ? undefined : scannerOfPart(file.pre_tokenizer);
    if (cut === undefined || byteIds.includes(-1)) return undefined;
    const text = nativeText();
    if (text === undefined) return undefined;
    const { vocab, merges, ignore_merges } = file.model;
    const table = new Uint32Array(merges.length * 4);
    merges.forEach(([left, right], i) => {
      table.set([vocab.get(left)!, vocab.get(right)!, ranks?.[i] ?? i, vocab.get(left + right)!], i * 4);
    });
    // The native table packs ids and ranks; vocabularies beyond that do not exist, and would go through TypeScript.
    if (table.some((n) => n >= 2 ** 21)) return undefined;
    const whole = ignore_merges ? wholeTokens(vocab) : { bytes: new Uint8Array(0), ends: [], ids: [] };
    const model = text.bpeCreate(
      cut.scanner,
      Uint32Array.from(byteIds),
      table,
      whole.bytes,
      Uint32Array.from(whole.ends),
      Uint32Array.from(whole.ids),
    );
    return new NativeEncoder(text, model, cut.prefixSpace);
  }

  /** The ids of one stretch of text without added tokens, at once. */
  encode(text: string): Uint32Array {
    return this.text.bpeEncode(this.model, encodeUtf8(this.prefixed(text)));
  }

  /** A stretch of text as `batch` takes it. */
  planned(part: string | Uint8Array): string | Uint8Array {
    return typeof part === "string" ? this.prefixed(part) : this.prefixedBytes(part);
  }

  batch(threads: number): NativeBatch {
    return (bytes, ends) => this.text.bpeEncodeMany(this.model, bytes, ends, threads);
  }

  private prefixed(text: string): string {
    return this.prefixSpace && text !== "" && !text.startsWith(" ") ? ` ${text}` : text;
  }

  private prefixedBytes(bytes: Uint8Array): Uint8Array {
    if (!this.prefixSpace || bytes.length === 0 || bytes[0] === 0x20) return bytes;
    const out = new Uint8Array(bytes.length + 1);
    out[0] = 0x20;
    out.set(bytes, 1);
    return out;
  }
}

/** The native scanner that cuts as this pre-tokenizer does, or undefined. */
export function scannerOfPart(
  part: PreTokenizer,
): { readonly scanner: number; readonly prefixSpace: boolean } | undefined {
  if (part.type === "ByteLevel") {
    const scanner = part.use_regex ? scannerOf(GPT2_PATTERN) : WHOLE_TEXT;
    return scanner === undefined ? undefined : { scanner, prefixSpace: part.add_prefix_space };
  }
  if (part.type !== "Sequence" || part.pretokenizers.length !== 2) return undefined;
  const [split, level] = part.pretokenizers;
  if (split?.type !== "Split" || level?.type !== "ByteLevel" || level.use_regex || level.add_prefix_space)
    return undefined;
  // The known expressions match every character, so what lies between matches is nothing.
  const isolated = split.behavior === "Isolated" && !split.invert;
  const removed = split.behavior === "Removed" && split.invert;
  const scanner = (isolated || removed) && "Regex" in split.pattern ? scannerOf(split.pattern.Regex) : undefined;
  return scanner === undefined ? undefined : { scanner, prefixSpace: false };
}

/** Every token as bytes, one after another, where each ends, and its id. */
function wholeTokens(vocab: ReadonlyMap<string, number>): { bytes: Uint8Array; ends: number[]; ids: number[] } {
  const parts: Uint8Array[] = [];
  const ends: number[] = [];
  const ids: number[] = [];
  let at = 0;
  for (const [token, id] of vocab) {
    const bytes = tokenBytes(token);
    if (bytes === undefined || bytes.length === 0) continue;
    parts.push(bytes);
    at += bytes.length;
    ends.push(at);
    ids.push(id);
  }
  const bytes = new Uint8Array(at);
  parts.forEach((part, i) => {
    bytes.set(part, ends[i]! - part.length);
  });
  return { bytes, ends, ids };
}
