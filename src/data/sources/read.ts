import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { InputError } from "../../tensor/errors.ts";
import {
  defaultLimits,
  type Item,
  isProblem,
  isRaw,
  type Problem,
  type Raw,
  ReadError,
  type ReadLimits,
  type Source,
} from "../document.ts";
import { extractRaw } from "../extract/raw.ts";
import { type Access, bufferAccess, type Chunks, fileAccess, fileChunks, peek, readAll } from "./access.ts";
import { extensionOf, type Input, isUrl, listFiles, slashes, systemProblem } from "./files.ts";
import { type FormatOptions, formatOf, type Opened, readers } from "./formats.ts";
import { fetchChunks, urlAccess } from "./http.ts";
import { type DatasetCard, folderCard, hubOptions, isDataFile, isRepository, listRepository } from "./huggingface.ts";
import { Budget, gunzip, unzstd } from "./unpack.ts";
import { readMember, zipMembers } from "./zip.ts";

export interface SourceOptions {
  /** What documents, problems and reports call it. Default: the last name of the first path. */
  readonly name?: string;
  /** The field of rows (JSONL, CSV, Parquet) that holds the text. Default: found by its name. */
  readonly textField?: string;
  /** Fields of rows to keep in `meta.extra`. */
  readonly keep?: readonly string[];
  /** A licence that holds for everything that does not say its own. */
  readonly licence?: string;
  /** A language that holds for everything that does not say its own. */
  readonly language?: string;
  readonly limits?: Partial<ReadLimits>;
  /** Told of bytes of the input as they are read, packed as they lie there; of some places twice where an archive is looked into. */
  readonly onBytes?: (count: number) => void;
}

interface Context extends FormatOptions {
  readonly source: string;
  readonly signal: AbortSignal | undefined;
  readonly onBytes: ((count: number) => void) | undefined;
  readonly defaults: { readonly licence?: string | undefined; readonly language?: string | undefined };
}

const MAX_NESTING = 3;
/** An archive with so many members that grow beyond reason is not read further. */
const MAX_BOMBS = 10;
/** Of problems with single lines, rows or members, a file may have this many of its own in the report; the rest is counted in one line. */
const PROBLEMS_PER_FILE = 20;

function contextOf(paths: readonly string[], options: SourceOptions, signal: AbortSignal | undefined): Context {
  return {
    source: options.name ?? (basename(paths[0] ?? "") || "data"),
    signal,
    onBytes: options.onBytes,
    limits: { ...defaultLimits, ...options.limits },
    defaults: { licence: options.licence, language: options.language },
    ...(options.textField === undefined ? {} : { textField: options.textField }),
    ...(options.keep === undefined ? {} : { keep: options.keep }),
  };
}

/**
 * The inputs that paths stand for: files, folders (a data set's card in README.md says which files are its data), globs, addresses, and
 * `hf://datasets/OWNER/NAME`. The units in which a job is divided, resumed and spread over workers: their order is that of their names,
 * the same on every machine.
 */
export async function* listInputs(
  paths: readonly string[],
  options: SourceOptions = {},
  signal?: AbortSignal,
): AsyncGenerator<Input | Problem> {
  const { source } = contextOf(paths, options, signal);
  // Of several paths, files are called by all of theirs: two folders may hold files of the same name, two globs the same file.
  const seen = paths.length > 1 ? new Set<string>() : undefined;
  const named = (item: Input): Input | undefined => {
    if (seen === undefined) return item;
    const place = resolve(item.path);
    if (seen.has(place)) return undefined;
    seen.add(place);
    return { ...item, name: slashes(item.path) };
  };
  for (const path of paths) {
    signal?.throwIfAborted();
    if (isUrl(path)) {
      yield { path, name: path, kind: "url", named: true };
      continue;
    }
    if (isRepository(path)) {
      for await (const item of listRepository(path, { signal })) yield "reason" in item ? { ...item, source } : item;
      continue;
    }
    const card = await folderCard(path);
    for await (const item of listFiles(path)) {
      if ("reason" in item) {
        yield { ...item, source };
        continue;
      }
      if (card !== undefined && !item.named && !isDataFile(item.name)) continue;
      const input = named(item);
      if (input === undefined) continue;
      yield card === undefined || item.named ? input : { ...input, meta: withoutFiles(card) };
    }
  }
}

const withoutFiles = ({ licence, language }: DatasetCard) => ({
  ...(licence === undefined ? {} : { licence }),
  ...(language === undefined ? {} : { language }),
});

/**
 * What one input holds, with pages, PDF, Word files and EPUBs not yet extracted: they come as `Raw`, for `extractRaw`, here or in another
 * thread. Never throws for bad input; what cannot be read is a problem and the rest goes on.
 */
export async function* readInput(
  input: Input,
  options: SourceOptions = {},
  signal?: AbortSignal,
): AsyncGenerator<Item | Raw> {
  const context = contextOf([input.path], options, signal);
  let problems = 0;
  let more: Problem | undefined;
  for await (const item of guarded(input, context)) {
    if (isProblem(item) && ++problems > PROBLEMS_PER_FILE) {
      more ??= item;
      continue;
    }
    yield item;
  }
  if (more !== undefined) {
    yield {
      ...more,
      path: input.path,
      reason: `${problems - PROBLEMS_PER_FILE} more problems in this file. The first of them, at ${more.path}: ${more.reason}`,
    };
  }
}

async function* guarded(input: Input, context: Context): AsyncGenerator<Item | Raw> {
  try {
    const id = `${context.source}/${input.name}`;
    const defaults = { ...context.defaults, ...input.meta };
    const about = Object.fromEntries(Object.entries(defaults).filter(([, value]) => value !== undefined));
    if (input.kind === "url") {
      const hub = hubOptions(input.path, { signal: context.signal });
      const fetched = await fetchChunks(input.path, hub);
      const opened: Opened = {
        chunks: countedChunks(fetched.chunks, context.onBytes),
        access: async () =>
          (await urlAccess(input.path, hub)) ??
          bufferAccess(await readAll((await fetchChunks(input.path, hub)).chunks, context.limits.whole)),
        size: fetched.size,
        charset: fetched.charset,
        id,
        source: context.source,
        meta: { ...about, path: input.path, ...(fetched.mediaType === "text/html" ? { url: fetched.url } : {}) },
      };
      yield* open(opened, new URL(input.path).pathname, fetched.mediaType, context, new Budget(context.limits), 0);
      return;
    }
    const { size } = await stat(input.path);
    const opened: Opened = {
      chunks: countedChunks(fileChunks(input.path, context.signal), context.onBytes),
      access: async () => countedAccess(await fileAccess(input.path), context.onBytes),
      size,
      id,
      source: context.source,
      meta: { ...about, path: input.path },
    };
    yield* open(opened, input.path, undefined, context, new Budget(context.limits), 0);
  } catch (error) {
    context.signal?.throwIfAborted();
    if (!(error instanceof ReadError) && !isSystemError(error)) throw error;
    yield problemOf(systemProblem(error), input.path, context);
  }
}

async function* countedChunks(
  chunks: AsyncGenerator<Uint8Array>,
  count: Context["onBytes"],
): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    count?.(chunk.length);
    yield chunk;
  }
}

const countedAccess = (access: Access, count: Context["onBytes"]): Access => ({
  size: access.size,
  close: () => access.close(),
  async read(from, to) {
    const bytes = await access.read(from, to);
    count?.(bytes.length);
    return bytes;
  },
});

const isSystemError = (error: unknown): boolean => error instanceof Error && "syscall" in error;

const problemOf = (error: ReadError, path: string, { source }: Context): Problem => ({
  path: path + error.place,
  code: error.code,
  reason: error.message,
  source,
});

const placeIn = ({ meta }: Opened): string => (meta.member === undefined ? meta.path : `${meta.path}!/${meta.member}`);

/** Takes off compression, looks into archives, and reads what is inside. */
async function* open(
  opened: Opened,
  name: string,
  mediaType: string | undefined,
  context: Context,
  budget: Budget,
  depth: number,
): AsyncGenerator<Item | Raw> {
  const { head, chunks, close } = await peek(opened.chunks, 1024);
  try {
    if (head.length === 0) throw new ReadError("empty", "It is empty.");
    const inner = { ...opened, chunks, close };
    const unpack = unpackerOf(head);
    if (unpack !== undefined) {
      if (depth >= MAX_NESTING) throw new ReadError("bomb", `It is packed more than ${MAX_NESTING} times.`);
      const { access: _access, size: _size, ...rest } = inner;
      const plain = name.replace(/\.(?:gz|zst|zstd)$/i, "");
      yield* open({ ...rest, chunks: unpack(chunks, budget) }, plain, undefined, context, budget, depth + 1);
      return;
    }
    const extension = extensionOf(name);
    if (extension === "gz" || extension === "zst") {
      throw new ReadError("malformed", `Its name says .${extension}, but it does not begin like that.`);
    }
    const format = formatOf(extension, mediaType, head);
    if (format === "zip") {
      yield* openZip(inner, context, budget, depth);
      return;
    }
    for await (const part of readers[format](inner, context)) {
      if (part instanceof ReadError) yield problemOf(part, placeIn(opened), context);
      else yield part;
    }
  } finally {
    await close();
  }
}

const GZIP = [0x1f, 0x8b];
const ZSTD = [0x28, 0xb5, 0x2f, 0xfd];

function unpackerOf(head: Uint8Array): typeof gunzip | undefined {
  const begins = (magic: readonly number[]) => magic.every((byte, i) => head[i] === byte);
  return begins(GZIP) ? gunzip : begins(ZSTD) ? unzstd : undefined;
}

async function* openZip(opened: Opened, context: Context, budget: Budget, depth: number): AsyncGenerator<Item | Raw> {
  if (depth >= MAX_NESTING) throw new ReadError("bomb", `It is packed more than ${MAX_NESTING} times.`);
  const inMemory = async (chunks: Chunks): Promise<Access> => bufferAccess(await readAll(chunks, context.limits.whole));
  let access: Access;
  if (opened.access === undefined) access = await inMemory(opened.chunks);
  else {
    await opened.close?.();
    access = await opened.access();
  }
  try {
    const members = await zipMembers(access, context.limits);
    if (members.length === 0) throw new ReadError("empty", "The archive holds no files.");
    let bombs = 0;
    for (const member of members) {
      if (/(?:^|\/)(?:\.|__MACOSX\/)/.test(member.name)) continue;
      const { access: _access, size: _size, charset: _charset, ...rest } = opened;
      const name = opened.meta.member === undefined ? member.name : `${opened.meta.member}!/${member.name}`;
      const inside: Opened = {
        ...rest,
        chunks: readMember(access, member, budget),
        size: member.size,
        id: `${opened.id}!/${member.name}`,
        meta: { ...opened.meta, member: name },
      };
      const before = { in: budget.in, out: budget.out };
      try {
        yield* open(inside, member.name, undefined, context, budget, depth + 1);
      } catch (error) {
        if (!(error instanceof ReadError)) throw error;
        yield problemOf(error, placeIn(inside), context);
        if (error.code !== "bomb") continue;
        // The others may be good, but not without end: each bomb costs the time to find it out.
        if (++bombs === MAX_BOMBS) return;
        budget.in = before.in;
        budget.out = before.out;
      }
    }
  } finally {
    await access.close();
  }
}

/** All documents of some paths, one after the other, extracted. @see listInputs, readInput and extractRaw for doing it in parts */
export async function* readDocuments(
  paths: readonly string[],
  options: SourceOptions = {},
  signal?: AbortSignal,
): AsyncGenerator<Item> {
  const { limits, source } = contextOf(paths, options, signal);
  for await (const input of listInputs(paths, options, signal)) {
    if (isProblem(input)) {
      yield input;
      continue;
    }
    for await (const item of readInput(input, { ...options, name: source }, signal)) {
      signal?.throwIfAborted();
      if (isRaw(item)) yield* extractRaw(item, limits);
      else yield item;
    }
  }
}

/** Paths as a source of documents. */
export function sourceOf(paths: readonly string[], options: SourceOptions = {}): Source {
  if (paths.length === 0) throw new InputError("A source needs at least one path.");
  const name = contextOf(paths, options, undefined).source;
  return { name, read: ({ signal } = {}) => readDocuments(paths, { ...options, name }, signal) };
}
