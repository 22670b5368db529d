import { PairTable } from "./pair-table.ts";

/** Below this many symbols, looking at every pair again after each merge beats keeping a heap. */
const SCAN_LIMIT = 40;

/**
 * Applies learnt merges to one word: always the pair with the lowest rank, the leftmost among equals (Sennrich et al. 2016).
 * This is the hot loop of encoding, kept to integers and flat arrays.
 */
export class BpeMerger {
  /** pair of ids -> number of the merge */
  private readonly pairs: PairTable;
  /** number of the merge -> its rank, the id it makes */
  private readonly rankOf: Int32Array;
  private readonly made: Int32Array;

  /** @param merges best first; or each with its rank, which pairs that make the same id may share */
  constructor(
    merges: readonly { readonly left: number; readonly right: number; readonly id: number; readonly rank?: number }[],
  ) {
    this.pairs = new PairTable(merges.length);
    this.rankOf = Int32Array.from(merges, (merge, i) => merge.rank ?? i);
    this.made = Int32Array.from(merges, (merge) => merge.id);
    merges.forEach(({ left, right }, i) => {
      this.pairs.set(left, right, i);
    });
  }

  /**
   * Merges the first `length` entries of `symbols` in place and returns how many are left.
   * @param widths of the symbols, added up as they merge
   */
  merge(symbols: Int32Array, length: number, widths?: Int32Array): number {
    return length <= SCAN_LIMIT ? this.mergeByScan(symbols, length, widths) : this.mergeByHeap(symbols, length, widths);
  }

  private mergeByScan(symbols: Int32Array, length: number, widths?: Int32Array): number {
    while (length > 1) {
      let best = -1;
      let at = 0;
      for (let i = 1; i < length; i++) {
        const merge = this.pairs.get(symbols[i - 1]!, symbols[i]!);
        if (merge !== -1 && (best === -1 || this.rankOf[merge]! < this.rankOf[best]!)) {
          best = merge;
          at = i;
        }
      }
      if (best === -1) break;
      symbols[at - 1] = this.made[best]!;
      symbols.copyWithin(at, at + 1, length);
      if (widths !== undefined) {
        widths[at - 1]! += widths[at]!;
        widths.copyWithin(at, at + 1, length);
      }
      length--;
    }
    return length;
  }

  /** O(n log n): a linked list of symbols and a heap of possible merges, whose stale entries are dropped when they surface. */
  private mergeByHeap(symbols: Int32Array, length: number, widths?: Int32Array): number {
    const next = new Int32Array(length);
    const previous = new Int32Array(length);
    for (let i = 0; i < length; i++) {
      next[i] = i + 1 < length ? i + 1 : -1;
      previous[i] = i - 1;
    }
    const queue = new NumberHeap(length);
    // Rank and position in one number, so that one comparison orders by rank, then left to right. Exact: rank < 2^21, position < 2^31.
    const offer = (at: number): void => {
      const right = next[at]!;
      if (right === -1) return;
      const merge = this.pairs.get(symbols[at]!, symbols[right]!);
      if (merge !== -1) queue.push(this.rankOf[merge]! * 0x1_0000_0000 + at);
    };
    for (let i = 0; i + 1 < length; i++) offer(i);

    for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
      const rank = Math.floor(key / 0x1_0000_0000);
      const at = key - rank * 0x1_0000_0000;
      const right = next[at]!;
      // Stale: swallowed by a neighbour (marked by -1), or one of the two symbols has changed since.
      if (symbols[at] === -1 || right === -1) continue;
      const merge = this.pairs.get(symbols[at]!, symbols[right]!);
      if (merge === -1 || this.rankOf[merge] !== rank) continue;
      symbols[at] = this.made[merge]!;
      symbols[right] = -1;
      if (widths !== undefined) widths[at]! += widths[right]!;
      next[at] = next[right]!;
      if (next[right] !== -1) previous[next[right]!] = at;
      offer(at);
      if (previous[at] !== -1) offer(previous[at]!);
    }

    let kept = 0;
    for (let i = 0; i !== -1; i = next[i]!) {
      if (widths !== undefined) widths[kept] = widths[i]!;
      symbols[kept++] = symbols[i]!;
    }
    return kept;
  }
}

/** A binary min-heap of numbers. */
export class NumberHeap {
  private items: Float64Array;
  private size = 0;

  constructor(capacity: number) {
    this.items = new Float64Array(Math.max(16, capacity));
  }

  push(value: number): void {
    if (this.size === this.items.length) {
      const larger = new Float64Array(this.size * 2);
      larger.set(this.items);
      this.items = larger;
    }
    const { items } = this;
    let i = this.size++;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (items[parent]! <= value) break;
      items[i] = items[parent]!;
      i = parent;
    }
    items[i] = value;
  }

  pop(): number | undefined {
    if (this.size === 0) return undefined;
    const { items } = this;
    const top = items[0]!;
    const last = items[--this.size]!;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[i] = items[child]!;
      i = child;
    }
    items[i] = last;
    return top;
  }
}
