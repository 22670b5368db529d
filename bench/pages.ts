import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { InputError } from "../src/tensor/errors.ts";

/** A page of the article extraction benchmark: its HTML, and the text a person found in it. */
export interface BenchmarkPage {
  readonly id: string;
  readonly html: string;
  readonly text: string;
}

/**
 * The pages of https://github.com/scrapinghub/article-extraction-benchmark (MIT): `ground-truth.json`, and `html/ID.html.gz` in UTF-8.
 * @throws InputError when they are not in `folder`
 */
export function readPages(folder: string): BenchmarkPage[] {
  const truth = join(folder, "ground-truth.json");
  if (!existsSync(truth))
    throw new InputError(
      `${folder}: ground-truth.json is not there. Give a checkout of scrapinghub/article-extraction-benchmark.`,
    );
  const entries = Object.entries(JSON.parse(readFileSync(truth, "utf8")) as Record<string, { articleBody?: string }>);
  return entries.map(([id, { articleBody = "" }]) => ({
    id,
    html: gunzipSync(readFileSync(join(folder, "html", `${id}.html.gz`))).toString(),
    text: articleBody,
  }));
}

/** Which half a page is in, by its id: rules were tuned while looking at pages of half 0 only. */
export const halfOf = (id: string): 0 | 1 => (createHash("sha256").update(id).digest().at(-1)! & 1 ? 1 : 0);

/** Means over pages, as the benchmark's `evaluate.py` takes them. */
export interface Score {
  readonly precision: number;
  readonly recall: number;
  readonly f1: number;
  readonly pages: number;
}

const WORD = /[\p{L}\p{N}_]+/gu;

/** How often each run of four words is in a text; of fewer words, all of them together. */
function shingles(text: string): Map<string, number> {
  const words = text.match(WORD) ?? [];
  const counts = new Map<string, number>();
  if (words.length === 0) return counts;
  for (let i = 0; i < Math.max(1, words.length - 3); i++) {
    const key = words.slice(i, i + 4).join(" ");
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/**
 * The benchmark's own score: runs of four words that a text shares with what a person found. A page for which nothing was extracted has no
 * precision, one without text no recall; F1 is that of the means.
 */
export function scoreOf(pages: readonly { readonly text: string; readonly found: string }[]): Score {
  const precisions: number[] = [];
  const recalls: number[] = [];
  for (const { text, found } of pages) {
    const wanted = shingles(text);
    const got = shingles(found);
    let both = 0;
    for (const [key, count] of got) both += Math.min(count, wanted.get(key) ?? 0);
    const sum = (counts: Map<string, number>) => [...counts.values()].reduce((all, count) => all + count, 0);
    const [gotAll, wantedAll] = [sum(got), sum(wanted)];
    if (gotAll > 0) precisions.push(both / gotAll);
    if (wantedAll > 0) recalls.push(both / wantedAll);
  }
  const mean = (values: readonly number[]) =>
    values.reduce((all, value) => all + value, 0) / Math.max(1, values.length);
  const [precision, recall] = [mean(precisions), mean(recalls)];
  return { precision, recall, f1: (2 * precision * recall) / (precision + recall || 1), pages: pages.length };
}
