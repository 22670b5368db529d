import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { candidates, foldTable, gramsOf, indexFile, indexPath } from "../../src/data/build/grams.ts";
import { hashBits, uniform } from "../../src/data/random.ts";
import type { DocumentsPage } from "../../src/serve/data-api.ts";
import { corpusFiles, type DocumentQuery, findDocuments } from "../../src/serve/studio/documents.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-index-"));
afterAll(() => rmSync(root, { recursive: true }));

test("whatever a search takes for the same letter is the same to the index", () => {
  const fold = foldTable();
  const other: string[] = [];
  for (let unit = 0; unit < 65536; unit++) {
    if (unit >= 0xd800 && unit < 0xe000) continue;
    const c = String.fromCharCode(unit);
    const same = new RegExp(`^\\u{${unit.toString(16)}}$`, "iu");
    for (const v of [c.toUpperCase(), c.toLowerCase(), c.toUpperCase().toLowerCase(), c.toLowerCase().toUpperCase()])
      if (v.length === 1 && same.test(v) && fold[v.charCodeAt(0)] !== fold[unit]) other.push(`${c}${v}`);
  }
  expect(other).toEqual([]);
  for (const [a, b] of ["sſ", "kK", "åÅ", "σς", "ßẞ", "µμ", "Ωω"]) expect(gramsOf(`x${a}y`)).toEqual(gramsOf(`X${b}Y`));
});

const syllables = "ra ven to mi kel sa dor lin qua be zu fi no ter".split(" ");
const han = "清晨港口下雪山谷旧城墙边河对岸火车站台里图书馆半茶园拥挤市场老渔夫小学生邮递员船长";
const word = (n: number) =>
  Array.from({ length: 2 + (hashBits(n, 9) % 3) }, (_, k) => syllables[hashBits(n, k) % syllables.length]!).join("");
/** Some 700 words or Chinese characters; names and a number of its own. */
const text = (i: number) =>
  i % 5 === 4
    ? Array.from({ length: 700 }, (_, k) => han[hashBits(i, k) % han.length]!).join("")
    : `${Array.from({ length: 700 }, (_, k) => word(hashBits(i, k) % 5000)).join(" ")} Number${i * 7919}. 😀${i % 7}`;

describe("a corpus with an index", () => {
  const corpus = join(root, "corpus");
  const documents = Array.from({ length: 900 }, (_, i) => ({
    id: `made/${i}.txt`,
    text: text(i),
    source: "made",
    lang: i % 5 === 4 ? "zh" : "en",
    meta: { path: "x", title: `Title ${word(i)} ${i}`, url: `https://example.org/${i}` },
  }));
  mkdirSync(join(corpus, "documents"), { recursive: true });
  for (let f = 0; f < 2; f++)
    writeFileSync(
      join(corpus, "documents", `00000${f}.jsonl`),
      documents
        .slice(f * 450, f * 450 + 450)
        .map((d) => `${JSON.stringify(d)}\n`)
        .join(""),
    );
  const limits = { bytes: 2 ** 20, milliseconds: 1e9, lineBytes: 2 ** 20 };
  const search = async (query: Partial<DocumentQuery>): Promise<{ ids: string[]; requests: number }> => {
    const files = await corpusFiles(corpus, new Map());
    const ids: string[] = [];
    let requests = 0;
    for (let at: string | undefined; ; ) {
      const asked = { q: "", limit: 1000, ...query, at };
      const page: DocumentsPage = await findDocuments(
        corpus,
        files,
        new Map(),
        asked,
        limits,
        new AbortController().signal,
      );
      ids.push(...page.documents.map((d) => d.id));
      requests++;
      at = page.next;
      if (at === undefined) return { ids, requests };
    }
  };
  const queries: Partial<DocumentQuery>[] = [
    { q: "Number7919." },
    { q: "number 7919" },
    { q: "nUMBER791" },
    { q: "not in any document" },
    { q: "made/17.txt" },
    { id: "made/500.txt" },
    { id: "made/nowhere.txt" },
    { q: "example.org/88" },
    { q: "a" },
    { q: "😀3" },
    { q: "雪" },
    { q: "雪山" },
    { q: "", language: "zh" },
    // Pieces of documents, in another case, with other white space.
    ...Array.from({ length: 40 }, (_, k) => {
      const of = documents[hashBits(k, 1) % documents.length]!.text;
      const from = Math.floor(uniform(k, 2) * (of.length - 40));
      const piece = of.slice(from, from + 2 + (hashBits(k, 3) % 25));
      return { q: (k % 2 ? piece.toUpperCase() : piece).replaceAll(" ", k % 3 ? " " : "\n ") };
    }),
  ];

  test("finds what a search without it finds, and looks at less", async () => {
    const without: Awaited<ReturnType<typeof search>>[] = [];
    for (const query of queries) without.push(await search(query));
    expect(without[0]!.ids).toEqual(["made/1.txt"]);
    expect(without[9]!.ids.length).toBeGreaterThan(50);
    let ticked = 0;
    for (const name of readdirSync(join(corpus, "documents")))
      expect(await indexFile(corpus, `documents/${name}`, (n) => (ticked += n))).toBe(true);
    expect(await indexFile(corpus, "documents/000000.jsonl", () => {})).toBe(false);
    const bytes = (path: string) => statSync(join(corpus, path)).size;
    expect(ticked).toBe(bytes("documents/000000.jsonl") + bytes("documents/000001.jsonl"));
    expect(bytes(indexPath("documents/000000.jsonl"))).toBeLessThan(0.08 * bytes("documents/000000.jsonl"));
    for (const [i, query] of queries.entries())
      expect((await search(query)).ids, JSON.stringify(query)).toEqual(without[i]!.ids);
    expect(without[3]!.requests).toBeGreaterThan(4);
    expect(await search(queries[3]!)).toEqual({ ids: [], requests: 1 });
    const parts = candidates(
      corpus,
      "documents/000000.jsonl",
      bytes("documents/000000.jsonl"),
      gramsOf("Number7919."),
    )!;
    expect(parts.reduce((n, { from, to }) => n + to - from, 0)).toBeLessThan(0.2 * bytes("documents/000000.jsonl"));
  });

  test("an index of another file, or a broken one, is not believed", async () => {
    const late = { ...documents[0]!, id: "made/late.txt", text: "Written afterwards: a xylophone." };
    appendFileSync(join(corpus, "documents", "000001.jsonl"), `${JSON.stringify(late)}\n`);
    expect((await search({ q: "xylophone" })).ids).toEqual(["made/late.txt"]);
    writeFileSync(join(corpus, indexPath("documents/000000.jsonl")), "nonsense");
    expect((await search({ q: "Number7919." })).ids).toEqual(["made/1.txt"]);
  });
});
