import { InputError } from "../../tensor/errors.ts";
import { mix32 } from "./hash.ts";

export interface Banding {
  readonly bands: number;
  readonly rows: number;
}

/** How likely two texts of Jaccard similarity `s` meet in at least one band: 1 - (1 - s^rows)^bands. */
export const meeting = ({ bands, rows }: Banding, s: number): number => 1 - (1 - s ** rows) ** bands;

/**
 * Bands and rows for a threshold: of all that need at most `permutations` hashes, those whose curve is closest to a step there (areas under the
 * curve, as in Zhu et al.'s datasketch).
 * @param missed what pairs that are missed weigh, from 0 to 1; false ones weigh the rest
 */
export function chooseBanding(threshold: number, permutations: number, missed = 0.5): Banding {
  if (!(threshold > 0 && threshold < 1))
    throw new InputError(`near duplicates: the threshold is ${threshold}; it must be between 0 and 1.`);
  if (!(Number.isInteger(permutations) && permutations >= 1))
    throw new InputError(`near duplicates: ${permutations} permutations; it must be a whole number above 0.`);
  let best: Banding = { bands: 1, rows: 1 };
  let least = Number.POSITIVE_INFINITY;
  const area = (f: (s: number) => number, from: number, to: number) => {
    const steps = 200;
    let sum = 0;
    for (let i = 0; i < steps; i++) sum += f(from + ((i + 0.5) * (to - from)) / steps);
    return (sum * (to - from)) / steps;
  };
  for (let rows = 1; rows <= permutations; rows++)
    for (let bands = 1; bands * rows <= permutations; bands++) {
      const b = { bands, rows };
      const error =
        (1 - missed) * area((s) => meeting(b, s), 0, threshold) + missed * area((s) => 1 - meeting(b, s), threshold, 1);
      if (error < least) {
        least = error;
        best = b;
      }
    }
  return best;
}

const words =
  /\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana}|(?:(?!\p{Script=Han}|\p{Script=Hiragana}|\p{Script=Katakana})[\p{L}\p{M}\p{N}])+/gu;
const digitsRun = /\p{Nd}+/gu;

/** 32-bit hashes of the words of a text: lower case, numbers all alike, no signs, no accents; Chinese and Japanese by characters. */
export function wordHashes(text: string): Uint32Array {
  const plain = text
    .toLowerCase()
    .normalize("NFD")
    .replace(/\p{Mn}+/gu, "")
    .replace(digitsRun, "0");
  const out: number[] = [];
  for (const [word] of plain.matchAll(words)) {
    let h = 0x811c9dc5;
    for (let i = 0; i < word.length; i++) h = Math.imul(h ^ word.charCodeAt(i), 0x01000193);
    out.push(mix32(h));
  }
  return Uint32Array.from(out);
}

/** The set of a text's n-grams of words, as hashes in ascending order. A text of fewer words is one shingle. */
export function shingles(text: string, n: number): Uint32Array {
  const hashes = wordHashes(text);
  if (hashes.length === 0) return hashes;
  const count = Math.max(hashes.length - n + 1, 1);
  const out = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    let h = 0;
    for (let k = i; k < Math.min(i + n, hashes.length); k++) h = Math.imul(h ^ hashes[k]!, 0x9e3779b1) ^ (h >>> 15);
    out[i] = mix32(h);
  }
  out.sort();
  let unique = 0;
  for (let i = 0; i < out.length; i++) if (i === 0 || out[i] !== out[i - 1]) out[unique++] = out[i]!;
  return out.slice(0, unique);
}

/** |a and b| / |a or b| of two ascending sets. */
export function jaccard(a: Uint32Array, b: Uint32Array): number {
  let both = 0;
  for (let i = 0, k = 0; i < a.length && k < b.length; ) {
    if (a[i] === b[k]) {
      both++;
      i++;
      k++;
    } else if (a[i]! < b[k]!) i++;
    else k++;
  }
  const either = a.length + b.length - both;
  return either === 0 ? 0 : both / either;
}

/** MinHash (Broder 1997): the smallest hash of a set under each of several permutations. Equal in each with probability the Jaccard similarity. */
export class MinHasher {
  readonly permutations: number;
  readonly #flip: Int32Array;
  readonly #factor: Int32Array;

  constructor(permutations: number, seed = 1) {
    this.permutations = permutations;
    this.#flip = Int32Array.from({ length: permutations }, (_, k) => mix32(mix32(seed) + 2 * k));
    this.#factor = Int32Array.from({ length: permutations }, (_, k) => mix32(mix32(seed) + 2 * k + 1) | 1);
  }

  /** @returns (permutations), all 0xffffffff for an empty set */
  signature(set: Uint32Array): Uint32Array {
    const out = new Uint32Array(this.permutations).fill(0xffffffff);
    for (let k = 0; k < out.length; k++) {
      const flip = this.#flip[k]!;
      const factor = this.#factor[k]!;
      let least = 0xffffffff;
      for (let i = 0; i < set.length; i++) {
        // A bijection of 32 bits: xor, odd multiple, and a shift that brings the high half, which decides, down and back up.
        let v = Math.imul(set[i]! ^ flip, factor);
        v = Math.imul(v ^ (v >>> 16), 0x85ebca6b) >>> 0;
        if (v < least) least = v;
      }
      out[k] = least;
    }
    return out;
  }
}

/** The share of permutations in which two signatures agree: an estimate of the Jaccard similarity, deviation sqrt(s (1 - s) / permutations). */
export function agreement(a: Uint32Array, b: Uint32Array): number {
  let same = 0;
  for (let k = 0; k < a.length; k++) if (a[k] === b[k]) same++;
  return a.length === 0 ? 0 : same / a.length;
}
