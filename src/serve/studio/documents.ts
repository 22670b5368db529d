import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { candidates, gramsOf, type Span, unspaced } from "../../data/build/grams.ts";
import { SHOWN } from "../../data/build/lines.ts";
import type { DroppedDocument, KeptDocument } from "../../data/build/unit.ts";
import type { DocumentHead, DocumentStatus, DocumentsPage, DocumentView, FoundDocument } from "../data-api.ts";
import { ApiError } from "../errors.ts";
import { finder, places } from "./find.ts";

/** What one request may look at before it answers with where to go on. */
export interface ScanLimits {
  readonly bytes: number;
  readonly milliseconds: number;
  /** A longer line is passed over, and refused when it is asked for. */
  readonly lineBytes: number;
}
export const scanLimits: ScanLimits = { bytes: 32 * 2 ** 20, milliseconds: 200, lineBytes: 64 * 2 ** 20 };

export interface DocumentQuery {
  readonly q: string;
  readonly status?: DocumentStatus | undefined;
  readonly source?: string | undefined;
  /** `filter/rule` of a dropped document. */
  readonly rule?: string | undefined;
  readonly language?: string | undefined;
  /** Exactly this document. */
  readonly id?: string | undefined;
  readonly at?: string | undefined;
  readonly limit: number;
}

/** By the id of a document that is the same as another: that one. */
export type Duplicates = ReadonlyMap<string, { readonly id: string; readonly kind: "exact" | "near" }>;

interface CorpusFile {
  /** Relative to the corpus's folder, with forward slashes. */
  readonly path: string;
  readonly size: number;
  readonly status: DocumentStatus;
}

const chunkBytes = 256 * 1024;
const excerptLength = 280;
const textPage = 100_000;
const position = /^((?:documents\/\d{1,12}|work\/units\/[0-9a-f]{1,64}\.(?:dropped|docs))\.jsonl)@(\d{1,15})$/;

/**
 * The files that hold a corpus's documents, in the order in which they are looked at: what stays, what filters took, and (where there are duplicates)
 * what was clean but the same as something else.
 */
export async function corpusFiles(folder: string, duplicates: Duplicates): Promise<CorpusFile[]> {
  const kinds = [
    { dir: "documents", name: /^\d{1,12}\.jsonl$/, status: "kept" },
    { dir: "work/units", name: /^[0-9a-f]{1,64}\.dropped\.jsonl$/, status: "dropped" },
    ...(duplicates.size > 0
      ? [{ dir: "work/units", name: /^[0-9a-f]{1,64}\.docs\.jsonl$/, status: "duplicate" } as const]
      : []),
  ] as const;
  const files: CorpusFile[] = [];
  for (const { dir, name, status } of kinds) {
    const entries = await readdir(join(folder, dir), { withFileTypes: true }).catch(() => []);
    const names = entries.filter((e) => e.isFile() && name.test(e.name)).map((e) => e.name);
    for (const file of names.sort()) {
      const path = `${dir}/${file}`;
      const size = (await stat(join(folder, path)).catch(() => undefined))?.size ?? 0;
      if (size > 0) files.push({ path, size, status });
    }
  }
  return files;
}

interface Line {
  readonly at: number;
  readonly next: number;
  /** Undefined for a line that is too long. */
  readonly bytes: Buffer | undefined;
}

/** Whole lines from a byte on, a chunk of the file at a time. A last line without its end is still being written, and left out. */
async function* linesFrom(path: string, offset: number, longest: number): AsyncGenerator<Line> {
  const handle = await open(path, "r");
  try {
    const chunk = Buffer.allocUnsafe(chunkBytes);
    let held: Buffer[] = [];
    let size = 0;
    let at = offset;
    for (let from = offset; ; ) {
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, from);
      if (bytesRead === 0) return;
      const got = chunk.subarray(0, bytesRead);
      let start = 0;
      for (let end = got.indexOf(10); end >= 0; end = got.indexOf(10, start)) {
        size += end - start;
        const next = from + end + 1;
        yield { at, next, bytes: size > longest ? undefined : Buffer.concat([...held, got.subarray(start, end)]) };
        held = [];
        size = 0;
        at = next;
        start = end + 1;
      }
      size += bytesRead - start;
      if (size > longest) held = [];
      else if (start < bytesRead) held.push(Buffer.from(got.subarray(start)));
      from += bytesRead;
    }
  } finally {
    await handle.close();
  }
}

/** Lines from a byte on that begin in one of the spans; without them, all. */
async function* linesIn(
  path: string,
  offset: number,
  spans: readonly Span[] | undefined,
  longest: number,
): AsyncGenerator<Line> {
  if (spans === undefined) yield* linesFrom(path, offset, longest);
  for (const { from, to } of spans ?? []) {
    if (to <= offset) continue;
    for await (const line of linesFrom(path, Math.max(from, offset), longest)) {
      if (line.at >= to) break;
      yield line;
      if (line.next >= to) break;
    }
  }
}

type Stored = KeptDocument | DroppedDocument;

function parseLine(bytes: Buffer): Stored | undefined {
  try {
    const value = JSON.parse(bytes.toString("utf8")) as Partial<Stored> | null;
    return typeof value?.id === "string" && typeof value.text === "string" ? (value as Stored) : undefined;
  } catch {
    return undefined; // not written by a job
  }
}

function headOf(document: Stored, at: string, status: DocumentStatus, duplicates: Duplicates): DocumentHead {
  const { id, source } = document;
  const dropped = "reason" in document ? document : undefined;
  const { title, url } = dropped ?? (document as KeptDocument).meta ?? {};
  const same = status === "duplicate" ? duplicates.get(id) : undefined;
  const language = document.lang;
  return {
    at,
    id,
    source,
    status,
    ...(title === undefined ? {} : { title }),
    ...(url === undefined ? {} : { url }),
    ...(language === undefined ? {} : { language }),
    ...(dropped === undefined ? {} : { reason: dropped.reason }),
    ...(same === undefined ? {} : { same: { ...same } }),
  };
}

/** Where about 80 columns before a place begin: Chinese characters take two. */
function columnsBefore(text: string, place: number): number {
  let at = place;
  for (let width = 0; at > 0 && width < 80; at--) width += unspaced(text.charCodeAt(at - 1)) ? 2 : 1;
  return at;
}

/** The text from about 80 columns before the first place, on one line, with every place in it. */
function excerptOf(text: string, what: RegExp | undefined): Pick<FoundDocument, "excerpt" | "matches"> {
  const [first] = places(text, what, 1);
  const whole = (i: number) => (/[\udc00-\udfff]/.test(text[i] ?? "") ? i - 1 : i);
  const from = whole(columnsBefore(text, first?.[0] ?? 0));
  const cut = text.slice(from, whole(from + excerptLength)).replace(/\s/g, " ");
  // It begins with a word, unless the word would be the place itself.
  const space = from === 0 ? -1 : cut.slice(0, 40).indexOf(" ");
  const excerpt = from === 0 ? cut : `… ${cut.slice(space + 1)}`;
  return { excerpt, matches: places(excerpt, what, 20) };
}

function parsePosition(at: string): { path: string; offset: number } {
  const [, path, offset] = position.exec(at) ?? [];
  if (path !== undefined && offset !== undefined) return { path, offset: Number(offset) };
  const message = `at: ${JSON.stringify(at.slice(0, 80))} is not a place in a corpus. Take it from a list of documents.`;
  throw new ApiError(400, "invalid_value", message, { param: "at" });
}

const gone = () =>
  new ApiError(
    404,
    "document_not_found",
    "There is no document at that place: the corpus was built again. Search again.",
  );

/** Documents that answer a query, from a place on, as far as the limits let one request look, and while there is somebody who waits for it. */
export async function findDocuments(
  folder: string,
  files: readonly CorpusFile[],
  duplicates: Duplicates,
  query: DocumentQuery,
  limits: ScanLimits,
  signal: AbortSignal,
): Promise<DocumentsPage> {
  const { status, source, rule, language, id } = query;
  const asked = files.filter((f) =>
    rule === undefined ? status === undefined || f.status === status : f.status === "dropped",
  );
  const size = asked.reduce((n, f) => n + f.size, 0);
  const what = finder(query.q);
  const grams = [...new Set([...gramsOf(query.q), ...gramsOf(id ?? "")])];
  const idBytes = id === undefined ? undefined : Buffer.from(JSON.stringify(id));
  let first = 0;
  let start = 0;
  if (query.at !== undefined) {
    const { path, offset } = parsePosition(query.at);
    first = asked.findIndex((f) => f.path === path);
    if (first < 0) throw gone();
    start = offset;
  }
  const documents: FoundDocument[] = [];
  let searched = asked.slice(0, first).reduce((n, f) => n + f.size, 0);
  let looked = 0;
  const began = performance.now();
  for (const [i, file] of asked.slice(first).entries()) {
    if (i > 0 && (signal.aborted || performance.now() - began > limits.milliseconds))
      return { documents, next: `${file.path}@0`, searched, size };
    const spans = grams.length === 0 ? undefined : candidates(folder, file.path, file.size, grams);
    for await (const line of linesIn(join(folder, file.path), start, spans, limits.lineBytes)) {
      const at = `${file.path}@${line.at}`;
      const full = documents.length >= query.limit;
      if (
        full ||
        signal.aborted ||
        looked >= limits.bytes ||
        (looked > 0 && performance.now() - began > limits.milliseconds)
      )
        return { documents, next: at, searched: searched + line.at, size };
      looked += line.next - line.at;
      if (line.bytes === undefined || (idBytes && !line.bytes.includes(idBytes))) continue;
      const document = parseLine(line.bytes);
      if (document === undefined || (id !== undefined && document.id !== id)) continue;
      if (file.status === "duplicate" && !duplicates.has(document.id)) continue;
      const head = headOf(document, at, file.status, duplicates);
      if (source !== undefined && head.source !== source) continue;
      if (language !== undefined && head.language !== language) continue;
      if (rule !== undefined && `${head.reason?.filter}/${head.reason?.rule}` !== rule) continue;
      if (what) {
        const fields = [document.text, head.title, head.id, head.url];
        what.lastIndex = 0;
        if (!fields.some((field) => field !== undefined && places(field, what, 1).length > 0)) continue;
      }
      documents.push({ ...head, ...excerptOf(document.text, what), length: document.text.length });
    }
    searched += file.size;
    start = 0;
  }
  return { documents, searched: size, size };
}

/** One document in full, a page of its text at a time. @throws ApiError 400, 404 or 413 */
export async function readDocument(
  folder: string,
  files: readonly CorpusFile[],
  duplicates: Duplicates,
  at: string,
  from: number,
  limits: ScanLimits,
): Promise<DocumentView> {
  const { path, offset } = parsePosition(at);
  const file = files.find((f) => f.path === path);
  if (file === undefined || offset >= file.size) throw gone();
  // The byte before a document's line is the end of the line before it.
  let line: Line | undefined;
  for await (const one of linesFrom(join(folder, path), Math.max(0, offset - 1), limits.lineBytes)) {
    if (one.at > offset) break;
    if (one.at === offset) line = one;
    if (one.at === offset || one.next !== offset) break;
  }
  if (line === undefined) throw gone();
  if (line.bytes === undefined) {
    const megabytes = limits.lineBytes / 2 ** 20;
    throw new ApiError(413, "document_too_large", `This document has more than ${megabytes} MB; open ${path} itself.`);
  }
  const document = parseLine(line.bytes);
  if (document === undefined) throw gone();
  const { text, id } = document;
  const until = from + textPage;
  const end = /[\udc00-\udfff]/.test(text[until] ?? "") ? until + 1 : until;
  const copies =
    file.status === "kept"
      ? [...duplicates].filter(([, same]) => same.id === id).map(([copy, { kind }]) => ({ id: copy, kind }))
      : [];
  const dropped = "reason" in document;
  return {
    ...headOf(document, at, file.status, duplicates),
    text: text.slice(from, end),
    from,
    length: text.length,
    beginning: dropped && text.length >= SHOWN,
    meta: dropped ? {} : { ...document.meta },
    copies: copies.slice(0, 50),
  };
}
