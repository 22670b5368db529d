import type { Tokenizer, TokenStream } from "../tokenizers/types.ts";

/**
 * Finds the first of some strings in a text that arrives in pieces, and gives out only what can no longer be part of one. First is the one
 * that is complete first, so that the result does not depend on the pieces; of those that end together, the longest.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = "";
  #found = false;

  /** @param stops not empty each */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Whether a stop string was met; everything after is dropped. */
  get found(): boolean {
    return this.#found;
  }

  /** @returns the text that is now certain: without the stop string, and without an end that may become the beginning of one */
  push(piece: string): string {
    if (this.#found) return "";
    if (this.#stops.length === 0) return piece;
    const text = this.#held + piece;
    let first = text.length;
    let complete = Number.POSITIVE_INFINITY;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at < 0 || at + stop.length > complete || (at + stop.length === complete && at > first)) continue;
      first = at;
      complete = at + stop.length;
      this.#found = true;
    }
    const certain = this.#found ? first : text.length - this.#hopeful(text);
    this.#held = text.slice(certain);
    return text.slice(0, certain);
  }

  /** @returns what was held back; the text has ended, so it is no stop string */
  end(): string {
    const rest = this.#found ? "" : this.#held;
    this.#held = "";
    return rest;
  }

  /** The longest end of the text that a stop string begins with. */
  #hopeful(text: string): number {
    let longest = 0;
    for (const stop of this.#stops)
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--)
        if (text.endsWith(stop.slice(0, n))) longest = n;
    return longest;
  }
}

/** Token ids to the text of a reply, as they come: whole characters, no special tokens, nothing of a stop string. */
export class ReplyText {
  readonly #stream: TokenStream;
  readonly #matcher: StopMatcher;

  /** @param prompt what the reply continues: a tokenizer may drop a space at the start of a text that it keeps within one */
  constructor(tokenizer: Tokenizer, prompt: readonly number[], stops: readonly string[]) {
    this.#stream = tokenizer.stream({ skipSpecialTokens: true, after: prompt });
    this.#matcher = new StopMatcher(stops);
  }

  get stopped(): boolean {
    return this.#matcher.found;
  }

  push(id: number): string {
    return this.#matcher.push(this.#stream.push(id));
  }

  /** What is left when no more tokens come. */
  end(): string {
    return this.#matcher.push(this.#stream.end()) + this.#matcher.end();
  }
}
