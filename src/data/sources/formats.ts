import { type Document, type DocumentMeta, type Raw, ReadError, type ReadLimits } from "../document.ts";
import { languageTag } from "../extract/page-meta.ts";
import { type Access, bufferAccess, type Chunks, readAll } from "./access.ts";
import { findDelimiter, parseCsv } from "./csv.ts";
import { splitList } from "./json-list.ts";
import { decodeStream, splitLines, type TextStream } from "./lines.ts";
import { readParquet } from "./parquet.ts";
import { parsePo } from "./po.ts";
import { fieldAt, findTextField, type Row, type RowOptions, rowMeta, textOf } from "./rows.ts";
import { readWarc, warcMeta } from "./warc.ts";

/** One stream of bytes of a known format, after archives and compression. */
export interface Opened {
  readonly chunks: Chunks;
  /** For who does not read `chunks`. */
  readonly close?: (() => Promise<void>) | undefined;
  /** Reading at any place, where that is possible without holding everything. */
  readonly access?: (() => Promise<Access>) | undefined;
  readonly size?: number | undefined;
  /** What a server says its encoding is. */
  readonly charset?: string | undefined;
  readonly id: string;
  readonly source: string;
  readonly meta: DocumentMeta;
}

export interface FormatOptions extends RowOptions {
  readonly limits: ReadLimits;
}

export type Format =
  | "text"
  | "markdown"
  | "html"
  | "pdf"
  | "docx"
  | "epub"
  | "csv"
  | "jsonl"
  | "json"
  | "parquet"
  | "warc"
  | "po"
  | "zip";

/** What a reader gives: documents, raw items, and errors about parts of the stream. An error that ends the stream is thrown. */
export type Part = Document | Raw | ReadError;
type Reader = (opened: Opened, options: FormatOptions) => AsyncGenerator<Part>;

const byExtension: Readonly<Record<string, Format>> = {
  txt: "text",
  text: "text",
  log: "text",
  md: "markdown",
  markdown: "markdown",
  mdx: "markdown",
  html: "html",
  htm: "html",
  xhtml: "html",
  shtml: "html",
  pdf: "pdf",
  docx: "docx",
  epub: "epub",
  csv: "csv",
  tsv: "csv",
  tab: "csv",
  jsonl: "jsonl",
  ndjson: "jsonl",
  json: "json",
  parquet: "parquet",
  pq: "parquet",
  warc: "warc",
  wet: "warc",
  po: "po",
  pot: "po",
  zip: "zip",
};

/** Formats that are known and not read, with what to do. */
const refused: Readonly<Record<string, string>> = {
  doc: "Word 97 files are not read; save it as .docx.",
  rtf: "RTF files are not read; save it as .docx.",
  odt: "OpenDocument files are not read; save it as .docx.",
  ppt: "PowerPoint files are not read; save it as PDF.",
  pptx: "PowerPoint files are not read; save it as PDF.",
  xls: "Excel files are not read; save it as CSV.",
  xlsx: "Excel files are not read; save it as CSV.",
  mobi: "Kindle books are not read; convert it to EPUB.",
  azw3: "Kindle books are not read; convert it to EPUB.",
  arrow: "Arrow files are not read; save the data set as Parquet or JSONL.",
  bz2: "bzip2 files are not read; unpack it or pack it with gzip or zstd.",
  xz: "xz files are not read; unpack it or pack it with gzip or zstd.",
  "7z": "7z archives are not read; unpack it or pack it as ZIP.",
  rar: "RAR archives are not read; unpack it or pack it as ZIP.",
  tar: "tar archives are not read; unpack it or pack it as ZIP.",
};

const byMediaType: Readonly<Record<string, Format>> = {
  "text/html": "html",
  "application/xhtml+xml": "html",
  "text/plain": "text",
  "text/markdown": "markdown",
  "application/pdf": "pdf",
  "text/csv": "csv",
  "text/tab-separated-values": "csv",
  "application/json": "json",
  "application/x-ndjson": "jsonl",
  "application/jsonl": "jsonl",
  "application/epub+zip": "epub",
  "application/warc": "warc",
  "application/vnd.apache.parquet": "parquet",
  "application/zip": "zip",
  "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
};

const begins = (head: Uint8Array, text: string, at = 0): boolean => {
  for (let i = 0; i < text.length; i++) if (head[at + i] !== text.charCodeAt(i)) return false;
  return head.length >= at + text.length;
};

/**
 * The format of a stream, by its extension, the media type a server gave, and its first bytes; bytes that say PDF, ZIP or Parquet win over a
 * name that says otherwise.
 * @throws ReadError `unsupported` for formats that are known and not read
 */
export function formatOf(extension: string, mediaType: string | undefined, head: Uint8Array): Format {
  const named = byExtension[extension] ?? (mediaType === undefined ? undefined : byMediaType[mediaType]);
  const isZip = begins(head, "PK\u0003\u0004") || begins(head, "PK\u0005\u0006");
  if (begins(head, "%PDF-")) return "pdf";
  if (begins(head, "PAR1")) return "parquet";
  if (isZip) {
    if (named === "docx" || named === "epub") return named;
    if (begins(head, "mimetypeapplication/epub+zip", 30)) return "epub";
    if (refused[extension] !== undefined) throw new ReadError("unsupported", refused[extension]);
    return "zip";
  }
  if (named !== undefined) return named;
  if (refused[extension] !== undefined) throw new ReadError("unsupported", refused[extension]);
  if (begins(head, "WARC/")) return "warc";
  if (begins(head, "\u0089PNG") || begins(head, "\u00ff\u00d8\u00ff") || begins(head, "GIF8"))
    throw new ReadError("unsupported", "It is a picture.");
  const start = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 1024))
    .toString("latin1")
    .trimStart()
    .toLowerCase();
  if (/^(?:\u00ef\u00bb\u00bf)?(?:<!--[\s\S]*?-->\s*)?<(?:!doctype html|html|head|body)\b/.test(start)) return "html";
  return "text";
}

/** A document, unless there is no text in it. */
function makeDocument(opened: Opened, text: string, suffix: string, meta: Partial<DocumentMeta>): Document | undefined {
  const clean = text.replaceAll("\r\n", "\n").trim();
  if (clean === "") return undefined;
  return { id: opened.id + suffix, text: clean, source: opened.source, meta: { ...opened.meta, ...meta } };
}

const withEncoding = (encoding: string): Partial<DocumentMeta> => (encoding === "utf-8" ? {} : { encoding });

function replacedError(count: number, encoding: string): ReadError {
  return new ReadError(
    "malformed",
    `${count} places are not ${encoding.toUpperCase()}; U+FFFD stands there in the text.`,
  );
}

const whole = (format: Raw["format"], mediaType: string): Reader =>
  async function* (opened, { limits }) {
    if ((opened.size ?? 0) > limits.whole) throw tooLarge(opened.size!, limits.whole);
    const bytes = await readAll(opened.chunks, limits.whole);
    if (bytes.length === 0) throw new ReadError("empty", "It is empty.");
    const meta = { mediaType, ...opened.meta, ...(opened.charset === undefined ? {} : { encoding: opened.charset }) };
    yield { id: opened.id, source: opened.source, format, bytes, meta };
  };

const tooLarge = (size: number, limit: number) =>
  new ReadError(
    "too-large",
    `It has ${Math.round(size / 2 ** 20)} MB; the limit for what must be in memory as a whole is ${Math.round(limit / 2 ** 20)} MB.`,
  );

/** Plain text and Markdown: one document, or several of at most the limit, cut between paragraphs. */
const plain = (mediaType: string): Reader =>
  async function* (opened, { limits }) {
    const stream = await decodeStream(opened.chunks, opened.charset);
    let front: Partial<DocumentMeta> = {};
    let held = "";
    let part = 0;
    let found = false;
    const make = (text: string, last: boolean) => {
      part++;
      const suffix = last && part === 1 ? "" : `#${part}`;
      return makeDocument(opened, text, suffix, {
        mediaType,
        ...withEncoding(stream.encoding()),
        ...front,
        ...(suffix === "" ? {} : { record: part }),
      });
    };
    for await (const piece of stream.pieces) {
      held += piece;
      if (mediaType === "text/markdown" && part === 0 && held.length <= piece.length)
        [front, held] = takeFrontMatter(held);
      while (held.length > limits.text) {
        const cut = cutAt(held, limits.text);
        const document = make(held.slice(0, cut), false);
        held = held.slice(cut);
        if (document !== undefined) {
          found = true;
          yield document;
        }
      }
    }
    const document = make(held, true);
    if (document !== undefined) yield document;
    else if (!found) throw new ReadError("empty", "It holds no text.");
    if (stream.replaced() > 0) yield replacedError(stream.replaced(), stream.encoding());
  };

/** The end of a paragraph before `limit`, else of a line, else of a word, else not inside of a character. */
function cutAt(text: string, limit: number): number {
  for (const [sign, reach] of [
    ["\n\n", 0.5],
    ["\n", 0.5],
    [" ", 0.9],
  ] as const) {
    const at = text.lastIndexOf(sign, limit - sign.length);
    if (at >= limit * reach) return at + sign.length;
  }
  const unit = text.charCodeAt(limit);
  return unit >= 0xdc00 && unit <= 0xdfff ? limit - 1 : limit;
}

/** The `---` block many Markdown files begin with: taken off the text, its plain `key: value` lines read. */
function takeFrontMatter(text: string): [Partial<DocumentMeta>, string] {
  const match = /^\ufeff?---\r?\n([\s\S]{0,20000}?)\r?\n---\r?\n/.exec(text);
  if (match === null) return [{}, text];
  const row: Record<string, string> = {};
  for (const line of match[1]!.split("\n")) {
    const [, key, value] = /^(\w+):\s*["']?(.+?)["']?\s*$/.exec(line) ?? [];
    if (key !== undefined) row[key.toLowerCase()] = value!;
  }
  return [rowMeta(row, "", {}), text.slice(match[0].length)];
}

function rowDocument(
  opened: Opened,
  row: Row,
  field: string,
  record: number,
  options: FormatOptions,
  about: Partial<DocumentMeta>,
): Document | ReadError | undefined {
  const value = fieldAt(row, field);
  const text = textOf(value);
  if (text === undefined) {
    const place = `:${record}`;
    if (value === null || value === undefined)
      return new ReadError("empty", `Its field "${field}" is not there or empty.`, { place });
    return new ReadError("malformed", `Its field "${field}" is no text.`, { place });
  }
  return makeDocument(opened, text, `#${record}`, { record, ...about, ...rowMeta(row, field, options) });
}

const jsonl: Reader = async function* (opened, options) {
  const stream = await decodeStream(opened.chunks, opened.charset);
  yield* jsonLines(opened, stream, stream.pieces, options);
};

async function* jsonLines(
  opened: Opened,
  stream: TextStream,
  pieces: AsyncIterable<string>,
  options: FormatOptions,
): AsyncGenerator<Part> {
  const { limits } = options;
  for await (const { number, text } of splitLines(pieces, limits.line)) {
    const place = `:${number}`;
    if (text === undefined) {
      yield new ReadError("too-large", `The line has more than ${Math.round(limits.line / 2 ** 20)} MB.`, { place });
      continue;
    }
    const line = number === 1 ? text.replace(/^\ufeff/, "") : text;
    if (line.trim() === "") continue;
    const about = { mediaType: "application/jsonl", ...withEncoding(stream.encoding()) };
    const part = jsonDocument(opened, line, number, options, about, place);
    if (part !== undefined) yield part;
  }
  if (stream.replaced() > 0) yield replacedError(stream.replaced(), stream.encoding());
}

function jsonDocument(
  opened: Opened,
  line: string,
  record: number,
  options: FormatOptions,
  about: Partial<DocumentMeta>,
  place: string,
): Document | ReadError | undefined {
  let json: unknown;
  try {
    json = JSON.parse(line);
  } catch (error) {
    return new ReadError("malformed", `The line is not JSON (${(error as Error).message}).`, { place });
  }
  return valueDocument(opened, json, record, options, about, place);
}

function valueDocument(
  opened: Opened,
  json: unknown,
  record: number,
  options: FormatOptions,
  about: Partial<DocumentMeta>,
  place: string,
): Document | ReadError | undefined {
  if (typeof json === "string") return makeDocument(opened, json, `#${record}`, { record, ...about });
  if (typeof json !== "object" || json === null || Array.isArray(json))
    return new ReadError("malformed", "It is no JSON object.", { place });
  try {
    return rowDocument(opened, json as Row, findTextField(Object.keys(json), options), record, options, about);
  } catch (error) {
    if (error instanceof ReadError) return new ReadError(error.code, error.message, { place });
    throw error;
  }
}

/**
 * A JSON file: a list of objects or strings, an object with one such list, or one object. Lists are read element by element, and JSON lines under
 * this name (C4 has them) line by line, whatever their size; only an object has to be in memory as a whole.
 */
const json: Reader = async function* (opened, options) {
  const { limits } = options;
  const stream = await decodeStream(opened.chunks, opened.charset);
  const pieces = stream.pieces[Symbol.asyncIterator]();
  let head = "";
  let ended = false;
  const more = async (): Promise<boolean> => {
    const { value, done } = await pieces.next();
    if (done === true) ended = true;
    else head += value;
    return !ended;
  };
  const all = async function* () {
    yield head;
    head = "";
    if (!ended) yield* stream.pieces;
  };
  while (head.trim() === "" && (await more()));
  const about = () => ({ mediaType: "application/json", ...withEncoding(stream.encoding()) });
  if (head.trimStart().startsWith("[")) {
    for await (const { number, text } of splitList(all(), limits.line)) {
      const place = `#${number}`;
      if (text === undefined) {
        const reason = `The element has more than ${Math.round(limits.line / 2 ** 20)} MB.`;
        yield new ReadError("too-large", reason, { place });
        continue;
      }
      let value: unknown;
      try {
        value = JSON.parse(text);
      } catch (error) {
        yield new ReadError("malformed", `The element is not JSON (${(error as Error).message}).`, { place });
        continue;
      }
      const part = valueDocument(opened, value, number, options, about(), place);
      if (part !== undefined) yield part;
    }
    if (stream.replaced() > 0) yield replacedError(stream.replaced(), stream.encoding());
    return;
  }
  // The first line is an object and something comes after it: lines.
  while (head.length <= limits.line && !/\S[^\n]*\n\s*\S/.test(head) && (await more()));
  if (isLines(head)) {
    yield* jsonLines(opened, stream, all(), options);
    return;
  }
  while (head.length <= limits.whole && (await more()));
  if (head.length > limits.whole) throw tooLarge(Math.max(opened.size ?? 0, head.length), limits.whole);
  let value: unknown;
  try {
    value = JSON.parse(head.replace(/^\ufeff/, ""));
  } catch (error) {
    throw new ReadError("malformed", `It is not JSON (${(error as Error).message}).`, { cause: error });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const lists = Object.values(value).filter(
      (one) => Array.isArray(one) && one.length > 0 && typeof one[0] === "object",
    );
    value =
      lists.length === 1 && !Object.values(value).some((one) => typeof one === "string" && one.length > 1000)
        ? lists[0]
        : [value];
  }
  const list = Array.isArray(value) ? value : [value];
  for (const [i, one] of list.entries()) {
    const part = valueDocument(opened, one, i + 1, options, about(), `#${i + 1}`);
    if (part !== undefined) yield part;
  }
  if (stream.replaced() > 0) yield replacedError(stream.replaced(), stream.encoding());
};

/** Whether text begins with an object in one line and goes on after it. */
function isLines(text: string): boolean {
  const [, line] = /^\ufeff?\s*(\{[^\n]*\})\s*\n\s*\S/.exec(text) ?? [];
  if (line === undefined) return false;
  try {
    JSON.parse(line);
    return true;
  } catch {
    return false;
  }
}

const csv: Reader = async function* (opened, options) {
  const { limits } = options;
  const stream = await decodeStream(opened.chunks, opened.charset);
  const about = { mediaType: "text/csv", ...withEncoding(stream.encoding()) };
  const first = await stream.pieces.next();
  const start = first.done === true ? "" : first.value.replace(/^\ufeff/, "");
  async function* all() {
    yield start;
    yield* stream.pieces;
  }
  let names: readonly string[] | undefined;
  let field = "";
  let record = 0;
  for await (const { line, fields } of parseCsv(all(), findDelimiter(start), limits.line)) {
    if (fields === undefined) {
      yield new ReadError("too-large", `The record has more than ${Math.round(limits.line / 2 ** 20)} MB.`, {
        place: `:${line}`,
      });
      continue;
    }
    if (names === undefined) {
      names = fields.map((name) => name.trim());
      field = findTextField(names, options);
      if (!names.includes(field))
        throw new ReadError(
          "unsupported",
          `There is no field "${field}" (its fields: ${names.slice(0, 20).join(", ")}).`,
        );
      continue;
    }
    record++;
    if (fields.length !== names.length) {
      yield new ReadError(
        "malformed",
        `The record has ${fields.length} fields; the first line names ${names.length}.`,
        { place: `:${line}` },
      );
      continue;
    }
    const row = Object.fromEntries(names.map((name, i) => [name, fields[i]!]));
    const part = rowDocument(opened, row, field, record, options, about);
    if (part !== undefined) yield part;
  }
};

const parquet: Reader = async function* (opened, options) {
  if (opened.access !== undefined) await opened.close?.();
  const access =
    opened.access === undefined
      ? bufferAccess(await readAll(opened.chunks, options.limits.whole))
      : await opened.access();
  try {
    for await (const { row, field, record } of readParquet(access, options)) {
      const part = rowDocument(opened, row, field, record, options, { mediaType: "application/vnd.apache.parquet" });
      if (part !== undefined) yield part;
    }
  } finally {
    await access.close();
  }
};

const warcFormats: Readonly<Record<string, Raw["format"]>> = {
  "text/html": "html",
  "application/xhtml+xml": "html",
  "application/pdf": "pdf",
};

const warc: Reader = async function* (opened, { limits }) {
  for await (const page of readWarc(opened.chunks, limits)) {
    if (page instanceof ReadError) {
      yield page;
      continue;
    }
    const meta: DocumentMeta = { ...opened.meta, ...warcMeta(page) };
    const id = `${opened.id}#${page.record}`;
    const format = warcFormats[page.mediaType] ?? (page.mediaType === "" ? "html" : undefined);
    if (format !== undefined) {
      yield {
        id,
        source: opened.source,
        format,
        bytes: page.body,
        meta: { ...meta, ...(page.charset === undefined ? {} : { encoding: page.charset }) },
      };
    } else if (page.mediaType === "text/plain") {
      const again = async function* () {
        yield page.body;
      };
      try {
        const stream = await decodeStream(again(), page.charset);
        let text = "";
        for await (const piece of stream.pieces) text += piece;
        const document = makeDocument({ ...opened, id, meta }, text, "", withEncoding(stream.encoding()));
        if (document !== undefined) yield document;
      } catch (error) {
        if (!(error instanceof ReadError)) throw error;
        yield new ReadError(error.code, error.message, { place: `#${page.record}` });
      }
    }
  }
};

/** A catalogue's translations as one document, and what they translate as another; of a large one, several of each. */
const po: Reader = async function* (opened, { limits }) {
  const stream = await decodeStream(opened.chunks, opened.charset);
  let originals: string[] = [];
  let translations: string[] = [];
  let language: string | undefined;
  let size = 0;
  let part = 0;
  const flush = function* (last: boolean): Generator<Document> {
    const about = { mediaType: "text/x-gettext-translation", ...withEncoding(stream.encoding()) };
    const which = last && part === 0 ? {} : { record: ++part };
    const suffix = which.record === undefined ? "" : String(part);
    yield makeDocument(opened, originals.join("\n\n"), `#original${suffix}`, { ...about, ...which })!;
    yield makeDocument(opened, translations.join("\n\n"), `#translation${suffix}`, {
      ...about,
      ...which,
      ...(language === undefined ? {} : { language }),
    })!;
    originals = [];
    translations = [];
    size = 0;
  };
  for await (const entry of parsePo(splitLines(stream.pieces, limits.line))) {
    if (entry.original === "") language = languageTag(/^Language:\s*(\S+)/m.exec(entry.translation)?.[1]);
    else if (!entry.fuzzy && entry.original.trim() !== "" && entry.translation.trim() !== "") {
      const more = Math.max(entry.original.length, entry.translation.length);
      if (size > 0 && size + more > limits.text) yield* flush(false);
      originals.push(entry.original);
      translations.push(entry.translation);
      size += more;
    }
  }
  if (originals.length > 0) yield* flush(true);
  else if (part === 0) throw new ReadError("empty", "No message in it is translated.");
};

export const readers: Readonly<Record<Exclude<Format, "zip">, Reader>> = {
  text: plain("text/plain"),
  markdown: plain("text/markdown"),
  html: whole("html", "text/html"),
  pdf: whole("pdf", "application/pdf"),
  docx: whole("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
  epub: whole("epub", "application/epub+zip"),
  csv,
  jsonl,
  json,
  parquet,
  warc,
  po,
};
