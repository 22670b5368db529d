import { existsSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { formatBytes } from "../../runs/atomic.ts";
import { InputError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import { Interrupted } from "../interrupt.ts";
import { bar, formatSeconds, truncate } from "../text.ts";

const unitsOf: Readonly<Record<string, string>> = {
  read: "inputs",
  dedup: "documents",
  tokens: "documents",
  shards: "tokens",
  report: "files",
};

export const dataBuild = defineCommand({
  name: "data build",
  summary: "from files, pages and archives to token shards",
  description:
    "Reads, cleans and deduplicates what a recipe names, learns a tokenizer, and writes mixed token shards with a report. What was done is kept: run the same " +
    "command again after Ctrl-C, a crash or a change of the recipe, and only what is missing is done.",
  options: z.object({
    recipe: z.string().describe("the recipe, a YAML file").meta({ value: "RECIPE" }),
    out: z
      .string()
      .optional()
      .describe("the folder to write, instead of the recipe's")
      .meta({ value: "DIR", short: "o" }),
    workers: z.number().int().min(0).optional().describe("threads that read and clean; default every core"),
  }),
  positional: ["recipe"],
  examples: [
    ["howdah data build recipes/data/folder.yaml", "a folder of PDF, Word and Markdown files"],
    ["howdah data build recipes/data/web.yaml -o data/crawl", "pages of a crawl, to another folder"],
  ],
  async run({ recipe: file, out, workers }, { print, signal, stdout }) {
    const { buildCorpus, dataStages, loadDataRecipe } = await import("../../data/index.ts");
    const loaded = loadDataRecipe(file);
    const recipe = out === undefined ? loaded : { ...loaded, out };
    const width = Math.max(40, stdout.columns ?? 80);
    let stage: string | undefined;
    let told = 0;
    const clear = () => {
      if (stdout.isTTY) stdout.write("\r\u001b[2K");
    };
    const start = performance.now();
    const seconds = () => (performance.now() - start) / 1000;
    try {
      const result = await buildCorpus(recipe, {
        workers: workers ?? availableParallelism(),
        signal,
        say: (line) => {
          clear();
          print(line);
        },
        onProgress: (p) => {
          const now = performance.now();
          const first = p.stage !== stage;
          stage = p.stage;
          const what = unitsOf[p.stage] ?? "";
          const counted =
            p.stage === "tokenizer" || p.stage === "index"
              ? formatBytes(Math.round(p.done))
              : `${p.done}${p.total === undefined ? "" : `/${p.total}`} ${what}`;
          const rate =
            p.seconds > 1 && p.documents > p.seconds / 2 && p.stage !== "shards"
              ? `, ${(p.documents / p.seconds).toFixed(0)} documents/s`
              : "";
          const speed =
            p.seconds > 1 && p.bytes > 0 ? `, ${formatBytes(Math.round(p.bytes / Math.max(p.seconds, 0.001)))}/s` : "";
          const left = p.secondsLeft === undefined ? "" : `, ${formatSeconds(p.secondsLeft)} left`;
          const step = `${dataStages.indexOf(p.stage) + 1}/${dataStages.length} ${p.stage}`;
          if (stdout.isTTY) {
            const share = p.share === undefined ? "" : bar(Math.min(1, p.share), 12, true);
            stdout.write(`\r\u001b[2K${truncate(`${step} ${share} ${counted}${rate}${speed}${left}`, width - 1)}`);
          } else if (first || now - told > 10_000) {
            told = now;
            print(`${step}: ${counted}${rate}${speed}${left}`);
          }
        },
      });
      clear();
      const { report } = result;
      if (result.reused.length > 0) print(`kept from before: ${result.reused.join(", ")}`);
      print(
        `${report.read.documents} documents read, ${report.cleaned.documents} after cleaning, ${report.final.documents} after deduplication, ` +
          `${report.final.tokens} tokens in ${report.shards.length} shards, ${formatSeconds(seconds())}`,
      );
      if (report.problems.count > 0) print(`${report.problems.count} things could not be read; they are in the report`);
      print(`report: ${join(recipe.out, "report.md")}`);
      print(`to search and read it: howdah serve --data ${dirname(recipe.out)}`);
      return {
        out: recipe.out,
        seconds: seconds(),
        read: report.read,
        cleaned: report.cleaned,
        final: report.final,
        duplicates: { exact: report.duplicates.exact, near: report.duplicates.near },
        problems: report.problems.count,
        shards: report.shards.length,
        reused: result.reused,
        report: join(recipe.out, "report.md"),
      };
    } catch (error) {
      clear();
      if (signal.aborted)
        throw new Interrupted("Stopped. What is done is kept: run the same command again to go on.", {
          out: recipe.out,
        });
      throw error;
    }
  },
});

export const dataReport = defineCommand({
  name: "data report",
  summary: "what a corpus holds, and what was taken out and why",
  description: "Prints the report of a corpus that `howdah data build` made; with two, where they differ.",
  options: z.object({
    folder: z.string().describe("the corpus").meta({ value: "DIR" }),
    compare: z.string().optional().describe("another corpus to compare with").meta({ value: "DIR" }),
  }),
  positional: ["folder"],
  examples: [
    ["howdah data report data/crawl", "the report in the terminal"],
    ["howdah data report data/crawl --compare data/crawl-2", "two corpora side by side"],
  ],
  async run({ folder, compare }, { print }) {
    const report = readReport(folder);
    if (compare === undefined) {
      print(readFileSync(join(folder, "report.md"), "utf8").trimEnd());
      return { folder, read: report.read, final: report.final };
    }
    const other = readReport(compare);
    const rows = compareReports(report, other);
    const widths = [0, 1, 2].map((k) =>
      Math.max(...rows.map((r) => r[k]!.length), [2, folder.length, compare.length][k]!),
    );
    print(`${"".padEnd(widths[0]!)}  ${folder.padStart(widths[1]!)}  ${compare.padStart(widths[2]!)}`);
    for (const [what, a, b] of rows)
      print(`${what.padEnd(widths[0]!)}  ${a.padStart(widths[1]!)}  ${b.padStart(widths[2]!)}`);
    return { folder, compare, differences: rows.length };
  },
});

interface ReportNumbers {
  readonly read: { readonly documents: number; readonly bytes: number };
  readonly cleaned: { readonly documents: number };
  readonly final: { readonly documents: number; readonly bytes: number; readonly tokens: number };
  readonly dropped: readonly { readonly rule: string; readonly documents: number }[];
  readonly duplicates: { readonly exact: number; readonly near: number };
  readonly languages: Readonly<Record<string, number>>;
}

function readReport(folder: string): ReportNumbers {
  const path = join(folder, "report.json");
  if (!existsSync(path))
    throw new InputError(`${folder}: there is no report.json here. Make a corpus with \`howdah data build RECIPE\`.`);
  try {
    return JSON.parse(readFileSync(path, "utf8")) as ReportNumbers;
  } catch (error) {
    throw new InputError(`${path}: this is no report (${(error as Error).message}). Build the corpus again.`, {
      cause: error,
    });
  }
}

/** Numbers in which two reports differ, by name. */
function compareReports(a: ReportNumbers, b: ReportNumbers): [string, string, string][] {
  const numbers = (r: ReportNumbers): Record<string, number> => ({
    "documents read": r.read.documents,
    "documents after cleaning": r.cleaned.documents,
    "documents at the end": r.final.documents,
    "bytes at the end": r.final.bytes,
    tokens: r.final.tokens,
    "equal documents": r.duplicates.exact,
    "near duplicates": r.duplicates.near,
    ...Object.fromEntries(r.dropped.map((d) => [`dropped by ${d.rule}`, d.documents])),
    ...Object.fromEntries(Object.entries(r.languages).map(([l, n]) => [`in ${l}`, n])),
  });
  const [x, y] = [numbers(a), numbers(b)];
  return [...new Set([...Object.keys(x), ...Object.keys(y)])]
    .filter((key) => x[key] !== y[key])
    .map((key) => [key, String(x[key] ?? 0), String(y[key] ?? 0)]);
}
