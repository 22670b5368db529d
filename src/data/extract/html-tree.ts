import { decodeEntities } from "./entities.ts";

/** What the parser and the extractors need to know of a tag. */
export interface Tag {
  readonly name: string;
  /** Begins and ends a line of text: paragraphs, headings, containers. */
  readonly block: boolean;
  /** Has no end tag. */
  readonly empty: boolean;
  /** Everything up to its end tag is not markup. */
  readonly raw: boolean;
  /** Ends an open paragraph. */
  readonly endsParagraph: boolean;
  /** A new one ends the open one among these, if it is nearer than any of `within`. */
  readonly ends: readonly string[] | undefined;
  readonly within: readonly string[];
}

const words = (text: string): Set<string> => new Set(text.split(" "));
const emptyTags = words(
  "area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen",
);
const rawTags = words("script style textarea title xmp iframe noembed noframes noscript svg math template");
const blockTags = words(
  "address article aside blockquote body br caption center col colgroup dd details dialog dir div dl dt fieldset figcaption figure footer " +
    "form frameset h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol option p pre section select summary table tbody " +
    "td tfoot th thead title tr ul #root",
);
const paragraphEnders = words(
  "address article aside blockquote center details dialog dir div dl dd dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header " +
    "hgroup hr li main menu nav ol p pre section summary table ul",
);
const ends: Record<string, readonly [readonly string[], readonly string[]]> = {
  li: [["li"], ["ul", "ol", "menu", "dir"]],
  dt: [["dt", "dd"], ["dl"]],
  dd: [["dt", "dd"], ["dl"]],
  tr: [["tr"], ["table", "tbody", "thead", "tfoot"]],
  td: [
    ["td", "th"],
    ["tr", "table"],
  ],
  th: [
    ["td", "th"],
    ["tr", "table"],
  ],
  tbody: [["tbody", "thead", "tfoot"], ["table"]],
  thead: [["tbody", "thead", "tfoot"], ["table"]],
  tfoot: [["tbody", "thead", "tfoot"], ["table"]],
  option: [["option"], ["select", "datalist"]],
  a: [["a"], ["td", "th", "table", "li", "div", "section", "article", "body"]],
};

function makeTag(name: string): Tag {
  const [ending, within] = ends[name] ?? [undefined, []];
  return {
    name,
    block: blockTags.has(name),
    empty: emptyTags.has(name),
    raw: rawTags.has(name),
    endsParagraph: paragraphEnders.has(name),
    ends: ending,
    within,
  };
}

const known = new Map<string, Tag>();
for (const set of [
  emptyTags,
  rawTags,
  blockTags,
  words("a b i em strong span font small u s sub sup code time abbr cite q label button"),
]) {
  for (const name of set) known.set(name, makeTag(name));
}

/** Tags by the spelling in the page. Spellings a page makes up are not kept. */
function tagOf(spelling: string): Tag {
  return known.get(spelling) ?? known.get(spelling.toLowerCase()) ?? makeTag(spelling.toLowerCase());
}

const xmlTags = new Map<string, Tag>();

function xmlTag(name: string): Tag {
  let tag = xmlTags.get(name);
  if (tag === undefined) {
    tag = { name, block: false, empty: false, raw: false, endsParagraph: false, ends: undefined, within: [] };
    if (xmlTags.size < 10_000) xmlTags.set(name, tag);
  }
  return tag;
}

/** An element of a page. Children are elements and text; text has its references decoded and its white space collapsed, except in `pre`. */
export class HtmlElement {
  readonly tag: Tag;
  parent: HtmlElement | undefined;
  readonly children: (HtmlElement | string)[] = [];
  readonly #source: string;
  readonly #from: number;
  readonly #to: number;
  #attributes: Map<string, string> | undefined;

  /** @param source what the attributes are read from when they are first asked for: `source[from, to)` */
  constructor(tag: Tag, source = "", from = 0, to = 0) {
    this.tag = tag;
    this.#source = source;
    this.#from = from;
    this.#to = to;
  }

  get name(): string {
    return this.tag.name;
  }

  get attributes(): ReadonlyMap<string, string> {
    this.#attributes ??= this.#from < this.#to ? readAttributes(this.#source, this.#from, this.#to) : none;
    return this.#attributes;
  }

  /** An attribute's value; "" when it is not there. */
  attribute(name: string): string {
    return this.attributes.get(name) ?? "";
  }

  /** All text inside, as it stands. @param limit no more is gathered than this, or little more */
  text(limit = Number.POSITIVE_INFINITY): string {
    let text = "";
    for (const child of this.children) {
      text += typeof child === "string" ? child : child.text(limit - text.length);
      if (text.length > limit) break;
    }
    return text;
  }

  /** Elements inside, in document order, this one not included. */
  *descendants(): Generator<HtmlElement> {
    const open: [HtmlElement, number][] = [[this, 0]];
    for (let last = open.at(-1); last !== undefined; last = open.at(-1)) {
      const child = last[0].children[last[1]++];
      if (child === undefined) open.pop();
      else if (typeof child !== "string") {
        yield child;
        if (child.children.length > 0) open.push([child, 0]);
      }
    }
  }

  find(name: string): HtmlElement | undefined {
    for (const child of this.children) {
      if (typeof child === "string") continue;
      if (child.name === name) return child;
      const found = child.find(name);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

const none = new Map<string, string>();

/** Attributes of a start tag, from behind its name to before its `>`. The first of a name counts. */
function readAttributes(source: string, from: number, to: number): Map<string, string> {
  const found = new Map<string, string>();
  let at = from;
  while (at < to) {
    let code = source.charCodeAt(at);
    if (isSpace(code) || code === SLASH) {
      at++;
      continue;
    }
    const start = at++;
    while (at < to) {
      code = source.charCodeAt(at);
      if (code === EQUALS || code === SLASH || isSpace(code)) break;
      at++;
    }
    const name = source.slice(start, at).toLowerCase();
    let next = at;
    while (next < to && isSpace(source.charCodeAt(next))) next++;
    let value = "";
    if (next < to && source.charCodeAt(next) === EQUALS) {
      at = next + 1;
      while (at < to && isSpace(source.charCodeAt(at))) at++;
      const quote = source.charCodeAt(at);
      if (at < to && (quote === DOUBLE || quote === SINGLE)) {
        let end = source.indexOf(quote === DOUBLE ? '"' : "'", at + 1);
        if (end === -1 || end > to) end = to;
        value = source.slice(at + 1, end);
        at = end + 1;
      } else {
        const begin = at;
        while (at < to && !isSpace(source.charCodeAt(at))) at++;
        value = source.slice(begin, at);
      }
    }
    if (!found.has(name)) found.set(name, decodeEntities(value));
  }
  return found;
}

const [DOUBLE, SINGLE, SLASH, EQUALS] = [34, 39, 47, 61];
const isSpace = (code: number): boolean => code === 32 || (code >= 9 && code <= 13);
const isLetter = (code: number): boolean => (code >= 97 && code <= 122) || (code >= 65 && code <= 90);

/** The position after the tag that begins before `at`, past quoted attribute values; the end of the source if it never ends. */
function endOfTag(source: string, at: number): number {
  let i = at;
  while (i < source.length) {
    const code = source.charCodeAt(i);
    if (code === 62) return i + 1;
    if (code === 61) {
      i++;
      while (i < source.length && isSpace(source.charCodeAt(i))) i++;
      const quote = source.charCodeAt(i);
      if (quote === 34 || quote === 39) {
        const close = source.indexOf(quote === 34 ? '"' : "'", i + 1);
        // A quote that is never closed would swallow the rest of the page.
        if (close === -1) {
          const end = source.indexOf(">", i);
          return end === -1 ? source.length : end + 1;
        }
        i = close + 1;
      }
      continue;
    }
    i++;
  }
  return source.length;
}

const WHITE = /[ \t\n\r\f\u00a0]+/g;
/** Two in a row, or one that is not a plain space: text that has to be collapsed. */
const UNEVEN = /[\t\n\r\f\u00a0]| {2}/;
const collapse = (text: string): string => (UNEVEN.test(text) ? text.replace(WHITE, " ") : text);

export interface ParseOptions {
  /** Elements deeper than this become siblings instead of children. Default 256. */
  readonly depth?: number;
  /** Parsing stops after this many elements. Default a million. */
  readonly elements?: number;
  /** Names mean nothing, `<x/>` is an empty element, white space stays. Default false. */
  readonly xml?: boolean;
}

/**
 * A page as a tree: the elements and text a browser would show, in one pass over the source. It follows what WHATWG HTML (13.2) says of
 * omitted end tags, void elements, raw text and stray end tags, as far as it changes which text is whose; it does not move misplaced
 * content of tables, and does not reopen formatting elements. Scripts (but JSON-LD), styles, `noscript`, `template`, `svg` have no children.
 */
export function parseHtml(
  source: string,
  { depth = 256, elements = 1_000_000, xml = false }: ParseOptions = {},
): HtmlElement {
  const root = new HtmlElement(makeTag("#root"));
  const stack: HtmlElement[] = [root];
  let top = root;
  let left = elements;
  let preformatted = 0;
  let at = 0;
  /** Ends that were looked for to the end of the page and not found: looking again would make broken pages quadratic. */
  const missing = new Set<string>();
  const find = (end: string, from: number): number => {
    if (missing.has(end)) return -1;
    const found = source.indexOf(end, from);
    if (found === -1) missing.add(end);
    return found;
  };

  const pop = () => {
    if (stack.length === 1) return;
    if (stack.pop()!.name === "pre") preformatted--;
    top = stack[stack.length - 1]!;
  };
  /** Ends the nearest open element with one of the names, and what is open inside it, unless a border is nearer. */
  const end = (names: readonly string[], borders: readonly string[]): boolean => {
    for (let i = stack.length - 1; i > 0; i--) {
      const name = stack[i]!.name;
      if (names.includes(name)) {
        while (stack.length > i) pop();
        return true;
      }
      if (borders.includes(name)) return false;
    }
    return false;
  };
  const addText = (text: string) => {
    if (text === "") return;
    const decoded = decodeEntities(text);
    const clean = xml || preformatted > 0 ? decoded : collapse(decoded);
    top.children.push(clean);
  };

  while (at < source.length) {
    const open = source.indexOf("<", at);
    if (open === -1) {
      addText(source.slice(at));
      break;
    }
    const code = source.charCodeAt(open + 1);
    if (isLetter(code)) {
      if (open > at) addText(source.slice(at, open));
      let nameEnd = open + 2;
      while (nameEnd < source.length) {
        const next = source.charCodeAt(nameEnd);
        if (next === 62 || next === 47 || isSpace(next)) break;
        nameEnd++;
      }
      const tag = xml ? xmlTag(source.slice(open + 1, nameEnd)) : tagOf(source.slice(open + 1, nameEnd));
      at = endOfTag(source, nameEnd);
      if (left-- <= 0) break;
      if (tag.endsParagraph) end(["p"], PARAGRAPH_BORDERS);
      if (tag.ends !== undefined) end(tag.ends, tag.within);
      const selfClosed = source.charCodeAt(at - 2) === 47;
      const element = new HtmlElement(tag, source, nameEnd, at - 1);
      element.parent = top;
      top.children.push(element);
      if (xml && selfClosed) continue;
      if (tag.raw) {
        if (selfClosed && (tag.name === "svg" || tag.name === "math" || tag.name === "script")) continue;
        at = readRaw(source, at, element, missing);
      } else if (!tag.empty && stack.length < depth) {
        stack.push(element);
        top = element;
        if (tag.name === "pre") preformatted++;
      }
    } else if (code === 47) {
      if (open > at) addText(source.slice(at, open));
      let nameEnd = open + 2;
      while (nameEnd < source.length) {
        const next = source.charCodeAt(nameEnd);
        if (next === 62 || next === 47 || isSpace(next)) break;
        nameEnd++;
      }
      const spelling = source.slice(open + 2, nameEnd);
      const name = xml ? spelling : tagOf(spelling).name;
      const close = source.indexOf(">", nameEnd);
      at = close === -1 ? source.length : close + 1;
      if (top.name === name) pop();
      else if (name !== "body" && name !== "html") end([name], xml ? NOTHING : endBorders(name));
      if (name === "br" && !xml) top.children.push(new HtmlElement(tagOf("br")));
    } else if (code === 33) {
      if (open > at) addText(source.slice(at, open));
      if (source.startsWith("--", open + 2)) {
        const close = find("-->", open + 2);
        // `<!-->` is a whole comment; one that is never closed ends at its first `>`, so that the page is not lost.
        at = close === -1 ? source.indexOf(">", open) + 1 || source.length : close + 3;
      } else if (source.startsWith("[CDATA[", open + 2)) {
        const close = find("]]>", open);
        if (xml) top.children.push(source.slice(open + 9, close === -1 ? source.length : close));
        at = close === -1 ? source.length : close + 3;
      } else at = source.indexOf(">", open) + 1 || source.length;
    } else if (code === 63) {
      if (open > at) addText(source.slice(at, open));
      at = source.indexOf(">", open) + 1 || source.length;
    } else {
      addText(source.slice(at, open + 1));
      at = open + 1;
    }
  }
  return root;
}

const PARAGRAPH_BORDERS = ["td", "th", "table", "button", "li", "div", "section", "article", "blockquote", "object"];
const TABLE_PARTS = words("td th tr tbody thead tfoot table caption");
const NOTHING: readonly string[] = [];
const TABLE_BORDER = ["table"];
const CELL_BORDERS = ["td", "th", "table"];
/** What an end tag does not reach across: an end tag inside a cell does not close what is outside the table. */
const endBorders = (name: string): readonly string[] =>
  TABLE_PARTS.has(name) ? (name === "table" ? [] : TABLE_BORDER) : CELL_BORDERS;

const rawEnds = new Map<string, RegExp>();
for (const name of rawTags) rawEnds.set(name, new RegExp(`</${name}(?=[\\s/>])`, "gi"));

/** Skips to the end of raw text; JSON-LD, titles and text areas keep theirs. Returns the position after the end tag. */
function readRaw(source: string, from: number, element: HtmlElement, missing: Set<string>): number {
  const pattern = rawEnds.get(element.name)!;
  pattern.lastIndex = from;
  const found = missing.has(element.name) ? null : pattern.exec(source);
  if (found === null) missing.add(element.name);
  // Never closed: a script to the end of the page, as browsers do; anything else is taken for empty.
  if (found === null) return element.name === "script" || element.name === "style" ? source.length : from;
  const isData = element.name === "script" && /ld\+json/i.test(element.attribute("type"));
  if (isData || element.name === "xmp") element.children.push(source.slice(from, found.index));
  else if (element.name === "title" || element.name === "textarea") {
    element.children.push(collapse(decodeEntities(source.slice(from, found.index))));
  }
  const close = source.indexOf(">", found.index);
  return close === -1 ? source.length : close + 1;
}
