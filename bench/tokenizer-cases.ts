/** A `tokenizer.json` with what Hugging Face `tokenizers` makes of texts, as `test/golden/tokenizers/fuzz.py` writes them, and the comparison. */
import { isDeepStrictEqual } from "node:util";
import { type Encoding, type Tokenizer, tokenizerFromJson } from "../src/tokenizers/index.ts";

type Answer<T> = T | { readonly error: string };
type Plain = Omit<Encoding, "sequenceIds">;
export interface Case {
  readonly number: number;
  readonly seed: number;
  readonly file: Record<string, unknown>;
  readonly refused?: string;
  readonly texts: string[];
  readonly single: Answer<Plain>[];
  readonly bare: Answer<Plain>[];
  readonly pair: Answer<Plain>[];
  readonly ids: number[][];
  readonly decoded: Answer<string>[];
  readonly skipped: Answer<string>[];
  readonly streamed: Answer<(string | null)[]>[];
}

const FAILED = "failed";
const attempt = (run: () => unknown): unknown => {
  try {
    return run();
  } catch (error) {
    return `${FAILED}: ${(error as Error).message}`;
  }
};
const failed = (value: unknown): boolean => typeof value === "string" && value.startsWith(FAILED);
const comparable = ({ sequenceIds: _, overflowing, ...rest }: Encoding): object => ({
  ...rest,
  overflowing: overflowing.map(comparable),
});

/** Where `tokenizers` ends with an error of its own making: an unknown character without an unknown token, a Strip of more than there is, a template in a template. */
const THEIR_FAULTS =
  /`unk_id` is missing|slice index starts at|attempt to subtract with overflow|index out of bounds: the len|not yet implemented/;

export interface Compared {
  same: number;
  weRefuse: number;
  theyFail: number;
  readonly differences: {
    readonly what: string;
    readonly input: unknown;
    readonly mine: unknown;
    readonly theirs: unknown;
  }[];
}

/** @returns why this reader refuses the file, as a string, or the tokenizer */
export function readCase(one: Case): Tokenizer | string {
  try {
    return tokenizerFromJson(one.file, "file");
  } catch (error) {
    return (error as Error).message;
  }
}

/** All answers of a case beside ours. */
export function compareCase(one: Case, tokenizer: Tokenizer): Compared {
  const found: Compared = { same: 0, weRefuse: 0, theyFail: 0, differences: [] };
  const options = { allowedSpecial: "all", offsets: "codepoints" } as const;
  const compare = (what: string, theirs: unknown, mine: unknown, input: unknown): void => {
    // tokenizers counts below zero there, and cuts nothing off; we say that it does not fit.
    if (failed(mine) && String(mine).includes("the post-processor alone adds")) {
      found.weRefuse++;
      return;
    }
    const refused = typeof theirs === "object" && theirs !== null && "error" in theirs;
    if (refused && THEIR_FAULTS.test(String(theirs.error))) {
      found.theyFail++;
      return;
    }
    if (refused ? failed(mine) : isDeepStrictEqual(mine, theirs)) found.same++;
    else found.differences.push({ what, input, mine, theirs });
  };
  const added = one.file.added_tokens as { id: number; special: boolean; normalized: boolean }[];
  const specials = new Set(
    added.filter((token) => token.special && token.normalized && one.file.normalizer !== null).map(({ id }) => id),
  );
  const padded = (one.file as { padding: unknown }).padding !== null;
  one.texts.forEach((text, i) => {
    compare(
      "single",
      one.single[i],
      attempt(() => comparable(tokenizer.encoding(text, undefined, options))),
      text,
    );
    const bare = attempt(() =>
      comparable(tokenizer.encoding(text, undefined, { ...options, addSpecialTokens: false })),
    );
    compare("bare", one.bare[i], bare, text);
    const ids = one.single[i]!;
    compare(
      "ids",
      "ids" in ids ? ids.ids : ids,
      attempt(() => tokenizer.encode(text, { allowedSpecial: "all" })),
      text,
    );
    // Long texts go to the native code.
    const many = text.repeat(1 + Math.ceil(200 / Math.max(1, text.length)));
    const long = attempt(() => tokenizer.encoding(many, undefined, { ...options, padding: null }).ids);
    if (!padded && !failed(long))
      compare(
        "long",
        long,
        attempt(() => tokenizer.encode(many, { allowedSpecial: "all" })),
        many,
      );
  });
  one.pair.forEach((theirs, i) => {
    const both = [one.texts[i]!, one.texts[i + 1]!] as const;
    compare(
      "pair",
      theirs,
      attempt(() => comparable(tokenizer.encoding(...both, options))),
      both,
    );
  });
  one.ids.forEach((ids, i) => {
    const words = ids.map((id) => tokenizer.idToToken(id));
    compare(
      "decode",
      one.decoded[i],
      attempt(() => tokenizer.decode(ids)),
      words,
    );
    // tokenizers keeps special tokens whose content the normalizer changes, because it looks them up as changed. We leave them out.
    if (!ids.some((id) => specials.has(id)))
      compare(
        "skipped",
        one.skipped[i],
        attempt(() => tokenizer.decode(ids, { skipSpecialTokens: true })),
        words,
      );
    const whole = attempt(() => tokenizer.decode(ids));
    compare(
      "stream",
      whole,
      attempt(() => {
        const stream = tokenizer.stream();
        const pieces = ids.map((id) => stream.push(id));
        return pieces.join("") + stream.end();
      }),
      words,
    );
  });
  return found;
}
