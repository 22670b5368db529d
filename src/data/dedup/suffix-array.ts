import { InputError } from "../../tensor/errors.ts";

/**
 * The suffix array of a sequence by induced sorting (SA-IS; Nong, Zhang & Chan 2009): positions of suffixes in ascending order, in linear time.
 * @param text values 0 .. alphabet - 1
 */
export function suffixArray(text: Uint8Array | Int32Array, alphabet = 256): Int32Array {
  const n = text.length;
  const out = new Int32Array(n);
  if (n === 0) return out;
  if (n === 1) return out;
  // Type S (1): smaller than the suffix after it. The last one is larger than the empty one: type L.
  const small = new Uint8Array(n);
  for (let i = n - 2; i >= 0; i--)
    small[i] = text[i]! < text[i + 1]! || (text[i] === text[i + 1] && small[i + 1] === 1) ? 1 : 0;
  const isLms = (i: number) => i > 0 && small[i] === 1 && small[i - 1] === 0;

  const sizes = new Int32Array(alphabet);
  for (let i = 0; i < n; i++) sizes[text[i]!]!++;
  const places = new Int32Array(alphabet);
  const heads = () => {
    let sum = 0;
    for (let c = 0; c < alphabet; c++) {
      places[c] = sum;
      sum += sizes[c]!;
    }
  };
  const tails = () => {
    let sum = 0;
    for (let c = 0; c < alphabet; c++) {
      sum += sizes[c]!;
      places[c] = sum;
    }
  };
  const induce = (lms: Int32Array) => {
    out.fill(-1);
    tails();
    for (let k = lms.length - 1; k >= 0; k--) out[--places[text[lms[k]!]!]!] = lms[k]!;
    heads();
    // The suffix before the end of the text comes first of all that are larger than the empty one.
    out[places[text[n - 1]!]!++] = n - 1;
    for (let k = 0; k < n; k++) {
      const i = out[k]! - 1;
      if (i >= 0 && small[i] === 0) out[places[text[i]!]!++] = i;
    }
    tails();
    for (let k = n - 1; k >= 0; k--) {
      const i = out[k]! - 1;
      if (i >= 0 && small[i] === 1) out[--places[text[i]!]!] = i;
    }
  };

  const positions: number[] = [];
  for (let i = 1; i < n; i++) if (isLms(i)) positions.push(i);
  const lms = Int32Array.from(positions);
  induce(lms);

  // Names of LMS substrings in the order they were sorted in; equal ones share a name.
  const names = new Int32Array(n).fill(-1);
  let name = -1;
  let before = -1;
  for (let k = 0; k < n; k++) {
    const i = out[k]!;
    if (!isLms(i)) continue;
    if (before < 0 || !sameLms(i, before)) name++;
    names[i] = name;
    before = i;
  }
  function sameLms(a: number, b: number): boolean {
    for (let d = 0; ; d++) {
      if (a + d >= n || b + d >= n) return false;
      if (text[a + d] !== text[b + d] || small[a + d] !== small[b + d]) return false;
      if (d > 0) {
        const [x, y] = [isLms(a + d), isLms(b + d)];
        if (x && y) return true;
        if (x !== y) return false;
      }
    }
  }

  const reduced = Int32Array.from(lms, (i) => names[i]!);
  let order: Int32Array;
  if (name + 1 === lms.length) {
    order = new Int32Array(lms.length);
    reduced.forEach((c, i) => {
      order[c] = i;
    });
  } else order = suffixArray(reduced, name + 1);
  induce(Int32Array.from(order, (k) => lms[k]!));
  return out;
}

/** Lengths of the common beginnings of neighbours in a suffix array; entry 0 is 0 (Kasai et al. 2001). */
export function commonPrefixes(text: Uint8Array | Int32Array, array: Int32Array): Int32Array {
  const n = text.length;
  const rank = new Int32Array(n);
  array.forEach((i, k) => {
    rank[i] = k;
  });
  const out = new Int32Array(n);
  for (let i = 0, h = 0; i < n; i++) {
    if (rank[i] === 0) {
      h = 0;
      continue;
    }
    const j = array[rank[i]! - 1]!;
    while (i + h < n && j + h < n && text[i + h] === text[j + h]) h++;
    out[rank[i]!] = h;
    if (h > 0) h--;
  }
  return out;
}

/** UTF-8 has no such byte: it stands between documents. */
const BORDER = 0xff;
/** Of the texts together: the arrays need nine bytes for each of theirs. */
const MOST = 2 ** 30;

export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Substrings of at least `least` bytes of UTF-8 that stand in the texts more than once (Lee et al. 2022, "Deduplicating training data"): for each
 * text the places (in UTF-16 units, ascending, without overlaps) of all occurrences but the first. All in memory: `SubstringDuplicates` gives the same
 * for texts of any size.
 * @throws InputError when the texts together are above 1 GB
 */
export function repeatedSubstrings(texts: readonly string[], least: number): Span[][] {
  const parts = texts.map((t) => Buffer.from(t, "utf8"));
  const total = parts.reduce((n, p) => n + p.length + 1, 0);
  if (total > MOST)
    throw new InputError(
      `substring duplicates: ${(total / 1e9).toFixed(1)} GB of text; at most 1 GB fits the suffix array. Run it on parts of the corpus.`,
    );
  const all = new Uint8Array(total);
  const starts: number[] = [];
  let at = 0;
  for (const p of parts) {
    starts.push(at);
    all.set(p, at);
    at += p.length;
    all[at++] = BORDER;
  }
  const array = suffixArray(all);
  const common = commonPrefixes(all, array);
  // Bytes left before the border: no match goes across it.
  const left = new Int32Array(total);
  for (let i = total - 1; i >= 0; i--) left[i] = all[i] === BORDER ? 0 : left[i + 1]! + 1;
  const goes = new Uint8Array(total);
  for (let k = 0; k < total; ) {
    let end = k + 1;
    while (end < total && common[end]! >= least && left[array[end]!]! >= least && left[array[end - 1]!]! >= least)
      end++;
    if (end > k + 1) {
      let first = array[k]!;
      for (let i = k; i < end; i++) first = Math.min(first, array[i]!);
      for (let i = k; i < end; i++) if (array[i] !== first) goes[array[i]!] = 1;
    }
    k = end;
  }
  return texts.map((text, t) => spans(text, parts[t]!, goes, starts[t]!, least));
}

/**
 * Marked starts of matches as places in the text; characters that are covered in part stay.
 * @param bytes the text in UTF-8
 * @param goes by byte from `start` on: whether the `least` bytes from there go
 */
export function spans(text: string, bytes: Uint8Array, goes: Uint8Array, start: number, least: number): Span[] {
  const out: { start: number; end: number }[] = [];
  let reach = 0; // end of the matches seen so far, in bytes
  let unit = 0;
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i]!;
    const length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    let covered = true;
    for (let k = i; k < i + length; k++) {
      if (goes[start + k]) reach = Math.max(reach, k + least);
      covered &&= reach > k;
    }
    const units = length === 4 ? 2 : 1;
    const last = out.at(-1);
    if (covered && last?.end === unit) last.end += units;
    else if (covered) out.push({ start: unit, end: unit + units });
    unit += units;
    i += length;
  }
  // A lone surrogate became three bytes: the count above still holds, one unit each.
  return out.filter(({ end }) => end <= text.length);
}
