import { isSpace } from "./text.ts";

/** What windows-1252 has at 0x80 to 0x9f, as code points; 0 where it has nothing. */
const windows1252 = [
  0x20ac, 0, 0x201a, 0x192, 0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0, 0x17d, 0, 0, 0x2018,
  0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0, 0x17e, 0x178,
];
const bytes1252 = new Map(windows1252.flatMap((c, i) => (c ? [[c, 0x80 + i] as const] : [])));

/** The byte a character was before UTF-8 was read as windows-1252 or Latin-1, or -1. */
function byteOf(c: number): number {
  if (c < 0x100) return c;
  return bytes1252.get(c) ?? -1;
}

/** A character that begins UTF-8 of several bytes, followed by at least one that goes on with it. */
const suspicious =
  /[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]/;

/**
 * Undoes "Ã©" for "é": runs of characters that are UTF-8 read as windows-1252 become what they were. A run is changed only if it is valid UTF-8
 * as a whole, which text that was meant so hardly ever is ("Ã©" by intention is lost).
 */
export function repairMojibake(text: string): string {
  // Twice encoded text needs it twice.
  for (let round = 0; round < 3 && suspicious.test(text); round++) {
    let out = "";
    let changed = false;
    for (let i = 0; i < text.length; ) {
      const lead = byteOf(text.charCodeAt(i));
      const length =
        lead >= 0xc2 && lead < 0xe0 ? 2 : lead >= 0xe0 && lead < 0xf0 ? 3 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;
      const decoded = length > 0 && lead === text.charCodeAt(i) ? decodeAt(text, i, length) : undefined;
      if (decoded === undefined) {
        out += text[i]!;
        i++;
      } else {
        out += decoded;
        i += length;
        changed = true;
      }
    }
    if (!changed) break;
    text = out;
  }
  return text;
}

function decodeAt(text: string, at: number, length: number): string | undefined {
  if (at + length > text.length) return undefined;
  let code = byteOf(text.charCodeAt(at)) & (0xff >> (length + 1));
  for (let k = 1; k < length; k++) {
    const byte = byteOf(text.charCodeAt(at + k));
    if (byte < 0x80 || byte > 0xbf) return undefined;
    code = (code << 6) | (byte & 0x3f);
  }
  const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000;
  if (code < least || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return undefined;
  return String.fromCodePoint(code);
}

const entities: Readonly<Record<string, string>> = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: " ",
  hellip: "…",
  mdash: "—",
  ndash: "–",
  lsquo: "‘",
  rsquo: "’",
  ldquo: "“",
  rdquo: "”",
  copy: "©",
  reg: "®",
  trade: "™",
  bull: "•",
  middot: "·",
  eacute: "é",
};

function repairEntities(text: string): string {
  return text.replace(
    /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-z]{2,8}));/g,
    (whole, decimal?: string, hex?: string, name?: string) => {
      if (name !== undefined) return entities[name] ?? whole;
      const code = decimal !== undefined ? Number(decimal) : Number.parseInt(hex!, 16);
      return code > 8 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : whole;
    },
  );
}

export interface UnicodeOptions {
  /** Normal form at the end. NFKC also turns full-width letters into plain ones and ligatures into letters. Default NFC. */
  readonly form?: "NFC" | "NFKC" | "none";
  /** Undo UTF-8 that was read as windows-1252. Default on. */
  readonly mojibake?: boolean;
  /** HTML's character references that an extraction left. Default on. */
  readonly entities?: boolean;
}

/** Controls but tab and line feed, byte order marks, soft hyphens, direction marks, and lone halves of surrogate pairs. */
const unwanted = new RegExp(
  "[\\x00-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f\\u00ad\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u2064\\u2066-\\u206f\\ufeff\\ufff9-\\ufffb]" +
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]",
  "g",
);
/** A joiner counts between letters of scripts that need it and inside emoji; anywhere else it is dirt. */
const joiners =
  /(?<![\p{L}\p{M}\p{Extended_Pictographic}\p{Emoji_Modifier}])[\u200c\u200d]|[\u200c\u200d](?![\p{L}\p{M}\p{Extended_Pictographic}])|(?<=[A-Za-z0-9\u4e00-\u9fff])[\u200c\u200d]/gu;

/**
 * Makes text plain: encoding mistakes undone, characters nobody sees taken out, one kind of line end and of space, no white space at ends of lines,
 * at most one empty line, one normal form. Applying it twice changes nothing more.
 */
export function repairText(text: string, options: UnicodeOptions = {}): string {
  const { form = "NFC", mojibake = true, entities: withEntities = true } = options;
  let out = text;
  if (mojibake) out = repairMojibake(out);
  if (withEntities && out.includes("&")) {
    // "&amp;lt;" was escaped twice.
    for (let round = 0; round < 3; round++) {
      const next = repairEntities(out);
      if (next === out) break;
      out = next;
    }
  }
  out = out.replace(/\r\n?|[\v\f\u0085\u2028\u2029]/g, "\n").replace(unwanted, "");
  out = out.replace(joiners, "");
  if (form !== "none") out = out.normalize(form);
  return out
    .split("\n")
    .map(tidyLine)
    .join("\n")
    .replace(/\n{3,}/g, "\n\n")
    .replace(/^\n+|\n+$/g, "");
}

/** Unusual spaces become plain ones; indentation stays, runs inside of a line do not, nor does white space at its end. */
function tidyLine(line: string): string {
  let end = line.length;
  while (end > 0 && isSpace(line[end - 1]!)) end--;
  let out = line.slice(0, end).replace(/[\u00a0\u1680\u2000-\u200a\u202f\u205f]/g, " ");
  if (/\S {2,}\S/.test(out)) out = out.replace(/(?<=\S) {2,}(?=\S)/g, " ");
  return out;
}
