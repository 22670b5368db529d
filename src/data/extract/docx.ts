import { type DocumentMeta, defaultLimits, ReadError, type ReadLimits } from "../document.ts";
import { bufferAccess, readAll } from "../sources/access.ts";
import { Budget } from "../sources/unpack.ts";
import { readMember, type ZipMember, zipMembers } from "../sources/zip.ts";
import { type HtmlElement, parseHtml } from "./html-tree.ts";
import { isoDate, languageTag } from "./page-meta.ts";

/** The members of an archive in memory, by name, read when asked for. */
export async function openPackage(
  bytes: Uint8Array,
  limits: ReadLimits,
): Promise<(name: string) => Promise<string | undefined>> {
  const access = bufferAccess(bytes);
  const members = new Map<string, ZipMember>((await zipMembers(access, limits)).map((member) => [member.name, member]));
  const budget = new Budget(limits);
  return async (name) => {
    const member = members.get(name) ?? members.get(decodeURIComponent(name));
    if (member === undefined) return undefined;
    const content = await readAll(readMember(access, member, budget), limits.whole);
    return new TextDecoder().decode(content);
  };
}

/** The text of a Word file (Office Open XML, ECMA-376 part 1): paragraphs, headings, lists and tables; text marked as deleted is left out. */
export async function extractDocx(
  bytes: Uint8Array,
  limits: ReadLimits = defaultLimits,
): Promise<{ readonly text: string; readonly meta: Partial<DocumentMeta> }> {
  // The old Office format in a new name, which is also how password-protected files are wrapped.
  if (bytes[0] === 0xd0 && bytes[1] === 0xcf) {
    throw new ReadError(
      "encrypted",
      "It is protected with a password, or in the format of Word 97. Save it without one as .docx.",
    );
  }
  const read = await openPackage(bytes, limits);
  const source = await read("word/document.xml");
  if (source === undefined) throw new ReadError("malformed", "It is no Word file: word/document.xml is not in it.");
  const body = parseHtml(source, { xml: true, elements: Number.POSITIVE_INFINITY }).find("w:body");
  const parts: string[] = [];
  if (body !== undefined) readBody(body, parts);
  const core = await read("docProps/core.xml");
  return { text: parts.join("\n\n").trim(), meta: core === undefined ? {} : coreMeta(core) };
}

function readBody(element: HtmlElement, parts: string[]): void {
  let list: string[] = [];
  const endList = () => {
    if (list.length > 0) parts.push(list.join("\n"));
    list = [];
  };
  for (const child of element.children) {
    if (typeof child === "string") continue;
    if (child.name === "w:p") {
      const text = paragraphText(child).trim();
      if (text === "") continue;
      if (child.find("w:numPr") !== undefined) list.push(`- ${text}`);
      else {
        endList();
        parts.push(text);
      }
    } else if (child.name === "w:tbl") {
      endList();
      const rows = [...child.descendants()].filter((one) => one.name === "w:tr").map(rowText);
      parts.push(rows.filter((row) => row.replaceAll("|", "").trim() !== "").join("\n"));
    } else if (
      child.name === "w:sdt" ||
      child.name === "w:sdtContent" ||
      child.name === "w:ins" ||
      child.name === "w:customXml"
    ) {
      endList();
      readBody(child, parts);
    }
  }
  endList();
}

const rowText = (row: HtmlElement): string =>
  row.children
    .filter((cell): cell is HtmlElement => typeof cell !== "string" && cell.name === "w:tc")
    .map((cell) =>
      [...cell.descendants()]
        .filter((one) => one.name === "w:p")
        .map((one) => paragraphText(one).trim())
        .filter(Boolean)
        .join(" "),
    )
    .join(" | ");

const SKIPPED = new Set(["w:del", "w:instrText", "w:pPr", "w:rPr", "mc:Fallback", "w:delText", "w:moveFrom"]);

function paragraphText(element: HtmlElement): string {
  let text = "";
  for (const child of element.children) {
    if (typeof child === "string" || SKIPPED.has(child.name)) continue;
    if (child.name === "w:t") text += child.text();
    else if (child.name === "w:tab") text += "\t";
    else if (child.name === "w:br" || child.name === "w:cr") text += "\n";
    else if (child.name === "w:noBreakHyphen") text += "-";
    else text += paragraphText(child);
  }
  return text;
}

/** Dublin Core, as Word and EPUB write it. */
export function coreMeta(source: string): Partial<DocumentMeta> {
  const tree = parseHtml(source, { xml: true });
  const value = (...names: readonly string[]): string | undefined => {
    for (const name of names) {
      const text = tree.find(name)?.text().replace(/\s+/g, " ").trim();
      if (text !== undefined && text !== "") return text;
    }
    return undefined;
  };
  const fields = {
    title: value("dc:title"),
    author: value("dc:creator"),
    date: isoDate(value("dcterms:created", "dc:date")),
    language: languageTag(value("dc:language")),
    licence: value("dc:rights"),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, one]) => one !== undefined));
}
