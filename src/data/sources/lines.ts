import { isAscii } from "node:buffer";
import { ReadError } from "../document.ts";
import { detectEncoding, makeDecoder } from "../extract/encoding.ts";
import { type Chunks, peek } from "./access.ts";

/** Text of a stream, piece by piece, with its encoding found from its first 64 KB. */
export interface TextStream {
  /** As it is known so far: text that begins with ASCII may show it later. */
  encoding(): string;
  readonly pieces: AsyncGenerator<string>;
  /** Places that were not valid in the encoding so far; U+FFFD stands there. */
  replaced(): number;
}

/** @throws ReadError `empty` or `binary` */
export async function decodeStream(chunks: Chunks, declared?: string): Promise<TextStream> {
  const { head, chunks: all, close } = await peek(chunks, 65_536);
  if (head.length === 0) {
    await close();
    throw new ReadError("empty", "It is empty.");
  }
  let encoding = "utf-8";
  // ASCII alone does not tell: the first bytes beyond it will.
  let open = false;
  try {
    encoding = detectEncoding(head, declared, head.length >= 65_536);
    open = encoding === "utf-8" && isAscii(head);
  } catch (error) {
    await close();
    throw error;
  }
  let replaced = 0;
  async function* pieces(): AsyncGenerator<string> {
    let decoder = makeDecoder(encoding);
    let tail = new Uint8Array(0);
    /** Counts U+FFFD that decoding put in, not those that were in the text. */
    const count = (text: string, chunk: Uint8Array): string => {
      if (text.includes("\ufffd")) {
        const own =
          encoding === "utf-8"
            ? Buffer.concat([tail, chunk]).toString("latin1").split("\u00ef\u00bf\u00bd").length - 1
            : 0;
        replaced += Math.max(0, text.split("\ufffd").length - 1 - own);
      }
      tail = chunk.slice(-2);
      return text;
    };
    for await (const chunk of all) {
      if (open && !isAscii(chunk)) {
        open = false;
        encoding = detectEncoding(chunk.subarray(chunk.findIndex((byte) => byte >= 0x80)), declared, true);
        decoder = makeDecoder(encoding);
      }
      yield count(decoder.decode(chunk, { stream: true }), chunk);
    }
    const last = decoder.decode();
    if (last !== "") yield count(last, new Uint8Array(0));
  }
  return { encoding: () => encoding, pieces: pieces(), replaced: () => replaced };
}

/** A line and its number, from 1. A line that is longer than the limit has no text. */
export interface NumberedLine {
  readonly number: number;
  readonly text: string | undefined;
}

/** The lines of a text, without their ends (LF, CRLF, CR alone is not an end). Holds one line at most, and no more than `limit` of it. */
export async function* splitLines(pieces: AsyncIterable<string>, limit: number): AsyncGenerator<NumberedLine> {
  let number = 1;
  let parts: string[] = [];
  let size = 0;
  const finish = (last: string): NumberedLine => {
    const length = size + last.length;
    const text = length > limit ? undefined : (parts.length === 0 ? last : parts.join("") + last).replace(/\r$/, "");
    parts = [];
    size = 0;
    return { number: number++, text };
  };
  for await (const piece of pieces) {
    let at = 0;
    for (;;) {
      const end = piece.indexOf("\n", at);
      if (end === -1) break;
      yield finish(piece.slice(at, end));
      at = end + 1;
    }
    if (at === piece.length) continue;
    size += piece.length - at;
    if (size <= limit) parts.push(piece.slice(at));
  }
  if (size > 0) yield finish("");
}
