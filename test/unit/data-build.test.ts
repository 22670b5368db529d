import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildCorpus, parseDataRecipe, placeDocuments, planMixture } from "../../src/data/build/index.ts";
import { lda, textRank, tfIdf } from "../../src/data/build/understand.ts";
import { hashBits } from "../../src/data/random.ts";
import { EpochWindows, permuted, Shards } from "../../src/data/shards.ts";
import { tokensOf } from "../../src/data/token-file.ts";
import { chooseBackend, useBackend } from "../../src/engine/index.ts";

let root: string;
beforeAll(async () => {
  useBackend(chooseBackend("auto", () => {}));
  root = await mkdtemp(join(tmpdir(), "howdah-build-"));
});
afterAll(() => rm(root, { recursive: true }));

const nouns =
  "river garden winter engine teacher letter window market harbour mountain village doctor song paper bridge".split(
    " ",
  );
const verbs = "watched remembered carried described followed painted opened crossed repaired studied".split(" ");
/** A plain English text that no filter minds, different for every seed. */
const story = (seed: number, sentences: number) =>
  Array.from({ length: sentences }, (_, i) => {
    const pick = (list: readonly string[], k: number) => list[hashBits(seed, i, k) % list.length]!;
    return `The ${pick(nouns, 1)} of the ${pick(nouns, 2)} and that ${pick(nouns, 3)} have been ${pick(verbs, 4)} by a ${pick(nouns, 5)} with ${hashBits(seed, i) % 90} friends.`;
  }).join(" ");

function makeSources(folder: string): void {
  for (const d of ["a", "b", "eval"]) mkdirSync(join(folder, d), { recursive: true });
  const rows = Array.from({ length: 40 }, (_, i) => ({ text: story(i, 12), id: i }));
  rows.push({ text: rows[3]!.text, id: 100 });
  rows.push({ text: `${rows[5]!.text} Again.`, id: 101 });
  rows.push({ text: `${rows[7]!.text.replace(/ \w+\./, " strangers.")}`, id: 102 });
  rows.push({ text: "buy now", id: 103 });
  rows.push({
    text: `${story(500, 6)} The quick brown fox jumps over the lazy dog while fourteen zebras watch quietly. ${story(501, 6)}`,
    id: 104,
  });
  writeFileSync(join(folder, "a", "rows.jsonl"), `${rows.map((r) => JSON.stringify(r)).join("\n")}\nnot json\n`);
  for (let i = 0; i < 10; i++)
    writeFileSync(
      join(folder, "b", `${i}.md`),
      `# Title ${i}\n\n${story(1000 + i, 10)}\n\nWrite to user${i}@mail.example.org.`,
    );
  writeFileSync(
    join(folder, "eval", "test.jsonl"),
    JSON.stringify({
      question: "The quick brown fox jumps over the lazy dog while fourteen zebras",
      answer: "watch quietly",
    }),
  );
}

const recipeText = (folder: string, more = "") => `
name: corpus
out: ${folder}/out
sources:
  - { name: rows, paths: ${folder}/a, licence: CC0-1.0 }
  - { name: notes, paths: ${folder}/b }
clean: [repair, { language: { languages: [en] } }, { gopher_quality: { min_words: 20 } }, pii]
decontaminate: { evaluations: [{ name: foxes, paths: ${folder}/eval, fields: [question, answer] }] }
tokenizer: { vocabulary: 400 }
shards: { tokens: 4000 }
mix: { holdout: 10%${more} }
`;

const files = (folder: string) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((e) => e.isFile())
    .map((e) => join(e.parentPath, e.name))
    .filter((p) => !p.endsWith("build.lock"))
    .sort();

describe("a corpus", () => {
  test("is read, cleaned, deduplicated, encoded and cut into shards, with every reason in the report; what is done is not done again", async () => {
    const folder = join(root, "whole");
    makeSources(folder);
    const recipe = parseDataRecipe("r.yaml", recipeText(folder));
    const { report, reused } = await buildCorpus(recipe, { workers: 0 });
    expect(reused).toEqual([]);
    expect(report.read.documents).toBe(55);
    const dropped = Object.fromEntries(report.dropped.map((d) => [d.rule, d.documents]));
    expect(dropped["decontaminate/foxes"]).toBe(1);
    // "buy now", by whichever filter comes first.
    expect(Object.values(dropped).reduce((a, b) => a + b, 0)).toBe(2);
    expect(report.leaks).toEqual({ foxes: 1 });
    expect(report.taken["pii/email"]).toBe(10);
    expect(report.duplicates.exact).toBe(1);
    expect(report.duplicates.near).toBe(2);
    expect(report.final.documents).toBe(50);
    expect(report.problems).toMatchObject({ count: 1, byCode: { malformed: 1 } });
    expect(report.problems.first[0]!.path).toMatch(/rows\.jsonl:46/);
    expect(report.sources.map((s) => s.realised)).toEqual(report.sources.map((s) => s.asked));
    expect(report.shards.length).toBeGreaterThan(1);
    const markdown = readFileSync(join(folder, "out", "report.md"), "utf8");
    expect(markdown).toContain("decontaminate/foxes");
    expect(markdown).not.toMatch(/undefined|NaN/);

    // The shards hold what the report says, and the text comes back out of them.
    using shards = new Shards(join(folder, "out", "shards"));
    expect(shards.length).toBe(report.sources.reduce((n, s) => n + s.asked, 0));
    expect(
      shards.files.every((f) => f.index.sources?.some((s) => s.source === "rows" && s.licence === "CC0-1.0")),
    ).toBe(true);
    const { loadTokenizer } = await import("../../src/tokenizers/index.ts");
    const tokenizer = await loadTokenizer(join(folder, "out", "tokenizer"));
    const whole = tokenizer.decode([...shards.read(0, shards.length)], { skipSpecialTokens: true });
    expect(whole).toContain("<email>");
    expect(whole).not.toContain("zebras");

    const again = await buildCorpus(recipe, { workers: 0 });
    expect(again.reused).toEqual(["read", "dedup", "tokenizer", "tokens", "shards", "index"]);
    // Another mixture: nothing is read again.
    const other = await buildCorpus(parseDataRecipe("r.yaml", recipeText(folder, ", tokens: 3000")), { workers: 0 });
    expect(other.reused).toEqual(["read", "dedup", "tokenizer", "tokens", "index"]);
    expect(other.report.sources.reduce((n, s) => n + s.realised, 0)).toBe(3000);
    // One file more: only that file is read.
    writeFileSync(join(folder, "b", "new.md"), story(77, 15));
    const lines: string[] = [];
    await buildCorpus(recipe, { workers: 0, say: (l) => lines.push(l) });
    expect(lines.join()).toContain("11 of 12 inputs were read before");
  });

  test("stopped anywhere and started again ends with the same bits", async () => {
    const make = async (name: string, stopAt: readonly number[]) => {
      const folder = join(root, "same");
      await rm(join(folder, "out"), { recursive: true, force: true });
      if (!readdirSync(root).includes("same")) makeSources(folder);
      const recipe = parseDataRecipe("r.yaml", recipeText(folder));
      for (const at of stopAt) {
        const controller = new AbortController();
        let calls = 0;
        const stopped = buildCorpus(recipe, {
          workers: 0,
          signal: controller.signal,
          onProgress: () => {
            if (++calls === at) controller.abort(new Error("stop"));
          },
        });
        await stopped.catch((error: Error) => expect(error.message).toMatch(/stop/));
      }
      await buildCorpus(recipe, { workers: 0 });
      const out = join(folder, "out");
      const bits = files(out).filter((f) => !/report\.json$|report\.md$|units\/.*\.json$/.test(f));
      return { name, content: bits.map((f) => [f, readFileSync(f).toString("base64")]) };
    };
    const straight = await make("straight", []);
    for (const stops of [[1], [1, 1, 1], [2, 3]])
      expect((await make("stopped", stops)).content).toEqual(straight.content);
  });

  test("where nothing is left, the error says what took it", async () => {
    const folder = join(root, "nothing");
    makeSources(folder);
    const text = recipeText(folder).replace("min_words: 20", "min_words: 99999");
    await expect(buildCorpus(parseDataRecipe("r.yaml", text), { workers: 0 })).rejects.toThrow(
      /gopher_quality\/short \d+/,
    );
    mkdirSync(join(folder, "empty"));
    const empty = recipeText(folder).replace(`${folder}/b`, `${folder}/empty`);
    await expect(buildCorpus(parseDataRecipe("r.yaml", empty), { workers: 0 })).rejects.toThrow(
      /"notes" has nothing to read/,
    );
    writeFileSync(join(folder, "empty", "x.pdf"), "not a pdf");
    const broken = recipeText(folder)
      .replace(/ {2}- \{ name: rows.*\n/, "")
      .replace(`${folder}/b`, `${folder}/empty`);
    await expect(buildCorpus(parseDataRecipe("r.yaml", broken), { workers: 0 })).rejects.toThrow(
      /No document could be read from 1 inputs.*x\.pdf/s,
    );
  });
});

describe("recipes", () => {
  test.each([
    ["sources: []\nname: x", /r\.yaml:1:1: "sources" is \[\]/],
    [
      "name: x\nsources: [{ name: a, paths: p }]\ncleen: []",
      /r\.yaml:3:1: "cleen" is not a known key. Did you mean "clean"\?/,
    ],
    [
      "name: x\nsources: [{ name: a, paths: p }]\nclean: [goffer_quality]",
      /"clean\.0\.goffer_quality" is not a known filter. Did you mean "gopher_quality"\?/,
    ],
    [
      "name: x\nsources: [{ name: a, paths: p }]\nclean:\n  - c4: { min_sentences: -1 }",
      /r\.yaml:4:11: "clean\.0\.c4\.min_sentences" is -1/,
    ],
    ["name: x\nsources: [{ name: a, paths: p, weight: 1 }, { name: b, paths: q }]", /"b" has no weight/],
    ["name: x\nsources: [{ name: a, paths: p }, { name: a, paths: q }]", /two sources are named "a"/],
    ["name: x\nsources: [{ name: a, paths: p, weight: 1, epochs: 2 }]", /a weight and epochs/],
    ["name: x\nsources: [{ name: a, paths: p }]\ndedup: { near: { threshold: 2 } }", /dedup/],
  ])("%s", (text, message) => {
    expect(() => parseDataRecipe("r.yaml", text)).toThrow(message);
  });
  test("the bundled ones are valid, and say so again when resolved", async () => {
    const { writeDataRecipe } = await import("../../src/data/build/index.ts");
    for (const name of ["web", "bilingual", "folder"]) {
      const file = join("recipes", "data", `${name}.yaml`);
      const recipe = parseDataRecipe(file, readFileSync(file, "utf8"));
      expect(recipe.sources.length).toBeGreaterThan(0);
      const again = parseDataRecipe(file, writeDataRecipe(recipe));
      expect({ ...again, sources: 0 }).toEqual({ ...recipe, sources: 0 });
    }
  });
});

describe("mixtures", () => {
  const mix = { temperature: 1, max_epochs: 4, holdout: 0.01 };
  test("GPT-3's table: shares are those asked, whatever the sizes, and epochs follow", () => {
    // Brown et al. 2020, table 2.2: tokens in billions (here thousands), weights, epochs for 300 billion.
    const table = [
      ["crawl", 410, 0.6, 0.44],
      ["webtext", 19, 0.22, 2.9],
      ["books1", 12, 0.08, 1.9],
      ["books2", 55, 0.08, 0.43],
      ["wikipedia", 3, 0.03, 3.4],
    ] as const;
    const shares = planMixture(
      table.map(([name, size, weight]) => ({ name, tokens: size * 1000, weight })),
      { ...mix, tokens: 300_000 },
    );
    shares.forEach((s, i) => {
      expect(s.share).toBeCloseTo(table[i]![2] / 1.01, 4);
      expect(Math.abs(s.epochs - table[i]![3]) / table[i]![3]).toBeLessThan(0.25);
    });
    expect(shares.reduce((n, s) => n + s.asked, 0)).toBe(300_000);
  });
  test("temperature flattens, epochs count, and too many epochs are refused", () => {
    const sizes = [
      { name: "large", tokens: 10_000 },
      { name: "small", tokens: 100 },
    ];
    const [a, b] = planMixture(sizes, { ...mix, temperature: 2, max_epochs: 100 });
    expect(a!.asked / b!.asked).toBeCloseTo(10, 1);
    expect(
      planMixture(
        [
          { ...sizes[0]!, epochs: 1 },
          { ...sizes[1]!, epochs: 3 },
        ],
        mix,
      ).map((s) => s.asked),
    ).toEqual([10_000, 300]);
    expect(() =>
      planMixture(
        [
          { ...sizes[0]!, weight: 1 },
          { ...sizes[1]!, weight: 1 },
        ],
        { ...mix, tokens: 20_000 },
      ),
    ).toThrow(/"small" has 100 tokens and would be read 100\.0 times/);
  });
  test("every document of a whole epoch is placed once, in an order that the seed decides", () => {
    const lengths = [Uint32Array.from({ length: 50 }, (_, i) => i + 1), Uint32Array.from({ length: 20 }, () => 10)];
    const shares = planMixture(
      [
        { name: "a", tokens: 1275, epochs: 1 },
        { name: "b", tokens: 200, epochs: 2 },
      ],
      mix,
    );
    const placed = placeDocuments(lengths, shares, 3);
    const times = (s: number) => {
      const counts = new Map<number, number>();
      placed.source.forEach((source, k) => {
        if (source === s) counts.set(placed.document[k]!, (counts.get(placed.document[k]!) ?? 0) + 1);
      });
      return [...counts.values()];
    };
    expect(times(0)).toEqual(Array(50).fill(1));
    expect(times(1)).toEqual(Array(20).fill(2));
    expect(placeDocuments(lengths, shares, 3)).toEqual(placed);
    expect(placeDocuments(lengths, shares, 4)).not.toEqual(placed);
  });
});

describe("epochs over shards", () => {
  const source = tokensOf([Array.from({ length: 700 }, (_, i) => i), Array.from({ length: 301 }, (_, i) => 2000 + i)]);
  test("a computed permutation is one", () => {
    for (const n of [1, 2, 3, 16, 17, 100, 1000])
      expect(new Set(Array.from({ length: n }, (_, i) => permuted(i, n, 5))).size).toBe(n);
  });
  test("several readers see disjoint windows, together all of them, another order each epoch", () => {
    const readers = [0, 1, 2].map(
      (reader) => new EpochWindows(source, { rows: 4, length: 10, seed: 1, reader, readers: 3 }),
    );
    const perEpoch = readers[0]!.batchesPerEpoch;
    const epoch = (e: number) =>
      readers.flatMap((r) => Array.from({ length: perEpoch }, (_, k) => r.places(e * perEpoch + k)).flat());
    for (const e of [0, 1]) expect(new Set(epoch(e)).size).toBe(perEpoch * 12);
    expect(perEpoch * 12).toBeGreaterThan(readers[0]!.windows - 12);
    expect(epoch(0)).not.toEqual(epoch(1));
  });
  test("a reader that goes on from a cursor gives the same bits", () => {
    const options = { rows: 3, length: 16, seed: 9 };
    const straight = new EpochWindows(source, options);
    const batches = Array.from({ length: 50 }, () => straight.next());
    const first = new EpochWindows(source, options);
    for (let i = 0; i < 23; i++) first.next();
    const second = new EpochWindows(source, options, first.cursor);
    for (let i = 23; i < 50; i++) expect(second.next()).toEqual(batches[i]);
  });
  test("too little text, a wrong reader and another seed are refused", () => {
    expect(() => new EpochWindows(source, { rows: 200, length: 10, seed: 1 })).toThrow(
      /100 windows of 10, fewer than the 200/,
    );
    expect(() => new EpochWindows(source, { rows: 1, length: 10, seed: 1, reader: 2, readers: 2 })).toThrow(
      /reader 2 of 2/,
    );
    expect(() => new EpochWindows(source, { rows: 1, length: 10, seed: 1 }, { seed: 2, step: 1 })).toThrow(
      /seed 2, not 1/,
    );
    expect(() => new Shards(root)).toThrow(/no token shards/);
  });
});

describe("what a corpus is about", () => {
  const boats = (i: number) => `boat sail harbour wind boat ${nouns[i % 3]}`.split(" ");
  const bread = (i: number) => `bread oven flour yeast bread ${nouns[3 + (i % 3)]}`.split(" ");
  const documents = Array.from({ length: 40 }, (_, i) => (i % 2 ? boats(i) : bread(i)));
  test("keywords are the words that matter", () => {
    for (const rank of [tfIdf, textRank]) {
      const top = rank(documents, 8).map((r) => r.word);
      expect(top).toEqual(expect.arrayContaining(["boat", "bread"]));
    }
  });
  test("topics tell boats from bread, and the same seed gives the same topics", () => {
    const topics = lda(documents, 2, 1);
    const sets = topics.map((t) => new Set(t.words.slice(0, 4)));
    expect(sets.some((s) => s.has("boat") && s.has("sail") && !s.has("bread"))).toBe(true);
    expect(sets.some((s) => s.has("bread") && s.has("oven") && !s.has("boat"))).toBe(true);
    expect(lda(documents, 2, 1)).toEqual(topics);
  });
});
