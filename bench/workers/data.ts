// Documents through extraction, filters and MinHash deduplication, with two threads: what `howdah data build` does up to its documents.
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { dedupe } from "../../src/data/build/dedupe.ts";
import { jsonLines } from "../../src/data/build/lines.ts";
import { runUnits } from "../../src/data/build/pool.ts";
import { parseDataRecipe } from "../../src/data/build/recipe.ts";
import {
  type DroppedDocument,
  type KeptDocument,
  type UnitResult,
  type UnitTask,
  unitFiles,
} from "../../src/data/build/unit.ts";
import { chooseBanding } from "../../src/data/dedup/minhash.ts";
import { InputError } from "../../src/tensor/errors.ts";
import type { Prepare } from "../worker.ts";

export interface DataParameters {
  /** `crawl`: WARC files of pages; `texts`: JSONL of texts, the same for both sides. */
  readonly kind: "crawl" | "texts";
  readonly folder: string;
  /** Where each side writes what became of documents in its first step, as `howdah-KIND.json` and `datatrove-KIND.json`: {@link Found}. */
  readonly scratch: string;
  readonly files: number;
  readonly workers: number;
  /** FineWeb's bands and rows, and the threshold for which we choose them. */
  readonly near: { readonly ngram: number; readonly bands: number; readonly rows: number; readonly threshold: number };
}

export interface Found {
  /** By a document's address: `final`, `duplicate`, or the filter that took it. */
  readonly decisions: Readonly<Record<string, string>>;
  /** What the filters were given, as datatrove has it. */
  readonly texts?: Readonly<Record<string, string>>;
}

/** No pair is looked at a second time, as datatrove does not. */
const recipeText = ({ ngram, bands, rows, threshold }: DataParameters["near"]) => `
name: bench
sources: [{ name: crawl, paths: . }]
clean: [gopher_repetition, gopher_quality, { c4: { terminal_punctuation: false } }, fineweb]
dedup: { exact: false, near: { ngram: ${ngram}, threshold: ${threshold}, permutations: ${bands * rows}, verify: false } }
`;

export const prepare: Prepare<DataParameters> = ({ parameters: p }) => {
  const recipe = parseDataRecipe("bench.yaml", recipeText(p.near));
  const [source] = recipe.sources;
  const near = recipe.dedup.near || undefined;
  const { bands, rows } = chooseBanding(near!.threshold, near!.permutations);
  if (bands !== p.near.bands || rows !== p.near.rows)
    throw new InputError(`${bands} bands of ${rows} rows, not ${p.near.bands} of ${p.near.rows}.`);
  let first = true;
  return {
    about: `${p.workers} threads`,
    async step() {
      const folder = mkdtempSync(join(p.scratch, "howdah-"));
      const units = join(folder, "units");
      const start = performance.now();
      try {
        const tasks = readdirSync(p.folder)
          .sort()
          .map(
            (name, i): UnitTask => ({
              key: String(i),
              folder: units,
              input: { path: join(p.folder, name), name, kind: "file", named: true },
              source: {
                name: "crawl",
                licence: undefined,
                language: undefined,
                text_field: undefined,
                keep: [],
                limit: undefined,
              },
              steps: source!.clean,
              ...(near ? { near } : {}),
            }),
          );
        const results = new Map<string, UnitResult>();
        await runUnits(tasks, {
          workers: p.workers,
          onProgress: () => {},
          onResult: (r) => void results.set(r.key, r),
        });
        const all = tasks.map((t) => results.get(t.key)!);
        const report = await dedupe(all, units, join(folder, "documents"), recipe.dedup, () => {});
        const seconds = (performance.now() - start) / 1000;

        const decisions: Record<string, string> = {};
        const urlOf = ({ meta }: KeptDocument) => meta.url ?? "";
        for (const { key } of all) {
          const files = unitFiles(units, key);
          for (const d of jsonLines<KeptDocument>(files.documents)) decisions[urlOf(d)] = "duplicate";
          for (const d of jsonLines<DroppedDocument>(files.dropped)) decisions[d.url ?? ""] = d.reason.filter;
        }
        for (const { path } of report.files)
          for (const d of jsonLines<KeptDocument>(path)) decisions[urlOf(d)] = "final";
        if (first)
          writeFileSync(join(p.scratch, `howdah-${p.kind}.json`), JSON.stringify({ decisions } satisfies Found));
        first = false;
        const counts: Record<string, number> = {};
        for (const decision of Object.values(decisions).sort()) counts[decision] = (counts[decision] ?? 0) + 1;
        return { output: counts, seconds };
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  };
};
