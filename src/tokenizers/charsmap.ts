import { InputError } from "../tensor/errors.ts";
import { decodeUtf8, encodeUtf8 } from "./bytes.ts";

/**
 * SentencePiece's precompiled character map: a trie of byte sequences (a double array as darts-clone lays it out) whose leaves are offsets
 * into a text of replacements, each ended by a zero byte.
 */
export class Charsmap {
  private readonly units: Uint32Array;
  private readonly replacements: Uint8Array;

  /** @throws InputError when the file is cut short */
  constructor(file: Uint8Array) {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    const size = file.length < 4 ? -1 : view.getUint32(0, true);
    if (size < 0 || size % 4 !== 0 || 4 + size > file.length) {
      throw new InputError("precompiled_charsmap: it is cut short. Copy the tokenizer's file again.");
    }
    this.units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.replacements = file.subarray(4 + size);
  }

  /** Offset and length in bytes of each key that `bytes` begins with from `at` on, shortest first; stops after the first one if asked. */
  private match(
    bytes: Uint8Array,
    at: number,
    end: number,
    shortest: boolean,
  ): { value: number; length: number } | undefined {
    const { units } = this;
    let found: { value: number; length: number } | undefined;
    if (units.length === 0) return undefined;
    let position = offset(units[0]!);
    for (let i = at; i < end; i++) {
      const byte = bytes[i]!;
      if (byte === 0) break;
      position ^= byte;
      const unit = units[position] ?? 0;
      if ((unit & 0x800000ff) >>> 0 !== byte) break;
      position ^= offset(unit);
      if ((unit >>> 8) & 1) {
        found = { value: (units[position] ?? 0) & 0x7fffffff, length: i + 1 - at };
        if (shortest) return found;
      }
    }
    return found;
  }

  private replacement(value: number): Uint8Array {
    const end = this.replacements.indexOf(0, value);
    return this.replacements.subarray(value, end === -1 ? this.replacements.length : end);
  }

  /** The longest key at `at` and what replaces it, as SentencePiece's own normalizer looks it up. */
  longest(bytes: Uint8Array, at: number): { readonly length: number; readonly bytes: Uint8Array } | undefined {
    const found = this.match(bytes, at, bytes.length, false);
    return found === undefined ? undefined : { length: found.length, bytes: this.replacement(found.value) };
  }

  /** Each longest key replaced, as SentencePiece's own normalizer does it. */
  normalize(text: string): string {
    let out = "";
    let copied = 0;
    this.eachLongest(text, (at, end, made) => {
      out += text.slice(copied, at) + made;
      copied = end;
    });
    return copied === 0 ? text : out + text.slice(copied);
  }

  /** The stretches of a text that change, from left to right, and what they become. */
  eachLongest(text: string, emit: (start: number, end: number, made: string) => void): void {
    // Characters that no key begins with, such as most of ASCII, are passed over without a look into the trie.
    for (let at = 0; at < text.length; ) {
      const point = text.codePointAt(at)!;
      const width = point > 0xffff ? 2 : 1;
      const bytes = this.begins(point) ? encodeUtf8(text.slice(at, at + LONGEST_KEY)) : undefined;
      const found = bytes && this.longest(bytes, 0);
      if (bytes === undefined || found === undefined) {
        at += width;
        continue;
      }
      const end = at + decodeUtf8(bytes.subarray(0, found.length)).length;
      emit(at, end, decodeUtf8(found.bytes));
      at = end;
    }
  }

  private readonly first = new Map<number, boolean>();

  /** Whether some key may begin with this character: its bytes lead somewhere in the trie. */
  private begins(point: number): boolean {
    let known = this.first.get(point);
    if (known === undefined) {
      known = this.walks(encodeUtf8(String.fromCodePoint(point)));
      this.first.set(point, known);
    }
    return known;
  }

  private walks(bytes: Uint8Array): boolean {
    const { units } = this;
    if (units.length === 0) return false;
    let position = offset(units[0]!);
    for (const byte of bytes) {
      position ^= byte;
      const unit = units[position] ?? 0;
      if (byte === 0 || (unit & 0x800000ff) >>> 0 !== byte) return false;
      position ^= offset(unit);
    }
    return true;
  }

  private transform(text: string): string | undefined {
    const bytes = encodeUtf8(text);
    const found = this.match(bytes, 0, bytes.length, true);
    return found === undefined ? undefined : decodeUtf8(this.replacement(found.value));
  }

  private readonly characters = new Map<string, string>();

  private character(c: string): string {
    let known = this.characters.get(c);
    if (known === undefined) {
      known = this.transform(c) ?? c;
      this.characters.set(c, known);
    }
    return known;
  }

  /**
   * As `tokenizers`' Precompiled does it: grapheme by grapheme, a short grapheme (under 6 bytes) whole if a key is a prefix of it (the
   * shortest such key counts, and the whole grapheme goes), else character by character.
   */
  normalizeByGrapheme(text: string): string {
    let out = "";
    let copied = 0;
    for (let at = 0; at < text.length; ) {
      if (alone(text, at)) {
        const made = this.plain(text.charCodeAt(at));
        if (made !== undefined) {
          out += text.slice(copied, at) + made;
          copied = at + 1;
        }
        at++;
        continue;
      }
      const end = endOfHard(text, at);
      out += text.slice(copied, at);
      this.eachHard(text.slice(at, end), (_, made) => {
        out += made;
      });
      at = end;
      copied = end;
    }
    return copied === 0 ? text : out + text.slice(copied);
  }

  /** The same part by part: each part of the text and what it becomes. */
  eachByGrapheme(text: string, emit: (part: string, made: string) => void): void {
    for (let at = 0; at < text.length; ) {
      if (alone(text, at)) {
        const c = text[at]!;
        emit(c, this.plain(text.charCodeAt(at)) ?? c);
        at++;
        continue;
      }
      const end = endOfHard(text, at);
      this.eachHard(text.slice(at, end), emit);
      at = end;
    }
  }

  private eachHard(text: string, emit: (part: string, made: string) => void): void {
    for (const segment of graphemesOf(text)) {
      const whole = segment.length > 1 && Buffer.byteLength(segment) < 6 ? this.transform(segment) : undefined;
      if (whole !== undefined) emit(segment, whole);
      else for (const c of segment) emit(c, this.character(c));
    }
  }

  /** What a character of PLAIN becomes; undefined where it stays. */
  private plain(unit: number): string | undefined {
    const known = this.plains[unit];
    if (known !== undefined) return known ?? undefined;
    const c = String.fromCharCode(unit);
    const made = this.character(c);
    this.plains[unit] = made === c ? null : made;
    return made === c ? undefined : made;
  }

  private readonly plains: (string | null | undefined)[] = new Array<undefined>(0x10000);
}

/** Where the children of a node are, from its unit. */
const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);

/** In UTF-16 units; the maps in use have keys of 18 at most. */
const LONGEST_KEY = 64;

const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });

/** Characters that are graphemes of their own beside each other. */
const PLAIN = (() => {
  const plain = new Uint8Array(0x10000);
  const ranges = "20-7e c0-2ff 400-481 3001-3029 3041-3096 30a1-30fa 4e00-9fff ff01-ff9d";
  for (const range of ranges.split(" ")) {
    const [from, to] = range.split("-").map((hex) => Number.parseInt(hex, 16));
    plain.fill(1, from, to! + 1);
  }
  return plain;
})();

/** Whether the character at `at` and what stands beside it are of PLAIN, so that there is a border on both sides of it. */
const alone = (text: string, at: number): boolean =>
  PLAIN[text.charCodeAt(at)] === 1 &&
  (at === 0 || PLAIN[text.charCodeAt(at - 1)] === 1) &&
  (at + 1 === text.length || PLAIN[text.charCodeAt(at + 1)] === 1);

/** The end of a stretch that has to be looked at grapheme by grapheme. */
function endOfHard(text: string, at: number): number {
  let end = at + 1;
  while (end < text.length && !alone(text, end)) end++;
  return end;
}

/** Units of text that the segmenter sees at a time: V8's takes time that grows with the length of the text, for each grapheme. */
const WINDOW = 256;

/** A text's graphemes. From any border between two on, what follows is cut as if the text began there. */
function* graphemesOf(text: string): Generator<string> {
  let window = WINDOW;
  for (let at = 0; at < text.length; ) {
    // Never half a character: what it is may join the one before.
    const half = (text.charCodeAt(at + window - 1) & 0xfc00) === 0xd800 ? 1 : 0;
    const part = text.slice(at, at + window + half);
    const found = Array.from(graphemes.segment(part), ({ segment }) => segment);
    // More text may make the last one longer.
    if (at + part.length < text.length) found.pop();
    for (const grapheme of found) {
      yield grapheme;
      at += grapheme.length;
    }
    window = found.length === 0 ? window * 2 : WINDOW;
  }
}
