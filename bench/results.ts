import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { InputError } from "../src/tensor/errors.ts";
import type { Samples, WorkResult } from "./contest.ts";
import { table } from "./table.ts";

/** What a run leaves behind: enough to compute every number again. */
export interface Report {
  readonly date: string;
  readonly machine: { readonly cpu: string; readonly cores: number; readonly load: readonly number[] };
  readonly results: readonly WorkResult[];
  readonly samples: Readonly<Record<string, readonly Samples[]>>;
}

/** Writes `<folder>/<date>.json` and gives its path. */
export async function saveReport(folder: string, report: Report): Promise<string> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${report.date.replace(/:/g, "-").replace(/\..*$/, "")}.json`);
  await writeFile(path, `${JSON.stringify(report)}\n`);
  return path;
}

const stored = z.object({
  results: z.array(z.object({ work: z.string(), ours: z.number(), peer: z.number(), ratio: z.number() })),
});
export type StoredReport = z.output<typeof stored>;

export async function readReport(path: string): Promise<StoredReport> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw new InputError(
      `${path} cannot be read as a bench result: ${error instanceof Error ? error.message : error}.`,
    );
  }
  const parsed = stored.safeParse(json);
  if (!parsed.success)
    throw new InputError(`${path} is not a bench result: it needs "results" with work, ours, peer, ratio.`);
  return parsed.data;
}

export interface Comparison {
  readonly work: string;
  /** Milliseconds of our step in the two runs. */
  readonly before: number;
  readonly after: number;
  /** before / after: above 1 is faster now. */
  readonly speedup: number;
  /** The same with each run measured against its own peer, which takes out how busy the machine was. */
  readonly against_peer: number;
}

/** The works that both runs have, in the order of the second. */
export function compareReports(a: StoredReport, b: StoredReport): Comparison[] {
  return b.results.flatMap((after) => {
    const before = a.results.find((r) => r.work === after.work);
    if (!before) return [];
    return [
      {
        work: after.work,
        before: before.ours,
        after: after.ours,
        speedup: Number((before.ours / after.ours).toFixed(3)),
        against_peer: Number((after.ratio / before.ratio).toFixed(3)),
      },
    ];
  });
}

export function showResults(results: readonly WorkResult[]): string {
  const percent = (x: number) => `${(x * 100).toFixed(0)} %`;
  return table([
    [
      "training step",
      "ours ms",
      "+-",
      "PyTorch ms",
      "+-",
      "ratio",
      "GFLOP/s",
      "PyTorch",
      "peak MB",
      "PyTorch",
      "PyTorch's best",
    ],
    ...results.map((r) => [
      r.work,
      r.ours.toFixed(1),
      percent(r.ours_spread),
      r.peer.toFixed(1),
      percent(r.peer_spread),
      `${r.ratio.toFixed(2)}x`,
      r.ours_gflops.toFixed(0),
      r.peer_gflops.toFixed(0),
      String(r.ours_peak_mb),
      String(r.peer_peak_mb),
      r.peer_variant,
    ]),
  ]);
}

export function showComparison(rows: readonly Comparison[]): string {
  return table([
    ["training step", "before ms", "after ms", "speed-up", "against PyTorch"],
    ...rows.map((r) => [
      r.work,
      r.before.toFixed(1),
      r.after.toFixed(1),
      `${r.speedup.toFixed(2)}x`,
      `${r.against_peer.toFixed(2)}x`,
    ]),
  ]);
}
