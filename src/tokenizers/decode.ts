import { encodeUtf8, tokenBytes, Utf8Stream } from "./bytes.ts";
import { literalRegex, replaceMatches, translateRegex } from "./regex.ts";
import type { Decoder } from "./schema.ts";

/** One step on the way from tokens to text, for tokens that come one by one: what is certain, as soon as it is. */
export interface DecodeStep {
  push(token: string): string[];
  /** What was held back. */
  end(): string[];
}

/** Begins a text. What can be made once for all texts is made already. */
export type MakeStep = () => DecodeStep;

/**
 * The decoder of a `tokenizer.json`; without one, tokens are joined by spaces. The parts that come out, joined, are the text, whenever they
 * come out: nothing is said before it is certain.
 */
export function decoderOf(part: Decoder | null): MakeStep {
  const makers = part === null ? [joining] : made(part, false).makers;
  return () => {
    const steps = makers.map((make) => make());
    return {
      push: (token) => through(steps, [token]),
      end: () => steps.flatMap((step, i) => through(steps.slice(i + 1), step.end())),
    };
  };
}

const through = (steps: readonly DecodeStep[], tokens: readonly string[]): string[] =>
  steps.reduce<string[]>((now, step) => now.flatMap((token) => step.push(token)), [...tokens]);

/** @param fused whether a step before has joined the tokens: what comes are pieces of one token then */
function made(part: Decoder, fused: boolean): { makers: MakeStep[]; fused: boolean } {
  if (part.type === "Sequence") {
    let now = fused;
    const makers = part.decoders.flatMap((step) => {
      const next = made(step, now);
      now = next.fused;
      return next.makers;
    });
    return { makers, fused: now };
  }
  return {
    makers: [fused ? onPieces(part) : onTokens(part)],
    fused: fused || part.type === "Fuse" || part.type === "ByteLevel",
  };
}

type SimpleDecoder = Exclude<Decoder, { type: "Sequence" }>;

const each =
  (f: (token: string, first: boolean) => string): MakeStep =>
  () => {
    let first = true;
    return {
      push(token) {
        const out = f(token, first);
        first = false;
        return [out];
      },
      end: () => [],
    };
  };

/** Each token of its own. */
function onTokens(part: SimpleDecoder): MakeStep {
  switch (part.type) {
    case "ByteLevel":
      return () => {
        const stream = new Utf8Stream();
        return { push: (token) => [stream.push(tokenBytes(token) ?? encodeUtf8(token))], end: () => [stream.end()] };
      };
    case "Metaspace": {
      const { replacement, prepend_scheme } = part;
      // In the first token every one of them goes, not only the one in front.
      return each((token, first) => token.replaceAll(replacement, first && prepend_scheme !== "never" ? "" : " "));
    }
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return each((token) => token);
    case "WordPiece": {
      const { prefix, cleanup } = part;
      return each((token, first) => {
        const spaced = first ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
        return cleanup ? cleanUp(spaced) : spaced;
      });
    }
    case "BPEDecoder": {
      const { suffix } = part;
      return () => {
        // What ends a word is a space, except at the end of all.
        let held: string | undefined;
        return {
          push(token) {
            const out = held === undefined ? [] : [held.replaceAll(suffix, " ")];
            held = token;
            return out;
          },
          end: () => (held === undefined ? [] : [held.replaceAll(suffix, "")]),
        };
      };
    }
    case "Strip":
      return each((token) => stripped(token, part));
    case "Replace": {
      const expression = expressionOf(part);
      return each((token) => replaceMatches(token, expression, part.content));
    }
    case "CTC": {
      const { pad_token, word_delimiter_token, cleanup } = part;
      return () => {
        let previous: string | undefined;
        return {
          push(token) {
            if (token === previous) return [];
            previous = token;
            const kept = replaceAll(token, pad_token, "");
            const text = cleanup ? replaceAll(cleanUp(kept), word_delimiter_token, " ") : kept;
            return text === "" ? [] : [text];
          },
          end: () => [],
        };
      };
    }
  }
}

/** Pieces of the one token that all were joined to. */
function onPieces(part: SimpleDecoder): MakeStep {
  switch (part.type) {
    case "Fuse":
      return each((piece) => piece);
    case "Strip":
      return () => stripping(part);
    case "Replace":
      if ("String" in part.pattern && part.pattern.String.length === 1) return onTokens(part);
      break;
    case "Metaspace":
      if (part.prepend_scheme === "never") return onTokens(part);
      return each((piece) => piece.replaceAll(part.replacement, ""));
    default:
  }
  // What such a step does may turn on what comes much later.
  const make = onTokens(part);
  return () => {
    const step = make();
    let all: string | undefined;
    return {
      push(piece) {
        all = (all ?? "") + piece;
        return [];
      },
      end() {
        return all === undefined ? [] : [...step.push(all), ...step.end()];
      },
    };
  };
}

type Strip = SimpleDecoder & { type: "Strip" };

function stripped(token: string, { content, start: most, stop }: Strip): string {
  const characters = [...token];
  let start = 0;
  while (start < most && characters[start] === content) start++;
  let end = characters.length;
  while (characters.length - end < stop && end > start && characters[end - 1] === content) end--;
  return characters.slice(start, end).join("");
}

function stripping({ content, start, stop }: Strip): DecodeStep {
  let ahead = start;
  /** How many of the last characters may be those that go. */
  let held = 0;
  return {
    push(piece) {
      let rest = piece;
      while (ahead > 0 && rest !== "") {
        if (rest.startsWith(content)) {
          rest = rest.slice(content.length);
          ahead--;
        } else ahead = 0;
      }
      const all = content.repeat(held) + rest;
      held = 0;
      while (held < stop && all.endsWith(content.repeat(held + 1))) held++;
      return [all.slice(0, all.length - held * content.length)];
    },
    end: () => [],
  };
}

/** Joined by spaces. */
const joining = each((token, first) => (first ? token : ` ${token}`));

const expressionOf = ({ pattern }: SimpleDecoder & { type: "Replace" }): RegExp =>
  "String" in pattern ? literalRegex(pattern.String) : translateRegex(pattern.Regex);

/** An empty string stands before each character, and at the end. */
const replaceAll = (text: string, what: string, by: string): string =>
  what === "" ? text.replace(/(?:)/gu, () => by) : text.replaceAll(what, by);

/**
 * Runs of <0x..> as the bytes they are; a run that is not UTF-8 gives one U+FFFD for each byte, so that nothing is certain before its end.
 */
function byteFallback(): DecodeStep {
  let bytes: number[] = [];
  const flush = (): string[] => {
    if (bytes.length === 0) return [];
    const run = Uint8Array.from(bytes);
    bytes = [];
    try {
      return [strict.decode(run)];
    } catch {
      return Array.from(run, () => "\ufffd");
    }
  };
  return {
    push(token) {
      const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
      if (hex === undefined) return [...flush(), token];
      bytes.push(Number.parseInt(hex, 16));
      return [];
    },
    end: flush,
  };
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The spaces that English does not write. */
const cleanUp = (text: string): string =>
  text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" do not", " don't")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
