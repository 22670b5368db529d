import { explainPeak, loadNativeBackend, type NativeBackend, showPeak, useBackend } from "../src/engine/index.ts";
import type { Instruction, Program } from "../src/engine/program.ts";
import { initGPT } from "../src/models/index.ts";
import { BackendError } from "../src/tensor/errors.ts";
import { randomKey } from "../src/tensor/ops/random.ts";
import { median } from "./stats.ts";
import { configOf, trainer } from "./step.ts";
import { table } from "./table.ts";
import { batches, type GPTWork } from "./works.ts";

type Executable = ReturnType<NativeBackend["compile"]>;

/** The same backend, which also tells what was compiled on it. */
function listening(backend: NativeBackend, heard: (program: Program, executable: Executable) => void): NativeBackend {
  return {
    name: backend.name,
    facts: backend.facts,
    prefersBfloat16: backend.prefersBfloat16,
    supports: (op, attributes, dtypes) => backend.supports(op, attributes, dtypes),
    allocate: (bytes) => backend.allocate(bytes),
    upload: (data, dtype) => backend.upload(data, dtype),
    download: (buffer, dtype, size) => backend.download(buffer, dtype, size),
    release: (buffer) => backend.release(buffer),
    sync: () => backend.sync(),
    memory: () => backend.memory(),
    resetPeak: () => backend.resetPeak(),
    trim: () => backend.trim(),
    compile(program) {
      const executable = backend.compile(program);
      heard(program, executable);
      return executable;
    },
  };
}

/** An instruction's kind and shapes: `dot_general (3072, 128) (512, 128) +bias`. */
function kind(program: Program, instruction: Instruction): string {
  const shape = (id: number) => `(${program.values[id]!.shape.join(", ")})`;
  const { op, attributes: a } = instruction;
  if (op === "fused_elementwise")
    return `fused ${(a.nodes as readonly { op: string }[]).map((n) => n.op).join(" ")} ${shape(instruction.outputs[0]!)}`;
  if (op === "adamw" || op === "global_norm") return op;
  const epilogue = a.epilogue ? ` ${JSON.stringify(a.epilogue)}` : "";
  const contract =
    op === "dot_general" ? ` over ${JSON.stringify(a.lhs_contract)} ${JSON.stringify(a.rhs_contract)}` : "";
  return `${op} ${instruction.inputs.slice(0, 3).map(shape).join(" ")}${contract}${epilogue}`;
}

/** Runs our training step and prints the time of its instructions, gathered by kind, slowest first. */
export async function profile(
  work: GPTWork,
  precision: "auto" | "f32" | "bf16",
  steps: number,
): Promise<{ milliseconds: number; kinds: { kind: string; milliseconds: number; calls: number }[] }> {
  const native = loadNativeBackend();
  if ("missing" in native) throw new BackendError(native.missing);
  useBackend(native);
  const model = initGPT(configOf(work), randomKey(1));
  let largest: { program: Program; executable: Executable } | undefined;
  const backend = listening(native, (program, executable) => {
    if (!largest || program.instructions.length > largest.program.instructions.length)
      largest = { program, executable };
  });
  const run = trainer(work, model, batches(work), backend, precision);
  for (let i = 0; i < 2; i++) await run.step();
  const { program, executable } = largest!;
  executable.profile(true);
  const times: number[] = [];
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    await run.step();
    times.push(performance.now() - start);
  }
  const entries = await executable.readProfile();
  const kinds = new Map<string, { milliseconds: number; calls: number }>();
  entries.forEach((entry, i) => {
    // The training step has no loops, so entries and instructions go together.
    const key = kind(program, program.instructions[i]!);
    const sum = kinds.get(key) ?? { milliseconds: 0, calls: 0 };
    kinds.set(key, {
      milliseconds: sum.milliseconds + entry.nanoseconds / 1e6 / steps,
      calls: sum.calls + entry.calls / steps,
    });
  });
  const sorted = [...kinds].map(([kind, k]) => ({ kind, ...k })).sort((a, b) => b.milliseconds - a.milliseconds);
  const total = sorted.reduce((n, k) => n + k.milliseconds, 0);
  const rows = sorted.map((k) => [
    k.milliseconds.toFixed(3),
    `${((100 * k.milliseconds) / total).toFixed(1)} %`,
    k.calls.toFixed(0),
    k.kind,
  ]);
  console.log(table([["ms", "part", "calls", ""], ...rows].map((r) => [r[3]!, r[0]!, r[1]!, r[2]!])));
  const milliseconds = median(times);
  console.log(
    `a step: median ${milliseconds.toFixed(2)} ms, of which kernels ${total.toFixed(2)} ms; ${program.instructions.length} instructions, arena ${(program.arenaBytes / 1e6).toFixed(1)} MB`,
  );
  console.log(showPeak(explainPeak(program), program.arenaBytes).join("\n"));
  return { milliseconds, kinds: sorted };
}
