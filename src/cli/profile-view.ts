import type { Peaks } from "../engine/backends/native/peaks.ts";
import { explainPeak, showPeak } from "../engine/explain.ts";
import type { Profile, ProfileRow } from "../engine/index.ts";
import { padEnd, padStart, truncate } from "./text.ts";

const short = (x: number) => (x === 0 ? "" : x >= 10 ? x.toFixed(0) : x.toFixed(1));

/** Kinds of kernels under a header, as wide as `columns`; what together takes less than half a percent is one line. */
export function profileTable(rows: readonly ProfileRow[], columns = 80): string[] {
  const total = rows.reduce((n, r) => n + r.milliseconds, 0);
  const line = (kind: string, cells: readonly string[]) => {
    const widths = [10, 7, 7, 8, 7, 8];
    const kindWidth = columns - widths.reduce((a, b) => a + b, 0);
    return padEnd(truncate(kind, kindWidth), kindWidth) + cells.map((cell, i) => padStart(cell, widths[i]!)).join("");
  };
  const part = (ms: number) => `${((100 * ms) / total).toFixed(1)} %`;
  // Slowest first, so what is left out is the tail.
  let shown = rows.length;
  for (let tail = 0; shown > 1; shown--) {
    tail += rows[shown - 1]!.milliseconds;
    if (tail > 0.005 * total) break;
  }
  if (shown >= rows.length - 1) shown = rows.length;
  const rest = rows.slice(shown);
  const sum = (pick: (r: ProfileRow) => number) => rest.reduce((n, r) => n + pick(r), 0);
  return [
    line("kernel", ["ms", "part", "calls", "GFLOP/s", "GB/s", "of peak"]),
    ...rows
      .slice(0, shown)
      .map((r) =>
        line(r.kind, [
          r.milliseconds.toFixed(3),
          part(r.milliseconds),
          short(r.calls),
          short(r.gflops),
          short(r.gb_per_s),
          `${(100 * r.roofline).toFixed(0)} %`,
        ]),
      ),
    ...(rest.length === 0
      ? []
      : [
          line(`${rest.length} more`, [
            sum((r) => r.milliseconds).toFixed(3),
            part(sum((r) => r.milliseconds)),
            short(sum((r) => r.calls)),
          ]),
        ]),
  ];
}

/** What is said below the table: the step as a whole, the machine's peaks, the programs, and what fills the arena of the largest. */
export function profileNotes(
  profile: Profile,
  rows: readonly ProfileRow[],
  measured: {
    readonly steps: number;
    readonly millisecondsPerStep: number;
    readonly peaks: Peaks;
    readonly threads: number;
  },
  columns = 80,
): string[] {
  const { steps, millisecondsPerStep, peaks, threads } = measured;
  const kernels = rows.reduce((n, r) => n + r.milliseconds, 0);
  const bf16 = peaks.bf16 === null ? "" : `, bf16 ${peaks.bf16.toFixed(0)}`;
  const largest = profile.programs[0];
  return [
    `A step: ${millisecondsPerStep.toFixed(2)} ms, of which kernels ${kernels.toFixed(2)} ms (mean of ${steps}).`,
    `Measured peaks, ${threads} threads: f32 ${peaks.f32.toFixed(0)}${bf16} GFLOP/s, reading ${peaks.read.toFixed(1)} GB/s.`,
    "Of peak: what arithmetic or memory need at least; above 100 % from caches.",
    "",
    ...profile.programs
      .slice(0, 6)
      .map(({ name, program, runs, nanoseconds }) =>
        truncate(
          `${name}: ${short(runs / steps) || "0"} runs of ${(nanoseconds / 1e6 / Math.max(runs, 1)).toFixed(2)} ms, ${program.instructions.length} instructions, arena ${(program.arenaBytes / 1e6).toFixed(1)} MB`,
          columns,
        ),
      ),
    ...(largest
      ? showPeak(explainPeak(largest.program), largest.program.arenaBytes)
          .slice(0, 10)
          .map((line) => truncate(line, columns))
      : []),
  ];
}

/** The same for the last line: numbers rounded to what was measured. */
export function profileResult(
  profile: Profile,
  rows: readonly ProfileRow[],
  measured: { readonly steps: number; readonly millisecondsPerStep: number; readonly peaks: Peaks },
): Record<string, unknown> {
  const round = (x: number) => Number(x.toPrecision(4));
  const largest = profile.programs[0]?.program;
  return {
    milliseconds: round(measured.millisecondsPerStep),
    steps: measured.steps,
    peaks: measured.peaks,
    kinds: rows.map((r) => ({
      kind: r.kind,
      milliseconds: round(r.milliseconds),
      calls: round(r.calls),
      gflops: round(r.gflops),
      gb_per_s: round(r.gb_per_s),
      roofline: round(r.roofline),
    })),
    programs: profile.programs.map((p) => ({
      name: p.name,
      runs: p.runs,
      milliseconds: round(p.nanoseconds / 1e6 / Math.max(p.runs, 1)),
      arena_bytes: p.program.arenaBytes,
    })),
    ...(largest ? { arena_peak: explainPeak(largest) } : {}),
  };
}
