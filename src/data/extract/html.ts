import { parseHtml } from "./html-tree.ts";
import { mainText } from "./main-text.ts";
import { type PageMeta, pageMeta } from "./page-meta.ts";

/** The main text of a page and what it says of itself. */
export interface Page extends PageMeta {
  /** "" when the page holds no text. */
  readonly text: string;
}

export interface PageOptions {
  /** Where the page came from. */
  readonly url?: string;
}

/**
 * The main text of an HTML page, without menus, teasers, comments, captions and notices, and its title, date, author and language. On the
 * pages of the article extraction benchmark: `npm run bench -- extract`.
 * @param source the page as text; `decodePage` makes it from bytes
 */
export function extractPage(source: string, { url = "" }: PageOptions = {}): Page {
  const tree = parseHtml(source);
  const meta = pageMeta(tree, url);
  return { text: mainText(tree, meta.title), ...meta };
}
