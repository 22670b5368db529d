import { ReadError } from "../document.ts";

/** An element of a list and its number, from 1. One that is longer than the limit has no text. */
export interface ListElement {
  readonly number: number;
  readonly text: string | undefined;
}

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const isSpace = (code: number) => code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09 || code === 0xfeff;

/**
 * The elements of a JSON list (RFC 8259), each as its text, without holding more than one of them. What is inside of an element is not looked at: who
 * parses it finds out.
 * @param limit characters of an element
 * @throws ReadError `malformed` when the list does not end, or something comes after it
 */
export async function* splitList(pieces: AsyncIterable<string>, limit: number): AsyncGenerator<ListElement> {
  let state = "before" as "before" | "inside" | "after";
  let number = 0;
  let parts: string[] = [];
  let size = 0;
  let depth = 0;
  let inString = false;
  let escaped = false;
  const keep = (text: string) => {
    size += text.length;
    if (size <= limit) parts.push(text);
  };
  const finish = (): ListElement => {
    const text = size > limit ? undefined : parts.join("");
    parts = [];
    size = 0;
    return { number: ++number, text };
  };
  for await (const piece of pieces) {
    let from = 0;
    for (let i = 0; i < piece.length; i++) {
      const code = piece.charCodeAt(i);
      if (inString) {
        if (escaped) escaped = false;
        else if (code === BACKSLASH) escaped = true;
        else if (code === QUOTE) inString = false;
        continue;
      }
      if (code === QUOTE) inString = state === "inside";
      else if (state === "inside" && (code === 0x7b || code === 0x5b)) depth++;
      else if (state === "inside" && depth > 0 && (code === 0x7d || code === 0x5d)) depth--;
      else if (state === "inside" && depth === 0 && (code === COMMA || code === 0x5d)) {
        keep(piece.slice(from, i));
        from = i + 1;
        const element = finish();
        const empty = element.text?.trim() === "";
        if (code === 0x5d) state = "after";
        if (!empty) yield element;
        else if (number > 1 || code === COMMA)
          throw new ReadError("malformed", `It is not JSON: there is nothing at place ${number} of its list.`);
        continue;
      } else if (state === "before" && code === 0x5b) {
        state = "inside";
        from = i + 1;
        continue;
      }
      if (state !== "inside" && !isSpace(code))
        throw new ReadError(
          "malformed",
          state === "before" ? "It is not a JSON list." : "It is not JSON: something comes after the end of its list.",
        );
    }
    if (state === "inside") keep(piece.slice(from));
  }
  if (state !== "after")
    throw new ReadError("malformed", `It is not JSON: its list is cut off after ${number} elements.`);
}
