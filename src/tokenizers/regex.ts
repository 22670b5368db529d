import { InputError } from "../tensor/errors.ts";

/** Whose syntax a pattern is in: Oniguruma's (`tokenizer.json`) or that of Rust's fancy-regex (tiktoken). */
export type Dialect = "oniguruma" | "fancy-regex";

/**
 * Translates a regular expression in Oniguruma's syntax (what `tokenizer.json` holds) into JavaScript's with the same matches.
 *
 * The differences that matter for tokenizers: `\s` is the Unicode property White_Space (JavaScript's has U+FEFF and lacks U+0085),
 * `(?i:...)` is not in Node 20, `*+`, `++` and `?+` are possessive, `.` excludes the line feed only, and script names stand without
 * `Script=`. Anything not known to mean the same is refused, never passed on.
 *
 * @returns a global expression with the `u` flag
 * @throws InputError naming the construct
 *
 * In fancy-regex's dialect `{1,3}+` is possessive (Oniguruma repeats the group there, and is refused), and `$` is the end of the text.
 */
export function translateRegex(pattern: string, dialect: Dialect = "oniguruma"): RegExp {
  return new RegExp(new Translator(pattern, dialect).run(), "gu");
}

const CATEGORIES = new Set(
  "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Cs Co".split(" "),
);
const SCRIPTS = new Set("Arabic Cyrillic Greek Han Hangul Hebrew Hiragana Katakana Latin Thai".split(" "));
const ESCAPED_CONTROLS: Readonly<Record<string, string>> = { n: "\\n", r: "\\r", t: "\\t", f: "\\f" };

class Translator {
  private readonly characters: readonly string[];
  private readonly pattern: string;
  private readonly dialect: Dialect;
  private at = 0;
  private possessive = 0;

  constructor(pattern: string, dialect: Dialect) {
    this.pattern = pattern;
    this.dialect = dialect;
    this.characters = [...pattern];
  }

  run(): string {
    const out = this.alternatives(false);
    if (this.at < this.characters.length) this.refuse("an unmatched )");
    return out;
  }

  private refuse(what: string): never {
    throw new InputError(
      `The pre-tokenizer's regular expression ${JSON.stringify(this.pattern)} uses ${what} at character ${this.at}, ` +
        "which this reader does not know how to translate exactly.",
    );
  }

  private peek(text: string): boolean {
    return this.characters.slice(this.at, this.at + text.length).join("") === text;
  }

  private alternatives(ignoreCase: boolean): string {
    let out = "";
    while (this.at < this.characters.length && this.characters[this.at] !== ")") {
      if (this.characters[this.at] === "|") {
        this.at++;
        out += "|";
      } else {
        out += this.quantified(this.atom(ignoreCase));
      }
    }
    return out;
  }

  private atom(ignoreCase: boolean): string {
    const c = this.characters[this.at]!;
    if (c === "(") return this.group(ignoreCase);
    if (c === "[") return this.characterClass(ignoreCase);
    if (c === "\\") return this.escape(false);
    if (c === "$" && this.dialect === "fancy-regex") {
      this.at++;
      return "$";
    }
    if ("^$*+?{".includes(c)) this.refuse(`"${c}"`);
    this.at++;
    if (c === ".") return "[^\\n]";
    return ignoreCase ? this.eitherCase(c) : literal(c);
  }

  private quantified(atom: string): string {
    const rest = this.characters.slice(this.at, this.at + 16).join("");
    const quantifier = /^(?:[*+?]|\{\d+(?:,\d*)?\})/.exec(rest)?.[0];
    if (quantifier === undefined) return atom;
    this.at += quantifier.length;
    const mode = this.characters[this.at];
    if (mode === "?" && !quantifier.startsWith("{")) {
      this.at++;
      return `${atom}${quantifier}?`;
    }
    if (mode === "+" && (!quantifier.startsWith("{") || this.dialect === "fancy-regex")) {
      // A possessive match never gives back: what a lookahead found, taken as it is.
      this.at++;
      const name = `p${this.possessive++}`;
      return `(?:(?=(?<${name}>${atom}${quantifier}))\\k<${name}>)`;
    }
    if (mode === "?" || mode === "*" || mode === "+" || mode === "{") this.refuse(`"${quantifier}${mode}"`);
    return atom + quantifier;
  }

  private group(ignoreCase: boolean): string {
    const openings = ["(?:", "(?=", "(?!", "(?<=", "(?<!", "(?i:"];
    const opening = openings.find((text) => this.peek(text)) ?? (this.peek("(?") ? undefined : "(");
    if (opening === undefined) this.refuse(`the group "${this.characters.slice(this.at, this.at + 4).join("")}"`);
    this.at += opening.length;
    const inside = this.alternatives(ignoreCase || opening === "(?i:");
    if (this.characters[this.at] !== ")") this.refuse("a group that is not closed");
    this.at++;
    return `${opening === "(" || opening === "(?i:" ? "(?:" : opening}${inside})`;
  }

  private characterClass(ignoreCase: boolean): string {
    this.at++;
    let out = "[";
    if (this.characters[this.at] === "^") {
      out += "^";
      this.at++;
    }
    let first = true;
    for (;;) {
      const c = this.characters[this.at];
      if (c === undefined) this.refuse("a character class that is not closed");
      if (c === "]" && !first) break;
      first = false;
      if (c === "[" || (c === "&" && this.characters[this.at + 1] === "&"))
        this.refuse(`"${c}" inside a character class`);
      if (c === "\\") {
        out += this.escape(true);
        continue;
      }
      this.at++;
      if (c === "-" && out.length > 1 && out !== "[^" && this.characters[this.at] !== "]") {
        out += "-"; // a range: the end follows
        if (ignoreCase) this.refuse("a range under (?i:)");
        continue;
      }
      out += ignoreCase ? this.eitherCase(c).replace(/^\[|\]$/g, "") : inClass(c);
    }
    this.at++;
    return `${out}]`;
  }

  private escape(insideClass: boolean): string {
    const c = this.characters[this.at + 1];
    this.at += 2;
    if (c === undefined) this.refuse("a backslash at the end");
    if (c === "p" || c === "P") {
      const name = /^\{(\w+)\}/.exec(this.characters.slice(this.at, this.at + 24).join(""))?.[1];
      if (name === undefined) this.refuse(`\\${c} without a plain name`);
      if (!CATEGORIES.has(name) && !SCRIPTS.has(name)) this.refuse(`the property ${name}`);
      this.at += name.length + 2;
      return SCRIPTS.has(name) ? `\\${c}{Script=${name}}` : `\\${c}{${name}}`;
    }
    if (c === "s") return "\\p{White_Space}";
    if (c === "S") return "\\P{White_Space}";
    if (c === "d") return "\\p{Nd}";
    if (c === "D") return "\\P{Nd}";
    const control = ESCAPED_CONTROLS[c];
    if (control !== undefined) return control;
    if (c === "u" || c === "x") {
      const hex = /^(?:\{([0-9a-fA-F]+)\}|([0-9a-fA-F]+))/.exec(
        this.characters.slice(this.at, this.at + (c === "u" ? 4 : this.characters[this.at] === "{" ? 10 : 2)).join(""),
      );
      const digits = hex?.[1] ?? hex?.[2];
      if (hex === null || digits === undefined || (c === "u" && hex[0].length !== 4))
        this.refuse(`\\${c} without its digits`);
      this.at += hex[0].length;
      return `\\u{${digits}}`;
    }
    if (/[\p{L}\p{N}]/u.test(c)) this.refuse(`"\\${c}"`);
    return insideClass ? inClass(c) : literal(c);
  }

  /** One character or the class of characters that simple case folding makes equal to it. */
  private eitherCase(c: string): string {
    if (!/\p{L}/u.test(c)) return literal(c);
    if (!/[a-z]/i.test(c)) this.refuse(`"${c}" under (?i:)`);
    const lower = c.toLowerCase();
    const more = lower === "s" ? "\\u017f" : lower === "k" ? "\\u212a" : "";
    return `[${lower}${lower.toUpperCase()}${more}]`;
  }
}

const literal = (c: string): string => (/[\^$\\.*+?()[\]{}|/]/.test(c) ? `\\${c}` : c);
const inClass = (c: string): string => (/[\^\\\]\-[]/.test(c) ? `\\${c}` : c);

/**
 * The matches of a global expression in a text, as Oniguruma's and fancy-regex's iterators find them: none that is empty where the one
 * before ends.
 */
export function matchesOf(expression: RegExp, text: string): [start: number, end: number][] {
  const found: [number, number][] = [];
  if (text === "") return found;
  let last = -1;
  // Not matchAll: it makes a copy of the expression for each text, and texts may be single words.
  expression.lastIndex = 0;
  for (let match = expression.exec(text); match !== null; match = expression.exec(text)) {
    const start = match.index;
    const end = start + match[0].length;
    if (end > start || start !== last) found.push([start, end]);
    last = end;
    if (end === start) expression.lastIndex += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
  }
  return found;
}

/** A text with `content` in place of each match. */
export function replaceMatches(text: string, expression: RegExp, content: string): string {
  let out = "";
  let done = 0;
  for (const [start, end] of matchesOf(expression, text)) {
    out += text.slice(done, start) + content;
    done = end;
  }
  return done === 0 && out === "" ? text : out + text.slice(done);
}

/** An expression that matches `text` itself. */
export const literalRegex = (text: string): RegExp => new RegExp([...text].map(literal).join(""), "gu");

/** Matches one character of ranges of code points in base 16, such as "0-8 ad". */
export const characters = (ranges: string): RegExp =>
  new RegExp(`[${ranges.replace(/[0-9a-f]+/g, "\\u{$&}").replaceAll(" ", "")}]`, "gu");
