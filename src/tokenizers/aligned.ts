import { BYTE_TO_CHARACTER, encodeUtf8 } from "./bytes.ts";
import { matchesOf } from "./regex.ts";

/** A character and what it is to the text before: 1, put in after what came before; 0, in place of one; -n, in place of one and n more. */
export type Change = readonly [character: string, change: number];

/**
 * A text that remembers where each of its UTF-16 units comes from: [start, end) in the original text. The rules, down to what a character
 * that was put in counts as, are those of `tokenizers`' NormalizedString.
 */
export class Aligned {
  readonly text: string;
  private readonly starts: Int32Array;
  private readonly ends: Int32Array;

  /** Where the text begins in the original one: what is put in before all else stands there. */
  readonly from: number;

  private constructor(text: string, starts: Int32Array, ends: Int32Array, from: number) {
    this.text = text;
    this.starts = starts;
    this.ends = ends;
    this.from = from;
  }

  /** A stretch of the original text that begins at `from` there. */
  static of(text: string, from: number): Aligned {
    const starts = new Int32Array(text.length);
    const ends = new Int32Array(text.length);
    for (let at = 0; at < text.length; ) {
      const width = text.codePointAt(at)! > 0xffff ? 2 : 1;
      starts.fill(from + at, at, at + width);
      ends.fill(from + at + width, at, at + width);
      at += width;
    }
    return new Aligned(text, starts, ends, from);
  }

  slice(start: number, end = this.text.length): Aligned {
    const from = this.starts[start] ?? this.from;
    const [starts, ends] = [this.starts.subarray(start, end), this.ends.subarray(start, end)];
    return new Aligned(this.text.slice(start, end), starts, ends, from);
  }

  /** What of the original text the units [start, end) stand for. */
  original(start: number, end: number): [number, number] {
    if (this.text.length === 0) return [0, 0];
    if (start >= end) {
      const at = Math.min(start, this.text.length - 1);
      return [this.starts[at]!, this.starts[at]!];
    }
    return [this.starts[start]!, this.ends[end - 1]!];
  }

  /** The text that `changes` make of this one. @param removed characters that go at the beginning */
  transform(changes: Iterable<Change>, removed = 0): Aligned {
    const { text } = this;
    let at = 0;
    const skip = (count: number): void => {
      for (let i = 0; i < count && at < text.length; i++) at += text.codePointAt(at)! > 0xffff ? 2 : 1;
    };
    skip(removed);
    let out = "";
    const starts: number[] = [];
    const ends: number[] = [];
    for (const [character, change] of changes) {
      const from = change > 0 ? at - 1 : at;
      const start = this.starts[from] ?? this.from;
      const end = this.ends[from] ?? this.from;
      for (let i = 0; i < character.length; i++) {
        starts.push(start);
        ends.push(end);
      }
      out += character;
      if (change <= 0) skip(1 - change);
    }
    return new Aligned(out, Int32Array.from(starts), Int32Array.from(ends), this.from);
  }

  /** Each character as `f` writes it. */
  map(f: (character: string) => string): Aligned {
    return this.transform(each(this.text, f));
  }

  /** Without the characters that `expression` matches. */
  without(expression: RegExp): Aligned {
    const changes: [string, number][] = [];
    let removed = 0;
    for (const character of this.text) {
      expression.lastIndex = 0;
      const last = changes.at(-1);
      if (!expression.test(character)) changes.push([character, 0]);
      else if (last === undefined) removed++;
      else last[1]--;
    }
    return this.transform(changes, removed);
  }

  /** Each match of a global expression replaced; what is put in counts as the last character of what it replaces. */
  replace(expression: RegExp, content: string): Aligned {
    let out: Aligned | undefined;
    let done = 0;
    const add = (part: Aligned): void => {
      out = out === undefined ? part : out.concat(part);
    };
    for (const [start, end] of matchesOf(expression, this.text)) {
      add(this.slice(done, start));
      const last = Math.max(0, end - 1);
      add(
        new Aligned(
          content,
          new Int32Array(content.length).fill(end === 0 ? this.from : this.starts[last]!),
          new Int32Array(content.length).fill(end === 0 ? this.from : this.ends[last]!),
          this.from,
        ),
      );
      done = end;
    }
    if (out === undefined) return this;
    add(this.slice(done));
    return out;
  }

  /** With text in front, which counts as the first character. */
  prepend(prefix: string): Aligned {
    const first = this.text.codePointAt(0);
    if (first === undefined) return this;
    const width = first > 0xffff ? 2 : 1;
    const front = prefix + this.text.slice(0, width);
    return new Aligned(
      front,
      new Int32Array(front.length).fill(this.starts[0]!),
      new Int32Array(front.length).fill(this.ends[0]!),
      this.from,
    ).concat(this.slice(width));
  }

  /** A character for each byte. */
  bytes(): Aligned {
    const changes: Change[] = [];
    for (const character of this.text)
      encodeUtf8(character).forEach((byte, i) => {
        changes.push([BYTE_TO_CHARACTER[byte]!, i === 0 ? 0 : 1]);
      });
    return this.transform(changes);
  }

  private concat(other: Aligned): Aligned {
    const joined = (a: Int32Array, b: Int32Array): Int32Array => {
      const out = new Int32Array(a.length + b.length);
      out.set(a);
      out.set(b, a.length);
      return out;
    };
    return new Aligned(
      this.text + other.text,
      joined(this.starts, other.starts),
      joined(this.ends, other.ends),
      this.from,
    );
  }
}

function* each(text: string, f: (character: string) => string): Generator<Change> {
  for (const character of text) {
    let change = 0;
    for (const made of f(character)) {
      yield [made, change];
      change = 1;
    }
  }
}

const isMark = (c: string): boolean => c === "\u0345" || `\u0345${c}`.normalize("NFD") !== `\u0345${c}`;

/** Whether marks a and b, in this order, stand in the order of their combining classes, and are not of the same one. */
const rises = (a: string, b: string): boolean => `a${b}${a}`.normalize("NFD") !== `a${b}${a}`;

/**
 * A Unicode normal form as changes of the text (Unicode standard, annex 15): decomposed, marks in order, composed again. The combining
 * classes that this needs are found out by asking the engine's own normalisation about two characters at a time.
 */
export function unicodeChanges(text: string, form: "NFC" | "NFD" | "NFKC" | "NFKD"): Change[] {
  const decomposition = form === "NFC" || form === "NFD" ? "NFD" : "NFKD";
  const out: [string, number][] = [];
  let marks: [string, number][] = [];
  const flush = (): void => {
    // Stable, and only by neighbours: marks of one class keep their order.
    for (let i = 1; i < marks.length; i++)
      for (let j = i; j > 0 && rises(marks[j]![0], marks[j - 1]![0]); j--)
        [marks[j - 1], marks[j]] = [marks[j]!, marks[j - 1]!];
    out.push(...marks);
    marks = [];
  };
  for (const character of text) {
    let change = 0;
    for (const part of character.normalize(decomposition)) {
      if (part > "\u02ff" && isMark(part)) marks.push([part, change]);
      else {
        if (marks.length > 0) flush();
        out.push([part, change]);
      }
      change = 1;
    }
  }
  flush();
  return form === decomposition ? out : composed(out);
}

function composed(parts: readonly [string, number][]): Change[] {
  const out: [string, number][] = [];
  let starter = -1;
  /** The last mark that stayed between the starter and here. */
  let between: string | undefined;
  for (const [c, change] of parts) {
    const mark = c > "\u02ff" && isMark(c);
    if (starter === -1) {
      out.push([c, change]);
      if (!mark) starter = out.length - 1;
      continue;
    }
    const base = out[starter]!;
    if (between === undefined || (mark && rises(between, c))) {
      const pair = base[0] + c;
      const made = c > "\u02ff" ? pair.normalize("NFC") : pair;
      if (made !== pair && [...made].length === 1) {
        base[0] = made;
        base[1] += change - 1;
        continue;
      }
    }
    out.push([c, change]);
    if (mark) between = c;
    else {
      starter = out.length - 1;
      between = undefined;
    }
  }
  return out;
}
