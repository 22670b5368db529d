// WARC files through extraction, filters and MinHash deduplication, with two threads: what `howdah data build` does up to its documents.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { dedupe } from "../../src/data/build/dedupe.ts";
import { runUnits } from "../../src/data/build/pool.ts";
import { parseDataRecipe } from "../../src/data/build/recipe.ts";
import type { UnitResult, UnitTask } from "../../src/data/build/unit.ts";
import type { Prepare } from "../worker.ts";

export interface DataParameters {
  /** Of the WARC files. */
  readonly folder: string;
  readonly scratch: string;
  readonly files: number;
  readonly workers: number;
  readonly near: { readonly ngram: number; readonly bands: number; readonly rows: number };
}

const recipeText = `
name: bench
sources: [{ name: crawl, paths: . }]
clean: [gopher_repetition, gopher_quality, { c4: { terminal_punctuation: false } }, fineweb]
dedup: { exact: false }
`;

export const prepare: Prepare<DataParameters> = ({ parameters: p }) => {
  const recipe = parseDataRecipe("bench.yaml", recipeText);
  const [source] = recipe.sources;
  return {
    about: `${p.workers} threads`,
    async step() {
      const folder = mkdtempSync(join(p.scratch, "howdah-"));
      try {
        const names = readdirSync(p.folder).sort();
        const near = recipe.dedup.near || undefined;
        const tasks = names.map(
          (name, i): UnitTask => ({
            key: String(i),
            folder: join(folder, "units"),
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
        const units = new Map<string, UnitResult>();
        await runUnits(tasks, {
          workers: p.workers,
          onProgress: () => {},
          onResult: (r) => void units.set(r.key, r),
        });
        const all = tasks.map((t) => units.get(t.key)!);
        const report = await dedupe(all, join(folder, "units"), join(folder, "documents"), recipe.dedup, () => {});
        const final = Object.values(report.sources).reduce((n, s) => n + s.documents, 0);
        return { output: { kept: all.reduce((n, u) => n + u.kept, 0), final } };
      } finally {
        rmSync(folder, { recursive: true });
      }
    },
  };
};
