import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Peaks } from "../src/engine/backends/native/peaks.ts";
import { InputError } from "../src/tensor/errors.ts";
import type { ContestReport, SideResult, WorkResult } from "./contest.ts";
import { type Machine, root } from "./environment.ts";
import { table } from "./table.ts";

/** What a run leaves behind: enough to compute every number again. */
export interface Report extends ContestReport {
  readonly suite: string;
  readonly date: string;
  readonly machine: Machine;
}

/** Writes `<folder>/<date>-<suite>.json` and gives its path. The default folder is bench/results, of which git keeps chosen files only. */
export async function saveReport(
  suite: string,
  machine: Machine,
  report: ContestReport,
  folder = join(root, "bench", "results"),
): Promise<string> {
  await mkdir(folder, { recursive: true });
  const date = new Date().toISOString();
  const path = join(folder, `${date.replace(/:/g, "-").replace(/\..*$/, "")}-${suite}.json`);
  await writeFile(path, `${JSON.stringify({ suite, date, machine, ...report } satisfies Report)}\n`);
  return path;
}

const stored = z.object({
  suite: z.string().optional(),
  results: z.array(
    z.object({
      work: z.string(),
      ours: z.number(),
      peer: z.number().nullable().default(null),
      ratio: z.number().nullable().default(null),
    }),
  ),
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
  /** The same with each run measured against its own peer, which takes out how busy the machine was. Null where one had no peer. */
  readonly against_peer: number | null;
}

/** The works that both runs have, in the order of the second. */
export function compareReports(a: StoredReport, b: StoredReport): Comparison[] {
  return b.results.flatMap((after) => {
    const before = a.results.find((r) => r.work === after.work);
    if (!before) return [];
    const against = after.ratio !== null && before.ratio !== null ? after.ratio / before.ratio : null;
    return [
      {
        work: after.work,
        before: before.ours,
        after: after.ours,
        speedup: Number((before.ours / after.ours).toFixed(3)),
        against_peer: against === null ? null : Number(against.toFixed(3)),
      },
    ];
  });
}

const percent = (x: number) => `${(x * 100).toFixed(0)} %`;
/** Three or four digits: 0.0123, 1.23, 12.3, 123, 12345. */
export const digits = (x: number) =>
  x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 1 ? x.toFixed(2) : x.toFixed(4);

/** A line per side; columns that no side has are left out. */
export function showResults(results: readonly WorkResult[]): string {
  const columns: readonly [title: string, cell: (s: SideResult, r: WorkResult) => string | undefined][] = [
    ["ms", (s) => digits(s.ms)],
    ["+-", (s) => percent(s.spread)],
    ["we are", (s, r) => (s === r.sides[0] ? undefined : `${(s.ms / r.ours).toFixed(2)}x`)],
    ["GFLOP/s", (s) => s.gflops?.toFixed(0)],
    ["of peak", (s) => (s.of_peak === undefined ? undefined : percent(s.of_peak))],
    ["GB/s", (s) => s.gb_per_s?.toFixed(1)],
    ["of peak", (s) => (s.of_read_peak === undefined ? undefined : percent(s.of_read_peak))],
    [
      `${results.find((r) => r.items)?.items ?? "items"}/s`,
      (s) => (s.items_per_s === undefined ? undefined : digits(s.items_per_s)),
    ],
    ["MB", (s) => s.peak_mb?.toFixed(0)],
    ...[...new Set(results.flatMap((r) => r.sides.flatMap((s) => Object.keys(s.metrics ?? {}))))].map(
      (name): [string, (s: SideResult) => string | undefined] => [
        name,
        (s) => (s.metrics?.[name] === undefined ? undefined : digits(s.metrics[name])),
      ],
    ),
  ];
  const kept = columns.filter(([, cell]) => results.some((r) => r.sides.some((s) => cell(s, r) !== undefined)));
  return table([
    ["", ...kept.map(([title]) => title)],
    ...results.flatMap((r) =>
      r.sides.map((s, i) => [
        i === 0 ? `${r.work}: ours, ${s.variant}` : `  ${s.variant}`,
        ...kept.map(([, cell]) => cell(s, r) ?? ""),
      ]),
    ),
  ]);
}

export function showPeaks(peak: Peaks): string {
  const bf16 = peak.bf16 === null ? "" : `bf16 ${peak.bf16.toFixed(0)}, `;
  return `Measured peaks: f32 ${peak.f32.toFixed(0)}, ${bf16}GFLOP/s; reading ${peak.read.toFixed(1)} GB/s`.replace(
    ", GF",
    " GF",
  );
}

export function showComparison(rows: readonly Comparison[]): string {
  return table([
    ["", "before ms", "after ms", "speed-up", "against peer"],
    ...rows.map((r) => [
      r.work,
      digits(r.before),
      digits(r.after),
      `${r.speedup.toFixed(2)}x`,
      r.against_peer === null ? "" : `${r.against_peer.toFixed(2)}x`,
    ]),
  ]);
}
