import {
  type Document,
  defaultLimits,
  type Item,
  type Problem,
  type Raw,
  ReadError,
  type ReadLimits,
} from "../document.ts";
import { extractDocx } from "./docx.ts";
import { decodePage } from "./encoding.ts";
import { extractEpub } from "./epub.ts";
import { extractPage } from "./html.ts";
import { extractPdf } from "./pdf.ts";

/** Where something of a raw item is, for a problem's line. */
export const placeOf = (meta: Raw["meta"]): string =>
  `${meta.path}${meta.member === undefined ? "" : `!/${meta.member}`}${meta.record === undefined ? "" : `#${meta.record}`}`;

/**
 * The documents of a page, PDF, Word file or EPUB: one, or one for each page or chapter. A pure function of its argument, which makes it
 * what worker threads are given. What cannot be read becomes a problem; nothing is thrown for bad input.
 */
export async function* extractRaw(raw: Raw, limits: ReadLimits = defaultLimits): AsyncGenerator<Item> {
  const path = placeOf(raw.meta);
  const problem = (code: Problem["code"], reason: string, place = ""): Problem => ({
    path: path + place,
    code,
    reason,
    source: raw.source,
  });
  const document = (text: string, meta: Partial<Document["meta"]>, suffix = ""): Document => ({
    id: raw.id + suffix,
    text,
    source: raw.source,
    meta: { ...raw.meta, ...meta },
  });
  let found = 0;
  try {
    if (raw.format === "html") {
      const served = raw.meta.encoding;
      const { text: source, encoding } = decodePage(raw.bytes, served);
      const { text, ...meta } = extractPage(source, raw.meta.url === undefined ? {} : { url: raw.meta.url });
      // What an archive says of the address is what was fetched; a page may claim another one.
      const { url = meta.url, encoding: _, ...rest } = raw.meta;
      if (text !== "") {
        found++;
        yield {
          id: raw.id,
          text,
          source: raw.source,
          meta: {
            ...rest,
            ...meta,
            ...(url === undefined ? {} : { url }),
            ...(encoding === "utf-8" ? {} : { encoding }),
          },
        };
      }
    } else if (raw.format === "pdf") {
      let about = {};
      for await (const one of extractPdf(raw.bytes)) {
        if ("meta" in one) about = one.meta;
        else {
          found++;
          yield document(one.text, { ...about, page: one.page }, `#${one.page}`);
        }
      }
    } else if (raw.format === "docx") {
      const { text, meta } = await extractDocx(raw.bytes, limits);
      if (text !== "") {
        found++;
        yield document(text, meta);
      }
    } else {
      const { chapters, meta } = await extractEpub(raw.bytes, limits);
      for (const { page, text } of chapters) {
        found++;
        yield document(text, { ...meta, page }, `#${page}`);
      }
    }
  } catch (error) {
    if (!(error instanceof ReadError)) throw error;
    yield problem(error.code, error.message, error.place);
    return;
  }
  if (found === 0) {
    const why =
      raw.format === "pdf"
        ? "It holds no text; pages that are pictures need character recognition first."
        : "It holds no text.";
    yield problem("empty", why);
  }
}
