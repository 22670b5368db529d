import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { unicodeChanges } from "../../src/tokenizers/aligned.ts";
import { wellFormed } from "../../src/tokenizers/bytes.ts";
import { Charsmap } from "../../src/tokenizers/charsmap.ts";
import { type Encoding, FileTokenizer, tokenizerFromJson } from "../../src/tokenizers/index.ts";

const golden = new URL("./tokenizers/", import.meta.url);
const read = async (name: string): Promise<unknown> =>
  JSON.parse(gunzipSync(await readFile(new URL(name, golden))).toString("utf8"));

type Plain = Omit<Encoding, "sequenceIds">;
interface Case {
  readonly name: string;
  readonly base: string;
  readonly changes: Record<string, unknown>;
  readonly texts: string[];
  readonly pairs: [string, string][];
  readonly single: Plain[];
  readonly pair: Plain[];
  readonly plain: Plain[];
}

const kinds = (await read("kinds.json.gz")) as { readonly name: string; readonly tokenizer: object }[];
const cases = (await read("encodings.json.gz")) as Case[];

function made(example: Case): FileTokenizer {
  const base = kinds.find((kind) => kind.name === example.base)!.tokenizer;
  const tokenizer = tokenizerFromJson({ ...base, ...example.changes }, example.name);
  if (!(tokenizer instanceof FileTokenizer)) throw new Error("not made of a file");
  return tokenizer;
}

const comparable = (encoding: Encoding): object => {
  const { sequenceIds: _, overflowing, ...rest } = encoding;
  return { ...rest, overflowing: overflowing.map((o) => ({ ...o, sequenceIds: undefined, overflowing: undefined })) };
};

describe("encodings", () => {
  const options = { allowedSpecial: "all", offsets: "codepoints" } as const;
  test.each(cases)("$name: offsets, words, types, masks and overflow are those of tokenizers", (example) => {
    const tokenizer = made(example);
    tokenizer.encodings(example.texts, options).forEach((encoding, i) => {
      expect(comparable(encoding), JSON.stringify(example.texts[i])).toEqual(example.single[i]);
    });
    tokenizer.encodings(example.pairs, options).forEach((encoding, i) => {
      expect(comparable(encoding), JSON.stringify(example.pairs[i])).toEqual(example.pair[i]);
    });
    example.plain.forEach((expected, i) => {
      const encoding = tokenizer.encoding(example.texts[i]!, undefined, { ...options, addSpecialTokens: false });
      expect(comparable(encoding)).toEqual(expected);
    });
  });

  test.each(cases)("$name: the ids are those of encode", (example) => {
    const tokenizer = made(example);
    const ids = tokenizer.encodings(example.texts, { allowedSpecial: "all" }).map((encoding) => encoding.ids);
    expect(ids).toEqual(tokenizer.encodeBatch(example.texts, { allowedSpecial: "all" }));
  });
});

test("normal forms as changes are the engine's normal forms", () => {
  const marks = "\u0300\u0301\u0323\u0327\u0345\u0315\u05b4\u0e38\u3099\u1dfa\u0344";
  const unit = fc.oneof(
    fc.string({ unit: "binary", maxLength: 3 }),
    fc.constantFrom(...marks, ..."aeÅ가각\u1100\u1161\u11a8\u11a7かｶﾞ\u09c7\u09be\u0cc6\u0cc2\u212bǅ\u2126"),
  );
  fc.assert(
    fc.property(fc.array(unit, { maxLength: 12 }), fc.constantFrom("NFC", "NFD", "NFKC", "NFKD"), (parts, form) => {
      const text = wellFormed(parts.join(""));
      expect(
        unicodeChanges(text, form)
          .map(([c]) => c)
          .join(""),
      ).toBe(text.normalize(form));
    }),
    { numRuns: 3000 },
  );
});

test("offsets count UTF-16 units unless asked otherwise", () => {
  const tokenizer = made(cases.find((example) => example.base === "BERT, uncased")!);
  const text = "😀 Fox 狐狸";
  const { offsets, specialTokensMask } = tokenizer.encoding(text);
  const words = offsets.filter((_, i) => specialTokensMask[i] === 0).map(([start, end]) => text.slice(start, end));
  expect(words.join("")).toBe("😀Fox狐狸");
});

test("graphemes are those of the whole text, wherever the segmenter's window ends", async () => {
  const kind = kinds.find((one) => one.name === "T5")!.tokenizer as {
    normalizer: { normalizers: { precompiled_charsmap?: string }[] };
  };
  const map = new Charsmap(Buffer.from(kind.normalizer.normalizers[0]!.precompiled_charsmap!, "base64"));
  const part = fc.constantFrom(
    "a",
    "e\u0301",
    "👍🏽",
    "👩‍👩‍👧",
    "🇨🇳",
    "\r\n",
    " \n",
    "ｶﾞ",
    "각",
    "\u0600",
    "क्षि",
    "ﬁ",
    "x\u0323\u0302",
  );
  const segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
  fc.assert(
    fc.property(fc.array(part, { minLength: 100, maxLength: 400 }), (parts) => {
      const text = parts.join("");
      const each = Array.from(segmenter.segment(text), ({ segment }) => map.normalizeByGrapheme(segment));
      expect(map.normalizeByGrapheme(text)).toBe(each.join(""));
    }),
    { numRuns: 100 },
  );
});
