import { InputError } from "../tensor/errors.ts";
import type { Padding, PostProcessor, Truncation } from "./schema.ts";
import type { EncodingOptions } from "./types.ts";

/** A text, or a pair of texts. */
export type EncodingInput = string | readonly [string, string];

/** Everything about the ids of a text, or of a pair of texts; the arrays are as long as `ids`. */
export interface Encoding {
  readonly ids: number[];
  /** The vocabulary's strings of the ids; of an added token, and of Unigram's unknown one, the text that was found. */
  readonly tokens: string[];
  /** 0 or 1: which of the two texts, as the post-processor says. */
  readonly typeIds: number[];
  /** [start, end) in the text the token comes from; [0, 0] for tokens that were added. */
  readonly offsets: [number, number][];
  /** Which pre-token of its text a token is in; null for tokens that were added. */
  readonly wordIds: (number | null)[];
  /** Which text a token comes from; null for tokens that were added. */
  readonly sequenceIds: (0 | 1 | null)[];
  /** 0 for padding. */
  readonly attentionMask: number[];
  /** 1 for tokens that were added. */
  readonly specialTokensMask: number[];
  /** What truncation cut off, in pieces of the same length. */
  readonly overflowing: Encoding[];
}

type Mutable = { -readonly [K in keyof Encoding]: Encoding[K] };
const COLUMNS = [
  "ids",
  "tokens",
  "typeIds",
  "offsets",
  "wordIds",
  "sequenceIds",
  "attentionMask",
  "specialTokensMask",
] as const;

export function emptyEncoding(): Encoding {
  return {
    ids: [],
    tokens: [],
    typeIds: [],
    offsets: [],
    wordIds: [],
    sequenceIds: [],
    attentionMask: [],
    specialTokensMask: [],
    overflowing: [],
  };
}

/** What a tokenizer does with an encoding of its texts unless told otherwise. */
export interface EncodingParts {
  readonly truncation: Truncation | null;
  readonly padding: Padding | null;
  readonly post_processor: PostProcessor | null;
}

/**
 * The encodings of texts or pairs; padding to the longest, where asked for, is to the longest of these.
 * @param sequence the encoding of one text, before anything is added or cut off
 * @throws InputError when the truncation cannot be done
 */
export function encodingsOf(
  inputs: readonly EncodingInput[],
  options: EncodingOptions,
  parts: EncodingParts,
  sequence: (text: string, which: 0 | 1) => Encoding,
): Encoding[] {
  const truncation = options.truncation === undefined ? parts.truncation : options.truncation;
  const padding = options.padding === undefined ? parts.padding : options.padding;
  const { post_processor } = parts;
  const done = inputs.map((input) => {
    const [a, b] = typeof input === "string" ? [input] : input;
    const first = sequence(a, 0);
    const second = b === undefined ? undefined : sequence(b, 1);
    return finish(first, second, { truncation, post_processor }, options.addSpecialTokens ?? true);
  });
  return padded(done, padding);
}

/** Gathers the tokens of one text, whose offsets are in UTF-16 units, into an encoding with offsets as asked for. */
export class Gatherer {
  readonly encoding = emptyEncoding();
  private readonly which: 0 | 1;
  private readonly place: (at: number) => number;

  /** @param which 0 or 1: the text is the first or the second of a pair */
  constructor(text: string, which: 0 | 1, unit: EncodingOptions["offsets"]) {
    this.which = which;
    this.place = unit === "codepoints" ? codePointPlaces(text) : (at) => at;
  }

  add(id: number, token: string, start: number, end: number, word: number): void {
    const { encoding, which, place } = this;
    encoding.ids.push(id);
    encoding.tokens.push(token);
    encoding.typeIds.push(which);
    encoding.offsets.push([place(start), place(end)]);
    encoding.wordIds.push(word);
    encoding.sequenceIds.push(which);
    encoding.attentionMask.push(1);
    encoding.specialTokensMask.push(0);
  }
}

/**
 * The post-processor that puts tokens around each text; null where there are none.
 * @param second the type of the second text of a pair
 */
export function aroundEach(
  before: readonly number[],
  after: readonly number[],
  nameOf: (id: number) => string,
  second: 0 | 1 = 1,
): PostProcessor | null {
  if (before.length + after.length === 0) return null;
  const around = (id: "A" | "B", type_id: 0 | 1) => {
    const token = (added: number) => ({ SpecialToken: { id: nameOf(added), type_id } });
    return [...before.map(token), { Sequence: { id, type_id } }, ...after.map(token)];
  };
  return {
    type: "TemplateProcessing",
    single: around("A", 0),
    pair: [...around("A", 0), ...around("B", second)],
    special_tokens: Object.fromEntries(
      [...before, ...after].map((id) => [nameOf(id), { id: nameOf(id), ids: [id], tokens: [nameOf(id)] }]),
    ),
  };
}

/** UTF-16 places to places in code points. */
function codePointPlaces(text: string): (at: number) => number {
  const places = new Int32Array(text.length + 1);
  for (let at = 0, count = 0; at < text.length; count++) {
    const width = text.codePointAt(at)! > 0xffff ? 2 : 1;
    for (let i = 1; i <= width; i++) places[at + i] = count + 1;
    if (width === 2) places[at + 1] = count;
    at += width;
  }
  return (at) => places[at]!;
}

function sliced(encoding: Encoding, start: number, end: number): Encoding {
  const out = emptyEncoding() as Mutable;
  for (const key of COLUMNS) (out[key] as unknown[]) = encoding[key].slice(start, end);
  return out;
}

function joinedPair(a: Encoding, b: Encoding): Encoding {
  const out = emptyEncoding() as Mutable;
  for (const key of COLUMNS) (out[key] as unknown[]) = [...a[key], ...b[key]];
  out.overflowing = [
    ...a.overflowing.flatMap((part) => [joinedPair(part, b), ...b.overflowing.map((other) => joinedPair(part, other))]),
    ...b.overflowing.map((other) => joinedPair(a, other)),
  ];
  return out;
}

/** One special token, or several. */
function special(ids: readonly number[], tokens: readonly string[], typeId: number): Encoding {
  const fill = <T>(value: T): T[] => new Array<T>(ids.length).fill(value);
  return {
    ids: [...ids],
    tokens: [...tokens],
    typeIds: fill(typeId),
    offsets: ids.map((): [number, number] => [0, 0]),
    wordIds: fill<number | null>(null),
    sequenceIds: fill<0 | 1 | null>(null),
    attentionMask: fill(1),
    specialTokensMask: fill(1),
    overflowing: [],
  };
}

/** What the post-processor puts around one text: the ids before it and after it. */
export function frameOf(part: PostProcessor | null): { readonly before: number[]; readonly after: number[] } {
  const mark: Encoding = { ...special([-1], [""], 0), sequenceIds: [0] };
  const { ids } = process(mark, undefined, part, true);
  const at = ids.indexOf(-1);
  return at === -1 ? { before: ids, after: [] } : { before: ids.slice(0, at), after: ids.slice(at + 1) };
}

/** How many tokens the post-processor adds. */
export function addedBy(part: PostProcessor | null, pair: boolean): number {
  if (part?.type === "Sequence") return part.processors.reduce((sum, step) => sum + addedBy(step, pair), 0);
  const a = { ...emptyEncoding() };
  return process(a, pair ? emptyEncoding() : undefined, part, true).ids.length;
}

/**
 * Truncation, post-processor and padding of one encoded text or pair.
 * @throws InputError when the truncation cannot be done as the file says
 */
export function finish(
  first: Encoding,
  second: Encoding | undefined,
  parts: { readonly truncation: Truncation | null; readonly post_processor: PostProcessor | null },
  addSpecialTokens: boolean,
): Encoding {
  let a = first;
  let b = second;
  if (parts.truncation !== null) {
    const added = addSpecialTokens ? addedBy(parts.post_processor, b !== undefined) : 0;
    [a, b] = truncated(a, b, parts.truncation, roomIn(parts.truncation, added));
  }
  return process(a, b, parts.post_processor, addSpecialTokens);
}

/**
 * How many tokens of the text fit. `tokenizers` counts past zero here and then cuts nothing off.
 * @throws InputError when what is added does not fit
 */
function roomIn({ max_length }: Truncation, added: number): number {
  if (added <= max_length) return max_length - added;
  throw new InputError(
    `truncation: max_length is ${max_length}, and the post-processor alone adds ${added} tokens. Use a larger max_length.`,
  );
}

/**
 * The ids of one text that fit.
 * @param added how many ids the post-processor adds
 * @throws InputError when it cannot be done as the file says
 */
export function truncatedIds(ids: number[], truncation: Truncation, added: number): number[] {
  const most = roomIn(truncation, added);
  if (ids.length <= most) return ids;
  if (most > 0) {
    if (truncation.strategy === "OnlySecond") throw noSecond();
    checkStride(most, truncation.stride);
  }
  return truncation.direction === "Left" ? ids.slice(ids.length - most) : ids.slice(0, most);
}

const noSecond = (): InputError =>
  new InputError("truncation: the strategy OnlySecond needs a second text. Give one, or use LongestFirst.");

function checkStride(length: number, stride: number): void {
  if (stride < length) return;
  throw new InputError(
    `truncation: pieces of ${length} tokens cannot overlap by ${stride}. Use a smaller stride, or a larger max_length.`,
  );
}

function truncated(
  a: Encoding,
  b: Encoding | undefined,
  truncation: Truncation,
  most: number,
): [Encoding, Encoding | undefined] {
  const cut = (encoding: Encoding, length: number): Encoding => cutOff(encoding, length, truncation);
  if (most === 0) return [cut(a, 0), b && cut(b, 0)];
  const total = a.ids.length + (b?.ids.length ?? 0);
  const excess = total - most;
  if (excess <= 0) return [a, b];
  if (truncation.strategy === "LongestFirst") {
    if (b === undefined) return [cut(a, most), b];
    // The shorter text keeps its length as long as the longer one is not shorter then.
    const lengths = [a.ids.length, b.ids.length];
    const swap = lengths[0]! > lengths[1]!;
    let short = Math.min(...lengths);
    let long = short > most ? short : Math.max(short, most - short);
    if (short + long > most) {
      short = Math.floor(most / 2);
      long = short + (most % 2);
    }
    return swap ? [cut(a, long), cut(b, short)] : [cut(a, short), cut(b, long)];
  }
  const onlyFirst = truncation.strategy === "OnlyFirst";
  const target = onlyFirst ? a : b;
  if (target === undefined) throw noSecond();
  const length = target.ids.length - excess;
  if (length <= 0) {
    throw new InputError(
      `truncation: the ${onlyFirst ? "first" : "second"} text has ${target.ids.length} tokens, and ${excess} would have to go. ` +
        "Use LongestFirst, or a larger max_length.",
    );
  }
  return onlyFirst ? [cut(a, length), b] : [a, cut(target, length)];
}

function cutOff(encoding: Encoding, length: number, { stride, direction }: Truncation): Encoding {
  const size = encoding.ids.length;
  if (length >= size) return encoding;
  if (length === 0) return { ...emptyEncoding(), overflowing: [encoding] };
  checkStride(length, stride);
  const ranges: [number, number][] = [];
  const step = length - stride;
  if (direction === "Right") {
    for (let start = 0; ; start += step) {
      const stop = Math.min(start + length, size);
      ranges.push([start, stop]);
      if (stop === size) break;
    }
  } else {
    for (let stop = size; ; stop -= step) {
      const start = Math.max(0, stop - length);
      ranges.push([start, stop]);
      if (start === 0) break;
    }
  }
  const [kept, ...rest] = ranges.map(([start, stop]) => sliced(encoding, start, stop));
  return { ...kept!, overflowing: rest };
}

function process(
  a: Encoding,
  b: Encoding | undefined,
  part: PostProcessor | null,
  addSpecialTokens: boolean,
): Encoding {
  const [head = emptyEncoding(), ...rest] = processed(b === undefined ? [a] : [a, b], part, addSpecialTokens);
  return rest.reduce(joinedPair, head);
}

/** The sequences with what one processor puts around them; joined at the end. */
function processed(sequences: Encoding[], part: PostProcessor | null, addSpecialTokens: boolean): Encoding[] {
  if (part === null) return sequences;
  const typed = (encoding: Encoding, typeId: number): Encoding => ({
    ...encoding,
    typeIds: encoding.ids.map(() => typeId),
    overflowing: encoding.overflowing.map((o) => typed(o, typeId)),
  });
  switch (part.type) {
    case "Sequence":
      return part.processors.reduce((now, step) => processed(now, step, addSpecialTokens), sequences);
    case "ByteLevel":
      return part.trim_offsets ? sequences.map((s) => trimmed(s, part.add_prefix_space)) : sequences;
    case "BertProcessing":
    case "RobertaProcessing": {
      const roberta = part.type === "RobertaProcessing";
      const trims = roberta && part.trim_offsets;
      const plain = roberta ? sequences.map((s) => ({ ...s, typeIds: s.ids.map(() => 0) })) : sequences;
      const texts = trims ? plain.map((s) => trimmed(s, part.add_prefix_space)) : plain;
      if (!addSpecialTokens) return texts;
      const token = ([text, id]: readonly [string, number], typeId: number) => special([id], [text], typeId);
      return texts.map((text, i) => {
        if (roberta) return around([token(i === 0 ? part.cls : part.sep, 0)], typed(text, 0), [token(part.sep, 0)]);
        return i === 0
          ? around([token(part.cls, 0)], text, [token(part.sep, 0)])
          : around([], text, [token(part.sep, 1)]);
      });
    }
    case "TemplateProcessing":
      if (sequences.length > 2) {
        throw new InputError(
          "post_processor: a TemplateProcessing after another one that has made several parts of a text is not supported.",
        );
      }
      return (sequences.length > 1 ? part.pair : part.single).flatMap((item) => {
        if ("Sequence" in item) {
          const text = sequences[item.Sequence.id === "A" ? 0 : 1];
          // What was cut off keeps its types.
          return text === undefined ? [] : [{ ...text, typeIds: text.ids.map(() => item.Sequence.type_id) }];
        }
        const token = part.special_tokens[item.SpecialToken.id];
        if (token === undefined) {
          throw new InputError(
            `post_processor: the template uses ${item.SpecialToken.id}, which special_tokens does not define.`,
          );
        }
        return addSpecialTokens ? [special(token.ids, token.tokens, item.SpecialToken.type_id)] : [];
      });
  }
}

/** A text with tokens around it as one text, of which only these count as added: what an earlier step has added does not. */
function around(before: readonly Encoding[], text: Encoding, after: readonly Encoding[]): Encoding {
  const { overflowing, ...columns } = text;
  const bare = { ...columns, specialTokensMask: text.ids.map(() => 0), overflowing: [] };
  const whole = [...before, bare, ...after].reduce(joinedPair);
  return { ...whole, overflowing: overflowing.map((part) => around(before, part, after)) };
}

/** Offsets without the white space that byte-level tokens begin and end with. */
function trimmed(encoding: Encoding, prefixSpace: boolean): Encoding {
  const offsets = encoding.offsets.map(([start, end], i): [number, number] => {
    const token = encoding.tokens[i]!;
    let leading = /^[\u0120\p{White_Space}]*/u.exec(token)![0].length;
    const trailing = /[\u0120\p{White_Space}]*$/u.exec(token)![0].length;
    // A single space may be the one that was put in front.
    if (leading === 1 && prefixSpace && (i === 0 || start === 0)) leading = 0;
    const from = Math.min(start + leading, end);
    return [from, trailing > 0 && end >= trailing ? Math.max(end - trailing, from) : end];
  });
  return { ...encoding, offsets, overflowing: encoding.overflowing.map((o) => trimmed(o, prefixSpace)) };
}

/** Encodings of one length, as the file asks for. */
export function padded(encodings: readonly Encoding[], padding: Padding | null): Encoding[] {
  if (padding === null) return [...encodings];
  const length = paddedLength(
    encodings.map((e) => e.ids.length),
    padding,
  );
  const pad = (encoding: Encoding): Encoding => {
    const missing = Math.max(0, length - encoding.ids.length);
    const filler: Encoding = {
      ...special(
        new Array<number>(missing).fill(padding.pad_id),
        new Array<string>(missing).fill(padding.pad_token),
        padding.pad_type_id,
      ),
      attentionMask: new Array<number>(missing).fill(0),
    };
    const { overflowing, ...columns } = encoding;
    const bare = { ...columns, overflowing: [] };
    const whole = padding.direction === "Left" ? joinedPair(filler, bare) : joinedPair(bare, filler);
    return { ...whole, overflowing: overflowing.map(pad) };
  };
  return encodings.map(pad);
}

/** The length that texts of these lengths are padded to. */
export function paddedLength(lengths: readonly number[], { strategy, pad_to_multiple_of: multiple }: Padding): number {
  const length = strategy === "BatchLongest" ? lengths.reduce((a, b) => Math.max(a, b), 0) : strategy.Fixed;
  return multiple === null || multiple === 0 ? length : Math.ceil(length / multiple) * multiple;
}
