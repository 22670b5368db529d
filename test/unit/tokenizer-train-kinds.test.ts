import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { streamTexts, textFiles } from "../../src/cli/text-stream.ts";
import {
  encodeMany,
  loadTokenizer,
  type Tokenizer,
  type TokenizerKind,
  TRAINABLE,
  trainTokenizer,
} from "../../src/tokenizers/index.ts";
import { trainUnigram } from "../../src/tokenizers/unigram-train.ts";

const shakespeare = (await readFile(new URL("../../data/tinyshakespeare.txt", import.meta.url), "utf8")).slice(
  0,
  60_000,
);
const lines = shakespeare.split("\n");
const chinese = "子曰：「學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？」".repeat(3);
const corpus = [...lines, chinese];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-kinds-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));
afterEach(() => {
  vi.unstubAllEnvs();
});

const tokensOf = (tokenizer: Tokenizer): (string | undefined)[] =>
  Array.from({ length: tokenizer.vocabularySize }, (_, id) => tokenizer.idToToken(id));

test("BPE on characters is what tokenizers learns, native and in TypeScript", async () => {
  const golden = new URL("../golden/tokenizers/trained-characters.json.gz", import.meta.url);
  const expected = JSON.parse(gunzipSync(await readFile(golden)).toString("utf8")) as string[];
  const options = { kind: "sentencepiece", vocabulary: 900, coverage: 1 } as const;
  expect(tokensOf(await trainTokenizer(lines, options))).toEqual(expected);
  vi.stubEnv("HOWDAH_TOKENIZER", "typescript");
  expect(tokensOf(await trainTokenizer(lines, options))).toEqual(expected);
});

describe.each(TRAINABLE)("%s", (kind) => {
  const options = { kind, vocabulary: 800 } as const;

  test("what was trained fits the vocabulary, is saved, read again and gives the same ids", async () => {
    const tokenizer = await trainTokenizer(corpus, { ...options, specialTokens: ["<|sep|>"] });
    expect(tokenizer.vocabularySize).toBeLessThanOrEqual(800);
    expect(tokenizer.vocabularySize).toBeGreaterThan(700);
    const id = tokenizer.tokenId("<|sep|>")!;
    expect(tokenizer.encode("a<|sep|>b", { allowedSpecial: "all", addSpecialTokens: false })).toContain(id);
    expect(tokenizer.encode("a<|sep|>b", { addSpecialTokens: false })).not.toContain(id);
    const out = join(folder, kind);
    await tokenizer.save(out);
    const again = await loadTokenizer(out);
    expect(tokensOf(again)).toEqual(tokensOf(tokenizer));
    for (const text of [shakespeare.slice(0, 3000), chinese, "🦙 unseen ж"]) {
      expect(again.encode(text)).toEqual(tokenizer.encode(text));
    }
    expect(tokenizer.encode(shakespeare).length).toBeLessThan(shakespeare.length * 0.55);
  });

  test("encoding never throws, and ids are in the vocabulary", async () => {
    const tokenizer = await trainTokenizer(corpus, options);
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: "binary" }), fc.string({ unit: "grapheme" })), (text) => {
        const ids = tokenizer.encode(text, { allowedSpecial: "all" });
        for (const id of ids) expect(tokenizer.idToToken(id)).toBeDefined();
        const stream = tokenizer.stream();
        expect(ids.map((id) => stream.push(id)).join("") + stream.end()).toBe(tokenizer.decode(ids));
      }),
      { numRuns: 300 },
    );
  });
});

test("byte fallback leaves no character unknown", async () => {
  for (const kind of ["sentencepiece", "unigram"] as const) {
    const tokenizer = await trainTokenizer(corpus, { kind, vocabulary: 900, byteFallback: true });
    const text = "ж 🦙 \u0001 x";
    const ids = tokenizer.encode(text);
    expect(ids).not.toContain(tokenizer.tokenId("<unk>"));
    if (kind === "sentencepiece") expect(tokenizer.decode(ids)).toBe(text);
  }
});

test("Unigram's pieces explain the text better than its characters do, and better the more there are", async () => {
  const words = new Map<string, number>();
  for (const word of shakespeare.split(/\s+/)) words.set(`\u2581${word}`, (words.get(`\u2581${word}`) ?? 0) + 1);
  const alphabet = new Set([...words.keys()].join(""));
  const costs: number[] = [];
  for (const pieces of [alphabet.size, 200, 800]) {
    const model = await trainUnigram(words, { pieces, alphabet });
    expect(model.pieces.length).toBeLessThanOrEqual(pieces);
    for (const character of alphabet) expect(model.pieces).toContain(character);
    const probability = model.scores.reduce((sum, score) => sum + Math.exp(score), 0);
    expect(probability).toBeLessThan(1.05);
    // Cost in nats of the best segmentation of every word.
    const scoreOf = new Map(model.pieces.map((piece, i) => [piece, model.scores[i]!]));
    let total = 0;
    for (const [word, count] of words) {
      const best = new Float64Array(word.length + 1).fill(Number.NEGATIVE_INFINITY);
      best[0] = 0;
      for (let end = 1; end <= word.length; end++)
        for (let start = Math.max(0, end - 16); start < end; start++)
          best[end] = Math.max(
            best[end]!,
            best[start]! + (scoreOf.get(word.slice(start, end)) ?? Number.NEGATIVE_INFINITY),
          );
      total -= count * best[word.length]!;
    }
    costs.push(total);
  }
  expect(costs[1]).toBeLessThan(costs[0]! * 0.9);
  expect(costs[2]).toBeLessThan(costs[1]! * 0.9);
});

test("a large file comes in parts that no tokenizer can tell from the whole", async () => {
  const path = join(folder, "large.txt");
  const text = `\ufeff${shakespeare.repeat(160)}`.replaceAll("\n", "\r\n");
  await writeFile(path, text);
  const parts: string[] = [];
  for await (const part of streamTexts(await textFiles([path]))) parts.push(part);
  expect(parts.length).toBeGreaterThan(1);
  const whole = text.slice(1).replaceAll("\r\n", "\n");
  expect(parts.join("") === whole).toBe(true);
  const tokenizer = await trainTokenizer(lines, { kind: "bpe", vocabulary: 500 });
  const pieces = await encodeMany(tokenizer, parts);
  const [ids] = await encodeMany(tokenizer, [whole]);
  expect(Buffer.concat(pieces.map((part) => Buffer.from(part.buffer))).equals(Buffer.from(ids!.buffer))).toBe(true);
  await writeFile(path, Buffer.of(0x61, 0xff, 0x62));
  await expect(async () => {
    for await (const _ of streamTexts([{ path }]));
  }).rejects.toThrow("large.txt: not UTF-8");
});

test("options that a kind lacks, and vocabularies without room, are refused by name", async () => {
  const train = (kind: TokenizerKind, more: object) => trainTokenizer(corpus, { kind, vocabulary: 800, ...more });
  await expect(train("bpe", { coverage: 0.9 })).rejects.toThrow("coverage: a tokenizer of the kind bpe");
  await expect(train("unigram", { lowercase: true })).rejects.toThrow("lowercase");
  await expect(train("wordpiece", { byteFallback: true })).rejects.toThrow("byteFallback");
  await expect(train("sentencepiece", { pattern: "x" })).rejects.toThrow("pattern");
  await expect(train("sentencepiece", { vocabulary: 200 })).rejects.toThrow("no room");
  await expect(train("unigram", { vocabulary: 20 })).rejects.toThrow("no room");
  await expect(train("unigram", { coverage: 2 })).rejects.toThrow("coverage");
});
