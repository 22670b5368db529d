/**
 * A hash table from a pair of ids to a number: open addressing over flat arrays. This is the innermost data structure of both
 * training and encoding, and the layout a native kernel would share.
 */
export class PairTable {
  private capacity: number;
  private keys: Int32Array; // (capacity, 2); -1 marks an empty slot
  private values: Int32Array;
  private used = 0;

  constructor(expected = 16) {
    this.capacity = 16;
    while (this.capacity < expected * 2) this.capacity *= 2;
    this.keys = new Int32Array(this.capacity * 2).fill(-1);
    this.values = new Int32Array(this.capacity);
  }

  get size(): number {
    return this.used;
  }

  private slot(a: number, b: number): number {
    const mask = this.capacity - 1;
    let hash = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca77);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    let slot = (hash ^ (hash >>> 13)) & mask;
    while (this.keys[slot * 2] !== -1 && (this.keys[slot * 2] !== a || this.keys[slot * 2 + 1] !== b)) {
      slot = (slot + 1) & mask;
    }
    return slot;
  }

  /** The value of (a, b), or -1 where there is none (values are never negative). */
  get(a: number, b: number): number {
    const slot = this.slot(a, b);
    return this.keys[slot * 2] === -1 ? -1 : this.values[slot]!;
  }

  set(a: number, b: number, value: number): void {
    let slot = this.slot(a, b);
    if (this.keys[slot * 2] === -1) {
      if ((this.used + 1) * 2 > this.capacity) {
        this.grow();
        slot = this.slot(a, b);
      }
      this.keys[slot * 2] = a;
      this.keys[slot * 2 + 1] = b;
      this.used++;
    }
    this.values[slot] = value;
  }

  private grow(): void {
    const { keys, values, capacity } = this;
    this.capacity = capacity * 2;
    this.keys = new Int32Array(this.capacity * 2).fill(-1);
    this.values = new Int32Array(this.capacity);
    for (let i = 0; i < capacity; i++) {
      if (keys[i * 2] === -1) continue;
      const slot = this.slot(keys[i * 2]!, keys[i * 2 + 1]!);
      this.keys[slot * 2] = keys[i * 2]!;
      this.keys[slot * 2 + 1] = keys[i * 2 + 1]!;
      this.values[slot] = values[i]!;
    }
  }
}
