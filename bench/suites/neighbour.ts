import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { InputError } from "../../src/tensor/errors.ts";
import { environmentOf, machine, ours, pythonPeer, threads } from "../environment.ts";
import type { Contender } from "../protocol.ts";
import { digits } from "../results.ts";
import { median, quantile } from "../stats.ts";
import { chooseWorks, contestShape } from "../suite.ts";
import { table } from "../table.ts";
import { type GPTWork, gptWorks } from "../works.ts";
import { gptWork } from "./gpt.ts";

const options = z.object({
  works: contestShape.works,
  rounds: z.number().int().min(1).default(4).describe("turns of each way"),
  seconds: z.number().positive().default(1.5).describe("length of a turn").meta({ value: "S" }),
  peer: z.boolean().default(false).describe("PyTorch beside us, eager, in training"),
});

const decoding: GPTWork = {
  name: "decode",
  layers: 12,
  width: 768,
  heads: 12,
  context: 64,
  batch: 1,
  vocabulary: 50257,
};

interface Load {
  readonly name: string;
  readonly worker: string;
  readonly parameters: unknown;
}

/** A process that does nothing but keep a core busy, with the same priority as everybody. */
function spinner(core: number | undefined): ChildProcess {
  const spin = [process.execPath, "-e", "for (;;);"];
  const [command, ...args] = core === undefined ? spin : ["taskset", "-c", String(core), ...spin];
  return spawn(command!, args, { stdio: "ignore" });
}

export const neighbour = defineCommand({
  name: "neighbour",
  summary: "what a busy process on one core costs us",
  description:
    "Training steps and decoding with one core taken by a process that spins. Held against our own speed on one thread, undisturbed: a " +
    "neighbour on one of two cores should leave at least 60 % of that, better more.",
  options,
  async run({ works, rounds, seconds, peer }, { print }) {
    const count = threads();
    if (count < 2) throw new InputError("The neighbour needs a core beside ours: HOWDAH_THREADS is 1.");
    machine(print);
    const pinned = spawnSync("taskset", ["--version"]).status === 0;
    if (!pinned) print("There is no taskset here: the spinning process goes where the system puts it.");
    const folder = await mkdtemp(join(tmpdir(), "howdah-bench-"));
    const results = [];
    try {
      const names = [...gptWorks.slice(0, 2), decoding];
      for (const work of chooseWorks(names, works)) {
        const load: Load =
          work === decoding
            ? { name: work.name, worker: "decode", parameters: { work, tokens: 16 } }
            : {
                name: work.name,
                worker: "gpt",
                parameters: (await gptWork(work, join(folder, work.name))).parameters,
              };
        print(load.name);
        const start = (n: number) => ours(load.worker, "auto", environmentOf(n)).start();
        results.push({ side: "ours", ...(await measure(load, start, "auto", { count, rounds, seconds, pinned })) });
        if (peer && load.worker === "gpt") {
          const other = (n: number) => pythonPeer("PyTorch", "gpt", "eager f32", environmentOf(n)).start();
          results.push({
            side: "PyTorch",
            ...(await measure(load, other, "eager f32", { count, rounds, seconds, pinned })),
          });
        }
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
    const part = (x: number) => `${(100 * x).toFixed(0)} %`;
    print();
    print(
      table([
        ["ms a step", `${count} threads`, "1 thread", "disturbed", "slowest 5 %", "of 1 thread", `of ${count}`],
        ...results.map((r) => [
          `${r.work}: ${r.side}`,
          digits(r.undisturbed_ms),
          digits(r.one_thread_ms),
          digits(r.disturbed_ms),
          digits(r.disturbed_p95_ms),
          part(r.of_one_thread),
          part(r.of_undisturbed),
        ]),
      ]),
    );
    return { suite: "neighbour", threads: count, results };
  },
});

async function measure(
  load: Load,
  start: (threads: number) => Contender,
  variant: string,
  o: { readonly count: number; readonly rounds: number; readonly seconds: number; readonly pinned: boolean },
) {
  const all = start(o.count);
  const one = start(1);
  const samples: Record<"undisturbed" | "single" | "disturbed", number[]> = {
    undisturbed: [],
    single: [],
    disturbed: [],
  };
  try {
    const pace = new Map<Contender, number>();
    for (const side of [all, one]) {
      await side.prepare({ work: load.name, variant, parameters: load.parameters });
      await side.run(1);
      pace.set(side, (await side.run(1)).seconds[0]!);
    }
    // One step of a slow work says as much as a hundred of a fast one, and takes the minutes of it.
    const rounds = pace.get(all)! > o.seconds ? Math.min(o.rounds, o.count) : o.rounds;
    const turn = async (side: Contender, into: number[]) => {
      const steps = Math.min(Math.max(Math.round(o.seconds / pace.get(side)!), 1), 400);
      into.push(...(await side.run(steps)).seconds);
    };
    for (let round = 0; round < rounds; round++) {
      await turn(all, samples.undisturbed);
      await turn(one, samples.single);
      // On one core in one round and on another in the next: the caller's thread and a worker's may fare differently.
      const noise = spinner(o.pinned ? round % o.count : undefined);
      try {
        await new Promise((resolve) => setTimeout(resolve, 200));
        await turn(all, samples.disturbed);
      } finally {
        noise.kill("SIGKILL");
      }
    }
  } finally {
    await Promise.all([all.close(), one.close()]);
  }
  const ms = (values: readonly number[]) => Number((1e3 * median(values)).toFixed(3));
  // Of the disturbed steps the mean: a step that hangs is part of the price.
  const mean = samples.disturbed.reduce((a, b) => a + b, 0) / samples.disturbed.length;
  const [undisturbed, single] = [median(samples.undisturbed), median(samples.single)];
  return {
    work: load.name,
    undisturbed_ms: ms(samples.undisturbed),
    one_thread_ms: ms(samples.single),
    disturbed_ms: Number((1e3 * mean).toFixed(3)),
    disturbed_p95_ms: Number((1e3 * quantile(samples.disturbed, 0.95)).toFixed(3)),
    of_one_thread: Number((single / mean).toFixed(3)),
    of_undisturbed: Number((undisturbed / mean).toFixed(3)),
    samples,
  };
}
