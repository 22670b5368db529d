import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type DocumentMeta, ReadError } from "../document.ts";
import { isoDate } from "./page-meta.ts";

export interface PdfPage {
  /** From 1. */
  readonly page: number;
  readonly text: string;
}

/** A run of text that PDF.js finds, with where it stands. */
interface TextItem {
  readonly str: string;
  readonly hasEOL: boolean;
  readonly height: number;
  readonly transform: readonly number[];
}

/**
 * The pages of a PDF that have text. Pictures of text have none: they need character recognition first.
 * @throws ReadError `encrypted`, `malformed`, or `package` when the optional package unpdf is not installed; or, after all pages, when text in them
 *   needs character maps of Adobe's that the optional package pdfjs-dist has
 */
export async function* extractPdf(
  bytes: Uint8Array,
): AsyncGenerator<PdfPage | { readonly meta: Partial<DocumentMeta>; readonly pages: number }> {
  const { getDocumentProxy } = await import("unpdf").catch((error: unknown) => {
    throw new ReadError(
      "package",
      "PDF files are read by the package unpdf, which is not installed: npm install unpdf",
      { cause: error },
    );
  });
  const missing = new Set<string>();
  // PDF.js takes the buffer away; others may still need it.
  const document = await getDocumentProxy(bytes.slice(), {
    verbosity: 0,
    useWorkerFetch: false,
    BinaryDataFactory: characterMaps(missing),
  }).catch((error: unknown) => {
    throw explain(error);
  });
  try {
    const { info } = (await document.getMetadata().catch(() => ({ info: {} }))) as { info: Record<string, unknown> };
    yield { meta: infoMeta(info), pages: document.numPages };
    for (let page = 1; page <= document.numPages; page++) {
      const content = await document.getPage(page).then(
        (one) => one.getTextContent(),
        (error: unknown) => {
          throw explain(error, `#${page}`);
        },
      );
      const text = pageText(content.items.filter((item) => "str" in item));
      if (text !== "") yield { page, text };
    }
    if (missing.size > 0)
      throw new ReadError(
        "package",
        `Text of it is missing: its fonts are coded by ${[...missing].sort().join(", ")}, and the package that has these maps is not installed: npm install pdfjs-dist`,
      );
  } finally {
    await document.loadingTask.destroy();
  }
}

/**
 * What PDF.js asks for the maps from codes to characters that Chinese, Japanese and Korean fonts name and PDFs do not carry: they are read from the
 * package pdfjs-dist where it is installed, and remembered as missing where it is not.
 */
const characterMaps = (missing: Set<string>) =>
  class {
    async fetch({ kind, filename }: { readonly kind: string; readonly filename: string }): Promise<Uint8Array> {
      try {
        const home = import.meta.resolve("pdfjs-dist/package.json");
        const folder = kind === "cMapUrl" ? "cmaps" : "standard_fonts";
        return new Uint8Array(await readFile(fileURLToPath(new URL(`${folder}/${filename}`, home))));
      } catch (error) {
        if (kind === "cMapUrl") missing.add(filename.replace(/\.bcmap$/, ""));
        throw error;
      }
    }
  };

function explain(error: unknown, place = ""): ReadError {
  const name = error instanceof Error ? error.name : "";
  const message = error instanceof Error ? error.message : String(error);
  if (name === "PasswordException" || /password/i.test(message)) {
    return new ReadError("encrypted", "It needs a password. Save it without one to read it.", { cause: error, place });
  }
  return new ReadError("malformed", `It is no PDF that can be read (${message}).`, { cause: error, place });
}

function infoMeta(info: Record<string, unknown>): Partial<DocumentMeta> {
  const string = (key: string): string | undefined => {
    const value = info[key];
    return typeof value === "string" && value.trim() !== "" ? value.trim() : undefined;
  };
  const date = /^D?:?(\d{4})(\d{2})(\d{2})/.exec(string("CreationDate") ?? "");
  const fields = {
    title: string("Title"),
    author: string("Author"),
    date: date === null ? undefined : isoDate(`${date[1]}-${date[2]}-${date[3]}`),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

/** Lines joined into paragraphs: a gap of more than one and a half lines parts them, as does a line that ends a sentence well before the margin. */
function pageText(items: readonly TextItem[]): string {
  const lines: { text: string; y: number; height: number; right: number }[] = [];
  let line = { text: "", y: Number.NaN, height: 0, right: 0 };
  const flush = () => {
    if (line.text.trim() !== "") lines.push({ ...line, text: line.text.trim() });
    line = { text: "", y: Number.NaN, height: 0, right: 0 };
  };
  for (const item of items) {
    const y = item.transform[5] ?? 0;
    if (Number.isNaN(line.y)) line.y = y;
    else if (item.str.trim() !== "" && Math.abs(y - line.y) > Math.max(2, item.height * 0.7)) {
      flush();
      line.y = y;
    }
    line.text += item.str;
    line.height = Math.max(line.height, item.height);
    line.right = Math.max(line.right, item.transform[4] ?? 0);
    if (item.hasEOL) flush();
  }
  flush();
  if (lines.length === 0) return "";
  const gaps = lines
    .slice(1)
    .map((one, i) => lines[i]!.y - one.y)
    .filter((gap) => gap > 0)
    .sort((a, b) => a - b);
  const usual = gaps[gaps.length >> 1] ?? 0;
  const longest = Math.max(...lines.map((one) => one.text.length));
  let text = lines[0]!.text;
  for (let i = 1; i < lines.length; i++) {
    const [last, next] = [lines[i - 1]!, lines[i]!];
    const gap = last.y - next.y;
    const apart =
      gap < 0 ||
      gap > usual * 1.4 ||
      (last.text.length < longest * 0.6 && /[.!?:。！？]["”’)]?$/.test(last.text)) ||
      Math.abs(last.height - next.height) > 2;
    if (apart) text += `\n\n${next.text}`;
    // A word that was parted at the end of a line.
    else if (/\p{Ll}-$/u.test(last.text) && /^\p{Ll}/u.test(next.text)) text = text.slice(0, -1) + next.text;
    else if (/[\u3000-\u9fff\uff00-\uffef]$/.test(last.text) && /^[\u3000-\u9fff\uff00-\uffef]/.test(next.text))
      text += next.text;
    else text += ` ${next.text}`;
  }
  return text;
}
