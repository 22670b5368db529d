import { isUtf8 } from "node:buffer";
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { InputError } from "../tensor/errors.ts";

/** Files longer than this are given in parts of about this many bytes. */
const PART = 8 << 20;
const EXTENSIONS = new Set([".txt", ".md", ".markdown"]);

/** The text files at `paths`: files as given, of folders those that are text or Markdown, sorted. */
export async function textFiles(paths: readonly string[]): Promise<{ path: string; bytes: number }[]> {
  const found: { path: string; bytes: number }[] = [];
  const visit = async (path: string, given: boolean): Promise<void> => {
    const info = await stat(path).catch((error: NodeJS.ErrnoException) => {
      if (!given && error.code === "ENOENT") return undefined; // a link to nothing
      throw new InputError(`${path}: ${error.code === "ENOENT" ? "there is no such file or folder" : error.message}.`);
    });
    if (info?.isDirectory()) {
      for (const name of (await readdir(path)).sort()) if (!name.startsWith(".")) await visit(join(path, name), false);
    } else if (info !== undefined && (given || EXTENSIONS.has(extname(path).toLowerCase()))) {
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
 * feed between a character that is not white space and a letter, where every tokenizer cuts anyway. Line ends become a line feed; a byte
 * order mark is dropped.
 * @throws InputError naming a file that is not UTF-8
 */
export async function* streamTexts(files: readonly { readonly path: string }[]): AsyncGenerator<string> {
  for (const { path } of files) {
    let held = Buffer.alloc(0);
    let first = true;
    const give = (bytes: Buffer): string => {
      if (!isUtf8(bytes)) throw new InputError(`${path}: not UTF-8 text. Convert it first.`);
      const text = bytes.toString("utf8").replace(/\r\n?/g, "\n");
      const whole = first && text.startsWith("\ufeff") ? text.slice(1) : text;
      first = false;
      return whole;
    };
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      held = Buffer.concat([held, chunk as Buffer]);
      if (held.length < PART) continue;
      const cut = lastCut(held);
      if (cut <= 0) continue;
      yield give(held.subarray(0, cut));
      held = held.subarray(cut);
    }
    if (held.length > 0) yield give(held);
  }
}

const isLetter = (byte: number): boolean => (byte >= 0x41 && byte <= 0x5a) || (byte >= 0x61 && byte <= 0x7a);

/** The last place between a line that ends in a visible ASCII character and one that begins with a letter; -1 if there is none. */
function lastCut(bytes: Buffer): number {
  for (let at = bytes.lastIndexOf(0x0a, bytes.length - 2); at > 0; at = bytes.lastIndexOf(0x0a, at - 1)) {
    const before = bytes[at - 1] === 0x0d ? bytes[at - 2]! : bytes[at - 1]!;
    if (isLetter(bytes[at + 1]!) && before > 0x20 && before < 0x7f) return at + 1;
  }
  return -1;
}
