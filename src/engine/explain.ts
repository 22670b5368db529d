import { StateError } from "../tensor/errors.ts";
import type { Node } from "../tensor/graph.ts";
import { traceCall } from "../tensor/jit.ts";
import type { Precision } from "../tensor/runtime.ts";
import { tensors } from "../tensor/tree.ts";
import { lower, optimize } from "./compile.ts";
import { bytesOf, describeOp, describeValue } from "./cost.ts";
import type { Profile } from "./profile.ts";
import type { Backend, Program } from "./program.ts";
import { activeBackend } from "./runtime.ts";

export interface ExplainOptions {
  /** Positions of arguments that the call consumes, as in `jit`. */
  readonly donate?: readonly number[];
  readonly precision?: Precision;
  readonly backend?: Backend;
  /** Of runs of this function: adds the time of each op. */
  readonly profile?: Profile;
}

export interface ExplainedOp {
  readonly op: string;
  readonly scope: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly flops: number;
  /** Read and written, if nothing stays in a cache. */
  readonly bytes: number;
  /** Of one call, if a profile was given that knows it; the mean over ops that are alike in everything. */
  readonly milliseconds?: number;
}

export interface Explanation {
  readonly ops: readonly ExplainedOp[];
  readonly flops: number;
  /** Of the arguments, the results that are new buffers, and everything between. */
  readonly memory: {
    readonly inputs: number;
    readonly outputs: number;
    readonly arena: number;
    readonly constants: number;
    /** Where the arena is fullest and what holds it. */
    readonly peak: ExplainedPeak;
  };
  toString(): string;
}

export interface ExplainedPeak {
  /** Bytes alive at once at most: the arena holds that and the gaps that no arrangement could fill. */
  readonly bytes: number;
  /** The op during which that is so, and where in the model it stands. */
  readonly op: string;
  readonly scope: string;
  /** What lies in the arena then, values of one kind together, largest first. */
  readonly holders: readonly {
    readonly bytes: number;
    readonly count: number;
    readonly op: string;
    readonly value: string;
  }[];
}

/** The program that `jit(f)` would run for these arguments: its ops, shapes, floating-point operations and memory. Nothing is run. */
export function explain<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  args: A,
  options: ExplainOptions = {},
): Explanation {
  const backend = options.backend ?? activeBackend();
  if (!backend)
    throw new StateError("explain: no backend is installed. Call useBackend(...) first, or give one in the options.");
  const { graph } = traceCall(f, args);
  const precision = options.precision ?? "f32";
  const matmul = precision === "bf16" || (precision === "auto" && backend.prefersBfloat16) ? "bf16" : "f32";
  const given = args.flatMap((arg, i) => tensors(arg).map(() => options.donate?.includes(i) ?? false));
  const donated = graph.inputs.map((_, i) => given[i] ?? false);
  const optimized = optimize(graph, backend, { matmul });
  const program = lower(graph, backend, { matmul, donated });
  const times = options.profile ? timesOf(options.profile) : undefined;
  const ops = optimized.nodes.filter((n) => n.op.name !== "constant" && n.op.name !== "reshape").map(describe);
  const aliased = new Set(program.aliases.map(([output]) => output));
  const memory = {
    inputs: program.inputs.reduce((n, id) => n + bytesOf(program.values[id]!), 0),
    outputs: program.outputs.reduce((n, id, i) => (aliased.has(i) ? n : n + bytesOf(program.values[id]!)), 0),
    arena: program.arenaBytes,
    constants: program.constants.reduce((n, c) => n + c.byteLength, 0),
    peak: explainPeak(program),
  };
  const flops = ops.reduce((n, o) => n + o.flops, 0);
  return { ops, flops, memory, toString: () => show(ops, flops, memory) };

  function describe(n: Node): ExplainedOp {
    const what = {
      op: describeOp(n.op.name, n.attributes),
      scope: n.scope,
      inputs: n.inputs.map(describeValue),
      outputs: n.outputs.map(describeValue),
    };
    const milliseconds = times?.get(keyOf(what));
    return {
      ...what,
      ...(milliseconds === undefined ? {} : { milliseconds }),
      flops: n.op.flops?.(n.inputs, n.outputs, n.attributes) ?? 0,
      bytes: [...n.inputs, ...n.outputs].reduce((sum, v) => sum + bytesOf(v), 0),
    };
  }
}

const keyOf = (o: Pick<ExplainedOp, "op" | "scope" | "inputs" | "outputs">) =>
  [o.op, o.scope, ...o.inputs, "->", ...o.outputs].join(" ");

/** Milliseconds of a call, by all that tells one op from another. */
function timesOf(profile: Profile): Map<string, number> {
  const sums = new Map<string, { ns: number; calls: number }>();
  for (const one of profile.instructions) {
    const key = keyOf({ ...one, op: one.name });
    const sum = sums.get(key) ?? { ns: 0, calls: 0 };
    sums.set(key, { ns: sum.ns + one.nanoseconds, calls: sum.calls + one.calls });
  }
  return new Map([...sums].map(([key, { ns, calls }]) => [key, ns / calls / 1e6]));
}

/** What a planned program's arena holds where it is fullest. */
export function explainPeak(program: Program): ExplainedPeak {
  const { peak, instructions, values } = program;
  const at = peak && instructions[peak.at];
  if (!peak || !at) return { bytes: 0, op: "", scope: "", holders: [] };
  const kinds = new Map<string, { bytes: number; count: number; op: string; value: string }>();
  for (const h of peak.holders) {
    const maker = instructions[h.instruction]!;
    const kind = { op: describeOp(maker.op, maker.attributes), value: describeValue(values[h.value]!) };
    const key = `${kind.op} ${kind.value}`;
    const sum = kinds.get(key) ?? { bytes: 0, count: 0, ...kind };
    kinds.set(key, { ...sum, bytes: sum.bytes + h.bytes, count: sum.count + 1 });
  }
  const op = describeOp(at.op, at.attributes);
  if (peak.workspace) kinds.set("", { bytes: peak.workspace, count: 1, op, value: "while it runs" });
  const holders = [...kinds.values()].sort((a, b) => b.bytes - a.bytes);
  return { bytes: peak.bytes, op, scope: at.scope ?? "", holders };
}

const units = ["", "k", "M", "G", "T", "P"];
function short(x: number): string {
  let i = 0;
  let value = x;
  for (; value >= 1000 && i < units.length - 1; i++) value /= 1000;
  return `${value < 10 && i > 0 ? value.toFixed(1) : Math.round(value)}${units[i]}`;
}

function show(ops: readonly ExplainedOp[], flops: number, memory: Explanation["memory"]): string {
  const timed = ops.some((o) => o.milliseconds !== undefined);
  const rows = ops.map((o) => [
    (timed ? `${o.milliseconds?.toFixed(3) ?? "?"} ms ` : "") + short(o.flops),
    `${short(o.bytes)}B`,
    o.op,
    `${o.inputs.join(" ")} -> ${o.outputs.join(" ")}`,
    o.scope,
  ]);
  const width = (k: number, most: number) => Math.min(most, Math.max(...rows.map((r) => r[k]!.length), 0));
  const [w0, w1, w2] = [width(0, timed ? 20 : 8), width(1, 8), width(2, 48)];
  const lines = rows.map(
    (r) => `${r[0]!.padStart(w0)} ${r[1]!.padStart(w1)}  ${r[2]!.padEnd(w2)}  ${r[3]}${r[4] ? `  [${r[4]}]` : ""}`,
  );
  const m = memory;
  return [
    ...lines,
    `${ops.length} kernels, ${short(flops)}FLOP; memory: ${short(m.inputs)}B in, ${short(m.outputs)}B out, ${short(m.arena)}B between, ${short(m.constants)}B constants`,
    ...showPeak(memory.peak, memory.arena),
  ].join("\n");
}

/** The lines about the arena's peak; kinds of values below a hundredth of it are left out. */
export function showPeak(peak: ExplainedPeak, arena: number): string[] {
  if (peak.bytes === 0) return [];
  const where = peak.scope ? `${peak.op} [${peak.scope}]` : peak.op;
  const gap = ((100 * (arena - peak.bytes)) / peak.bytes).toFixed(1);
  return [
    `most at once: ${short(peak.bytes)}B at ${where}`,
    `the arena is ${gap} % larger; held then:`,
    ...peak.holders
      .filter((h) => h.bytes >= peak.bytes / 100)
      .map((h) => `${`${short(h.bytes)}B`.padStart(8)}  ${h.count} x ${h.op} ${h.value}`),
  ];
}
