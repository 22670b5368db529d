import { StateError } from "../tensor/errors.ts";

/** A full page whose tokens are known, in the tree of texts that were read: the text up to here is the path from the root. */
export interface PrefixNode {
  readonly id: number;
  readonly key: string;
  readonly page: number;
}

/** How pages are used at the moment. */
export interface PageCounts {
  readonly total: number;
  /** Held by sequences. */
  readonly held: number;
  /** Kept for texts that begin alike, and given up when pages are needed. */
  readonly kept: number;
}

/**
 * Which pages of a cache belong to whom. A page is free, or held by one or more sequences, or kept because what it holds may be asked for again;
 * kept pages are given up in the order in which they were last used.
 *
 * Two sequences share a page only when everything up to its end is the same: a page is found by its own tokens and the page before it
 * (as in vLLM's automatic prefix caching and SGLang's RadixAttention, Zheng et al. 2024).
 */
export class PagePool {
  readonly total: number;
  /** Positions of a page. */
  readonly page: number;
  /** The next one to be given out is last; so pages of low numbers are used first, and memory that was never needed is never touched. */
  readonly #free: number[];
  readonly #holders: Int32Array;
  readonly #nodes = new Map<string, PrefixNode>();
  readonly #nodeOf: (PrefixNode | undefined)[];
  /** Pages that nobody holds, least recently used first. */
  readonly #kept = new Set<number>();
  #ids = 0;
  /** Tokens of prompts that were looked up, and of those how many were found. */
  readonly tokens = { asked: 0, found: 0 };

  constructor(total: number, page: number) {
    this.total = total;
    this.page = page;
    this.#free = Array.from({ length: total }, (_, i) => total - 1 - i);
    this.#holders = new Int32Array(total);
    this.#nodeOf = new Array(total);
  }

  /** Pages that can be had now. */
  get available(): number {
    return this.#free.length + this.#kept.size;
  }
  get counts(): PageCounts {
    return { total: this.total, held: this.total - this.available, kept: this.#kept.size };
  }

  /** A page of one's own. */
  take(): number {
    let page = this.#free.pop();
    if (page === undefined) {
      page = this.#kept.values().next().value;
      if (page === undefined) throw new StateError(`cache: all ${this.total} pages are held.`);
      this.#kept.delete(page);
      this.#forget(page);
    }
    this.#holders[page] = 1;
    return page;
  }

  /** One holder less. */
  release(page: number): void {
    if (--this.#holders[page]! > 0) return;
    if (this.#nodeOf[page]) this.#kept.add(page);
    else this.#free.push(page);
  }

  /**
   * The pages that hold the beginning of a text, each with one holder more.
   * @param most tokens to look for
   */
  find(ids: readonly number[], most: number): PrefixNode[] {
    const found: PrefixNode[] = [];
    for (let at = 0; at + this.page <= most; at += this.page) {
      const node = this.#nodes.get(keyOf(found.at(-1), ids, at, this.page));
      if (!node) break;
      this.#kept.delete(node.page);
      this.#holders[node.page]!++;
      found.push(node);
    }
    this.tokens.asked += ids.length;
    this.tokens.found += found.length * this.page;
    return found;
  }

  /**
   * Says what a full page holds, so that others may find it.
   * @param before the page before it in the text; undefined for a text's first
   * @returns its place in the tree, which may name another page that holds the same
   */
  remember(page: number, before: PrefixNode | undefined, ids: readonly number[], at: number): PrefixNode {
    const key = keyOf(before, ids, at, this.page);
    const known = this.#nodes.get(key);
    if (known) return known;
    const node: PrefixNode = { id: ++this.#ids, key, page };
    this.#nodes.set(key, node);
    this.#nodeOf[page] = node;
    return node;
  }

  /** Nothing that was read before may be found any more: the model is another one. */
  forgetAll(): void {
    for (const node of this.#nodes.values()) this.#nodeOf[node.page] = undefined;
    this.#nodes.clear();
    this.#free.push(...this.#kept);
    this.#kept.clear();
  }

  /** What stands behind a page that is given up stays, and cannot be reached; it is given up in its turn. */
  #forget(page: number): void {
    const node = this.#nodeOf[page];
    if (node) this.#nodes.delete(node.key);
    this.#nodeOf[page] = undefined;
  }
}

/** Equal only for equal texts: the number of the node before, and the page's own tokens. */
function keyOf(before: PrefixNode | undefined, ids: readonly number[], at: number, page: number): string {
  return `${before?.id ?? 0}:${ids.slice(at, at + page).join()}`;
}
