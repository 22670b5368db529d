/**
 * What a code point is to the rules for graphemes (Unicode standard, annex 29). The numbers are those of native/src/text_pieces.cpp.
 * `extend` continues a conjunct of Indic consonants (rule 9c), `extendOther` does not.
 */
const PART = {
  other: 0,
  extend: 1,
  zwj: 2,
  spacing: 3,
  prepend: 4,
  control: 5,
  cr: 6,
  lf: 7,
  l: 8,
  v: 9,
  t: 10,
  lv: 11,
  lvt: 12,
  regional: 13,
  pictographic: 14,
  consonant: 15,
  linker: 16,
  extendOther: 17,
} as const;
/** Beside the part: white space. */
const WHITE = 0x80;

const ZWJ = "\u200d";
const KA = "\u0915";
const VIRAMA = "\u094d";

/** Blocks that have something to ask about; the others hold ideographs, Hangul syllables, or nothing. */
const ASKED: readonly (readonly [number, number])[] = [
  [0, 0x3400],
  [0xa000, 0xac00],
  [0xd780, 0xd800],
  [0xf900, 0x17000],
  [0x18d00, 0x20000],
  [0xe0000, 0xe1000],
];
const CANDIDATE = /[\p{M}\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Grapheme_Extend}\p{Emoji_Modifier}\u0e33\u0eb3]/u;
const LETTER = /\p{Lo}/u;
/** Blocks of scripts whose letters form conjuncts or stand before their syllable. */
const INDIC: readonly (readonly [number, number])[] = [
  [0x900, 0x1100],
  [0x1780, 0x1800],
  [0x1a00, 0x1c00],
  [0xa980, 0xac00],
  [0x10a00, 0x12000],
];
/** Blocks of 64 without any of these hold nothing to ask about. */
const ANY = /[\p{M}\p{C}\p{Z}\p{Grapheme_Extend}\p{Emoji_Modifier}\p{Extended_Pictographic}\u0e33\u0eb3]/u;
const isIndic = (point: number): boolean => INDIC.some(([from, to]) => point >= from && point < to);

let table: Uint8Array | undefined;

/**
 * The part of each code point (0x110000 bytes), found out from the engine's own segmenter by what it joins, so that the native kernels cut as
 * `Intl.Segmenter` does whatever Unicode version it has.
 */
export function graphemeParts(): Uint8Array {
  table ??= ask();
  return table;
}

function ask(): Uint8Array {
  const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
  const one = (text: string): boolean => segmenter.segment(text).containing(0)?.segment === text;
  const parts = new Uint8Array(0x110000);
  const mark = (c: string): number => {
    if (c === "\r") return PART.cr;
    if (c === "\n") return PART.lf;
    if (c === ZWJ) return PART.zwj;
    if (one(`a${c}`)) {
      if (!one(`\u00a9${c}${ZWJ}\u00a9`)) return PART.spacing;
      if (one(`${KA}${c}${KA}`)) return PART.linker;
      return one(`${KA}${c}${VIRAMA}${KA}`) ? PART.extend : PART.extendOther;
    }
    if (one(`${c}a`)) return PART.prepend;
    return one(`${c}\u0301`) ? PART.other : PART.control;
  };
  for (const [from, to] of ASKED) {
    for (let block = from; block < to; block += 64) {
      const characters = Array.from({ length: 64 }, (_, i) => String.fromCodePoint(block + i));
      if (!isIndic(block) && !ANY.test(characters.join(""))) continue;
      characters.forEach((c, i) => {
        const point = block + i;
        if (point >= 0xd800 && point < 0xe000) return;
        if (CANDIDATE.test(c)) parts[point] = mark(c);
        else if (/\p{Extended_Pictographic}/u.test(c)) parts[point] = PART.pictographic;
        else if (isIndic(point) && LETTER.test(c)) {
          if (one(`${KA}${VIRAMA}${c}`)) parts[point] = PART.consonant;
          else if (one(`${c}a`)) parts[point] = PART.prepend;
        }
        if (/\p{White_Space}/u.test(c)) parts[point]! |= WHITE;
      });
    }
  }
  const jamo = (from: number, to: number, part: number): void => {
    for (let point = from; point <= to; point++) {
      const c = String.fromCodePoint(point);
      // Only what is assigned: letters.
      if (LETTER.test(c)) parts[point] = part;
    }
  };
  jamo(0x1100, 0x115f, PART.l);
  jamo(0xa960, 0xa97c, PART.l);
  jamo(0x1160, 0x11a7, PART.v);
  jamo(0xd7b0, 0xd7c6, PART.v);
  jamo(0x11a8, 0x11ff, PART.t);
  jamo(0xd7cb, 0xd7fb, PART.t);
  for (let point = 0xac00; point <= 0xd7a3; point++) parts[point] = (point - 0xac00) % 28 === 0 ? PART.lv : PART.lvt;
  parts.fill(PART.regional, 0x1f1e6, 0x1f200);
  return parts;
}
