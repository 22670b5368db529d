import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { NearDuplicates } from "../../src/data/dedup/near.ts";
import { hashBits, uniform } from "../../src/data/random.ts";
import { InputError } from "../../src/tensor/errors.ts";
import type { Work } from "../contest.ts";
import { environmentOf, ours, pythonPeer } from "../environment.ts";
import { readPages } from "../pages.ts";
import { contestShape, runContest } from "../suite.ts";
import { table } from "../table.ts";
import type { DataParameters } from "../workers/data.ts";

const { works: _, ...shape } = contestShape;

/** One WARC record with a page as it came over HTTP. */
function record(url: string, html: string): Buffer {
  const body = Buffer.from(html);
  const http = Buffer.from(
    `HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  const id = `<urn:uuid:00000000-0000-4000-8000-${hashBits(url.length, ...Buffer.from(url))
    .toString(16)
    .padStart(12, "0")}>`;
  const head = Buffer.from(
    `WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: ${url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: ${id}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: ${http.length + body.length}\r\n\r\n`,
  );
  return gzipSync(Buffer.concat([head, http, body, Buffer.from("\r\n\r\n")]));
}

export const data = defineCommand({
  name: "data",
  summary: "extraction, cleaning and near duplicates beside datatrove: documents per second with two workers each",
  description:
    "WARC files made of the pages of the article extraction benchmark, each several times over with other words in it, every fourth copy unchanged. Both sides extract the main text, apply " +
    "Gopher's, C4's and FineWeb's filters, and take near duplicates out by MinHash.",
  options: z.object({
    pages: z.string().describe("a checkout of scrapinghub/article-extraction-benchmark").meta({ value: "DIR" }),
    copies: z.number().int().min(1).default(4).describe("how often each page is there"),
    ...shape,
  }),
  positional: ["pages"],
  async run({ pages: given, copies, rounds, seconds, alone }, context) {
    const pages = readPages(resolve(given));
    const scratch = mkdtempSync(join(tmpdir(), "howdah-data-"));
    try {
      const folder = join(scratch, "crawl");
      mkdirSync(folder);
      for (let c = 0; c < copies; c++) {
        const records = pages.map(({ id, html }, i) => {
          // Every second letter e of some words becomes another: other words, the same length and structure.
          const changed =
            c % 4 === 3
              ? html
              : html.replace(/(?<=[a-z ])e(?=[a-z])/g, (e, at: number) =>
                  uniform(c, i, at) < 0.12 * (c % 4) ? "o" : e,
                );
          return record(`http://page-${i}.example/${c}/${id}`, changed);
        });
        writeFileSync(join(folder, `${c}.warc.gz`), Buffer.concat(records));
      }
      const near = { ngram: 5, bands: 14, rows: 8 };
      const parameters: DataParameters = { folder, scratch, files: copies, workers: 2, near };
      const work: Work = {
        name: "crawl",
        parameters,
        items: { count: pages.length * copies, name: "documents" },
        check({ outputs: [mine] }, { outputs: [theirs] }) {
          // Main texts differ a little, and so do decisions near a threshold.
          const [a, b] = [mine, theirs].map((o) => o as { kept: number; final: number });
          if (a === undefined || b === undefined || Math.abs(a.kept - b.kept) > 0.25 * Math.max(a.kept, b.kept))
            throw new InputError(
              `The sides keep different documents: ${JSON.stringify(mine)} and ${JSON.stringify(theirs)}.`,
            );
        },
      };
      const env = environmentOf(2);
      const sides = { ours: ours("data", "auto", env), peers: alone ? [] : [pythonPeer("datatrove", "data", "", env)] };
      return await runContest("data", [work], sides, { rounds, seconds, threads: 2, warmUp: 1 }, context);
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  },
});

/** A made-up document: words that a tenth of all others share, and every tenth document is a changed copy of an earlier one. */
function synthetic(i: number): string {
  const original = i % 10 === 9 ? hashBits(i, 5) % i : i;
  const words: string[] = [];
  for (let k = 0; k < 120; k++) {
    const from = original !== i && uniform(i, k) < 0.01 ? i : original;
    words.push(hashBits(from, k).toString(36));
  }
  return words.join(" ");
}

export const dedup = defineCommand({
  name: "dedup",
  summary: "near duplicates among a million made-up documents: cost per document and memory as the number grows",
  options: z.object({
    documents: z.number().int().min(1000).default(1_000_000).describe("how many"),
    memory: z.number().int().min(1).default(64).describe("of keys, before they go to disk").meta({ value: "MB" }),
  }),
  async run({ documents, memory }, { print }) {
    const near = new NearDuplicates({ memory: memory * 2 ** 20 });
    const rows: string[][] = [];
    const parts: { documents: number; micros: number; rss: number }[] = [];
    let generating = 0;
    let start = performance.now();
    const begin = start;
    const step = Math.ceil(documents / 10);
    for (let i = 0; i < documents; i++) {
      const before = performance.now();
      const text = synthetic(i);
      generating += performance.now() - before;
      near.see(text);
      if ((i + 1) % step === 0 || i + 1 === documents) {
        const micros = ((performance.now() - start - generating) * 1000) / step;
        const rss = process.memoryUsage().rss / 2 ** 20;
        parts.push({ documents: i + 1, micros, rss });
        rows.push([String(i + 1), micros.toFixed(0), rss.toFixed(0)]);
        print(`${i + 1} documents: ${micros.toFixed(0)} us each, ${rss.toFixed(0)} MB`);
        start = performance.now();
        generating = 0;
      }
    }
    const last = performance.now();
    const { drop } = near.finish();
    const finish = (performance.now() - last) / 1000;
    // Only changed copies may go: anything else was taken for a copy by mistake.
    let wrong = 0;
    for (const again of drop.keys()) if (again % 10 !== 9) wrong++;
    const peak = process.resourceUsage().maxRSS / 1024;
    print(`\n${table([["documents", "us each", "MB"], ...rows])}\n`);
    print(
      `${drop.size} of ${Math.floor(documents / 10)} changed copies found, ${wrong} others by mistake; clusters in ${finish.toFixed(1)} s; peak ${peak.toFixed(0)} MB`,
    );
    return {
      documents,
      parts,
      found: drop.size,
      wrong,
      copies: Math.floor(documents / 10),
      seconds: (performance.now() - begin) / 1000,
      finish,
      peakMb: peak,
    };
  },
});
