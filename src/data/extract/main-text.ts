import { Block, blocksOf, type Line } from "./blocks.ts";
import { contentHint, isBoilerplate, isDropped } from "./boilerplate.ts";
import type { HtmlElement } from "./html-tree.ts";
import { polish } from "./polish.ts";

/** One line of the chosen text, with what it is. */
export interface Entry {
  readonly line: Line;
  readonly kind: "paragraph" | "heading" | "item" | "row" | "code";
  readonly block: Block;
}

const COMMENTS = /comment|disqus|repl(?:y|ies)|respond/i;

/**
 * Names lie: a page may call what holds its whole text "widget" or hide it until a script has run. Where what is left is less than a
 * fifth of the page's prose, the largest blocks that were called junk are taken back; readers' comments only where nothing else is left.
 */
function pardonText(page: Block): void {
  for (const block of [...page.blocks(true)]) if (isQuotedPost(block)) pardonAround(block);
  const junk = [...page.blocks(true)].filter((block) => block.junk && block.prose > 0);
  junk.sort((a, b) => b.prose - a.prose);
  const areComments = (block: Block) =>
    COMMENTS.test(`${block.element.attribute("class")} ${block.element.attribute("id")}`);
  const texts = junk.filter((block) => !areComments(block));
  const total = texts.reduce((sum, block) => sum + block.prose, page.prose);
  for (const block of texts) {
    if (page.prose >= total * 0.2) break;
    block.pardon();
  }
  if (page.prose === 0) junk.find(areComments)?.pardon();
}

/** A post that a text quotes, as the networks' own markup has it: part of the text, though what holds it is called "social". */
const isQuotedPost = ({ element }: Block): boolean =>
  element.name === "blockquote" && /\b(?:twitter-tweet|instagram-media)\b/.test(element.attribute("class"));

function pardonAround(quote: Block): void {
  let around: Block | undefined = quote;
  for (let level = 0; level < 3 && around !== undefined; level++) {
    if (around.junk) around.pardon();
    around = around.parent;
  }
}

const letters = (text: string): string => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");

/** The heading that says the page's title, if there is one. */
export function findTitle(page: Block, title: string): Block | undefined {
  const wanted = letters(title);
  let found: Block | undefined;
  let level = 7;
  for (const block of page.blocks(true)) {
    const { name } = block.element;
    if (name.length !== 2 || name[0] !== "h" || !(name[1]! >= "1" && name[1]! <= "3")) continue;
    const here = Number(name[1]);
    if (here >= level) continue;
    const text = letters(block.element.text(1000));
    if (text === "" || text.length * 3 < wanted.length) continue;
    const says = wanted !== "" && (wanted.includes(text) || text.includes(wanted));
    if (!says) continue;
    found = block;
    level = here;
  }
  return found;
}

/** Prose before the heading is of other pages: news tickers, teasers, notices. Not if that is where most of it is. */
function startAt(page: Block, heading: Block): void {
  let before = 0;
  let seen = false;
  const measure = (block: Block): void => {
    for (const child of block.children) {
      if (child === heading) seen = true;
      if (seen) return;
      if (!(child instanceof Block)) before += child.prose;
      else if (!child.junk) measure(child);
    }
  };
  measure(page);
  if (!seen || before === 0 || before > page.prose * 0.6) return;
  seen = false;
  const forget = (block: Block): number => {
    let sum = 0;
    for (const child of block.children) {
      if (child === heading) seen = true;
      if (child instanceof Block) {
        const inside = forget(child);
        if (!child.junk) sum += inside;
      } else if (seen) sum += child.prose;
    }
    block.prose = sum;
    return sum;
  };
  forget(page);
}

/** Of several articles, the one with the page's heading is the page's, if there is enough text in it; the others are other pages'. */
function keepArticle(page: Block, heading: Block): void {
  let own: Block | undefined;
  for (let block: Block | undefined = heading; block !== undefined; block = block.parent)
    if (block.element.name === "article") own = block;
  if (own === undefined || own.prose < 200) return;
  const others = [...page.blocks()].filter(
    (block) => block.element.name === "article" && !isInside(block, own) && !isInside(own, block),
  );
  for (const other of others) if (!others.some((outer) => outer !== other && isInside(other, outer))) other.condemn();
}

/** How much more a block counts that says that the text is in it. */
const WEAK = 1.25;
/** And one that says it is the text. */
const STRONG = 2.2;

/** Text that is in several parts of the same name (around advertisements): the block around them says that it is the text. */
function joinParts(strong: readonly Block[], hints: Map<Block, number>): void {
  const groups = new Map<string, Block[]>();
  for (const block of strong) {
    if (block.element.name === "article") continue;
    const key = `${block.element.name} ${block.element.attribute("class")}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [block]);
    else group.push(block);
  }
  for (const group of groups.values()) {
    if (group.length < 2) continue;
    const [first, ...others] = group;
    let common = first!;
    for (const other of others) {
      const above = new Set<Block>();
      for (let block: Block | undefined = other; block !== undefined; block = block.parent) above.add(block);
      while (!above.has(common) && common.parent !== undefined) common = common.parent;
    }
    hints.set(common, STRONG);
  }
}

/**
 * The block that holds the text of the page: the most prose with the least else. A block's prose counts by the square of its share of the
 * block's text, so that going up to a parent pays as long as what it adds is prose too.
 */
export function chooseRoot(page: Block): Block {
  const hints = new Map<Block, number>();
  const strong: Block[] = [];
  const candidates: Block[] = [];
  for (const block of page.blocks()) {
    if (block.prose < page.prose * 0.1) continue;
    candidates.push(block);
    const hint = contentHint(block.element);
    if (hint === 2) strong.push(block);
    hints.set(block, hint === 2 ? STRONG : hint === 1 ? WEAK : 1);
  }
  joinParts(strong, hints);
  let best = page;
  let bestScore = 0;
  for (const block of candidates) {
    const share = Math.min(1, block.prose / (block.length + 50));
    const score = block.prose * share * share * hints.get(block)!;
    if (score < bestScore) continue;
    best = block;
    bestScore = score;
  }
  return best;
}

function isInside(block: Block, outer: Block): boolean {
  for (let one: Block | undefined = block; one !== undefined; one = one.parent) if (one === outer) return true;
  return false;
}

const HEADING = /^h[1-6]$/;

/** Links and nothing else: a menu, a list of other pages. */
const isLinkList = (block: Block): boolean => block.prose === 0 && block.links > block.length * 0.5;

function entriesOf(root: Block): Entry[] {
  const entries: Entry[] = [];
  const visit = (block: Block, kind: Entry["kind"]): void => {
    for (const child of block.children) {
      if (!(child instanceof Block)) {
        entries.push({ line: child, kind, block });
        continue;
      }
      if (child.junk || isLinkList(child)) continue;
      const { name } = child.element;
      if (HEADING.test(name)) visit(child, "heading");
      else if (name === "li" || name === "dt" || name === "dd") visit(child, "item");
      else if (name === "pre") visit(child, "code");
      else if (name === "tr") visit(child, "row");
      else
        visit(
          child,
          kind === "heading" || kind === "code" ? kind : kind === "row" || name !== "p" ? kind : "paragraph",
        );
    }
  };
  visit(root, "paragraph");
  return entries;
}

/** The text of a block's entries: paragraphs apart by an empty line, items of a list by a line feed, cells of a row by a bar. */
function join(entries: readonly Entry[]): string {
  let text = "";
  let last: Entry | undefined;
  for (const entry of entries) {
    if (last !== undefined) {
      if (entry.kind === "row" && last.kind === "row") {
        const sameRow = rowOf(entry.block) === rowOf(last.block);
        text += sameRow ? " | " : "\n";
      } else text += entry.kind === "item" && last.kind === "item" ? "\n" : "\n\n";
    }
    text += entry.kind === "item" ? `- ${entry.line.text}` : entry.line.text;
    last = entry;
  }
  return text;
}

function rowOf(block: Block): Block | undefined {
  for (let one: Block | undefined = block; one !== undefined; one = one.parent)
    if (one.element.name === "tr") return one;
  return undefined;
}

/** The page as blocks, with what is beside the text marked. */
export function prepare(
  page: HtmlElement,
  title: string,
): { readonly blocks: Block; readonly heading: Block | undefined } {
  const blocks = blocksOf(page.find("body") ?? page, isDropped, isBoilerplate);
  pardonText(blocks);
  const heading = findTitle(blocks, title);
  if (heading !== undefined) {
    startAt(blocks, heading);
    keepArticle(blocks, heading);
  }
  return { blocks, heading };
}

/**
 * The main text of a page: what a person came for, without menus, teasers, comments, captions and notices.
 * @param title of the page, if known: what stands before its heading does not belong to the text
 * @returns "" when the page holds no text
 */
export function mainText(page: HtmlElement, title = ""): string {
  const { blocks, heading } = prepare(page, title);
  return join(polish(entriesOf(chooseRoot(blocks)), heading));
}
