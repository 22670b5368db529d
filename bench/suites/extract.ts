import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { InputError } from "../../src/tensor/errors.ts";
import type { Work } from "../contest.ts";
import { environmentOf, ours, pythonPeer } from "../environment.ts";
import { halfOf, readPages, scoreOf } from "../pages.ts";
import { contestShape, runContest } from "../suite.ts";
import { table } from "../table.ts";
import type { ExtractParameters } from "../workers/extract.ts";

const { works: _, ...shape } = contestShape;

export const extract = defineCommand({
  name: "extract",
  summary: "the main text of web pages beside trafilatura: its score, and pages per second",
  description:
    "The pages of the article extraction benchmark, on one thread each. Scores are the benchmark's own (runs of four words shared with the text a " +
    "person found), for all pages and for the two halves: rules were tuned on the first half only.",
  options: z.object({
    pages: z.string().describe("a checkout of scrapinghub/article-extraction-benchmark").meta({ value: "DIR" }),
    ...shape,
  }),
  positional: ["pages"],
  async run({ pages: given, rounds, seconds, alone }, context) {
    const folder = resolve(given);
    const pages = readPages(folder);
    const out = await mkdtemp(join(tmpdir(), "howdah-extract-"));
    try {
      const parameters: ExtractParameters = { folder, out };
      const work: Work = {
        name: "pages",
        parameters,
        items: { count: pages.length, name: "pages" },
        check({ outputs: [mine] }, { outputs: [theirs] }) {
          if (JSON.stringify(mine) !== JSON.stringify(theirs)) {
            throw new InputError(
              `The sides read different pages: ${JSON.stringify(mine)} and ${JSON.stringify(theirs)}.`,
            );
          }
        },
      };
      const one = environmentOf(1);
      const sides = {
        ours: ours("extract", "auto", one),
        peers: alone ? [] : [pythonPeer("trafilatura", "extract", "", one)],
      };
      const result = await runContest("extract", [work], sides, { rounds, seconds, threads: 1, warmUp: 1 }, context);
      const scores: Record<string, unknown>[] = [];
      for (const side of alone ? ["howdah"] : ["howdah", "trafilatura"]) {
        const found = JSON.parse(await readFile(join(out, `${side}.json`), "utf8")) as Record<string, string>;
        for (const [name, half] of [
          ["all", undefined],
          ["tuned on", 0],
          ["held out", 1],
        ] as const) {
          const chosen = pages.filter(({ id }) => half === undefined || halfOf(id) === half);
          scores.push({
            side,
            half: name,
            ...scoreOf(chosen.map(({ id, text }) => ({ text, found: found[id] ?? "" }))),
          });
        }
      }
      const three = (value: unknown) => (value as number).toFixed(3);
      const rows = scores.map((s) => [
        String(s.side),
        String(s.half),
        String(s.pages),
        three(s.precision),
        three(s.recall),
        three(s.f1),
      ]);
      context.print(`\n${table([["side", "pages", "n", "precision", "recall", "F1"], ...rows])}\n`);
      return { ...result, scores };
    } finally {
      await rm(out, { recursive: true, force: true });
    }
  },
});
