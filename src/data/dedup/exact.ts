import { StateError } from "../../tensor/errors.ts";
import { hash64 } from "./hash.ts";
import { KeyIndex, type KeyIndexOptions } from "./key-index.ts";

/** What two texts have in common when they count as the same: case, white space and signs are not looked at. */
export function comparable(text: string): string {
  return text
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}]+/gu, " ")
    .trim();
}

export interface ExactOptions extends KeyIndexOptions {
  /** What of a text is compared. Default the text as it is. */
  readonly key?: (text: string) => string;
}

/** Finds documents that are the same to the letter (or by `key`). Every document is shown once, in order; then it is known which ones to drop. */
export class ExactDuplicates {
  readonly #index: KeyIndex;
  readonly #key: (text: string) => string;
  readonly #hash = new Uint32Array(2);
  #count = 0;

  constructor(options: ExactOptions = {}) {
    this.#index = new KeyIndex(options);
    this.#key = options.key ?? ((text) => text);
  }
  see(text: string): void {
    hash64(this.#key(text), this.#hash);
    this.#index.add(this.#hash[0]!, this.#hash[1]!, this.#count++);
  }
  /** By ordinal of the document that goes: the ordinal of the one it is the same as, which stays. */
  finish(): Map<number, number> {
    const out = new Map<number, number>();
    this.#index.duplicates((first, again) => out.set(again, first));
    return out;
  }
  [Symbol.dispose](): void {
    this.#index.dispose();
  }
}

export interface PassageOptions extends KeyIndexOptions {
  /** Passages are lines, or paragraphs between empty lines. */
  readonly of: "lines" | "paragraphs";
  /** Shorter passages (in UTF-16 units) are left alone. Default 20. */
  readonly least?: number;
}

/**
 * Takes lines or paragraphs out that stood in the corpus before. Two walks over the same documents in the same order: `see` all, `finish`, then
 * `take` each.
 */
export class PassageDuplicates {
  readonly #index: KeyIndex;
  readonly #least: number;
  readonly #separator: string;
  readonly #hash = new Uint32Array(2);
  #count = 0;
  /** One bit a passage: whether it goes. */
  #goes: Uint8Array | undefined;
  #at = 0;

  constructor(options: PassageOptions) {
    this.#index = new KeyIndex(options);
    this.#least = options.least ?? 20;
    this.#separator = options.of === "lines" ? "\n" : "\n\n";
  }

  #passages(text: string): string[] {
    return text.split(this.#separator);
  }

  see(text: string): void {
    for (const passage of this.#passages(text)) {
      if (passage.length >= this.#least) {
        hash64(comparable(passage), this.#hash);
        this.#index.add(this.#hash[0]!, this.#hash[1]!, this.#count);
      }
      this.#count++;
    }
  }

  /** @returns how many passages will go */
  finish(): number {
    const goes = new Uint8Array(Math.ceil(this.#count / 8));
    let n = 0;
    this.#index.duplicates((_first, again) => {
      goes[again >>> 3]! |= 1 << (again & 7);
      n++;
    });
    this.#goes = goes;
    return n;
  }

  /** Before `take` walks over all documents once more. */
  restart(): void {
    this.#at = 0;
  }

  /** The text without the passages that go, and how many those were. */
  take(text: string): { text: string; taken: number } {
    if (!this.#goes) throw new StateError("passages: finish() comes before take().");
    const passages = this.#passages(text);
    const stay = passages.filter(() => {
      const i = this.#at++;
      if (i >= this.#count) throw new StateError("passages: take() met more text than see() did.");
      return (this.#goes![i >>> 3]! & (1 << (i & 7))) === 0;
    });
    return { text: stay.join(this.#separator), taken: passages.length - stay.length };
  }
  [Symbol.dispose](): void {
    this.#index.dispose();
  }
}
