import zlib from "node:zlib";
import { type DocumentMeta, ReadError, type ReadLimits } from "../document.ts";
import type { Chunks } from "./access.ts";
import { ByteQueue } from "./queue.ts";

/** What a web archive holds of one address. */
export interface WarcPage {
  /** Position among the records of the archive, from 1. */
  readonly record: number;
  readonly url: string;
  /** When it was fetched, as the archive says. */
  readonly fetched: string;
  readonly mediaType: string;
  /** `charset` of the server's Content-Type. */
  readonly charset: string | undefined;
  readonly body: Uint8Array;
}

type Headers = ReadonlyMap<string, string>;

async function readHeaders(queue: ByteQueue): Promise<Headers> {
  const headers = new Map<string, string>();
  let last = "";
  for (let count = 0; count < 1000; count++) {
    const line = await queue.line();
    if (line === undefined || line === "") break;
    if (/^[ \t]/.test(line)) {
      headers.set(last, `${headers.get(last) ?? ""} ${line.trim()}`);
      continue;
    }
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    last = line.slice(0, colon).toLowerCase();
    headers.set(last, line.slice(colon + 1).trim());
  }
  return headers;
}

/**
 * The pages of a web archive (WARC 0.18 to 1.1, ISO 28500), one record in memory at a time: `response` records with status 200, `resource`,
 * and `conversion` (the WET files of Common Crawl). Records larger than the limit, and what cannot be read, come as errors; reading goes
 * on with the next record.
 */
export async function* readWarc(chunks: Chunks, limits: ReadLimits): AsyncGenerator<WarcPage | ReadError> {
  const queue = new ByteQueue(chunks);
  let record = 0;
  let lost = 0;
  try {
    for (;;) {
      const line = await queue.line();
      if (line === undefined) break;
      if (!line.startsWith("WARC/")) {
        // Empty lines part records; anything else means that a length was wrong: go on at the next record.
        if (line !== "" && ++lost === 1)
          yield new ReadError("malformed", "Bytes between records belong to no record; a length may be wrong.", {
            place: `#${record}`,
          });
        if (record === 0 && lost > 1000)
          throw new ReadError("malformed", "This is no WARC file: no record begins in its first thousand lines.");
        continue;
      }
      record++;
      const headers = await readHeaders(queue);
      const length = Number(headers.get("content-length"));
      const place = `#${record}`;
      if (!Number.isSafeInteger(length) || length < 0) {
        yield new ReadError("malformed", "A record does not say its length.", { place });
        continue;
      }
      const type = headers.get("warc-type") ?? "";
      if (type !== "response" && type !== "resource" && type !== "conversion") {
        await queue.skip(length);
        continue;
      }
      if (length > limits.whole) {
        await queue.skip(length);
        yield new ReadError(
          "too-large",
          `A record has ${Math.round(length / 2 ** 20)} MB; the limit is ${Math.round(limits.whole / 2 ** 20)} MB.`,
          { place },
        );
        continue;
      }
      const block = await queue.read(length);
      if (block.length < length) {
        yield new ReadError("malformed", "The archive is cut off inside of a record.", { place });
        break;
      }
      try {
        const page = pageOf(type, headers, block, limits);
        if (page !== undefined) yield { record, ...page };
      } catch (error) {
        if (!(error instanceof ReadError)) throw error;
        yield new ReadError(error.code, error.message, { place, cause: error });
      }
    }
  } finally {
    await queue.close();
  }
  if (record === 0) throw new ReadError("malformed", "This is no WARC file: it has no records.");
}

function pageOf(
  type: string,
  headers: Headers,
  block: Uint8Array,
  limits: ReadLimits,
): Omit<WarcPage, "record"> | undefined {
  const url = (headers.get("warc-target-uri") ?? "").replace(/^<|>$/g, "");
  const fetched = headers.get("warc-date") ?? "";
  const declared = headers.get("content-type") ?? "";
  if (type !== "response") return { url, fetched, ...mediaType(declared), body: block };
  if (!/^application\/http/i.test(declared)) return undefined;
  const { status, fields, body } = parseHttp(block);
  if (status !== 200 || body.length === 0) return undefined;
  return { url, fetched, ...mediaType(fields.get("content-type") ?? ""), body: decodeBody(fields, body, limits) };
}

export function mediaType(header: string): { readonly mediaType: string; readonly charset: string | undefined } {
  const [type = ""] = header.split(";");
  const charset = /charset\s*=\s*"?([\w:-]+)/i.exec(header)?.[1];
  return { mediaType: type.trim().toLowerCase(), charset };
}

function parseHttp(block: Uint8Array): {
  readonly status: number;
  readonly fields: Headers;
  readonly body: Uint8Array;
} {
  const buffer = Buffer.from(block.buffer, block.byteOffset, block.byteLength);
  const fields = new Map<string, string>();
  let at = 0;
  let status = 0;
  for (let line = 0; at < buffer.length; line++) {
    let end = buffer.indexOf(10, at);
    if (end === -1) end = buffer.length;
    const text = buffer.toString("latin1", at, end).replace(/\r$/, "");
    at = end + 1;
    if (line === 0) status = Number(/^HTTP\/\S+\s+(\d{3})/i.exec(text)?.[1] ?? 0);
    else if (text === "") break;
    else {
      const colon = text.indexOf(":");
      if (colon > 0) fields.set(text.slice(0, colon).toLowerCase(), text.slice(colon + 1).trim());
    }
  }
  return { status, fields, body: block.subarray(Math.min(at, block.length)) };
}

/**
 * Takes off the transfer and content encodings. Archives often hold bodies that are unpacked already while the headers still say
 * otherwise: what does not begin like its encoding is taken as it is.
 */
function decodeBody(fields: Headers, body: Uint8Array, limits: ReadLimits): Uint8Array {
  let bytes = /chunked/i.test(fields.get("transfer-encoding") ?? "") ? (unchunk(body) ?? body) : body;
  const encoding = (fields.get("content-encoding") ?? "").toLowerCase();
  const options = { maxOutputLength: limits.whole, finishFlush: zlib.constants.Z_SYNC_FLUSH };
  try {
    if (bytes[0] === 0x1f && bytes[1] === 0x8b) bytes = zlib.gunzipSync(bytes, options);
    else if (encoding === "br" && !looksLikeMarkup(bytes))
      bytes = zlib.brotliDecompressSync(bytes, { maxOutputLength: limits.whole });
    else if (encoding === "deflate" && !looksLikeMarkup(bytes))
      bytes = (bytes[0]! & 15) === 8 ? zlib.inflateSync(bytes, options) : zlib.inflateRawSync(bytes, options);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ERR_BUFFER_TOO_LARGE") {
      throw new ReadError("bomb", `A page unpacks to more than ${Math.round(limits.whole / 2 ** 20)} MB.`, {
        cause: error,
      });
    }
    throw new ReadError("malformed", `A page's ${encoding || "gzip"} encoding is damaged.`, { cause: error });
  }
  return bytes;
}

const looksLikeMarkup = (bytes: Uint8Array): boolean => {
  for (const byte of bytes.subarray(0, 64)) {
    if (byte === 60) return true;
    if (byte > 32) return false;
  }
  return false;
};

/** RFC 9112, 7.1; undefined when the body is not chunked after all. */
function unchunk(body: Uint8Array): Uint8Array | undefined {
  const buffer = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  const parts: Uint8Array[] = [];
  let at = 0;
  while (at < buffer.length) {
    const end = buffer.indexOf("\r\n", at);
    const size =
      end === -1 || end - at > 100
        ? undefined
        : /^\s*([0-9a-f]{1,8})\s*(?:;.*)?$/i.exec(buffer.toString("latin1", at, end))?.[1];
    if (size === undefined) return parts.length === 0 ? undefined : Buffer.concat(parts);
    const length = Number.parseInt(size, 16);
    if (length === 0) break;
    parts.push(buffer.subarray(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
  return Buffer.concat(parts);
}

export const warcMeta = (page: WarcPage): Partial<DocumentMeta> => ({
  record: page.record,
  ...(page.url === "" ? {} : { url: page.url }),
  ...(page.mediaType === "" ? {} : { mediaType: page.mediaType }),
  ...(page.fetched === "" ? {} : { extra: { fetched: page.fetched } }),
});
