import { z } from "zod";
import type { CommandContext, CommandResult } from "../src/cli/command.ts";
import { InputError } from "../src/tensor/errors.ts";
import { type ContestOptions, contest, type Entrant, type Work } from "./contest.ts";
import { machine, threads } from "./environment.ts";
import { machinePeaks } from "./peaks.ts";
import { saveReport, showPeaks, showResults } from "./results.ts";

/** Options of every suite that is a contest: spread them into its schema. */
export const contestShape = {
  works: z.string().optional().describe("which works, by any part of their names; default all").meta({ value: "A,B" }),
  rounds: z.number().int().min(1).default(5).describe("turns of each side"),
  seconds: z.number().positive().default(3).describe("length of a turn").meta({ value: "S" }),
  alone: z.boolean().default(false).describe("measure our side only"),
};

/**
 * The works whose names contain one of these parts; an exact name is that work alone.
 * @throws InputError where a part names none
 */
export function chooseWorks<W extends { readonly name: string }>(works: readonly W[], parts: string | undefined): W[] {
  if (parts === undefined) return [...works];
  const chosen = new Set<W>();
  for (const part of parts.split(",").map((p) => p.trim())) {
    const exact = works.filter((w) => w.name === part);
    const found = exact.length > 0 ? exact : works.filter((w) => w.name.includes(part));
    if (found.length === 0 || part === "")
      throw new InputError(
        `--works: ${JSON.stringify(part)} names no work; there are ${works.map((w) => w.name).join(", ")}.`,
      );
    for (const work of found) chosen.add(work);
  }
  return works.filter((w) => chosen.has(w));
}

/** Runs a contest, saves the raw samples, shows the table; the result is the command's last line. */
export async function runContest(
  suite: string,
  works: readonly Work[],
  sides: { readonly ours: Entrant; readonly peers: readonly Entrant[] },
  options: Pick<ContestOptions, "rounds" | "seconds"> & Partial<ContestOptions>,
  { print }: Pick<CommandContext, "print">,
): Promise<CommandResult> {
  const where = machine(print);
  const probe = machinePeaks();
  try {
    const report = await contest(works, sides, { threads: threads(), say: print, peaks: probe.measure, ...options });
    const file = await saveReport(suite, where, report);
    print(`\n${showResults(report.results)}\n`);
    if (report.peak) print(showPeaks(report.peak));
    print(`Raw samples: ${file}`);
    return { suite, peak: report.peak, results: report.results, file };
  } finally {
    await probe.close();
  }
}
