import type { NativePieces as Handle, NativeText } from "../engine/backends/native/text.ts";
import { encodeUtf8, joined } from "./bytes.ts";
import { graphemeParts } from "./graphemes.ts";
import { byteTokens, modelOf } from "./models.ts";
import { nativeText } from "./native.ts";
import type { NativeBatch } from "./native-batch.ts";
import { normalizeBy } from "./normalize.ts";
import { characters } from "./regex.ts";
import type {
  BpePart,
  Metaspace,
  Normalizer,
  PreTokenizer,
  TokenizerFile,
  UnigramPart,
  WordPiecePart,
} from "./schema.ts";
import { PUNCTUATION } from "./unicode-bert.ts";
import { UnigramModel } from "./unigram.ts";

const SPACE = "\u2581";
const NONE = new Uint32Array(0);
const KINDS = { bpe: 0, unigram: 1, wordpiece: 2 } as const;
const SHAPES = { prepared: 0, sentencepiece: 1, bert: 2, graphemes: 3 } as const;
const SPACES = { kept: 0, one: 1, mark: 2 } as const;

/** What the native model is made of; names as in native/src/text_pieces.hpp. */
interface Parts {
  readonly kind: keyof typeof KINDS;
  readonly shape: keyof typeof SHAPES;
  readonly strings: readonly string[];
  readonly ids: readonly number[];
  readonly unknown: number | undefined;
  readonly fuse?: boolean;
  readonly single?: boolean;
  readonly splitAtSpace?: boolean;
  readonly dummyPrefix?: boolean;
  readonly removeExtra?: boolean;
  readonly mostCharacters?: number;
  readonly unknownScore?: number;
  readonly tokens?: number;
  readonly firsts?: number;
  readonly words?: boolean;
  readonly stripLeft?: boolean;
  readonly stripRight?: boolean;
  readonly spaces?: keyof typeof SPACES;
  readonly scores?: Float64Array;
  /** left, right, rank, id of each */
  readonly merges?: Uint32Array;
  readonly bytes?: Int32Array | undefined;
  readonly map?: Uint8Array;
}

/** The native encoder of a vocabulary of pieces (BPE over characters, Unigram, WordPiece). It gives the ids of the TypeScript models. */
export class NativePieces {
  /** Whether it wants texts as they are, before the normalizer; otherwise what `prepare` makes of them. */
  readonly normalizes: boolean;
  private readonly text: NativeText;
  private readonly model: Handle;
  private readonly prepares: Preparation;
  private readonly beyond: { test(text: string): boolean } | undefined;

  private constructor(text: NativeText, parts: Parts, prepares: Preparation, beyond?: BertTable["beyond"]) {
    this.text = text;
    this.normalizes = parts.shape !== "prepared";
    this.prepares = prepares;
    this.beyond = beyond;
    const spelled = joined(parts.strings);
    const flag = (value: boolean | undefined): number => (value ? 1 : 0);
    this.model = text.piecesCreate(
      Float64Array.of(
        KINDS[parts.kind],
        SHAPES[parts.shape],
        parts.unknown ?? -1,
        flag(parts.fuse),
        flag(parts.single),
        flag(parts.splitAtSpace),
        flag(parts.dummyPrefix),
        flag(parts.removeExtra),
        parts.mostCharacters ?? 0,
        parts.unknownScore ?? 0,
        parts.tokens ?? 2 ** 32 - 1,
        parts.firsts ?? 0,
        flag(parts.words),
        flag(parts.stripLeft),
        flag(parts.stripRight),
        SPACES[parts.spaces ?? "kept"],
      ),
      spelled.bytes,
      spelled.ends,
      Uint32Array.from(parts.ids),
      parts.scores ?? new Float64Array(0),
      parts.merges ?? NONE,
      parts.bytes === undefined ? NONE : Uint32Array.from(parts.bytes),
      parts.map ?? new Uint8Array(0),
    );
  }

  /**
   * @param hidden ids that no text may become
   * @param whole whether texts need not be searched between the normalizer and the pre-tokenizer
   * @returns undefined where the kernels are not built, or do not know a part of the file
   */
  static ofFile(file: TokenizerFile, hidden: ReadonlySet<number>, whole: boolean): NativePieces | undefined {
    const text = nativeText();
    if (text === undefined) return undefined;
    const { model } = file;
    if (model.type === "WordPiece") return ofBert(text, file.normalizer, file.pre_tokenizer, model, hidden);
    const made =
      model.type === "BPE" ? bpeParts(model) : model.type === "Unigram" ? unigramParts(model, hidden) : undefined;
    const graphemes = whole && made ? graphemesOf(file.normalizer, file.pre_tokenizer) : undefined;
    if (made && graphemes) return new NativePieces(text, { ...made, ...graphemes.parts }, graphemes);
    const preparation = preparationOf(file.pre_tokenizer);
    if (preparation === undefined) return undefined;
    return (
      made && new NativePieces(text, { ...made, shape: "prepared", splitAtSpace: preparation.splits }, preparation)
    );
  }

  /** A model whose texts are taken as they are. */
  static make(text: NativeText, parts: Parts, beyond?: BertTable["beyond"]): NativePieces {
    return new NativePieces(text, parts, WHOLE, beyond);
  }

  /** A text, normalised already unless `normalizes`, as the native model takes it; undefined where only TypeScript knows it. */
  prepare(text: string, first: boolean): string | undefined {
    if (this.beyond?.test(text)) return undefined;
    return this.prepares.prepare(text, first);
  }

  /** The ids of one text that is prepared, at once. */
  encode(prepared: string): Uint32Array {
    return this.text.piecesEncode(this.model, encodeUtf8(prepared));
  }

  batch(threads: number): NativeBatch {
    return (bytes, ends) => this.text.piecesEncodeMany(this.model, bytes, ends, threads);
  }
}

/** How a text changes before the native model cuts it. */
interface Preparation {
  readonly splits: boolean;
  /** Undefined where only TypeScript knows it. */
  prepare(text: string, first: boolean): string | undefined;
}

const WHOLE: Preparation = { splits: false, prepare: (text) => text };

function preparationOf(part: PreTokenizer | null): Preparation | undefined {
  if (part === null) return WHOLE;
  if (part.type === "Metaspace") return metaspace(part);
  if (part.type !== "Sequence" || part.pretokenizers.length !== 2) return undefined;
  const [words, space] = part.pretokenizers;
  if (words?.type !== "WhitespaceSplit" || space?.type !== "Metaspace") return undefined;
  if (space.prepend_scheme !== "always" || !space.split || space.replacement !== SPACE) return undefined;
  // Each word begins with the symbol, which is where the native model cuts.
  const word = new RegExp(`\\p{White_Space}+|(?<=^|\\p{White_Space})(?=[^\\p{White_Space}${SPACE}])`, "gu");
  return { splits: true, prepare: (text) => text.replace(word, (gap) => (gap === "" ? SPACE : "")) };
}

function metaspace({ replacement, prepend_scheme, split }: Metaspace): Preparation | undefined {
  if (replacement !== SPACE) return undefined;
  return {
    splits: split,
    prepare: (text, first) => {
      const all = text.replaceAll(" ", SPACE);
      const prepends = prepend_scheme === "always" || (prepend_scheme === "first" && first);
      return prepends && !all.startsWith(SPACE) ? SPACE + all : all;
    },
  };
}

/**
 * The end of a normalizer from SentencePiece's map on (white space at the ends, then repeated spaces, may follow), and the pre-tokenizer, as
 * the native model does them; what comes before them is done here.
 */
function graphemesOf(normalizer: Normalizer | null, cutter: PreTokenizer | null) {
  const steps = normalizer?.type === "Sequence" ? normalizer.normalizers : normalizer === null ? [] : [normalizer];
  const at = steps.findIndex((step) => step.type === "Precompiled");
  const map = steps[at];
  if (map?.type !== "Precompiled") return undefined;
  const rest = steps.slice(at + 1);
  const strip = rest[0]?.type === "Strip" ? rest.shift() : undefined;
  const replace = rest.shift();
  if (rest.length > 0) return undefined;
  let spaces: keyof typeof SPACES = "kept";
  if (replace !== undefined) {
    if (replace.type !== "Replace" || !("Regex" in replace.pattern) || replace.pattern.Regex !== " {2,}")
      return undefined;
    if (replace.content !== " " && replace.content !== SPACE) return undefined;
    spaces = replace.content === " " ? "one" : "mark";
  }
  const words = cutter?.type === "Sequence";
  const [split, space] = words ? cutter.pretokenizers : [undefined, cutter];
  if (words && (cutter.pretokenizers.length !== 2 || split?.type !== "WhitespaceSplit")) return undefined;
  if (space?.type !== "Metaspace" || space.replacement !== SPACE) return undefined;
  if (words && !(space.prepend_scheme === "always" && space.split)) return undefined;
  const before = normalizeBy({ type: "Sequence", normalizers: steps.slice(0, at) });
  const charsmap = Buffer.from(map.precompiled_charsmap, "base64");
  const graphemes = graphemeParts();
  const table = new Uint8Array(graphemes.length + charsmap.length);
  table.set(graphemes);
  table.set(charsmap, graphemes.length);
  return {
    parts: {
      shape: "graphemes",
      splitAtSpace: space.split,
      dummyPrefix: space.prepend_scheme !== "never",
      words,
      stripLeft: strip?.type === "Strip" && strip.strip_left,
      stripRight: strip?.type === "Strip" && strip.strip_right,
      spaces,
      map: table,
    } as const,
    splits: space.split,
    prepare: (text: string, first: boolean) => (first || space.prepend_scheme !== "first" ? before(text) : undefined),
  };
}

function bpeParts(part: BpePart) {
  const { vocab, merges } = part;
  if (part.ignore_merges || part.continuing_subword_prefix || part.end_of_word_suffix) return undefined;
  const bytes = part.byte_fallback ? byteTokens((token) => vocab.get(token)) : undefined;
  if (part.byte_fallback && bytes === undefined) return undefined;
  const unknown = part.unk_token === null ? undefined : vocab.get(part.unk_token);
  // A character that is left out lets its neighbours merge, which the native code, cutting between characters that never merge, cannot see.
  if (bytes === undefined && unknown === undefined) return undefined;
  // Bytes and unknown characters are put in at the end here, so nothing may merge with them.
  const apart = new Set([...(bytes ?? []), ...(unknown === undefined ? [] : [unknown])]);
  const table = new Uint32Array(merges.length * 4);
  for (let i = 0; i < merges.length; i++) {
    const [left, right] = merges[i]!;
    const ids = [vocab.get(left)!, vocab.get(right)!, i, vocab.get(left + right)!];
    if (apart.has(ids[0]!) || apart.has(ids[1]!) || ids.some((id) => id >= 2 ** 21 - 2)) return undefined;
    table.set(ids, i * 4);
  }
  return {
    kind: "bpe" as const,
    strings: [...vocab.keys()],
    ids: [...vocab.values()],
    unknown,
    fuse: part.fuse_unk,
    merges: table,
    bytes,
  };
}

function unigramParts(part: UnigramPart, hidden: ReadonlySet<number>) {
  const model = modelOf(part, hidden);
  return model instanceof UnigramModel ? model.nativeParts() : undefined;
}

function ofBert(
  text: NativeText,
  normalizer: Normalizer | null,
  cutter: PreTokenizer | null,
  part: WordPiecePart,
  hidden: ReadonlySet<number>,
): NativePieces | undefined {
  if (normalizer?.type !== "BertNormalizer" || cutter?.type !== "BertPreTokenizer") return undefined;
  const prefix = part.continuing_subword_prefix;
  const unknown = part.vocab.get(part.unk_token);
  if (prefix === "" || unknown === undefined) return undefined;
  const usable = [...part.vocab].filter(([, id]) => !hidden.has(id));
  const inner = usable.filter(([token]) => token.startsWith(prefix) && token.length > prefix.length);
  const { map, beyond } = bertTable(normalizer);
  return NativePieces.make(
    text,
    {
      kind: "wordpiece",
      shape: "bert",
      strings: [...usable.map(([token]) => token), ...inner.map(([token]) => token.slice(prefix.length))],
      ids: [...usable, ...inner].map(([, id]) => id),
      firsts: usable.length,
      unknown,
      mostCharacters: part.max_input_chars_per_word,
      map,
    },
    beyond,
  );
}

/** What is left of a block whose characters are all taken out. */
const GONE = "0".repeat(255);
const GAP = 1;
const ALONE = 2;
const CHANGED = 4;

interface BertTable {
  readonly map: Uint8Array;
  readonly beyond: { test(text: string): boolean } | undefined;
}

/** By what the normalizer does: a table takes a tenth of a second, and training, the tokenizer it gives and others like it need the same. */
const bertTables = new Map<string, BertTable>();

export function bertTable(part: Normalizer & { type: "BertNormalizer" }): BertTable {
  const key = JSON.stringify(part);
  const table = bertTables.get(key) ?? makeBertTable(part);
  bertTables.set(key, table);
  return table;
}

/**
 * What BERT's normalizer makes of each character, and how its pre-tokenizer takes it: a byte for each of 0x110000 code points, then the
 * changed ones (code point in four bytes, length, UTF-8). Characters whose result depends on their neighbours are `beyond`.
 */
function makeBertTable(part: Normalizer & { type: "BertNormalizer" }): BertTable {
  const flags = new Uint8Array(0x110000);
  for (const run of PUNCTUATION.split(" ")) {
    const [from, to = from] = run.split("-").map((hex) => Number.parseInt(hex, 16));
    flags.fill(ALONE, from!, to! + 1);
  }
  for (let point = 0; point <= 0x3000; point++)
    if (/\p{White_Space}/u.test(String.fromCodePoint(point))) flags[point] = GAP;
  const normalize = normalizeBy(part);
  const decomposes = part.strip_accents ?? part.lowercase;
  const changed: number[] = [];
  const beyond: number[] = [];
  // Nothing but "0" becomes "0", and nothing is joined or put in order across it: 256 characters are made at once.
  const codes = new Array<number>(511).fill(0x30);
  for (let block = 0; block < 0x110000; block += 256) {
    // Surrogates, and planes 4 to 13, which hold no characters.
    if ((block >= 0xd800 && block < 0xe000) || (block >= 0x40000 && block < 0xe0000)) continue;
    for (let i = 0; i < 256; i++) codes[2 * i] = block + i;
    const text = String.fromCodePoint(...codes);
    const whole = normalize(text);
    if (whole === text && !(decomposes && MARK.test(text))) continue;
    // Private planes are taken out whole.
    if (whole === GONE) {
      flags.fill(CHANGED, block, block + 256);
      for (let i = 0; i < 256; i++) changed.push(i, (block >> 8) & 255, block >> 16, 0, 0);
      continue;
    }
    const marks = decomposes && MARK.test(whole);
    const points = block === 0 ? Array.from({ length: 256 }, (_, i) => String.fromCodePoint(i)) : text.split("0");
    const results = block === 0 ? points.map(normalize) : whole.split("0");
    for (let i = 0; i < 256; i++) {
      const [c, made, point] = [points[i]!, results[i]!, block + i];
      // Marks that stay are put in order among their neighbours.
      if (marks && MARK.test(made)) beyond.push(point);
      if (made === c) continue;
      if (made.length === c.length + 2 && made.startsWith(c, 1) && made.trim() === c) {
        flags[point] = ALONE;
        continue;
      }
      flags[point]! |= CHANGED;
      changed.push(point & 255, (point >> 8) & 255, point >> 16, 0);
      if (made === "") changed.push(0);
      else {
        const bytes = encodeUtf8(made);
        changed.push(bytes.length, ...bytes);
      }
    }
  }
  const map = new Uint8Array(flags.length + changed.length);
  map.set(flags);
  map.set(changed, flags.length);
  return { map, beyond: beyond.length === 0 ? undefined : finder(beyond) };
}

/** Whether a text has one of these characters (ascending). Most texts have none, and a few wide ranges of code units tell that in a fraction of the time. */
function finder(points: readonly number[]): { test(text: string): boolean } {
  const exact = new RegExp(characters(points.map((point) => point.toString(16)).join(" ")).source, "u");
  const wide: [from: number, to: number][] = [[0xd800, 0xdfff]];
  let last: [from: number, to: number] | undefined;
  for (const point of points.filter((p) => p <= 0xffff)) {
    if (last !== undefined && point - last[1] <= 256) last[1] = point;
    else {
      last = [point, point];
      wide.push(last);
    }
  }
  const unit = (code: number) => `\\u${code.toString(16).padStart(4, "0")}`;
  const perhaps = new RegExp(`[${wide.map(([from, to]) => `${unit(from)}-${unit(to)}`).join("")}]`);
  return { test: (text) => perhaps.test(text) && exact.test(text) };
}

/** A mark with a place in the canonical order. */
const MARK = /\p{M}/u;
