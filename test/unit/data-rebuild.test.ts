import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type BuildResult, buildCorpus, parseDataRecipe } from "../../src/data/build/index.ts";
import { chooseBackend, useBackend } from "../../src/engine/index.ts";

let root: string;
beforeAll(() => {
  useBackend(chooseBackend("auto", () => {}));
  root = mkdtempSync(join(tmpdir(), "howdah-rebuild-"));
});
afterAll(() => rmSync(root, { recursive: true }));

const speeches = readFileSync("data/tinyshakespeare.txt", "utf8").split("\n\n");
const page = (i: number) => speeches.slice(i * 5, i * 5 + 5).join("\n\n");
const rows = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `${JSON.stringify({ text: page(from + i) })}\n`).join("");

/** A folder with three files of twenty documents. */
function start(name: string): string {
  const folder = join(root, name);
  mkdirSync(join(folder, "crawl"), { recursive: true });
  for (let f = 0; f < 3; f++) writeFileSync(join(folder, "crawl", `${f}.jsonl`), rows(f * 20, f * 20 + 20));
  return folder;
}
const build = (folder: string, source: string, rest = "tokenizer: { vocabulary: 300 }", out = "out") =>
  buildCorpus(
    parseDataRecipe(
      "r.yaml",
      `name: c\nout: ${folder}/${out}\nsources: [{ name: crawl, paths: "${folder}/crawl", ${source} }]\n${rest}\n`,
    ),
    { workers: 0 },
  );
const shards = (folder: string) =>
  readdirSync(join(folder, "shards"))
    .sort()
    .map((name) => `${name} ${readFileSync(join(folder, "shards", name)).toString("base64")}`);

describe("what a change touches is done again, and nothing else", () => {
  test("another share or seed of the holdout, after a build with another", async () => {
    const folder = start("holdout");
    const more = (share: string, seed: number) =>
      `tokenizer: { vocabulary: 300 }\nmix: { holdout: ${share} }\nseed: ${seed}\nshards: { tokens: 2000 }`;
    await build(folder, "clean: []", more("0", 1));
    const held = await build(folder, "clean: []", more("30%", 1));
    expect(held.reused).toContain("tokens");
    expect(held.report.holdout.documents).toBeGreaterThan(8);
    await build(folder, "clean: []", more("30%", 1), "anew");
    expect(shards(join(folder, "out"))).toEqual(shards(join(folder, "anew")));
    // What is held out is cut into shards, too.
    expect(
      shards(join(folder, "out")).filter((s) => s.startsWith("holdout-") && s.includes(".bin")).length,
    ).toBeGreaterThan(1);
  });

  test("a word list, known-good texts and an evaluation that were edited under their names", async () => {
    const folder = start("beside");
    const list = join(folder, "words.txt");
    const left = async (source: string, rest?: string) => (await build(folder, source, rest)).report.cleaned.documents;
    writeFileSync(list, "zounds-never-said\n");
    const words = `clean: [word_list: { file: ${list} }]`;
    expect(await left(words)).toBe(60);
    writeFileSync(list, "the\n");
    expect(await left(words)).toBeLessThan(60);

    const good = join(folder, "good.txt");
    const perplexity = `clean: [perplexity: { good: ${good}, max: 100000 }]`;
    writeFileSync(good, speeches.slice(0, 300).join("\n\n"));
    await build(folder, perplexity);
    expect((await build(folder, perplexity)).reused).toContain("read");
    writeFileSync(good, speeches.slice(0, 200).join("\n\n"));
    expect((await build(folder, perplexity)).reused).not.toContain("read");

    const evaluation = join(folder, "eval.jsonl");
    const leaks = `tokenizer: { vocabulary: 300 }\ndecontaminate: { evaluations: [{ name: plays, paths: ${evaluation} }] }`;
    writeFileSync(evaluation, `${JSON.stringify({ text: page(900) })}\n`);
    expect(await left("clean: []", leaks)).toBe(60);
    writeFileSync(evaluation, `${JSON.stringify({ text: page(5) })}\n`);
    expect(await left("clean: []", leaks)).toBe(59);
    writeFileSync(evaluation, `${JSON.stringify({ text: page(5) })}\nnot json\n`);
    await expect(left("clean: []", leaks)).rejects.toThrow(/"plays" cannot be read whole.*eval\.jsonl:2/s);
  });

  test("one changed file costs its own documents; a touched one costs no more than reading it", async () => {
    const folder = start("one");
    await build(folder, "clean: []");
    const fixed = `tokenizer: { path: ${folder}/out/tokenizer }`;
    const tokens = () => {
      const work = join(folder, "fixed", "work");
      const [name] = readdirSync(work).filter((n) => n.startsWith("tokens-"));
      return readdirSync(join(work, name!)).map((n) => `${n} ${statSync(join(work, name!, n)).mtimeMs}`);
    };
    await build(folder, "clean: []", fixed, "fixed");
    const before = tokens();
    writeFileSync(join(folder, "crawl", "1.jsonl"), rows(20, 35));
    const changed = await build(folder, "clean: []", fixed, "fixed");
    expect(changed.report.final.documents).toBe(55);
    expect(before.filter((line) => tokens().includes(line)).length).toBe(4);
    expect(tokens().length).toBe(6);
    writeFileSync(join(folder, "crawl", "1.jsonl"), rows(20, 35));
    const touched = await build(folder, "clean: []", fixed, "fixed");
    for (const stage of ["dedup", "tokens", "shards"] as const) expect(touched.reused).toContain(stage);
    await build(folder, "clean: []", fixed, "anew");
    expect(shards(join(folder, "fixed"))).toEqual(shards(join(folder, "anew")));
  });

  test("what a killed job spilled to disk is taken away", async () => {
    const folder = start("spilled");
    const left = join(folder, "out", "work", "units", "howdah-signatures-x1y2z3");
    mkdirSync(left, { recursive: true });
    writeFileSync(join(left, "signatures"), "half");
    expect((await build(folder, "clean: []")).report.final.documents).toBe(60);
    expect(existsSync(left)).toBe(false);
    mkdirSync(left, { recursive: true });
    expect((await build(folder, "clean: []")).reused).toContain("shards");
    expect(existsSync(left)).toBe(false);
  });

  test("an address that could not be fetched is tried again", async () => {
    let up = false;
    const server = createServer((_, response) => {
      if (up) response.end(rows(100, 120));
      else response.writeHead(403).end();
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    try {
      const folder = start("address");
      const both = () =>
        buildCorpus(
          parseDataRecipe(
            "r.yaml",
            `name: c\nout: ${folder}/out\nsources: [{ name: crawl, paths: ["${folder}/crawl", "http://127.0.0.1:${(server.address() as AddressInfo).port}/x.jsonl"] }]\ntokenizer: { vocabulary: 300 }\n`,
          ),
          { workers: 0 },
        );
      const first = await both();
      expect(first.report).toMatchObject({ final: { documents: 60 }, problems: { byCode: { unreadable: 1 } } });
      up = true;
      const second = await both();
      expect(second.report).toMatchObject({ final: { documents: 80 }, problems: { count: 0 } });
      expect((await both()).reused).toContain("read");
    } finally {
      server.close();
    }
  });
});

test("a source's limit holds for the source, in the order of its files, whatever the number of workers", async () => {
  const folder = start("limit");
  const ids = (result: BuildResult) =>
    readdirSync(join(result.out, "documents"))
      .sort()
      .flatMap((name) =>
        readFileSync(join(result.out, "documents", name), "utf8")
          .trim()
          .split("\n"),
      )
      .map((line) => (JSON.parse(line) as { id: string }).id);
  const result = await build(folder, "limit: 30, clean: []");
  expect(result.report.read.documents).toBe(30);
  expect(ids(result).at(0)).toBe("crawl/0.jsonl#1");
  expect(ids(result).at(-1)).toBe("crawl/1.jsonl#10");
  expect((await build(folder, "limit: 30, clean: []")).reused).toContain("shards");
  expect((await build(folder, "limit: 1000, clean: []")).report.read.documents).toBe(60);
  expect((await build(folder, "limit: 20, clean: []")).report.read.documents).toBe(20);
});

test("a document of which nothing is left says why; passages and substrings go together", async () => {
  const folder = join(root, "emptied");
  mkdirSync(join(folder, "crawl"), { recursive: true });
  const line = (text: string) => `${JSON.stringify({ text })}\n`;
  const common = "A paragraph that stands in several documents of this corpus, word by word.";
  const shared = speeches.slice(40, 60).join(" ").replaceAll("\n", " ").slice(0, 300);
  writeFileSync(
    join(folder, "crawl", "a.jsonl"),
    [
      line(`${common}\n\n${page(1)}`),
      line(`${common}\n\n${page(2)}`),
      // Nothing but what stood there before, yet no copy of one document.
      line(`${common}\n\n${page(1).split("\n\n")[0]}`),
      line(`${page(3)} ${shared}`),
      line(`${page(5)} ${shared}`),
    ].join(""),
  );
  const rest =
    "tokenizer: { vocabulary: 300 }\ndedup: { near: false, passages: paragraphs, substrings: 200 }\nmix: { holdout: 0 }";
  const { report, out } = await build(folder, "clean: []", rest);
  expect(report.duplicates).toMatchObject({ emptied: 1 });
  expect(report.duplicates.passages).toBeGreaterThanOrEqual(3);
  expect(report.duplicates.substringCharacters).toBeGreaterThanOrEqual(290);
  const all = readFileSync(join(out, "documents", "000000.jsonl"), "utf8");
  expect(all.split("several documents").length - 1).toBe(1);
  expect(readFileSync(join(out, "report.md"), "utf8")).toContain("of 1 documents nothing else was left");

  // Decontamination that leaves too little of a document names the evaluation.
  writeFileSync(join(folder, "eval.jsonl"), line(page(2).slice(0, 150)));
  const cut = await build(
    folder,
    "clean: []",
    `tokenizer: { vocabulary: 300 }\ndedup: { near: false }\ndecontaminate: { mode: cut, ngram: 8, evaluations: [{ name: plays, paths: ${folder}/eval.jsonl }] }`,
    "cut",
  );
  const { read, cleaned, dropped } = cut.report;
  expect(dropped.find((d) => d.rule === "decontaminate/plays")?.documents ?? 0).toBe(
    read.documents - cleaned.documents,
  );
  expect(dropped[0]?.examples[0]?.why).toMatch(/words of plays, item 0.*too short/);
});
