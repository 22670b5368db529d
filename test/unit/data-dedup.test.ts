import { readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  agreement,
  chooseBanding,
  comparable,
  cutLeaks,
  ExactDuplicates,
  jaccard,
  KeyIndex,
  LeakFinder,
  MinHasher,
  meeting,
  NearDuplicates,
  PassageDuplicates,
  repeatedSubstrings,
  type Span,
  SubstringDuplicates,
  shingles,
  suffixArray,
  UnionFind,
} from "../../src/data/dedup/index.ts";
import { hashBits, uniform } from "../../src/data/random.ts";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-dedup-"));
});
afterAll(() => rm(folder, { recursive: true }));

const words = Array.from({ length: 3000 }, (_, i) => `w${hashBits(i, 99).toString(36)}`);
const text = (seed: number, length: number) =>
  Array.from({ length }, (_, i) => words[hashBits(seed, i) % words.length]!).join(" ");
/** The text with some of its words, each with this probability, made others. */
const changed = (original: string, seed: number, share: number) =>
  original
    .split(" ")
    .map((w, i) => (uniform(seed, i) < share ? words[hashBits(seed, i, 7) % words.length]! : w))
    .join(" ");

describe("key index", () => {
  test("finds the same duplicates in memory and on disk, and leaves nothing behind", () => {
    const pairs = (memory: number) => {
      using index = new KeyIndex({ memory, folder });
      for (let i = 0; i < 50_000; i++) index.add(hashBits(i % 20_000, 1), hashBits(i % 20_000, 2), i);
      const out: [number, number][] = [];
      index.duplicates((first, again) => out.push([again, first]));
      return { pairs: out.sort((a, b) => a[0] - b[0]), spilled: index.spilledBytes };
    };
    const inMemory = pairs(2 ** 28);
    const onDisk = pairs(2 ** 16);
    // So little that parts are cut into parts.
    expect(pairs(2 ** 12).pairs).toEqual(inMemory.pairs);
    expect(inMemory.spilled).toBe(0);
    expect(onDisk.spilled).toBeGreaterThan(2 ** 18);
    expect(onDisk.pairs).toEqual(inMemory.pairs);
    expect(inMemory.pairs).toEqual(Array.from({ length: 30_000 }, (_, i) => [20_000 + i, (20_000 + i) % 20_000]));
    expect(readdirSync(folder)).toEqual([]);
  });
});

test("union-find: the smallest member represents its set", () => {
  const sets = new UnionFind(1);
  for (let i = 0; i < 10; i++) sets.add();
  sets.union(7, 3);
  sets.union(3, 9);
  sets.union(5, 4);
  expect([...sets.clusters()]).toEqual([
    [3, [3, 7, 9]],
    [4, [4, 5]],
  ]);
});

describe("exact duplicates", () => {
  test("the first of equal documents stays", () => {
    const finder = new ExactDuplicates({ key: comparable });
    for (const t of ["Hello, world!", "other", "hello world", "HELLO  WORLD", "你好，世界", "你好世界。", ""])
      finder.see(t);
    expect([...finder.finish()].sort()).toEqual([
      [2, 0],
      [3, 0],
    ]);
  });
  test("lines that stood in the corpus before go, short ones stay", () => {
    const docs = [
      "A line that is long enough.\nok\nAnother line that is long.",
      "ok\nA line that is long enough!\nA third line, only here.",
    ];
    const lines = new PassageDuplicates({ of: "lines", least: 10 });
    for (const d of docs) lines.see(d);
    expect(lines.finish()).toBe(1);
    expect(docs.map((d) => lines.take(d))).toEqual([
      { text: docs[0], taken: 0 },
      { text: "ok\nA third line, only here.", taken: 1 },
    ]);
  });
});

describe("MinHash", () => {
  test("signatures agree as often as the Jaccard similarity says", () => {
    const hasher = new MinHasher(2048);
    for (const share of [0.01, 0.03, 0.1]) {
      const a = text(1, 800);
      const b = changed(a, 5, share);
      const exact = jaccard(shingles(a, 5), shingles(b, 5));
      const estimate = agreement(hasher.signature(shingles(a, 5)), hasher.signature(shingles(b, 5)));
      // Four deviations of the estimate.
      expect(Math.abs(estimate - exact)).toBeLessThan(4 * Math.sqrt((exact * (1 - exact)) / 2048));
    }
  });
  test("bands are chosen so that the curve steps at the threshold", () => {
    for (const threshold of [0.5, 0.7, 0.8, 0.9]) {
      const banding = chooseBanding(threshold, 128);
      expect(banding.bands * banding.rows).toBeLessThanOrEqual(128);
      expect(meeting(banding, threshold - 0.25)).toBeLessThan(0.25);
      expect(meeting(banding, Math.min(threshold + 0.15, 1))).toBeGreaterThan(0.85);
    }
    expect(() => chooseBanding(1.5, 128)).toThrow(/threshold is 1\.5/);
  });
  test("recall and precision against exact Jaccard similarity", () => {
    const originals = Array.from({ length: 150 }, (_, i) => text(i + 10, 120 + (hashBits(i) % 200)));
    const docs = originals.flatMap((t, i) => [t, changed(t, 1000 + i, (i % 15) / 100)]);
    const sets = docs.map((d) => shingles(d, 5));
    const near = new NearDuplicates({ threshold: 0.7, folder });
    for (const d of docs) near.see(d);
    const { drop, report } = near.finish();
    let [found, missed, wrong] = [0, 0, 0];
    for (let i = 0; i < docs.length; i += 2) {
      const is = jaccard(sets[i]!, sets[i + 1]!) >= 0.7;
      const said = drop.get(i + 1) === i;
      if (is && said) found++;
      else if (is) missed++;
      else if (said) wrong++;
    }
    expect(found + missed).toBeGreaterThan(40);
    expect(found / (found + missed)).toBeGreaterThan(0.9);
    expect(found / (found + wrong)).toBeGreaterThan(0.85);
    // Texts of different origin are never put together.
    for (const [again, first] of drop) expect(again >> 1).toBe(first >> 1);
    expect(report.documents).toBe(docs.length);
    expect(readdirSync(folder)).toEqual([]);
  });
  test("the same clusters with little memory as with much", () => {
    const docs = Array.from({ length: 400 }, (_, i) => changed(text(i % 130, 80), i, 0.01));
    const clusters = (memory: number) => {
      const near = new NearDuplicates({ memory, folder });
      for (const d of docs) near.see(d);
      return [...near.finish().clusters];
    };
    expect(clusters(2 ** 14)).toEqual(clusters(2 ** 28));
  });
  test("texts without words are like no other, and Chinese is compared by characters", () => {
    const near = new NearDuplicates({ ngram: 3, folder });
    for (const d of ["", "...", "。", "今天天气很好，我们一起去公园散步吧。", "今天天气很好，我们一起去公园散步吧！"])
      near.see(d);
    expect([...near.finish().drop]).toEqual([[4, 3]]);
  });
});

describe("suffix array", () => {
  const naive = (t: Uint8Array) =>
    Array.from(t, (_, i) => i).sort((a, b) => Buffer.compare(t.subarray(a), t.subarray(b)));
  test("is the sorted list of suffixes", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 60 }), (list) => {
        const t = Uint8Array.from(list);
        expect([...suffixArray(t)]).toEqual(naive(t));
      }),
      { numRuns: 500 },
    );
    for (const s of ["mississippi", "aaaaaaaa", "abababab", "", "z"]) {
      const t = new Uint8Array(Buffer.from(s));
      expect([...suffixArray(t)]).toEqual(naive(t));
    }
  });
  test("repeated passages are found wherever they stand, but for the first time", () => {
    const passage = "this passage stands in several documents, word for word, 也有中文。";
    const docs = [`start ${passage} end`, `other ${passage} more`, "nothing of it", `${passage}${passage}`];
    const found = repeatedSubstrings(docs, 40);
    expect(found[0]).toEqual([]);
    expect(found[2]).toEqual([]);
    for (const i of [1, 3]) {
      const without = found[i]!.reduceRight((t, { start, end }) => t.slice(0, start) + t.slice(end), docs[i]!);
      expect(without.length).toBeLessThanOrEqual(i === 1 ? "other  more".length : 1);
    }
  });
  test("no match goes across the border of documents", () => {
    expect(repeatedSubstrings(["abcdefghij", "klmnopqrst", "abcdefghij", "klmnopqrst"], 12)).toEqual([[], [], [], []]);
  });
});

describe("substrings in bounded memory", () => {
  const bounded = (texts: readonly string[], least: number, memory: number): Span[][] => {
    using finder = new SubstringDuplicates({ least, memory, folder });
    for (const t of texts) finder.see(t);
    finder.found();
    for (const t of texts) finder.look(t);
    finder.finish();
    return texts.map((t) => finder.take(t));
  };
  test("are those of the suffix array: texts of few characters, long runs, repeats within a text and across texts", () => {
    const some = fc.constantFrom(
      "a",
      "b",
      "aaaaaaaaaaaaaaaa",
      "abcabcabcabcabc",
      "ab",
      "中文",
      "é",
      "😀",
      "\ud800",
      " ",
    );
    const texts = fc.array(fc.array(some, { maxLength: 30 }), { maxLength: 6 });
    fc.assert(
      fc.property(texts, fc.constantFrom(3, 4, 9, 20, 50), (list, least) => {
        const all = list.map((t) => t.join(""));
        expect(bounded(all, least, 2 ** 20)).toEqual(repeatedSubstrings(all, least));
      }),
      { numRuns: 400 },
    );
  });
  test("whatever of it fits memory", () => {
    const texts = Array.from({ length: 300 }, (_, i) =>
      // A third of each stands in other texts too, at other places.
      [text(i, 60), text(hashBits(i, 5) % 90, 40), text(i + 5000, 20)].join(i % 7 === 0 ? "" : " "),
    );
    const all = repeatedSubstrings(texts, 50);
    expect(all.filter((s) => s.length > 0).length).toBeGreaterThan(150);
    for (const memory of [2 ** 28, 2 ** 17, 2 ** 13]) expect(bounded(texts, 50, memory)).toEqual(all);
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("leaks of evaluation sets", () => {
  const question =
    "Natalia sold clips to forty eight of her friends in April and then she sold half as many clips in May";
  const finder = new LeakFinder();
  finder.add("gsm8k", [
    "Something else entirely that nobody will ever find in any text of this corpus at all",
    question,
  ]);
  finder.add("short", ["What is two plus two", "Which of the seven hills of Rome is highest"]);
  test("an item is found in other case and signs, with its place", () => {
    const t = `Before. NATALIA sold clips, to forty-eight of her friends in April; and then she sold half as many clips in May. After.`;
    expect(finder.find(t)).toEqual([{ evaluation: "gsm8k", item: 1, start: 8, end: t.indexOf(". After") }]);
  });
  test("short items count as a whole, if they are not too short", () => {
    expect(finder.find("He asked which of the seven hills of Rome is highest, twice.").map((l) => l.item)).toEqual([1]);
    expect(finder.find("what is two plus two")).toEqual([]);
    expect(finder.evaluations[1]).toEqual({ name: "short", items: 2, short: 1 });
  });
  test("texts without overlap have none, and Chinese is found by characters", () => {
    expect(finder.find(text(3, 400))).toEqual([]);
    const chinese = new LeakFinder();
    chinese.add("cmrc", ["《战国无双3》是由光荣和ω-force开发的战国无双系列的正统第三续作。"]);
    expect(chinese.find("有人说：战国无双3是由光荣和ω-Force开发的战国无双系列的正统第三续作！")).toHaveLength(1);
  });
  test("cutting leaves the text around them", () => {
    const t = `${"a ".repeat(300)}${question}${" b".repeat(300)}`;
    const pieces = cutLeaks(t, finder.find(t));
    expect(pieces).toHaveLength(2);
    expect(pieces.every((p) => p.length >= 200 && !p.includes("Natalia"))).toBe(true);
  });
});
