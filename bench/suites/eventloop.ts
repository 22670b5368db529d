import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { environmentOf, machine, ours } from "../environment.ts";
import { median } from "../stats.ts";
import { chooseWorks, contestShape } from "../suite.ts";
import { table } from "../table.ts";
import type { EventLoopParameters } from "../workers/eventloop.ts";
import { type GPTWork, gptWorks } from "../works.ts";

const options = z.object({
  works: contestShape.works,
  rounds: z.number().int().min(1).default(5).describe("times each is measured, after the first"),
});

const large: GPTWork = {
  name: "gpt2-124M-short",
  layers: 12,
  width: 768,
  heads: 12,
  context: 64,
  batch: 1,
  vocabulary: 50257,
};
const loads = ["training", "generation", "serving", "serving unwarmed"].flatMap((kind) =>
  [gptWorks[0]!, gptWorks[1]!, large].map((work) => ({ name: `${kind} ${work.name}`, kind, work })),
);

export const eventloop = defineCommand({
  name: "eventloop",
  summary: "how long JavaScript stands still while training, generating, serving",
  description:
    "How late a timer comes that is due every millisecond. First: while programs are traced and compiled. On disk: the same in a second process, which " +
    "finds the programs of the first. A server is measured as `howdah serve` starts it, its programs made before it listens, and without that (unwarmed). Then: the longest delay of each of " +
    "several measurements, their median and their worst. Own: the most processor time that JavaScript took between two calls of the timer (Linux), whoever else had the cores.",
  options,
  async run({ works, rounds }, { print }) {
    machine(print);
    const folder = await mkdtemp(join(tmpdir(), "howdah-bench-programs-"));
    const results = [];
    try {
      for (const { name, kind, work } of chooseWorks(loads, works)) {
        const units = kind === "training" && work.name === "gpt-10.7M" ? 2 : 8;
        const parameters: EventLoopParameters = { work, units };
        const environment = { ...environmentOf(), HOWDAH_CACHE: await mkdtemp(join(folder, "cache-")) };
        // A process that finds no programs on disk leaves its own there for the second.
        const before = ours("eventloop", kind, environment).start();
        let cold: Readonly<Record<string, readonly number[]>>;
        try {
          await before.prepare({ work: name, variant: kind, parameters: { ...parameters, units: 1 } });
          cold = (await before.run(1)).metrics!;
        } finally {
          await before.close();
        }
        const side = ours("eventloop", kind, environment).start();
        try {
          await side.prepare({ work: name, variant: kind, parameters });
          const first = (await side.run(1)).metrics!;
          const then = (await side.run(rounds)).metrics!;
          const row = {
            work: name,
            first_longest_ms: cold.longest![0]!,
            first_own_ms: cold.own![0]!,
            found_longest_ms: first.longest![0]!,
            found_own_ms: first.own![0]!,
            p50_ms: median(then.p50!),
            p99_ms: median(then.p99!),
            longest_ms: median(then.longest!),
            worst_ms: Math.max(...then.longest!),
            own_ms: median(then.own!),
            worst_own_ms: Math.max(...then.own!),
          };
          results.push(row);
          print(
            `${name}: own blocks first ${row.first_own_ms.toFixed(1)} ms, ${row.found_own_ms.toFixed(1)} ms where programs are on disk, ` +
              `then ${row.own_ms.toFixed(1)} ms`,
          );
        } finally {
          await side.close();
        }
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    const ms = (x: number) => x.toFixed(2);
    print(
      `\n${table([
        ["ms", "first", "own", "on disk", "own", "then: median", "99 %", "longest", "worst", "own", "worst own"],
        ...results.map((r) => [
          r.work,
          ms(r.first_longest_ms),
          ms(r.first_own_ms),
          ms(r.found_longest_ms),
          ms(r.found_own_ms),
          ms(r.p50_ms),
          ms(r.p99_ms),
          ms(r.longest_ms),
          ms(r.worst_ms),
          ms(r.own_ms),
          ms(r.worst_own_ms),
        ]),
      ])}`,
    );
    return { suite: "eventloop", results };
  },
});
