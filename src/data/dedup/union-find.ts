/** Disjoint sets of ordinals; the root of a set is its smallest member, so that what came first represents it (Tarjan 1975, path halving). */
export class UnionFind {
  #parents: Int32Array;
  #size = 0;

  constructor(capacity = 1024) {
    this.#parents = new Int32Array(capacity);
  }
  get size(): number {
    return this.#size;
  }
  /** Adds a set of one; its ordinal. */
  add(): number {
    if (this.#size === this.#parents.length) {
      const larger = new Int32Array(this.#parents.length * 2);
      larger.set(this.#parents);
      this.#parents = larger;
    }
    this.#parents[this.#size] = this.#size;
    return this.#size++;
  }
  find(i: number): number {
    const parents = this.#parents;
    while (parents[i] !== i) {
      parents[i] = parents[parents[i]!]!;
      i = parents[i]!;
    }
    return i;
  }
  union(a: number, b: number): void {
    const [x, y] = [this.find(a), this.find(b)];
    if (x !== y) this.#parents[Math.max(x, y)] = Math.min(x, y);
  }
  /** The sets with more than one member, each ascending, in the order of their roots. */
  clusters(): Map<number, number[]> {
    const out = new Map<number, number[]>();
    for (let i = 0; i < this.#size; i++) {
      const root = this.find(i);
      if (root === i) continue;
      const known = out.get(root);
      if (known) known.push(i);
      else out.set(root, [root, i]);
    }
    return new Map([...out].sort(([a], [b]) => a - b));
  }
}
