import type { HtmlElement } from "./html-tree.ts";

/** What a page says of itself. */
export interface PageMeta {
  readonly title?: string;
  readonly date?: string;
  readonly author?: string;
  readonly language?: string;
  readonly url?: string;
  readonly licence?: string;
}

/** Titles, names and dates are shorter. */
const SHORT = 1000;

const clean = (text: string): string => text.replace(/\s+/g, " ").trim();

/** The first value that is there after cleaning. */
function first(...values: readonly (string | undefined)[]): string | undefined {
  for (const value of values) {
    const text = clean(value ?? "");
    if (text !== "") return text;
  }
  return undefined;
}

/**
 * Title, date, author, language, address and licence, from (in this order, by field): JSON-LD of schema.org, Open Graph and Dublin Core
 * meta elements, microdata, and what stands in the page itself.
 * @param address where the page came from: some have their date in it
 */
export function pageMeta(page: HtmlElement, address = ""): PageMeta {
  const metas = new Map<string, string>();
  const data: Fields = { authors: [] };
  const seen: Seen = {};
  for (const element of page.descendants()) {
    switch (element.name) {
      case "html":
        seen.lang ??= first(element.attribute("lang"), element.attribute("xml:lang"));
        break;
      case "title":
        seen.title ??= first(element.text(SHORT));
        break;
      case "meta": {
        const { attributes } = element;
        const key = (
          attributes.get("property") ??
          attributes.get("name") ??
          attributes.get("itemprop") ??
          attributes.get("http-equiv") ??
          ""
        ).toLowerCase();
        const content = clean(attributes.get("content") ?? "");
        if (key !== "" && content !== "" && !metas.has(key)) metas.set(key, content);
        break;
      }
      case "link":
        if (element.attribute("rel") === "canonical") seen.canonical ??= first(element.attribute("href"));
        if (/\blicense\b/.test(element.attribute("rel"))) seen.licence ??= first(element.attribute("href"));
        break;
      case "script":
        if (element.children.length > 0) readJsonLd(element.text(), data);
        break;
      case "h1":
        seen.h1 ??= first(element.text(SHORT));
        break;
      case "time":
        seen.time ??= isoDate(element.attribute("datetime")) ?? isoDate(element.text(SHORT));
        break;
      default:
        lookAt(element, seen);
    }
  }
  const address0 = first(seen.canonical, metas.get("og:url"), address);
  const title = first(
    data.title,
    metas.get("og:title"),
    metas.get("twitter:title"),
    metas.get("dc.title"),
    metas.get("citation_title"),
  );
  const author = first(
    data.authors.join("; "),
    authorName(metas.get("author")),
    authorName(metas.get("article:author")),
    authorName(metas.get("dc.creator") ?? metas.get("dcterms.creator")),
    authorName(metas.get("parsely-author") ?? metas.get("sailthru.author") ?? metas.get("citation_author")),
    authorName(seen.author),
    authorName(seen.byline),
  );
  const date = [
    data.date,
    ...[
      "article:published_time",
      "datepublished",
      "og:published_time",
      "parsely-pub-date",
      "sailthru.date",
      "dc.date",
      "dc.date.issued",
    ].map((key) => metas.get(key)),
    ...["dcterms.created", "pubdate", "publishdate", "publish-date", "citation_publication_date", "date"].map((key) =>
      metas.get(key),
    ),
    seen.published,
    seen.time,
    dateInAddress(address0 ?? ""),
    data.modified,
    metas.get("article:modified_time"),
  ].reduce<string | undefined>((found, one) => found ?? isoDate(one), undefined);
  const language = [
    seen.lang,
    data.language,
    metas.get("content-language"),
    metas.get("og:locale"),
    metas.get("dc.language"),
  ].reduce<string | undefined>((found, one) => found ?? languageTag(one), undefined);
  const fields = {
    title: title ?? titleFrom(seen.title, seen.h1, metas.get("og:site_name")),
    date,
    author,
    language,
    url: /^https?:\/\//.test(address0 ?? "") ? address0 : undefined,
    licence: first(data.licence, seen.licence, metas.get("dc.rights"), metas.get("dcterms.license")),
  };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as PageMeta;
}

interface Seen {
  lang?: string | undefined;
  title?: string | undefined;
  h1?: string | undefined;
  canonical?: string | undefined;
  licence?: string | undefined;
  time?: string | undefined;
  published?: string | undefined;
  author?: string | undefined;
  byline?: string | undefined;
}

/** Microdata, and classes that say "author". */
function lookAt(element: HtmlElement, seen: Seen): void {
  const { attributes } = element;
  if (attributes.size === 0) return;
  const property = attributes.get("itemprop");
  if (property === "datePublished")
    seen.published ??= first(attributes.get("content"), attributes.get("datetime"), element.text(SHORT));
  const isAuthor = property === "author" || /\bauthor\b/.test(attributes.get("rel") ?? "");
  if (isAuthor) seen.author ??= first(attributes.get("content"), element.text(SHORT));
  else if (
    /(?:^|\s)(?:author|author-?name|byline|byline__?name|by-author|p-author)(?:\s|$)/i.test(
      attributes.get("class") ?? "",
    )
  ) {
    const text = clean(element.text(SHORT));
    if (text.length < 80) seen.byline ??= first(text);
  }
  if (/\blicense\b/.test(attributes.get("rel") ?? "")) seen.licence ??= first(attributes.get("href"));
}

/** The title element without the site's name: `How it began | The Daily`. */
function titleFrom(title: string | undefined, h1: string | undefined, site: string | undefined): string | undefined {
  if (title === undefined) return h1;
  if (h1 !== undefined && h1.length > 8 && title.includes(h1)) return h1;
  const parts = title.split(/\s+[|–—·«»:-]\s+|\s*[|_]\s*/).filter((part) => part !== "" && part !== site);
  const [name = title] = parts;
  // Most sites put their name last; a first part of one word is a site's name put first.
  if (/\S\s+\S/.test(name) || /[\u3040-\u9fff\uac00-\ud7af]{4}/.test(name)) return name;
  return parts.reduce((best, part) => (part.length > best.length ? part : best), name);
}

interface Fields {
  title?: string;
  date?: string;
  modified?: string;
  language?: string;
  licence?: string;
  authors: string[];
}

const ARTICLE = /Article|Posting|Report|Review|Recipe|WebPage|Book|HowTo|Question/;

/** Takes what a JSON-LD block says of an article or page. Blocks that are not JSON are left out, as pages often have them. */
function readJsonLd(text: string, data: Fields): void {
  let json: unknown;
  try {
    json = JSON.parse(text.replace(/^\s*<!--|-->\s*$/g, "").replace(/\p{Cc}+/gu, " "));
  } catch {
    return;
  }
  const visit = (value: unknown, depth: number): void => {
    if (depth > 4 || typeof value !== "object" || value === null) return;
    if (Array.isArray(value)) {
      for (const one of value.slice(0, 50)) visit(one, depth + 1);
      return;
    }
    const node = value as Record<string, unknown>;
    if (node["@graph"] !== undefined) visit(node["@graph"], depth + 1);
    if (!ARTICLE.test(String(node["@type"]))) return;
    const isPage = String(node["@type"]) === "WebPage";
    const take = (key: string): string | undefined =>
      typeof node[key] === "string" ? clean(node[key]) || undefined : undefined;
    const set = <K extends "title" | "date" | "modified" | "language" | "licence">(
      key: K,
      found: string | undefined,
    ) => {
      if (found !== undefined) data[key] ??= found;
    };
    set("title", take("headline") ?? (isPage ? undefined : take("name")));
    set("date", take("datePublished"));
    set("modified", take("dateModified"));
    set("language", take("inLanguage"));
    set("licence", take("license"));
    if (data.authors.length === 0) data.authors = [...new Set(authorsIn(node.author))];
  };
  visit(json, 0);
}

function authorsIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.slice(0, 20).flatMap(authorsIn);
  const name = typeof value === "object" && value !== null && "name" in value ? value.name : value;
  const found = typeof name === "string" ? authorName(name) : undefined;
  return found === undefined ? [] : [found];
}

/** A name, without "By" and addresses. */
function authorName(text: string | undefined): string | undefined {
  if (text === undefined || /^https?:\/\//.test(text)) return undefined;
  const name = clean(text)
    .replace(/^(?:written by|posted by|by|von|par|por|作者|文)\s*[:：]?\s+/i, "")
    .replace(/\S+@\S+\.\w+/g, "")
    .replace(/[\s,|•·-]+$/, "");
  return name === "" || name.length > 120 || !/\p{L}/u.test(name) ? undefined : name;
}

/** A language tag of BCP 47, from `en_US`, `EN`, `zh-cn`, `Chinese`: the last is not one. */
export function languageTag(text: string | undefined): string | undefined {
  const [, language, rest = ""] = /^\s*([a-z]{2,3})((?:[-_][a-z0-9]{2,8})*)\s*(?:[,;].*)?$/i.exec(text ?? "") ?? [];
  if (language === undefined) return undefined;
  const parts = rest.split(/[-_]/).filter(Boolean);
  const tagged = parts.map((part) =>
    part.length === 2
      ? part.toUpperCase()
      : part.length === 4
        ? part[0]!.toUpperCase() + part.slice(1).toLowerCase()
        : part.toLowerCase(),
  );
  return [language.toLowerCase(), ...tagged].join("-");
}

const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/** A date as ISO 8601: YYYY-MM-DD, or with its time where it says one. Dates before 1990 or in the future are mistakes. */
export function isoDate(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const given = clean(text);
  if (given === "" || given.length > 100) return undefined;
  const iso = /^(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(?:\.\d+)?\s*(Z|[+-]\d{2}:?\d{2})?)?/.exec(given);
  if (iso !== null) {
    const [, year, month, day, time, zone] = iso;
    const date = valid(Number(year), Number(month), Number(day));
    if (date === undefined) return undefined;
    return time === undefined
      ? date
      : `${date}T${time.length === 5 ? `${time}:00` : time}${zone === undefined ? "" : zone === "Z" ? "Z" : zone.replace(/^([+-]\d{2}):?/, "$1:")}`;
  }
  const eastern = /(\d{4})\s*[年./년-]\s*(\d{1,2})\s*[月./월-]\s*(\d{1,2})/.exec(given);
  if (eastern !== null) return valid(Number(eastern[1]), Number(eastern[2]), Number(eastern[3]));
  const compact = /^(\d{4})(\d{2})(\d{2})(?:\d{4,6})?$/.exec(given);
  if (compact !== null) return valid(Number(compact[1]), Number(compact[2]), Number(compact[3]));
  const named = /(\d{1,2})(?:st|nd|rd|th|\.)?\s+(?:of\s+)?([a-z]{3})[a-z]*\.?,?\s+(\d{4})/i.exec(given);
  if (named !== null) return valid(Number(named[3]), MONTHS.indexOf(named[2]!.toLowerCase()) + 1, Number(named[1]));
  const american = /([a-z]{3})[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})/i.exec(given);
  if (american !== null)
    return valid(Number(american[3]), MONTHS.indexOf(american[1]!.toLowerCase()) + 1, Number(american[2]));
  return undefined;
}

function valid(year: number, month: number, day: number): string | undefined {
  if (!(year >= 1990 && month >= 1 && month <= 12 && day >= 1 && day <= 31)) return undefined;
  const date = `${year}-${String(month).padStart(2, "0")}-${String(day).padStart(2, "0")}`;
  return Date.parse(date) > Date.now() + 2 * 86_400_000 ? undefined : date;
}

/** `/2019/11/18/` in an address. */
function dateInAddress(address: string): string | undefined {
  const [, year, month, day] = /\/((?:19|20)\d{2})[/-](\d{1,2})[/-](\d{1,2})(?:\/|-|$)/.exec(address) ?? [];
  return year === undefined ? undefined : valid(Number(year), Number(month), Number(day));
}
