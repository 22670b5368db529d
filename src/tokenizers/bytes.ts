/**
 * Bytes as printable characters, and UTF-8 that arrives in pieces.
 *
 * Byte-level BPE (Radford et al. 2019, section 2.2) writes each byte as one visible character, so that its vocabulary is a list of
 * ordinary strings: bytes that are printable in Latin-1 stand for themselves, the other 68 take the code points from U+0100 upwards.
 */
const isPrintable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);

/** byte -> its character. */
export const BYTE_TO_CHARACTER: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
})();

const CHARACTER_TO_BYTE: ReadonlyMap<string, number> = new Map(BYTE_TO_CHARACTER.map((c, byte) => [c, byte]));

const utf8 = new TextEncoder();
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });

/** UTF-8 bytes of `text`; lone surrogates become U+FFFD. */
export const encodeUtf8 = (text: string): Uint8Array => utf8.encode(text);

/** Text of `bytes`; each maximal broken part becomes one U+FFFD (Unicode standard, section 3.9, U+FFFD substitution). */
export const decodeUtf8 = (bytes: Uint8Array): string => lossy.decode(bytes);

export const byteLength = (text: string | Uint8Array): number =>
  typeof text === "string" ? Buffer.byteLength(text) : text.length;

/** Strings as UTF-8, and bytes as they are, one after another, and where each ends. @param sizes their bytes, where they are known */
export function joined(
  parts: readonly (string | Uint8Array)[],
  sizes: readonly number[] = parts.map(byteLength),
): { readonly bytes: Uint8Array; readonly ends: Float64Array } {
  const ends = new Float64Array(parts.length);
  let at = 0;
  sizes.forEach((size, i) => {
    at += size;
    ends[i] = at;
  });
  // Strings go where they will be read: memory that is made and dropped between costs the garbage collector more than the copy.
  const bytes = new Uint8Array(at);
  parts.forEach((part, i) => {
    const to = bytes.subarray(ends[i]! - sizes[i]!, ends[i]);
    if (typeof part === "string") utf8.encodeInto(part, to);
    else to.set(part);
  });
  return { bytes, ends };
}

/** The bytes a vocabulary string stands for, or undefined if a character of it stands for no byte. */
export function tokenBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = CHARACTER_TO_BYTE.get(token[i]!);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}

/** A text as a character for each of its bytes. */
export function byteCharacters(text: string): string {
  let out = "";
  for (const byte of encodeUtf8(text)) out += BYTE_TO_CHARACTER[byte]!;
  return out;
}

/** Lone surrogates replaced by U+FFFD, the string itself where there are none. */
export function wellFormed(text: string): string {
  // Without any half of a pair, which is quick to see, there is no lone one.
  return /[\ud800-\udfff]/.test(text) && /\p{Surrogate}/u.test(text) ? text.replace(/\p{Surrogate}/gu, "\ufffd") : text;
}

/**
 * How many bytes at the end of `bytes` are the beginning of a character that more bytes could complete (0 to 3).
 * Follows the table of well-formed byte sequences (Unicode standard, table 3-7), so a beginning that can never become
 * well formed (E0 80, ED A0, F4 90, ...) is not waited for.
 */
export function incompleteTail(bytes: Uint8Array): number {
  const last = bytes.length;
  for (let back = 1; back <= 3 && back <= last; back++) {
    const lead = bytes[last - back]!;
    if (lead >= 0x80 && lead <= 0xbf) continue;
    const need =
      lead >= 0xc2 && lead <= 0xdf ? 2 : lead >= 0xe0 && lead <= 0xef ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 1;
    if (need <= back) return 0;
    if (back >= 2) {
      const second = bytes[last - back + 1]!;
      const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
      const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
      if (second < low || second > high) return 0;
    }
    return back;
  }
  return 0;
}

/** Decodes UTF-8 that arrives in pieces; holds back only the beginning of a character that may still become complete. */
export class Utf8Stream {
  private held = new Uint8Array(0);

  /** Whether the beginning of a character is held back. */
  get pending(): boolean {
    return this.held.length > 0;
  }

  push(bytes: Uint8Array): string {
    if (bytes.length === 0) return "";
    let all = bytes;
    if (this.held.length > 0) {
      all = new Uint8Array(this.held.length + bytes.length);
      all.set(this.held);
      all.set(bytes, this.held.length);
    }
    const ready = all.length - incompleteTail(all);
    this.held = all.slice(ready);
    return ready === 0 ? "" : decodeUtf8(all.subarray(0, ready));
  }

  end(): string {
    const rest = this.held;
    this.held = new Uint8Array(0);
    return rest.length === 0 ? "" : decodeUtf8(rest);
  }
}
