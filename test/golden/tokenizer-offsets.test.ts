// Where the tokens of files that are no tokenizer.json come from in a text.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { tokenBytes, wellFormed } from "../../src/tokenizers/bytes.ts";
import { loadTokenizer, type Tokenizer, tokenizerFromTiktoken, trainByteLevelBpe } from "../../src/tokenizers/index.ts";

const golden = new URL("./tokenizers/", import.meta.url);
const read = async (name: string): Promise<string> =>
  gunzipSync(await readFile(new URL(name, golden))).toString("utf8");

interface Expected {
  readonly text: string;
  readonly ids: number[];
}
const { sentencepiece, tiktoken } = JSON.parse(await read("offsets.json.gz")) as {
  readonly sentencepiece: Record<string, (Expected & { readonly offsets: [number, number][] })[]>;
  readonly tiktoken: (Expected & { readonly starts: number[] })[];
};
const models = JSON.parse(await read("sentencepiece.json.gz")) as Record<string, { readonly model: string }>;

const folder = await mkdtemp(join(tmpdir(), "howdah-offsets-"));
afterAll(() => rm(folder, { recursive: true, force: true }));
const tokenizers = new Map<string, Tokenizer>();
for (const [name, { model }] of Object.entries(models)) {
  const path = join(folder, `${name}.model`);
  await writeFile(path, Buffer.from(model, "base64"));
  tokenizers.set(name, await loadTokenizer(path));
}
const merges = (await read("gpt2-merges.txt.gz")).split("\n").slice(1).filter(Boolean);
const bytes = trainByteLevelBpe([], { vocabulary: 256 });
const ranks = [
  ...Array.from({ length: 256 }, (_, id) => bytes.idToToken(id)!),
  ...merges.map((m) => m.replace(" ", "")),
].map((token, id) => `${Buffer.from(tokenBytes(token)!).toString("base64")} ${id}`);
tokenizers.set("tiktoken", tokenizerFromTiktoken(ranks.join("\n"), "r50k_base.tiktoken"));
tokenizers.set("llama2.c", await loadTokenizer(new URL("tok512.bin", golden).pathname));

test.each(Object.entries(sentencepiece))("%s: offsets are those of sentencepiece", (name, cases) => {
  for (const { text, ids, offsets } of cases) {
    const encoding = tokenizers
      .get(name)!
      .encoding(text, undefined, { addSpecialTokens: false, offsets: "codepoints" });
    expect(encoding.ids, JSON.stringify(text)).toEqual(ids);
    expect(encoding.offsets, JSON.stringify(text)).toEqual(offsets);
  }
});

test("a file of ranks: tokens begin where tiktoken says", () => {
  for (const { text, ids, starts } of tiktoken) {
    const encoding = tokenizers.get("tiktoken")!.encoding(text, undefined, { offsets: "codepoints" });
    expect(encoding.ids, JSON.stringify(text)).toEqual(ids);
    expect(
      encoding.offsets.map(([start]) => start),
      JSON.stringify(text),
    ).toEqual(starts);
  }
});

const part = fc.oneof(
  fc.string({ unit: "binary", maxLength: 8 }),
  fc.constantFrom(
    " ",
    "  ",
    "\u3000",
    "the",
    " king",
    "<sep>",
    "<s>",
    "</s>",
    "🦊",
    "天地",
    "ﬁ",
    "①",
    "e\u0301",
    "\u2581",
    "\ud83d",
  ),
);
const text = fc.array(part, { maxLength: 30 }).map((parts) => parts.join(""));

describe.each([...tokenizers])("%s", (name, tokenizer) => {
  test("the ids are those of encode, and the pieces lie side by side", () => {
    fc.assert(
      fc.property(text, fc.constantFrom("all" as const, "none" as const), (given, allowedSpecial) => {
        const encoding = tokenizer.encoding(given, undefined, { allowedSpecial });
        expect(encoding.ids).toEqual(tokenizer.encode(given, { allowedSpecial }));
        if (name === "tiktoken") return;
        let at = 0;
        encoding.offsets.forEach(([start, end], i) => {
          if (encoding.specialTokensMask[i] === 1) return;
          // Only white space is left out, at the ends of a text between special tokens.
          expect(wellFormed(given).slice(at, start)).toMatch(/^[\p{White_Space}\p{C}\u2581\ufffd]*$/u);
          expect(end).toBeGreaterThanOrEqual(start);
          at = end;
        });
      }),
      { numRuns: 150 },
    );
  });

  test("pairs have what surrounds each text, and types", () => {
    const [a, b] = ["The king 天", "and the fox"];
    const pair = tokenizer.encoding(a, b);
    expect(pair.ids).toEqual([...tokenizer.encode(a), ...tokenizer.encode(b)]);
    const second = pair.ids.flatMap((_, i) => (pair.sequenceIds[i] === 1 ? [pair.offsets[i]!] : []));
    expect(second.map(([start, end]) => b.slice(start, end)).join("")).toBe(b);
    expect(new Set(pair.typeIds)).toEqual(new Set([0, 1]));
    const cut = tokenizer.encoding(a, b, {
      truncation: { max_length: 6, strategy: "LongestFirst", stride: 0, direction: "Right" },
    });
    expect(cut.ids.length).toBe(6);
    expect(cut.overflowing.length).toBeGreaterThan(0);
  });
});
