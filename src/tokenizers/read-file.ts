import { isUtf8 } from "node:buffer";
import { open, readFile } from "node:fs/promises";
import { InputError } from "../tensor/errors.ts";

/** Bytes; what is larger is no tokenizer, and no string of JavaScript's either. */
const LARGEST = 2 ** 28;

/** What a file is that was downloaded or cloned in the wrong way, by how it begins; undefined where nothing speaks against it. */
function mistaken(head: Uint8Array): string | undefined {
  if (head.length === 0) return "it is empty. Copy or download it again.";
  const text = Buffer.from(head.buffer, head.byteOffset, Math.min(head.length, 256)).toString("latin1");
  if (text.startsWith("version https://git-lfs.github.com/spec/"))
    return "it is a Git LFS pointer, which only says where the file is kept. Run `git lfs pull` in its folder, or download the file itself.";
  if (/^(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html|head)\b/i.test(text))
    return "it is a web page, not the file. Download the file itself: on a file's page, the link named raw or download.";
  if (text.startsWith("\x1f\x8b") || text.startsWith("PK\x03\x04")) return "it is compressed. Unpack it first.";
  return undefined;
}

/** @throws InputError where a file's first bytes say that it was downloaded or cloned in the wrong way */
export function refuseMistaken(head: Uint8Array, place: string): void {
  const found = mistaken(head);
  if (found !== undefined) throw new InputError(`${place}: ${found}`);
}

/**
 * A file of a tokenizer, whole.
 * @throws InputError when it is empty, too large for one, or another file in its place (a Git LFS pointer, a web page, an archive)
 */
export async function readTokenizerBytes(path: string): Promise<Uint8Array> {
  const file = await open(path);
  try {
    const info = await file.stat();
    if (info.isDirectory()) throw new InputError(`${path}: it is a folder, where a file is expected.`);
    if (info.size > LARGEST) {
      throw new InputError(
        `${path}: ${info.size} bytes, where a tokenizer's file has at most ${LARGEST}. Is it the model's weights?`,
      );
    }
    const bytes = await readFile(file);
    refuseMistaken(bytes, path);
    return bytes;
  } finally {
    await file.close();
  }
}

/**
 * The same, as text without a byte order mark.
 * @throws InputError naming the line that is not UTF-8
 */
export async function readTokenizerText(path: string): Promise<string> {
  const bytes = await readTokenizerBytes(path);
  const start = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  if (!isUtf8(bytes)) {
    if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff))
      throw new InputError(`${path}: it is in UTF-16, where UTF-8 is expected. Convert it first.`);
    let line = 1;
    for (let at = 0; at < bytes.length; line++) {
      const end = bytes.indexOf(0x0a, at);
      if (!isUtf8(bytes.subarray(at, end === -1 ? bytes.length : end))) break;
      at = end === -1 ? bytes.length : end + 1;
    }
    throw new InputError(`${path}:${line}: not UTF-8 text. Is it the right file?`);
  }
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, bytes.length - start).toString("utf8");
}
