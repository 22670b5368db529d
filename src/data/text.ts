import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { extname, join, relative, sep } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { isProblem } from "./document.ts";

/** One text and where it came from. */
export interface SourceText {
  /** Path as given; for a file in a folder, relative to the folder with forward slashes. */
  readonly source: string;
  readonly text: string;
}

export interface ReadTextOptions {
  /** Less text than this, in bytes of UTF-8 over all files, is an error. Default 1. */
  readonly minimumBytes?: number;
}

const EXTENSIONS = new Set([".txt", ".md", ".markdown"]);
/** Files whose text has to be taken out of them: what `sources` and `extract` are for. */
const DOCUMENTS = new Set([".pdf", ".docx", ".epub", ".html", ".htm", ".xhtml"]);

/**
 * Reads a text file, or all text, Markdown, PDF, Word, EPUB and HTML files of a folder and the folders in it, sorted by path. Hidden files and folders are
 * left out; each real file is read once, however many links lead to it. Line ends become a line feed; a byte order mark is dropped.
 * @throws InputError naming the file (and the byte) when something is missing, empty, binary, not UTF-8, or there is too little of it
 */
export async function readText(path: string, options: ReadTextOptions = {}): Promise<SourceText[]> {
  const { minimumBytes = 1 } = options;
  const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new InputError(`${path}: ${error.code === "ENOENT" ? "there is no such file or folder" : error.message}.`, {
      cause: error,
    });
  });
  const files = info.isDirectory() ? await textFiles(path) : [path];
  if (files.length === 0) {
    throw new InputError(
      `${path}: no text here. Expected files ending in ${[...EXTENSIONS, ...DOCUMENTS].join(", ")}, in it or in its folders.`,
    );
  }
  const documents: SourceText[] = [];
  for (const file of files) {
    const source = info.isDirectory() ? relative(path, file).split(sep).join("/") : path;
    if (DOCUMENTS.has(extname(file).toLowerCase())) documents.push(...(await extracted(file, source)));
    else documents.push({ source, text: decodeText(await readFile(file), file) });
  }
  const total = byteLength(documents);
  if (total < minimumBytes) {
    throw new InputError(
      `${path}: ${total} bytes of text are too few; at least ${minimumBytes} are needed. Add text, or choose smaller settings.`,
    );
  }
  return documents;
}

/** The text of a PDF, Word, EPUB or HTML file: one document, or one a page or chapter. */
async function extracted(file: string, source: string): Promise<SourceText[]> {
  const { readDocuments } = await import("./sources/read.ts");
  const out: SourceText[] = [];
  for await (const item of readDocuments([file])) {
    if (isProblem(item)) throw new InputError(`${item.path}: ${item.reason}`);
    const { page } = item.meta;
    out.push({ source: page === undefined ? source : `${source}#${page}`, text: item.text });
  }
  return out;
}

async function textFiles(folder: string): Promise<string[]> {
  const found: string[] = [];
  const seen = new Set<string>();
  const visit = async (path: string): Promise<void> => {
    const real = await realpath(path).catch(() => undefined); // a link to nothing
    if (real === undefined || seen.has(real)) return;
    const info = await stat(real);
    if (info.isDirectory()) {
      seen.add(real);
      const names = (await readdir(path)).filter((name) => !name.startsWith("."));
      for (const name of names.sort()) await visit(join(path, name));
    } else if (
      info.isFile() &&
      (EXTENSIONS.has(extname(path).toLowerCase()) || DOCUMENTS.has(extname(path).toLowerCase()))
    ) {
      seen.add(real);
      found.push(path);
    }
  };
  await visit(folder);
  return found.sort();
}

/**
 * The text of a file's bytes.
 * @param place file name for messages
 */
export function decodeText(bytes: Uint8Array, place: string): string {
  if (bytes.length === 0) throw new InputError(`${place}: the file is empty.`);
  const [first, second] = bytes;
  if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff)) {
    throw new InputError(`${place}: this is UTF-16. Save it as UTF-8 (for example: iconv -f UTF-16 -t UTF-8).`);
  }
  const zero = bytes.indexOf(0);
  if (zero !== -1) throw new InputError(`${place}: not a text file: byte ${zero} is zero.`);
  if (!isUtf8(bytes)) {
    const at = firstInvalidUtf8(bytes);
    const value = bytes[at]!.toString(16).padStart(2, "0");
    throw new InputError(
      `${place}: not UTF-8: byte ${at} (0x${value}) does not belong to a character. Convert the file to UTF-8.`,
    );
  }
  const text = new TextDecoder("utf-8").decode(bytes).replace(/\r\n?/g, "\n");
  if (text.trim() === "") throw new InputError(`${place}: the file holds nothing but white space.`);
  return text;
}

/** Offset of the first byte that is not part of a well-formed character (Unicode standard, table 3-7); -1 if all are. */
export function firstInvalidUtf8(bytes: Uint8Array): number {
  let at = 0;
  while (at < bytes.length) {
    const lead = bytes[at]!;
    const size =
      lead < 0x80
        ? 1
        : lead >= 0xc2 && lead <= 0xdf
          ? 2
          : lead >= 0xe0 && lead <= 0xef
            ? 3
            : lead >= 0xf0 && lead <= 0xf4
              ? 4
              : 0;
    if (size === 0 || !isUtf8(bytes.subarray(at, at + size)) || at + size > bytes.length) return at;
    at += size;
  }
  return -1;
}

/** Bytes of UTF-8 in all: what bits per byte are divided by. */
export const byteLength = (documents: readonly SourceText[]): number =>
  documents.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);

/** The training part and the held-out part of a text. */
export interface Holdout {
  readonly train: SourceText[];
  readonly heldOut: SourceText[];
}

/**
 * Holds out the end of the text: the last `fraction` of its bytes, moved to the nearest paragraph's end (a blank line) or, if none is
 * within a fiftieth of the text, to the nearest line's end, white space or character. No byte is in both parts, none is lost.
 * @param fraction between 0 and 1, exclusive
 * @throws InputError when a part would be empty
 */
export function holdOut(documents: readonly SourceText[], fraction = 0.1): Holdout {
  if (!(fraction > 0 && fraction < 1)) throw new InputError(`holdout: ${fraction} is not between 0 and 1.`);
  const sizes = documents.map((document) => Buffer.byteLength(document.text));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const target = Math.round(total * (1 - fraction));
  let before = 0;
  let index = 0;
  while (index < documents.length - 1 && before + sizes[index]! <= target) before += sizes[index++]!;
  const document = documents[index];
  if (document === undefined) throw new InputError("holdout: there is no text to hold out from.");

  const near = documents.length > 1 ? [0, document.text.length] : [];
  const cut = cutAt(document.text, target - before, Math.round(total / 50), near);
  const part = (start: number, end?: number): SourceText[] => {
    const text = document.text.slice(start, end);
    return text.trim() === "" ? [] : [{ source: document.source, text }];
  };
  const train = [...documents.slice(0, index), ...part(0, cut)];
  const heldOut = [...part(cut), ...documents.slice(index + 1)];
  if (train.length === 0 || heldOut.length === 0) {
    throw new InputError(`holdout: ${total} bytes of text are too few to hold out ${fraction * 100}%. Add text.`);
  }
  return { train, heldOut };
}

/** UTF-16 position of the best place to cut near `targetBytes`. `edges` (document ends) count as paragraph ends. */
function cutAt(text: string, targetBytes: number, reach: number, edges: readonly number[]): number {
  let target = Buffer.from(text).subarray(0, targetBytes).toString("utf8").length;
  const unit = text.charCodeAt(target);
  if (unit >= 0xdc00 && unit <= 0xdfff) target--;
  const low = Math.max(0, target - reach);
  const window = text.slice(low, target + reach);
  for (const [pattern, extra] of [
    [/\n{2,}/g, edges],
    [/\n/g, []],
    [/\s+/g, []],
  ] as const) {
    const ends = [...window.matchAll(pattern)].map((found) => low + found.index + found[0].length);
    const candidates = [
      ...ends.filter((end) => end < text.length),
      ...extra.filter((edge) => Math.abs(edge - target) <= reach),
    ];
    const best = candidates.sort((a, b) => Math.abs(a - target) - Math.abs(b - target))[0];
    if (best !== undefined) return best;
  }
  return target;
}

/** SHA-256 in hexadecimal. */
export const sha256 = (data: string | Uint8Array): string => createHash("sha256").update(data).digest("hex");
