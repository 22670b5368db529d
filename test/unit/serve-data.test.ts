import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chooseBackend, useBackend } from "../../src/engine/index.ts";
import type {
  CorpusComparison,
  CorpusDetail,
  CorpusList,
  DocumentsPage,
  DocumentView,
  DuplicatesPage,
  FoundDocument,
} from "../../src/serve/data-api.ts";
import { createServer, type Server } from "../../src/serve/index.ts";
import { settingsOf } from "../../src/serve/studio/compare.ts";
import { corpusFiles, findDocuments } from "../../src/serve/studio/documents.ts";
import { finder, places } from "../../src/serve/studio/find.ts";
import { buildSampleCorpus } from "../support/sample-corpus.ts";
import { ScriptedRegistry } from "../support/scripted-model.ts";

describe("the Studio's API of corpora", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-data-api-"));
  const dataDir = join(folder, "data");
  let server: Server;
  const get = async <T>(path: string): Promise<T> =>
    (await fetch(`${server.url}/api/data${path}`)).json() as Promise<T>;
  const refused = async (path: string) => {
    const response = await fetch(`${server.url}/api/data${path}`);
    const { error } = (await response.json()) as { error: { code: string; message: string } };
    return { status: response.status, ...error };
  };
  /** Every document that answers, over as many requests as it takes. */
  const all = async (query: Record<string, string>, name = "first"): Promise<FoundDocument[]> => {
    const found: FoundDocument[] = [];
    let at: string | undefined;
    do {
      const parameters = new URLSearchParams(at === undefined ? query : { ...query, at });
      const page = await get<DocumentsPage>(`/${name}/documents?${parameters}`);
      found.push(...page.documents);
      expect(page.searched).toBeLessThanOrEqual(page.size);
      at = page.next;
    } while (at !== undefined);
    return found;
  };

  beforeAll(async () => {
    useBackend(chooseBackend("auto", () => {}));
    mkdirSync(dataDir);
    await buildSampleCorpus(dataDir, "first");
    await buildSampleCorpus(dataDir, "second", "dedup: { near: false }\n");
    mkdirSync(join(dataDir, "begun", "work"), { recursive: true });
    writeFileSync(join(dataDir, "begun", "recipe.yaml"), "name: begun\n");
    mkdirSync(join(dataDir, "not a corpus"));
    writeFileSync(join(dataDir, "text.txt"), "secret\n");
    symlinkSync(folder, join(dataDir, ".hidden"));
    server = await createServer({ models: new ScriptedRegistry(), runsDir: join(folder, "runs"), dataDir });
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  test("lists corpora, the unfinished too, and no other folders", async () => {
    const { corpora, folder: shown } = await get<CorpusList>("");
    expect(shown).toBe(dataDir);
    expect(corpora.map(({ name, status }) => [name, status]).sort()).toEqual([
      ["begun", "unfinished"],
      ["first", "finished"],
      ["second", "finished"],
    ]);
    const { report, recipe } = await get<CorpusDetail>("/first");
    expect(corpora.find((c) => c.name === "first")).toMatchObject({
      documents: report?.final.documents,
      tokens: report?.final.tokens,
    });
    expect(recipe).toContain("name: first");
    expect(await get<CorpusDetail>("/begun")).toMatchObject({ status: "unfinished", recipe: "name: begun\n" });
    expect(await get<DocumentsPage>("/begun/documents")).toEqual({ documents: [], searched: 0, size: 0 });
  });

  test("a name cannot leave the folder of corpora", async () => {
    for (const name of [
      "..",
      "%2e%2e",
      "..%2f..",
      ".hidden",
      "first%2f..%2f..",
      "first%00",
      "none",
      "text.txt",
      "not a corpus",
    ])
      for (const tail of ["", "/documents", "/document?at=documents/000000.jsonl@0", "/duplicates", "/compare/first"]) {
        const response = await fetch(`${server.url}/api/data/${name}${tail}`);
        expect(response.status, name + tail).toBe(404);
        expect(await response.text()).not.toContain("secret\n");
      }
    expect(await refused("/first/compare/..%2ffirst")).toMatchObject({ status: 404, code: "corpus_not_found" });
  });

  test("a place cannot name any other file, and must be where a document begins", async () => {
    for (const at of [
      "../../text.txt@0",
      "documents/../../../text.txt@0",
      "report.json@0",
      "documents/000000.jsonl",
      "@0",
      "",
    ])
      for (const path of [`document?at=${encodeURIComponent(at)}`, `documents?q=x&at=${encodeURIComponent(at)}`])
        expect(await refused(`/first/${path}`), at).toMatchObject({ status: 400, code: "invalid_value" });
    for (const at of ["documents/000000.jsonl@3", "documents/000000.jsonl@99999999", "documents/7777.jsonl@0"])
      expect(await refused(`/first/document?at=${at}`), at).toMatchObject({ status: 404, code: "document_not_found" });
    expect(await refused("/first/documents?limit=1000")).toMatchObject({ status: 400 });
    expect(await refused(`/first/documents?q=${"x".repeat(300)}`)).toMatchObject({ status: 400 });
  });

  test("documents come in pages that lose and repeat nothing", async () => {
    const { report } = await get<CorpusDetail>("/first");
    for (const limit of ["1", "7", "100"]) {
      const kept = await all({ status: "kept", limit });
      expect(new Set(kept.map((d) => d.id)).size).toBe(kept.length);
      expect(kept).toHaveLength(report!.final.documents);
    }
    const every = await all({});
    const count = (status: string) => every.filter((d) => d.status === status).length;
    expect(count("dropped")).toBe(report!.read.documents - report!.cleaned.documents);
    expect(count("duplicate")).toBe(report!.duplicates.exact + report!.duplicates.near);
  });

  test("a search is plain, in any case, over what stays and what went, and says where", async () => {
    const found = await all({ q: "LIGHTHOUSE" });
    expect(found.map((d) => d.status)).toEqual(["kept", "dropped"]);
    for (const { excerpt, matches } of found)
      expect(matches.map(([from, to]) => excerpt.slice(from, to).toLowerCase())).toEqual(["lighthouse"]);
    expect(await all({ q: "lighthouse", status: "kept" })).toHaveLength(1);
    // A line's end is white space like any other.
    expect(await all({ q: "the lighthouse  keeper" })).toHaveLength(1);
    expect(await all({ q: "light.ouse" })).toHaveLength(0);
    expect(await all({ q: "灯塔" })).toHaveLength(8);
    expect((await all({ q: "Story 6 again" })).map((d) => d.status)).toEqual(["duplicate"]);
    expect(new Set((await all({ language: "zh" })).map((d) => d.source))).toEqual(new Set(["chinese"]));
    expect(await all({ source: "chinese" })).toHaveLength(8);
  });

  test("a dropped document says which rule took it, with its number, and can be looked for by the rule", async () => {
    const { report } = await get<CorpusDetail>("/first");
    const rule = report!.dropped[0]!.rule;
    const found = await all({ rule });
    expect(found).toHaveLength(report!.dropped[0]!.documents);
    const view = await get<DocumentView>(`/first/document?at=${encodeURIComponent(found[0]!.at)}`);
    expect(`${view.reason?.filter}/${view.reason?.rule}`).toBe(rule);
    expect(view.reason?.why).toMatch(/^[A-Z].*\.$/);
    expect(typeof view.reason?.threshold).toBe("number");
    expect(view.language).toMatch(/^[a-z]{2,3}$/);
    expect(view).toMatchObject({ status: "dropped", text: "Buy now, quick lighthouse lamps!", beginning: false });
    expect(await all({ rule: "no/rule" })).toEqual([]);
  });

  test("a document is read in full; a duplicate names the one that stays, and that one its copies", async () => {
    const [near] = await all({ q: "Story 6 again" });
    expect(near!.same?.kind).toBe("near");
    const [kept] = await all({ id: near!.same!.id });
    expect(kept).toMatchObject({ status: "kept", title: "Story 6" });
    const view = await get<DocumentView>(`/first/document?at=${encodeURIComponent(kept!.at)}`);
    expect(view.copies).toEqual([{ id: near!.id, kind: "near" }]);
    expect(view.text).toHaveLength(view.length);
    expect(view.meta).toMatchObject({ title: "Story 6" });
    const end = await get<DocumentView>(`/first/document?at=${encodeURIComponent(kept!.at)}&from=100`);
    expect(end.text).toBe(view.text.slice(100));
  });

  test("duplicates are clusters, largest first, with or without the work folder", async () => {
    const page = await get<DuplicatesPage>("/first/duplicates");
    expect(page).toMatchObject({ total: 2, complete: true });
    expect(page.clusters.map((c) => [c.kind, c.size]).sort()).toEqual([
      ["exact", 2],
      ["near", 2],
    ]);
    expect(page.clusters[0]!.texts[page.clusters[0]!.kept]).toContain(" have been ");
    expect((await get<DuplicatesPage>("/first/duplicates?from=1&limit=1")).clusters).toEqual(page.clusters.slice(1));
    rmSync(join(dataDir, "second", "work"), { recursive: true });
    const second = await get<DuplicatesPage>("/second/duplicates");
    expect(second.clusters.map((c) => [c.kind, c.size])).toEqual([["exact", 2]]);
    expect((await all({ q: "lighthouse" }, "second")).map((d) => d.status)).toEqual(["kept"]);
  });

  test("two corpora are compared in numbers, counts and settings", async () => {
    const { numbers, settings, tables, words } = await get<CorpusComparison>("/first/compare/second");
    expect(numbers.find((n) => n.key === "near")).toEqual({ key: "near", a: 1, b: 0 });
    expect(settings.map((s) => s.key)).toContain("dedup.near");
    expect(settings.map((s) => s.key)).not.toContain("seed");
    expect(tables.sources.find((s) => s.key === "english")).toMatchObject({ b: 31 });
    expect(words.map((w) => w.language).sort()).toEqual(["en", "zh"]);
    expect(await refused("/first/compare/begun")).toMatchObject({ status: 409, code: "corpus_unfinished" });
  });

  test("a scan looks at so many bytes and says where to go on, past lines that are torn or too long", async () => {
    const corpus = join(folder, "scan");
    mkdirSync(join(corpus, "documents"), { recursive: true });
    const line = (i: number, text: string) =>
      `${JSON.stringify({ id: `d${i}`, text, source: "s", meta: {}, lang: "en" })}\n`;
    const lines = Array.from({ length: 400 }, (_, i) =>
      line(i, i === 200 ? "y".repeat(700_000) : `needle ${i} ${"x".repeat(2000)}`),
    );
    lines[3] = '{"torn\n';
    writeFileSync(join(corpus, "documents", "000000.jsonl"), `${lines.join("")}{"id":"half`);
    const limits = { bytes: 100_000, milliseconds: 1e9, lineBytes: 600_000 };
    const files = await corpusFiles(corpus, new Map());
    const ids: string[] = [];
    let requests = 0;
    for (let at: string | undefined; ; requests++) {
      const query = { q: "needle", limit: 1000, at };
      const page: DocumentsPage = await findDocuments(
        corpus,
        files,
        new Map(),
        query,
        limits,
        new AbortController().signal,
      );
      ids.push(...page.documents.map((d) => d.id));
      at = page.next;
      if (at === undefined) break;
    }
    expect(ids).toEqual(Array.from({ length: 400 }, (_, i) => `d${i}`).filter((_, i) => i !== 3 && i !== 200));
    expect(requests).toBeGreaterThan(5);
    const stopped = findDocuments(corpus, files, new Map(), { q: "no", limit: 1 }, limits, AbortSignal.abort());
    expect(await stopped).toMatchObject({ documents: [], searched: 0 });
  });
});

test("what is looked for is plain text: signs mean themselves, and places do not move where a letter folds", () => {
  expect(places("a.b axb A.B", finder("a.b"), 9)).toEqual([
    [0, 3],
    [8, 11],
  ]);
  expect(places("İstanbul und Straße", finder("straße"), 9)).toEqual([[13, 19]]);
  expect(places("(x) [y] {z} $^ a|b c\\d -/", finder("(x) [y] {z} $^ a|b c\\d -/"), 9)).toHaveLength(1);
  expect(finder(" \n")).toBeUndefined();
});

test("settings go by names, so that their order does not matter", () => {
  const of = (value: unknown) => Object.fromEntries(settingsOf(value));
  expect(of({ sources: [{ name: "a", clean: [{ pii: {} }, { c4: { min: 3 } }], paths: ["x"] }] })).toEqual({
    "sources.a.clean.pii": "✓",
    "sources.a.clean.c4.min": "3",
    "sources.a.paths": '["x"]',
  });
});
