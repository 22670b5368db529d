import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { availableParallelism, cpus, freemem, totalmem } from "node:os";
import { promisify } from "node:util";
import { z } from "zod";
import { loadNativeBackend, type NativeBackend } from "../../engine/backends/native/backend.ts";
import { cacheFolder, programsFolder, programsIn } from "../../engine/backends/native/programs.ts";
import { formatBytes, freeBytes } from "../../runs/atomic.ts";
import { defineCommand } from "../command.ts";
import { measureBandwidth, measureMatmul } from "../measure.ts";

/** Python packages that benchmarks and golden files compare with. Nothing else needs Python. */
const peers = ["torch", "transformers", "tokenizers", "safetensors", "numpy"];

const options = z.object({
  measure: z.boolean().default(true).describe("do not measure speed (takes three seconds)"),
  python: z
    .string()
    .optional()
    .describe("a Python whose packages to look for; HOWDAH_PYTHON or python3")
    .meta({ value: "FILE" }),
});

export const doctor = defineCommand({
  name: "doctor",
  summary: "the processor, the backends, their measured speed, and what is missing",
  options,
  examples: [["howdah doctor", "what this machine can do, and what to install"]],
  async run({ measure, python }, { print, environment }) {
    const native = loadNativeBackend();
    const problems: string[] = [];
    const cores = availableParallelism();
    const limit = memoryLimit();
    const say = (label: string, text: string) => print(`${label.padEnd(11)}${text}`);
    const model = cpus()[0]?.model.trim() || process.arch;
    say("processor", `${model}, ${count(cores, "core")}`);
    say("memory", `${formatBytes(limit ?? totalmem())}, ${formatBytes(Math.min(freemem(), limit ?? freemem()))} free`);
    say("disk", `${formatBytes(freeBytes(process.cwd()))} free here`);
    say("Node", `${process.versions.node} (${process.platform} ${process.arch})`);
    let speed: Speed | undefined;
    if ("missing" in native) {
      problems.push(native.missing);
      say("native", "missing: everything runs on the reference backend, many times slower");
    } else {
      const { isa, available, threads, bf16, caches } = native.facts;
      say("native", `${isa}, ${count(threads, "thread")} (this processor and build have ${available.join(", ")})`);
      say("caches", `L1 ${formatBytes(caches.l1)}, L2 ${formatBytes(caches.l2)}, L3 ${formatBytes(caches.l3)}`);
      say("precision", bf16 ? "auto multiplies in bf16" : "auto multiplies in f32: no bf16 dot products here");
      const cache = cacheFolder(environment);
      const kept =
        cache === undefined ? undefined : { folder: programsFolder(cache), ...programsIn(programsFolder(cache)) };
      say(
        "programs",
        kept
          ? `${count(kept.count, "compiled program")} (${formatBytes(kept.bytes)}) in ${kept.folder}`
          : "not kept on disk (HOWDAH_CACHE)",
      );
      if (threads < cores) problems.push(`The kernels use ${threads} of ${cores} cores; HOWDAH_THREADS sets how many.`);
      if (measure) {
        speed = await measureSpeed(native);
        const both = speed.bf16_gflops === null ? "" : `, bf16 ${speed.bf16_gflops}`;
        say("matmul", `f32 ${speed.f32_gflops}${both} GFLOP/s (1024 x 1024 x 1024)`);
        say("reading", `${speed.read_gb_per_second} GB/s from memory`);
      }
    }
    const found = await pythonPackages(python ?? environment.HOWDAH_PYTHON ?? "python3");
    const named = Object.entries(found.packages).map(([name, version]) => `${name} ${version ?? "missing"}`);
    say("Python", found.version === undefined ? "none" : `${found.version}: ${named.join(", ")}`);
    say("", "(only benchmarks beside other libraries need Python)");
    for (const problem of problems) print(`\n${problem}`);
    if (problems.length === 0) print("\nNothing is missing.");
    return {
      node: process.versions.node,
      platform: `${process.platform}-${process.arch}`,
      processor: model,
      cores,
      memory_bytes: limit ?? totalmem(),
      native: "missing" in native ? null : native.facts,
      ...(speed === undefined ? {} : { speed }),
      python: found,
      problems,
    };
  },
});

interface Speed {
  readonly f32_gflops: number;
  readonly bf16_gflops: number | null;
  readonly read_gb_per_second: number;
}

async function measureSpeed(native: NativeBackend): Promise<Speed> {
  return {
    f32_gflops: round(await measureMatmul(native, "f32")),
    bf16_gflops: native.facts.bf16 ? round(await measureMatmul(native, "bf16")) : null,
    read_gb_per_second: round(await measureBandwidth(native)),
  };
}

const count = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
const round = (value: number) => Math.round(value * 10) / 10;

/** The memory a container may use, where it is less than the machine's. Linux, control groups 2 and 1. */
function memoryLimit(): number | undefined {
  for (const file of ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]) {
    if (!existsSync(file)) continue;
    const limit = Number(readFileSync(file, "utf8"));
    if (limit > 0 && limit < totalmem()) return limit;
  }
  return undefined;
}

async function pythonPackages(python: string): Promise<{ version?: string; packages: Record<string, string | null> }> {
  const program = [
    "import json, sys, importlib.metadata as m",
    "def v(n):",
    "    try: return m.version(n)",
    "    except m.PackageNotFoundError: return None",
    "print(json.dumps([sys.version.split()[0], {n: v(n) for n in sys.argv[1:]}]))",
  ].join("\n");
  try {
    const { stdout } = await promisify(execFile)(python, ["-c", program, ...peers], { timeout: 20_000 });
    const [version, packages] = JSON.parse(stdout) as [string, Record<string, string | null>];
    return { version, packages };
  } catch {
    return { packages: {} }; // no Python, or one too old to know its packages
  }
}
