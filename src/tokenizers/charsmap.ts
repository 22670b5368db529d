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
    // Characters that no key begins with, such as most of ASCII, are passed over without a look into the trie.
    for (let at = 0; at < text.length; ) {
      const point = text.codePointAt(at)!;
      const width = point > 0xffff ? 2 : 1;
      if (!this.begins(point)) {
        at += width;
        continue;
      }
      const bytes = encodeUtf8(text.slice(at, at + LONGEST_KEY));
      const found = this.longest(bytes, 0);
      if (found === undefined) {
        at += width;
        continue;
      }
      out += text.slice(copied, at) + decodeUtf8(found.bytes);
      at += decodeUtf8(bytes.subarray(0, found.length)).length;
      copied = at;
    }
    return copied === 0 ? text : out + text.slice(copied);
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
    this.eachByGrapheme(text, (_, made) => {
      out += made;
    });
    return out;
  }

  /** The same part by part: each part of the text and what it becomes. */
  eachByGrapheme(text: string, emit: (part: string, made: string) => void): void {
    let done = 0;
    const hard = (end: number): void => {
      for (const segment of graphemesOf(text.slice(done, end))) {
        const whole = segment.length > 1 && Buffer.byteLength(segment) < 6 ? this.transform(segment) : undefined;
        if (whole !== undefined) emit(segment, whole);
        else for (const c of segment) emit(c, this.character(c));
      }
      done = end;
    };
    // Between two characters of PLAIN there is always a border.
    for (const found of text.matchAll(ALONE)) {
      if (found.index > done) hard(found.index);
      for (const c of found[0]) emit(c, this.character(c));
      done = found.index + found[0].length;
    }
    if (done < text.length) hard(text.length);
  }
}

/** Where the children of a node are, from its unit. */
const offset = (unit: number): number => (unit >>> 10) << ((unit & 0x200) >>> 6);

/** In UTF-16 units; the maps in use have keys of 18 at most. */
const LONGEST_KEY = 64;

const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });

/** Characters that are graphemes of their own beside each other; runs of them, less the ends, where a neighbour may join. */
const PLAIN =
  " -~\\u00c0-\\u02ff\\u0400-\\u0481\\u3001-\\u3029\\u3041-\\u3096\\u30a1-\\u30fa\\u4e00-\\u9fff\\uff01-\\uff9d";
const ALONE = new RegExp(`(?<=^|[${PLAIN}])[${PLAIN}]+(?=[${PLAIN}])`, "g");

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
