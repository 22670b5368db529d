import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { z } from "zod";
import { commands } from "../../src/cli/commands/index.ts";
import { runCli } from "../../src/cli/frame.ts";
import { profileTable } from "../../src/cli/profile-view.ts";
import { measurePeaks } from "../../src/engine/backends/native/peaks.ts";
import { explain, type Profile, Profiler, profileRows, useBackend } from "../../src/engine/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { backend, missing } from "./native-support.ts";

const peaks = { f32: 100, bf16: null, read: 10 };
const instruction = {
  program: "p",
  op: "dot_general",
  name: "dot_general",
  scope: "GPT/h.3/mlp",
  inputs: ["f32(4, 8)", "f32(8, 2)"],
  outputs: ["f32(4, 2)"],
  flops: 1e6,
  bytes: 1e4,
  type: "f32",
  nanoseconds: 40_000,
  calls: 2,
} as const;

describe("a profile", () => {
  const profile: Profile = {
    programs: [],
    instructions: [
      instruction,
      { ...instruction, scope: "GPT/h.4/mlp" },
      { ...instruction, op: "scan", nanoseconds: 1e9, calls: 1 },
      { ...instruction, op: "add", name: "add", scope: "", flops: 0, bytes: 1e6, nanoseconds: 400_000, calls: 4 },
    ],
  };

  test("is gathered by op, shapes or layers; a loop counts by its body", () => {
    expect(profileRows(profile, "op", 2, peaks)).toEqual([
      { kind: "add", milliseconds: 0.2, calls: 2, gflops: 0, gb_per_s: 10, roofline: 1 },
      // 2 x 1e6 operations in 40 us are half of 100 GFLOP/s; memory would need only 2 us.
      { kind: "dot_general", milliseconds: 0.04, calls: 2, gflops: 50, gb_per_s: 0.5, roofline: 0.5 },
    ]);
    const kinds = (by: "shape" | "scope") => profileRows(profile, by, 1, peaks).map((r) => r.kind);
    expect(kinds("shape")).toEqual(["add (4, 8) (8, 2)", "dot_general (4, 8) (8, 2)"]);
    expect(kinds("scope")).toEqual(["(none)", "GPT/h.*/mlp"]);
  });

  test("is shown in lines of 80 columns that add up", () => {
    const many = Array.from({ length: 30 }, (_, i) => ({
      kind: `kernel with a long name ${i}`.repeat(2),
      milliseconds: i === 0 ? 90 : 0.01,
      calls: 1,
      gflops: 1,
      gb_per_s: 1,
      roofline: 0.5,
    }));
    const lines = profileTable(many);
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(80);
    expect(lines.at(-1)).toMatch(/^\d+ more +\d/);
    expect(lines.length).toBeLessThan(31);
  });
});

describe.skipIf(missing)("on native kernels", () => {
  test("counts what runs between start and stop, names it, and explain takes its times", async () => {
    const profiler = new Profiler(backend());
    useBackend(profiler.backend);
    const f = (x: Tensor, w: Tensor) => x.matmul(w).square().sum();
    const run = jit(f, { name: "squares" });
    using x = tensor(new Float32Array(64 * 64).fill(1), { shape: [64, 64] });
    using w = tensor(new Float32Array(64 * 32).fill(1), { shape: [64, 32] });
    run(x, w).dispose();
    profiler.start({ trace: true });
    for (let i = 0; i < 3; i++) run(x, w).dispose();
    const profile = await profiler.stop();
    run(x, w).dispose();

    const program = profile.programs.find((p) => p.name === "squares")!;
    expect(program.runs).toBe(3);
    const dot = profile.instructions.find((one) => one.op === "dot_general")!;
    expect(dot).toMatchObject({ calls: 3, flops: 2 * 64 * 64 * 32, bytes: 4 * (64 * 64 + 64 * 32 + 64 * 32) });
    expect(dot.nanoseconds).toBeGreaterThan(0);

    const told = explain(f, [x, w], { profile });
    expect(told.ops[0]!.milliseconds).toBeCloseTo(dot.nanoseconds / 3e6, 9);
    expect(String(told)).toMatch(/^ *\d+\.\d{3} ms /);

    const events = profile.trace!.filter((e) => e.ph === "X");
    const products = events.filter((e) => e.name === "dot_general");
    expect(products).toHaveLength(3);
    expect(products[0]!.args).toMatchObject({ inputs: ["f32(64, 64)", "f32(64, 32)"], outputs: ["f32(64, 32)"] });
    expect(products.reduce((n, e) => n + e.dur! * 1e3, 0)).toBeCloseTo(dot.nanoseconds, 0);
    // Instructions of one executor do not overlap, and none begins before its program was queued.
    for (let i = 1; i < products.length; i++)
      expect(products[i]!.ts).toBeGreaterThanOrEqual(products[i - 1]!.ts + products[i - 1]!.dur! - 1e-3);
    const queued = events.filter((e) => e.name === "queue squares");
    expect(queued).toHaveLength(3);
    expect(products[0]!.ts).toBeGreaterThanOrEqual(queued[0]!.ts);
    run.release();
    useBackend(backend());
  });

  test("the machine's peaks are above what any kernel reaches", async () => {
    const { f32, bf16, read } = await measurePeaks(0.02);
    expect(f32).toBeGreaterThan(1);
    expect(read).toBeGreaterThan(0.5);
    expect(bf16 !== null).toBe(backend().facts.isa === "avx512bf16");
  });

  test("howdah profile runs steps of a stage and leaves nothing but its trace", { timeout: 60_000 }, async () => {
    const folder = mkdtempSync(join(tmpdir(), "howdah-profile-test-"));
    let out = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      out += text;
      return true;
    });
    try {
      const trace = join(folder, "trace.json");
      const small = ["layers=1", "width=32", "heads=2", "context=32"].flatMap((s) => ["--set", `model.${s}`]);
      const argv = ["profile", "recipes/shakespeare.yaml", ...small, "--set", "tokenizer.vocabulary=300"];
      const code = await runCli({ commands, version: "0" }, [
        ...argv,
        "--steps",
        "2",
        "--warm-up",
        "1",
        "--trace",
        trace,
      ]);
      const lines = out.trimEnd().split("\n");
      const result = JSON.parse(lines.at(-1)!) as { kinds: { kind: string; calls: number }[]; steps: number };
      expect(code).toBe(0);
      expect(result.steps).toBe(2);
      expect(result.kinds.find((k) => k.kind === "attention")!.calls).toBe(1);
      expect(lines.slice(0, -1).filter((line) => line.length > 80 && !line.startsWith("Trace"))).toEqual([]);
      const { traceEvents } = JSON.parse(readFileSync(trace, "utf8")) as { traceEvents: { name: string }[] };
      expect(traceEvents.filter((e) => e.name === "attention")).toHaveLength(2);
      expect(await runCli({ commands, version: "0" }, [...argv, "--stage", "report"])).toBe(2);
      expect(out).toMatch(/report.*has no steps/);
      out = "";
      expect(await runCli({ commands, version: "0" }, [...argv, "--trace", join(folder, "no", "trace.json")])).toBe(2);
      expect(out).toMatch(/there is no folder/);
    } finally {
      vi.restoreAllMocks();
      rmSync(folder, { recursive: true });
      useBackend(backend());
    }
  });

  // The last stage: those before it run as well, each for a step.
  test("howdah profile runs rollouts and updates of PPO, and its trace is one that Chrome reads", {
    timeout: 120_000,
  }, async () => {
    const folder = mkdtempSync(join(tmpdir(), "howdah-profile-test-"));
    let out = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      out += text;
      return true;
    });
    try {
      const trace = join(folder, "trace.json");
      const small = ["model.layers=1", "model.width=32", "model.heads=2", "tokenizer.vocabulary=300"];
      const argv = ["profile", "recipes/shakespeare.yaml", ...small.flatMap((s) => ["--set", s]), "--stage", "ppo"];
      const code = await runCli({ commands, version: "0" }, [
        ...argv,
        ...["--steps", "1", "--warm-up", "1", "--trace", trace],
      ]);
      const lines = out.trimEnd().split("\n");
      const result = JSON.parse(lines.at(-1)!) as { programs: { name: string }[]; stage: string };
      expect([lines.at(-1)!.slice(0, 300), code, result.stage]).toEqual([expect.anything(), 0, "ppo"]);
      expect(result.programs.map((p) => p.name)).toEqual(expect.arrayContaining(["ppo actor", "reply"]));
      expect(lines.slice(0, -1).filter((line) => line.length > 80 && !line.startsWith("Trace"))).toEqual([]);
      const event = z.union([
        z.object({ ph: z.literal("M"), name: z.string(), pid: z.number().int(), args: z.object({ name: z.string() }) }),
        z.object({
          ph: z.literal("X"),
          name: z.string().min(1),
          pid: z.number().int(),
          tid: z.number().int(),
          ts: z.number().min(0),
          dur: z.number().min(0),
        }),
      ]);
      const file = z.object({ displayTimeUnit: z.enum(["ms", "ns"]), traceEvents: z.array(event).min(100) });
      expect(file.safeParse(JSON.parse(readFileSync(trace, "utf8"))).error).toBeUndefined();
    } finally {
      vi.restoreAllMocks();
      rmSync(folder, { recursive: true });
      useBackend(backend());
    }
  });
});
