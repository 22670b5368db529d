import { isUtf8 } from "node:buffer";
import { constants, createReadStream } from "node:fs";
import { access, readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { InputError } from "../tensor/errors.ts";

/** Files longer than this are given in parts of about this many bytes. */
const PART = 8 << 20;
/** A part that reaches this size without a line to end it is cut between any two characters. */
const LONGEST_PART = 64 << 20;
const EXTENSIONS = new Set([".txt", ".md", ".markdown"]);

/**
 * The text files at `paths`: files as given, of folders those that are text or Markdown, sorted.
 * @throws InputError naming what is not there or cannot be read
 */
export async function textFiles(paths: readonly string[]): Promise<{ path: string; bytes: number }[]> {
  const found: { path: string; bytes: number }[] = [];
  const visit = async (path: string, given: boolean): Promise<void> => {
    const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
      if (!given && error.code === "ENOENT") return undefined; // a link to nothing
      throw new InputError(`${path}: ${error.code === "ENOENT" ? "there is no such file or folder" : error.message}.`);
    });
    const refuse = (error: NodeJS.ErrnoException): never => {
      throw new InputError(
        `${path}: it cannot be read: ${error.code === "EACCES" ? "permission is denied" : error.message}.`,
      );
    };
    if (info?.isDirectory()) {
      for (const name of (await readdir(path).catch(refuse)).sort())
        if (!name.startsWith(".")) await visit(join(path, name), false);
    } else if (info !== undefined && (given || EXTENSIONS.has(extname(path).toLowerCase()))) {
      await access(path, constants.R_OK).catch(refuse);
      found.push({ path, bytes: info.size });
    }
  };
  for (const path of paths) await visit(path, true);
  if (found.length === 0)
    throw new InputError(`${paths.join(", ")}: no text here. Expected files ending in ${[...EXTENSIONS].join(", ")}.`);
  return found;
}

/**
 * The texts of files, one after the other, large files in parts: memory holds one part, whatever the file's size. A part ends after a line
 * feed between a character that is not white space and a letter, where every tokenizer cuts anyway; only in 64 MB without such a place it ends
 * anywhere. Line ends become a line feed; a byte order mark is dropped.
 * @throws InputError naming a file that is not UTF-8
 */
export async function* streamTexts(files: readonly { readonly path: string }[]): AsyncGenerator<string> {
  for (const { path } of files) {
    let first = true;
    const give = (bytes: Buffer): string => {
      if (!isUtf8(bytes)) throw new InputError(`${path}: not UTF-8 text. Convert it first.`);
      const text = bytes.toString("utf8").replace(/\r\n?/g, "\n");
      const whole = first && text.startsWith("\ufeff") ? text.slice(1) : text;
      first = false;
      return whole;
    };
    let chunks: Buffer[] = [];
    let held = 0;
    /** Where to look for a place to cut again. */
    let enough = PART;
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      chunks.push(chunk as Buffer);
      held += (chunk as Buffer).length;
      if (held < enough) continue;
      const all = Buffer.concat(chunks);
      const cut = lastCut(all) ?? (held < LONGEST_PART ? undefined : lastCharacter(all));
      if (cut === undefined) {
        chunks = [all];
        enough = held + PART;
        continue;
      }
      yield give(all.subarray(0, cut));
      chunks = [all.subarray(cut)];
      held -= cut;
      enough = PART;
    }
    if (held > 0) yield give(Buffer.concat(chunks));
  }
}

/** Where the last character begins that may be cut short; but not between the two characters of a line end. */
function lastCharacter(bytes: Buffer): number {
  let at = bytes.length - 1;
  while (at > bytes.length - 4 && (bytes[at]! & 0xc0) === 0x80) at--;
  return bytes[at - 1] === 0x0d ? at - 1 : at;
}

/** The last place between a line that ends in a visible character and one that begins with a letter. */
function lastCut(bytes: Buffer): number | undefined {
  // What comes at the very end may be cut short.
  for (let at = bytes.lastIndexOf(0x0a, bytes.length - 5); at > 4; at = bytes.lastIndexOf(0x0a, at - 1)) {
    const end = bytes[at - 1] === 0x0d ? at - 1 : at;
    if (/\S$/u.test(bytes.toString("utf8", end - 4, end)) && /^\p{L}/u.test(bytes.toString("utf8", at + 1, at + 5)))
      return at + 1;
  }
  return undefined;
}
