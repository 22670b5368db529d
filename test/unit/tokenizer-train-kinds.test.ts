import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import { mulberry32 } from "../../bench/random.ts";
import { streamTexts, textFiles } from "../../src/cli/text-stream.ts";
import {
  type CountedWords,
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
  // Of lines of Chinese, and of one line that is longer than a part may be.
  for (const text of [`${chinese}\n`.repeat(110_000), "天地玄黃".repeat(6_000_000)]) {
    await writeFile(path, text);
    const lengths: number[] = [];
    let joined = "";
    for await (const part of streamTexts([{ path }])) {
      lengths.push(Buffer.byteLength(part));
      joined += part;
    }
    expect(joined === text).toBe(true);
    expect(Math.max(...lengths)).toBeLessThan(66 << 20);
    expect(lengths.length).toBeGreaterThan(1);
  }
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

test("the kernels learn what TypeScript learns, of lines, long words, marks and white space of every kind", async () => {
  const hard = [
    "\u0928\u092e\u0938\u094d\u0924\u0947 caf\u00e9 e\u0301 \u00c5ngstr\u00f6m\nthe \u0915\u093f\u0924\u093e\u092c the",
    ` two  spaces\n\n leading \u2581mark\ttab\u3000wide ${"long".repeat(3000)} end `,
    new Uint8Array(Buffer.from("bytes as they come \ud83e\udd99 \u6c49\u5b57\u6c49\u5b57")),
    Uint8Array.of(0x62, 0xff, 0x20, 0x62, 0xff),
  ];
  const texts = [shakespeare, chinese, ...hard, ...hard];
  for (const kind of TRAINABLE) {
    const options = { kind, vocabulary: 1100, minFrequency: 2 };
    const native = tokensOf(await trainTokenizer(texts, options));
    vi.stubEnv("HOWDAH_TOKENIZER", "typescript");
    const expected = tokensOf(await trainTokenizer(texts, options));
    vi.unstubAllEnvs();
    // Scores that are equal but for rounding may change places.
    if (kind === "unigram") expect([...native].sort()).toEqual([...expected].sort());
    else expect(native).toEqual(expected);
  }
});

describe("more words than fit into memory", () => {
  const next = mulberry32(3);
  const syllables = [
    ..."\u5929\u5730\u7384\u9ec4\u5b87\u5b99\u6d2a\u8352\u65e5\u6708\u76c8\u6603\u8fb0\u5bbf\u5217\u5f20\u5bd2\u6765\u6691\u5f80",
  ];
  // Rare lines of syllables that follow one another by habit, and frequent words.
  const rare = Array.from({ length: 60_000 }, () => {
    let at = Math.floor(next() * 20);
    return Array.from({ length: 8 + Math.floor(next() * 8) }, () => {
      at = next() < 0.7 ? (at * 7 + 3) % 20 : Math.floor(next() * 20);
      return syllables[at]!;
    }).join("");
  });
  const texts = Array.from({ length: 60 }, (_, i) =>
    [...rare.slice(i * 1000, i * 1000 + 1000), ...lines.slice(i * 20, i * 20 + 200)].join("\n"),
  );
  const truth = new Map<string, number>();
  for (const text of texts)
    for (const line of text.split("\n"))
      if (line !== "") for (const word of line.split(" ")) truth.set(word, (truth.get(word) ?? 0) + 1);
  const characters = [...truth].reduce((sum, [word, count]) => sum + count * ([...word].length + 1), 0);
  const train = async (kind: TokenizerKind, memory: number, threads: number) => {
    let words: CountedWords | undefined;
    const tokenizer = await trainTokenizer(texts, {
      kind,
      vocabulary: 1000,
      minFrequency: 2,
      memory,
      threads,
      coverage: 1,
      onCounted: (counted) => {
        words = counted;
      },
    });
    return { tokenizer, words: words! };
  };

  test.each(["sentencepiece", "unigram"] as const)(
    "%s: words are counted on disk, and a sample stands for all",
    async (kind) => {
      const small = await train(kind, 4 << 20, 2);
      // An empty line is a space to Unigram's normalizer, and so a word.
      const distinct = truth.size + (kind === "unigram" ? 1 : 0);
      expect(small.words.distinct).toBe(distinct);
      expect(small.words.kept).toBeLessThan(0.5 * truth.size);
      expect(small.words.kept).toBeGreaterThan(5000);
      expect(small.words.spilled).toBeGreaterThan(1e6);
      // Right on average: what is counted is about as much as there is, of each character.
      const counted = small.words.counts.reduce((sum, count) => sum + count, 0);
      expect(counted / characters).toBeCloseTo(1, 1);
      const all = await train(kind, 1 << 30, 2);
      expect(all.words).toMatchObject({ distinct, kept: distinct, spilled: 0 });
      for (const [i, point] of all.words.points.entries()) {
        if (all.words.counts[i]! < 5000) continue;
        const here = small.words.counts[small.words.points.indexOf(point)]!;
        expect(Math.abs(here / all.words.counts[i]! - 1)).toBeLessThan(0.06);
      }
      // And the vocabulary is about as good.
      const tokens = async (tokenizer: Tokenizer): Promise<number> =>
        (await encodeMany(tokenizer, texts)).reduce((sum, ids) => sum + ids.length, 0);
      expect(await tokens(small.tokenizer)).toBeLessThan(1.02 * (await tokens(all.tokenizer)));
      // Whatever the number of threads.
      expect(tokensOf((await train(kind, 4 << 20, 1)).tokenizer)).toEqual(tokensOf(small.tokenizer));
      expect(tokensOf((await train(kind, 1 << 30, 1)).tokenizer)).toEqual(tokensOf(all.tokenizer));
    },
  );

  test("a folder that is not there, and TypeScript alone, are told by name", async () => {
    const options = { kind: "bpe", vocabulary: 1000, memory: 1 << 20 } as const;
    await expect(trainTokenizer(texts, { ...options, folder: "/nowhere/at/all" })).rejects.toThrow("/nowhere/at/all");
    await expect(trainTokenizer(texts, { ...options, memory: 5 })).rejects.toThrow("memory: 5 bytes");
    vi.stubEnv("HOWDAH_TOKENIZER", "typescript");
    await expect(trainTokenizer(texts, options)).rejects.toThrow("more than 1 MB");
  });
});

test("training ends soon after it is told to", async () => {
  const next = mulberry32(5);
  const text = Array.from({ length: 100_000 }, () =>
    Array.from({ length: 12 }, () => String.fromCharCode(0x4e00 + Math.floor(next() ** 3 * 2000))).join(""),
  ).join("\n");
  for (const kind of ["sentencepiece", "unigram"] as const) {
    const stop = new AbortController();
    const reason = new Error("enough");
    const work = trainTokenizer([text], {
      kind,
      vocabulary: 8000,
      signal: stop.signal,
      onCounted: () => setTimeout(() => stop.abort(reason), 20),
    });
    await expect(work).rejects.toBe(reason);
  }
});
