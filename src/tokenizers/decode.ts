import { decodeUtf8, tokenBytes } from "./bytes.ts";
import { literalRegex, translateRegex } from "./regex.ts";
import type { Decoder } from "./schema.ts";

/** Tokens' strings to strings whose concatenation is the text. */
export type DecodeChain = (tokens: readonly string[]) => string[];

/** The function for a `decoder` of `tokenizer.json`; without one, tokens are joined by spaces. */
export function decodeChainOf(part: Decoder | null): DecodeChain {
  if (part === null) return (tokens) => [tokens.join(" ")];
  switch (part.type) {
    case "Sequence": {
      const steps = part.decoders.map(decodeChainOf);
      return (tokens) => steps.reduce<string[]>((current, step) => step(current), [...tokens]);
    }
    case "ByteLevel":
      return (tokens) => [decodeUtf8(Buffer.concat(tokens.map((token) => tokenBytes(token) ?? Buffer.from(token))))];
    case "Metaspace": {
      const { replacement, prepend_scheme } = part;
      return (tokens) =>
        tokens.map((token, i) => {
          const spaced = token.replaceAll(replacement, " ");
          return i === 0 && prepend_scheme !== "never" && token.startsWith(replacement) ? spaced.slice(1) : spaced;
        });
    }
    case "ByteFallback":
      return byteFallback;
    case "Fuse":
      return (tokens) => [tokens.join("")];
    case "WordPiece": {
      const { prefix, cleanup } = part;
      return (tokens) =>
        tokens.map((token, i) => {
          const spaced = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
          return cleanup ? cleanUp(spaced) : spaced;
        });
    }
    case "BPEDecoder":
      return (tokens) => tokens.map((token, i) => token.replaceAll(part.suffix, i === tokens.length - 1 ? "" : " "));
    case "Strip":
      return (tokens) =>
        tokens.map((token) => {
          const characters = [...token];
          let start = 0;
          while (start < part.start && characters[start] === part.content) start++;
          let end = characters.length;
          while (characters.length - end < part.stop && end > start && characters[end - 1] === part.content) end--;
          return characters.slice(start, end).join("");
        });
    case "Replace": {
      const expression =
        "String" in part.pattern ? literalRegex(part.pattern.String) : translateRegex(part.pattern.Regex);
      return (tokens) => tokens.map((token) => token.replace(expression, () => part.content));
    }
  }
}

/** Runs of <0x..> as the bytes they are; a run that is not UTF-8 gives one U+FFFD for each byte. */
function byteFallback(tokens: readonly string[]): string[] {
  const out: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length === 0) return;
    try {
      out.push(strict.decode(Uint8Array.from(bytes)));
    } catch {
      out.push("\ufffd".repeat(bytes.length));
    }
    bytes = [];
  };
  for (const token of tokens) {
    const hex = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (hex !== undefined) {
      bytes.push(Number.parseInt(hex, 16));
      continue;
    }
    flush();
    out.push(token);
  }
  flush();
  return out;
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
