// npm run bench -- NAME: see options.ts for what there is.
import { existsSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { HowdahError, InputError } from "../src/tensor/errors.ts";
import { contest, type Samples, type WorkResult } from "./contest.ts";
import { type BenchOptions, parseOptions, usage } from "./options.ts";
import { profile } from "./profile.ts";
import { compareReports, readReport, saveReport, showComparison, showResults } from "./results.ts";

/** The folder of package.json: this file runs compiled, from a folder further down. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

function pythonFromEnvironment(): string {
  const python = process.env.HOWDAH_PYTHON;
  if (python) return python;
  throw new InputError(
    "The peer is PyTorch, and HOWDAH_PYTHON does not name a Python that has it. Make one outside this folder:\n" +
      "  python3 -m venv VENV && VENV/bin/pip install -r bench/peers/requirements.txt\n" +
      "then run HOWDAH_PYTHON=VENV/bin/python npm run bench -- gpt",
  );
}

async function gpt(o: Extract<BenchOptions, { command: "gpt" }>): Promise<void> {
  const root = packageRoot();
  const python = pythonFromEnvironment();
  const threads = Number(process.env.HOWDAH_THREADS ?? 2);
  if (!Number.isInteger(threads) || threads < 1)
    throw new InputError(`HOWDAH_THREADS must be a whole number of threads, got ${process.env.HOWDAH_THREADS}.`);
  const results: WorkResult[] = [];
  const samples: Record<string, readonly Samples[]> = {};
  const machine = { cpu: cpus()[0]?.model ?? "unknown", cores: cpus().length, load: loadavg() };
  console.log(`${machine.cpu}, ${machine.cores} cores, load ${machine.load[0]!.toFixed(1)}; ${threads} threads a side`);
  if (machine.load[0]! > machine.cores / 4)
    console.log(
      "The machine is busy: threads wait for each other on both sides, and what is measured now says little.",
    );
  for (const work of o.works) {
    console.log(work.name);
    const peers = join(root, "bench", "peers");
    const done = await contest(work, { ...o, python, peers, threads, say: console.log });
    results.push(done.result);
    samples[work.name] = done.samples;
    for (const s of done.samples)
      console.log(`  ${s.variant}: ${s.about}, ${s.threads} threads, ${s.seconds.length} steps`);
  }
  const date = new Date().toISOString();
  const path = await saveReport(join(root, "bench", "results"), { date, machine, results, samples });
  console.log(`\n${showResults(results)}\n\nRaw samples: ${path}`);
  console.log(JSON.stringify({ results }));
}

async function main(): Promise<void> {
  const o = parseOptions(process.argv.slice(2));
  if (o.command === "help") console.log(usage);
  else if (o.command === "gpt") await gpt(o);
  else if (o.command === "profile") console.log(JSON.stringify(await profile(o.work, o.precision, o.steps)));
  else {
    const rows = compareReports(await readReport(o.before), await readReport(o.after));
    if (rows.length === 0) throw new InputError("The two runs have no work in common.");
    console.log(`${showComparison(rows)}\n${JSON.stringify({ results: rows })}`);
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof HowdahError ? error.message : error);
  process.exitCode = 1;
}
