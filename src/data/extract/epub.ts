import { posix } from "node:path";
import { type DocumentMeta, defaultLimits, ReadError, type ReadLimits } from "../document.ts";
import { Block, blocksOf } from "./blocks.ts";
import { isDropped } from "./boilerplate.ts";
import { coreMeta, openPackage } from "./docx.ts";
import { parseHtml } from "./html-tree.ts";

export interface Chapter {
  /** Position in the book's reading order, from 1. */
  readonly page: number;
  readonly text: string;
}

/** The chapters of an EPUB in reading order (EPUB 3.3; OPF 2.0 too), and what the book says of itself. */
export async function extractEpub(
  bytes: Uint8Array,
  limits: ReadLimits = defaultLimits,
): Promise<{ readonly chapters: Chapter[]; readonly meta: Partial<DocumentMeta> }> {
  const read = await openPackage(bytes, limits);
  if ((await read("META-INF/encryption.xml"))?.includes("EncryptedKey") === true)
    throw new ReadError("encrypted", "The book is protected (DRM).");
  const container = await read("META-INF/container.xml");
  const root =
    container === undefined ? undefined : parseHtml(container, { xml: true }).find("rootfile")?.attribute("full-path");
  const opf = root === undefined ? undefined : await read(root);
  if (root === undefined || opf === undefined)
    throw new ReadError("malformed", "It is no EPUB: its list of contents is not in it.");
  const tree = parseHtml(opf, { xml: true });
  const files = new Map<string, string>();
  const spine: string[] = [];
  for (const element of tree.descendants()) {
    const name = element.name.replace(/^opf:/, "");
    if (name === "item") files.set(element.attribute("id"), element.attribute("href"));
    else if (name === "itemref" && element.attribute("linear") !== "no") spine.push(element.attribute("idref"));
  }
  const chapters: Chapter[] = [];
  for (const [i, id] of spine.entries()) {
    const href = files.get(id);
    const source = href === undefined ? undefined : await read(posix.join(posix.dirname(root), href));
    if (source === undefined) continue;
    const text = allText(source);
    if (text !== "") chapters.push({ page: i + 1, text });
  }
  return { chapters, meta: coreMeta(opf) };
}

/** All text of a page that has nothing beside its text, such as a book's chapter. */
export function allText(source: string): string {
  const page = parseHtml(source);
  const lines: string[] = [];
  const visit = (block: Block): void => {
    for (const child of block.children) {
      if (child instanceof Block) visit(child);
      else lines.push(child.text);
    }
  };
  visit(blocksOf(page.find("body") ?? page, isDropped, () => false));
  return lines.join("\n\n");
}
