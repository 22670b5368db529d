import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readFull } from "../../runs/atomic.ts";
import { mix32 } from "./hash.ts";
import { KeyIndex, type KeyIndexOptions, spillTo } from "./key-index.ts";
import { agreement, type Banding, chooseBanding, MinHasher, meeting, shingles } from "./minhash.ts";
import { UnionFind } from "./union-find.ts";

export interface NearOptions extends KeyIndexOptions {
  /** Jaccard similarity of shingles from which on two texts count as the same. Default 0.75. */
  readonly threshold?: number;
  /** Words of a shingle. Default 5. */
  readonly ngram?: number;
  /** Hashes of a signature at most. Default 112. */
  readonly permutations?: number;
  readonly seed?: number;
  /** Look at whole signatures before two texts are put together: fewer false pairs for 4 bytes a permutation and text on disk. Default on. */
  readonly verify?: boolean;
}

export interface NearReport {
  readonly banding: Banding;
  readonly threshold: number;
  /** How likely a pair of that similarity is found. */
  readonly curve: readonly { readonly similarity: number; readonly probability: number }[];
  readonly documents: number;
  readonly candidates: number;
  readonly refused: number;
}

export interface NearResult {
  /** By the ordinal that stays, the first: all members, itself included. */
  readonly clusters: ReadonlyMap<number, readonly number[]>;
  /** By ordinal of the document that goes: the one that stays. */
  readonly drop: ReadonlyMap<number, number>;
  readonly report: NearReport;
}

/**
 * Near duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al. 2014, chapter 3): signatures are cut into bands, texts that
 * agree in a whole band are candidates, and candidates are joined into clusters of which the first text stays. Memory is bounded by `memory` and
 * four bytes a text; the rest goes to disk.
 */
export class NearDuplicates {
  readonly threshold: number;
  readonly banding: Banding;
  readonly ngram: number;
  readonly #hasher: MinHasher;
  readonly #index: KeyIndex;
  readonly #sets = new UnionFind();
  readonly #verify: boolean;
  readonly #folder: string;
  #signatures:
    | { readonly folder: string; readonly file: number; buffer: Uint32Array; used: number; written: number }
    | undefined;

  constructor(options: NearOptions = {}) {
    const { threshold = 0.75, ngram = 5, permutations = 112, seed = 1, verify = true } = options;
    this.threshold = threshold;
    this.ngram = ngram;
    // Where candidates are looked at again, a false one costs little and a missed one is missed.
    this.banding = chooseBanding(threshold, permutations, verify ? 0.95 : 0.5);
    this.#hasher = new MinHasher(this.banding.bands * this.banding.rows, seed);
    this.#index = new KeyIndex(options);
    this.#verify = verify;
    this.#folder = options.folder ?? tmpdir();
  }

  /** The signature of a text: what workers compute, each for its own texts. */
  signature(text: string): Uint32Array {
    return this.#hasher.signature(shingles(text, this.ngram));
  }

  /** Takes the next text in. */
  see(text: string): void {
    this.add(this.signature(text));
  }

  /** Takes the next text in by its signature. */
  add(signature: Uint32Array): void {
    const ordinal = this.#sets.add();
    if (this.#verify) this.#keep(signature);
    // A text without words is like no other.
    if (signature[0] === 0xffffffff) return;
    const { bands, rows } = this.banding;
    for (let band = 0; band < bands; band++) {
      let a = mix32(band + 1);
      let b = mix32(a ^ 0x9e3779b1);
      for (let k = band * rows; k < (band + 1) * rows; k++) {
        a = mix32(Math.imul(a, 0x9e3779b1) ^ signature[k]!);
        b = mix32(Math.imul(b, 0x85ebca6b) + signature[k]!);
      }
      this.#index.add(a, b, ordinal);
    }
  }

  #keep(signature: Uint32Array): void {
    if (!this.#signatures) {
      const folder = mkdtempSync(join(this.#folder, "howdah-signatures-"));
      const file = openSync(join(folder, "signatures"), "w+");
      this.#signatures = { folder, file, buffer: new Uint32Array(signature.length * 2048), used: 0, written: 0 };
    }
    const s = this.#signatures;
    s.buffer.set(signature, s.used);
    s.used += signature.length;
    if (s.used === s.buffer.length) this.#flush();
  }

  #flush(): void {
    const s = this.#signatures;
    if (!s || s.used === 0) return;
    const bytes = Buffer.from(s.buffer.buffer, 0, s.used * 4);
    spillTo(s.file, bytes, s.written, s.folder);
    s.written += bytes.length;
    s.used = 0;
  }

  #read(ordinal: number, into: Uint32Array): void {
    const bytes = Buffer.from(into.buffer, into.byteOffset, into.byteLength);
    readFull(this.#signatures!.file, bytes, ordinal * bytes.length);
  }

  finish(): NearResult {
    this.#flush();
    const sets = this.#sets;
    const length = this.banding.bands * this.banding.rows;
    const [a, b] = [new Uint32Array(length), new Uint32Array(length)];
    let candidates = 0;
    let refused = 0;
    let held = -1;
    // An estimate below the threshold by more than its deviation is a false pair.
    const least = this.threshold - Math.sqrt((this.threshold * (1 - this.threshold)) / length);
    this.#index.duplicates((first, again) => {
      candidates++;
      if (sets.find(first) === sets.find(again)) return;
      if (this.#verify) {
        if (held !== first) this.#read(first, a);
        held = first;
        this.#read(again, b);
        if (agreement(a, b) < least) {
          refused++;
          return;
        }
      }
      sets.union(first, again);
    });
    const clusters = sets.clusters();
    const drop = new Map<number, number>();
    for (const [root, members] of clusters) for (const m of members) if (m !== root) drop.set(m, root);
    const curve = Array.from({ length: 11 }, (_, i) => ({
      similarity: i / 10,
      probability: meeting(this.banding, i / 10),
    }));
    const report = {
      banding: this.banding,
      threshold: this.threshold,
      curve,
      documents: sets.size,
      candidates,
      refused,
    };
    this.dispose();
    return { clusters, drop, report };
  }

  dispose(): void {
    this.#index.dispose();
    if (!this.#signatures) return;
    closeSync(this.#signatures.file);
    rmSync(this.#signatures.folder, { recursive: true, force: true });
    this.#signatures = undefined;
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
