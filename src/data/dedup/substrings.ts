import { InputError, StateError } from "../../tensor/errors.ts";
import { KeyIndex, type KeyIndexOptions } from "./key-index.ts";
import { type Span, spans } from "./suffix-array.ts";

export interface SubstringOptions extends KeyIndexOptions {
  /** Bytes of UTF-8 that have to stand there again. */
  readonly least: number;
}

/** A Mersenne prime: remainders are shifts. */
const PRIME = 2 ** 31 - 1;
const TWO_31 = 2 ** 31;
const TWO_21 = 2 ** 21;
/** Below 2^21, so that a hash times one of them is exact in a double. */
const BASES = [1_471_453, 2_021_147, 908_953] as const;
/** Ordinals have 32 bits. */
const MOST = 2 ** 32 - 1;

/** What a byte that leaves a window of `size` bytes took part with, to be added: by byte, the prime minus (byte + 1) times base^size. */
function leaving(base: number, size: number): Float64Array {
  let power = 1n;
  for (let i = 0; i < size; i++) power = (power * BigInt(base)) % BigInt(PRIME);
  return Float64Array.from({ length: 256 }, (_, c) => PRIME - Number((BigInt(c + 1) * power) % BigInt(PRIME)));
}

/** x modulo 2^31 - 1, for x below 2^53. */
function modulo(x: number): number {
  const high = Math.floor(x / TWO_31);
  const rest = x - high * TWO_31 + high;
  return rest >= PRIME ? rest - PRIME : rest;
}

/**
 * Finds substrings of at least `least` bytes that stood in the corpus before, as `repeatedSubstrings` does with a suffix array, in memory that does not
 * grow with the texts. Three walks over the same texts in the same order:
 *
 * 1. `see` keeps hashes of some runs of two thirds of `least` bytes: the smallest of those within any `least` bytes (winnowing; Schleimer, Wilkerson &
 *    Aiken 2003). Where `least` bytes stand twice, both places keep the same one. They are sorted on disk by `KeyIndex`.
 * 2. `look` hashes `least` bytes from every place near a run that is there twice, with 93 bits, and only from those.
 * 3. `take` says what goes: all such places but the first.
 *
 * Two different strings count as one if all 93 bits agree: a chance of 10^-10 where a thousand million places are compared.
 */
export class SubstringDuplicates {
  readonly #least: number;
  readonly #run: number;
  readonly #runs: KeyIndex;
  readonly #places: KeyIndex;
  readonly #outOfRun: readonly [Float64Array, Float64Array];
  readonly #outOfPlace: readonly [Float64Array, Float64Array, Float64Array];
  /** Hashes of the last runs, a ring. */
  readonly #ring: Float64Array;
  #runCount = 0;
  #placeCount = 0;
  #repeated: Uint8Array | undefined;
  #goes: Uint8Array | undefined;
  #atRun = 0;
  #atPlace = 0;

  constructor({ least, ...options }: SubstringOptions) {
    if (!(Number.isInteger(least) && least >= 3))
      throw new InputError(`substring duplicates: ${least} bytes at least; it must be a whole number from 3 on.`);
    this.#least = least;
    this.#run = Math.ceil((2 * least) / 3);
    this.#runs = new KeyIndex(options);
    this.#places = new KeyIndex({ ...options, wide: true });
    const [a, b, c] = BASES;
    this.#outOfRun = [leaving(a, this.#run), leaving(b, this.#run)];
    this.#outOfPlace = [leaving(a, least), leaving(b, least), leaving(c, least)];
    this.#ring = new Float64Array(2 ** Math.ceil(Math.log2(least - this.#run + 1)));
  }

  /** The first walk. */
  see(text: string): void {
    if (this.#repeated) throw new StateError("substring duplicates: see() comes before found().");
    this.#select(Buffer.from(text, "utf8"), (_at, hash) => {
      if (this.#runCount === MOST) throw tooMany();
      const high = Math.floor(hash / TWO_21);
      this.#runs.add(Math.imul(high, 0x9e3779b1) >>> 0, hash - high * TWO_21, this.#runCount++);
    });
  }

  /** After the first walk. */
  found(): void {
    const repeated = new Uint8Array(Math.ceil(this.#runCount / 8));
    this.#runs.duplicates((first, again) => {
      repeated[first >>> 3]! |= 1 << (first & 7);
      repeated[again >>> 3]! |= 1 << (again & 7);
    });
    this.#repeated = repeated;
    this.#atRun = 0;
  }

  /** The second walk. */
  look(text: string): void {
    const bytes = Buffer.from(text, "utf8");
    this.#candidates(bytes, (from, to) => this.#hash(bytes, from, to));
  }

  /** After the second walk. */
  finish(): void {
    const goes = new Uint8Array(Math.ceil(this.#placeCount / 8));
    this.#places.duplicates((_first, again) => {
      goes[again >>> 3]! |= 1 << (again & 7);
    });
    this.#goes = goes;
    this.#atRun = 0;
  }

  /** The third walk: the places (in UTF-16 units, ascending, without overlaps) of what goes. */
  take(text: string): Span[] {
    const goes = this.#goes;
    if (!goes) throw new StateError("substring duplicates: finish() comes before take().");
    const bytes = Buffer.from(text, "utf8");
    let marked: Uint8Array | undefined;
    this.#candidates(bytes, (from, to) => {
      for (let at = from; at <= to; at++) {
        const i = this.#atPlace++;
        if ((goes[i >>> 3]! & (1 << (i & 7))) === 0) continue;
        marked ??= new Uint8Array(bytes.length);
        marked[at] = 1;
      }
    });
    return marked ? spans(text, bytes, marked, 0, this.#least) : [];
  }

  [Symbol.dispose](): void {
    this.#runs.dispose();
    this.#places.dispose();
  }

  /** Calls back for the chosen runs in ascending order, with 52 bits of hash. */
  #select(bytes: Uint8Array, chosen: (at: number, hash: number) => void): void {
    const run = this.#run;
    const window = this.#least - run + 1;
    const ring = this.#ring;
    const mask = ring.length - 1;
    const [baseA, baseB] = BASES;
    const [outA, outB] = this.#outOfRun;
    if (bytes.length < this.#least) return;
    let [a, b] = [0, 0];
    for (let i = 0; i < run; i++) {
      a = modulo(a * baseA + bytes[i]! + 1);
      b = modulo(b * baseB + bytes[i]! + 1);
    }
    let least = Number.POSITIVE_INFINITY;
    let leastAt = -1;
    const last = bytes.length - run;
    for (let at = 0; ; at++) {
      const hash = a * TWO_21 + (b & (TWO_21 - 1));
      ring[at & mask] = hash;
      if (hash < least) {
        least = hash;
        leastAt = at;
        if (at >= window - 1) chosen(leastAt, least);
      } else if (leastAt <= at - window) {
        // The smallest has left: the last of the smallest that are there, which stays for the longest.
        least = Number.POSITIVE_INFINITY;
        for (let k = at - window + 1; k <= at; k++)
          if (ring[k & mask]! <= least) {
            least = ring[k & mask]!;
            leastAt = k;
          }
        chosen(leastAt, least);
      } else if (at === window - 1) chosen(leastAt, least);
      if (at === last) return;
      const [out, next] = [bytes[at]!, bytes[at + run]! + 1];
      a = modulo(a * baseA + next + outA[out]!);
      b = modulo(b * baseB + next + outB[out]!);
    }
  }

  /** Calls back for stretches of places from which `least` bytes may stand elsewhere too, both ends within. */
  #candidates(bytes: Uint8Array, stretch: (from: number, to: number) => void): void {
    const repeated = this.#repeated;
    if (!repeated) throw new StateError("substring duplicates: found() comes before look().");
    const reach = this.#least - this.#run;
    const end = bytes.length - this.#least;
    let from = 0;
    let to = -1;
    this.#select(bytes, (at) => {
      const i = this.#atRun++;
      if (i >= this.#runCount) throw new StateError("substring duplicates: a later walk met more text than see() did.");
      if ((repeated[i >>> 3]! & (1 << (i & 7))) === 0) return;
      const first = Math.max(0, at - reach);
      if (first > to + 1 || to < 0) {
        if (to >= 0) stretch(from, to);
        from = first;
      }
      to = Math.min(at, end);
    });
    if (to >= 0) stretch(from, to);
  }

  /** Keeps what stands from each of the places. */
  #hash(bytes: Uint8Array, from: number, to: number): void {
    const least = this.#least;
    const [baseA, baseB, baseC] = BASES;
    const [outA, outB, outC] = this.#outOfPlace;
    let [a, b, c] = [0, 0, 0];
    for (let i = from; i < from + least; i++) {
      a = modulo(a * baseA + bytes[i]! + 1);
      b = modulo(b * baseB + bytes[i]! + 1);
      c = modulo(c * baseC + bytes[i]! + 1);
    }
    for (let at = from; ; at++) {
      if (this.#placeCount === MOST) throw tooMany();
      this.#places.add(Math.imul(a, 0x9e3779b1) >>> 0, b, this.#placeCount++, c);
      if (at === to) return;
      const [out, next] = [bytes[at]!, bytes[at + least]! + 1];
      a = modulo(a * baseA + next + outA[out]!);
      b = modulo(b * baseB + next + outB[out]!);
      c = modulo(c * baseC + next + outC[out]!);
    }
  }
}

const tooMany = () =>
  new InputError(
    "substring duplicates: more than 4,000 million places would have to be compared. Take equal and similar documents out first, ask for longer substrings, or run it on parts of the corpus.",
  );
