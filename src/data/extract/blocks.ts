import type { HtmlElement } from "./html-tree.ts";

/** A run of text that a browser shows without a break of its own: a paragraph, a heading, a cell. */
export interface Line {
  readonly text: string;
  /** UTF-16 units that are inside links. */
  readonly links: number;
  /** How much it is like prose: its length if it is a sentence or more outside of links, else 0. */
  readonly prose: number;
}

/** An element that breaks lines, with what is in it in order. */
export class Block {
  readonly element: HtmlElement;
  readonly parent: Block | undefined;
  readonly children: (Block | Line)[] = [];
  /** Says of itself that it stands beside the text. Not counted in the sums of what it is in. */
  junk: boolean;
  /** Sums over everything inside that is not junk. */
  length = 0;
  links = 0;
  prose = 0;

  constructor(element: HtmlElement, parent: Block | undefined, junk = false) {
    this.element = element;
    this.parent = parent;
    this.junk = junk;
  }

  /** Calls it junk after all: counts no more in what it is in. */
  condemn(): void {
    this.junk = true;
    for (let outer = this.parent; outer !== undefined && !outer.junk; outer = outer.parent) {
      outer.length -= this.length;
      outer.links -= this.links;
      outer.prose -= this.prose;
    }
  }

  /** Takes the word "junk" back, also of what it is in: counts again in all of that. */
  pardon(): void {
    this.junk = false;
    for (let outer = this.parent; outer !== undefined; outer = outer.parent) if (outer.junk) outer.pardon();
    for (let outer = this.parent; outer !== undefined; outer = outer.parent) {
      outer.length += this.length;
      outer.links += this.links;
      outer.prose += this.prose;
    }
  }

  /** Blocks inside, in document order, this one included; those inside of junk only if asked for. */
  *blocks(junkToo = false): Generator<Block> {
    const open: [Block, number][] = [[this, 0]];
    yield this;
    for (let last = open.at(-1); last !== undefined; last = open.at(-1)) {
      const child = last[0].children[last[1]++];
      if (child === undefined) open.pop();
      else if (child instanceof Block && (junkToo || !child.junk)) {
        yield child;
        open.push([child, 0]);
      }
    }
  }
}

const CJK = /[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]/g;
const SENTENCE = /[.!?…:;,。！？；，、؟।]/;

/** Length in Latin letters: a Chinese, Japanese or Korean character says about as much as three. */
export function weight(text: string): number {
  // Most text has none: a look at the first character code beyond Latin scripts is cheap.
  const wide = text.match(CJK);
  return text.length + (wide === null ? 0 : 2 * wide.length);
}

function makeLine(text: string, links: number): Line {
  const size = weight(text);
  const open = text.length === 0 ? 0 : 1 - links / text.length;
  const isProse = size >= 50 && open > 0.6 && (size >= 120 || SENTENCE.test(text));
  return { text, links, prose: isProse ? size * open : 0 };
}

/**
 * The page as blocks and lines.
 * @param isDropped elements that are left out, with all that is in them
 * @param isJunk elements that are marked, not left out
 */
export function blocksOf(
  root: HtmlElement,
  isDropped: (element: HtmlElement) => boolean,
  isJunk: (element: HtmlElement) => boolean,
): Block {
  const top = new Block(root, undefined);
  let block = top;
  /** The line so far. Joined at its end: text that grows piece by piece would be copied for each break in it. */
  let parts: string[] = [];
  let spaced = true;
  let links = 0;
  let inLink = 0;
  let breaks = 0;

  const flush = () => {
    const text = parts.join("").trim();
    if (text !== "") {
      const clean = text.includes("\n") ? text.replace(/ *\n */g, "\n") : text;
      const line = makeLine(clean, Math.min(links, clean.length));
      block.children.push(line);
      block.length += clean.length;
      block.links += line.links;
      block.prose += line.prose;
    }
    parts = [];
    spaced = true;
    links = 0;
    breaks = 0;
  };
  const visit = (element: HtmlElement) => {
    for (const child of element.children) {
      if (typeof child === "string") {
        const part = spaced ? child.trimStart() : child;
        if (part === "") continue;
        parts.push(part);
        spaced = part.endsWith(" ") || part.endsWith("\n");
        if (part.trim() === "") continue;
        breaks = 0;
        if (inLink > 0) links += part.length;
        continue;
      }
      const { tag } = child;
      if (tag.name === "br") {
        // Two line breaks in a row end a paragraph, as many pages write it.
        if (++breaks >= 2) flush();
        else {
          parts.push("\n");
          spaced = true;
        }
        continue;
      }
      if (isDropped(child)) continue;
      const junk = isJunk(child);
      if (!tag.block && !junk) {
        if (tag.name === "a") inLink++;
        visit(child);
        if (tag.name === "a") inLink--;
        continue;
      }
      flush();
      const outer = block;
      const inner = new Block(child, outer, junk);
      block = inner;
      visit(child);
      flush();
      block = outer;
      if (inner.children.length === 0) continue;
      outer.children.push(inner);
      if (junk) continue;
      outer.length += inner.length;
      outer.links += inner.links;
      outer.prose += inner.prose;
    }
  };
  visit(root);
  flush();
  return top;
}
