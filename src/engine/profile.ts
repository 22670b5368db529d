import type { NativeBackend, NativeExecutable, TraceSpan } from "./backends/native/backend.ts";
import type { Peaks } from "./backends/native/peaks.ts";
import { type Cost, costOf, describeOp, describeValue } from "./cost.ts";
import type { Instruction, Program } from "./program.ts";

/** An instruction of a program that ran while it was profiled; all its calls together. */
export interface ProfiledInstruction extends Cost {
  readonly program: string;
  readonly op: string;
  /** As `explain` names it: of a fused region also what it is made of. */
  readonly name: string;
  readonly scope: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly nanoseconds: number;
  readonly calls: number;
}

export interface ProfiledProgram {
  readonly name: string;
  readonly program: Program;
  readonly runs: number;
  readonly nanoseconds: number;
}

export interface Profile {
  readonly instructions: readonly ProfiledInstruction[];
  /** Those that ran, the one that took longest first. */
  readonly programs: readonly ProfiledProgram[];
  /** Only if asked for. */
  readonly trace?: readonly TraceEvent[];
}

/** A complete event of Chrome's trace format, which Perfetto and chrome://tracing read. Times in microseconds. */
export interface TraceEvent {
  readonly name: string;
  readonly cat?: string;
  readonly ph: "X" | "M";
  readonly ts: number;
  readonly dur?: number;
  readonly pid: number;
  readonly tid: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

interface Heard {
  readonly name: string;
  readonly program: Program;
  readonly executable: NativeExecutable;
  runs: number;
  /** Of the calls that queue it, in nanoseconds of process.hrtime. */
  readonly queued: { readonly start: number; readonly end: number }[];
  releaseLater: boolean;
}

const now = () => Number(process.hrtime.bigint());

/** A native backend that can be asked where the time goes. Use its `backend` in place of the one it was made of. */
export class Profiler {
  readonly backend: NativeBackend;
  readonly #programs = new Set<Heard>();
  #active = false;
  #trace = false;

  constructor(native: NativeBackend) {
    this.backend = new Proxy(native, {
      get: (target, key) => {
        if (key === "compile") return (program: Program) => this.#listen(program, target.compile(program));
        if (key === "compileLater")
          return async (program: Program) => this.#listen(program, await target.compileLater(program));
        const member: unknown = Reflect.get(target, key, target);
        return typeof member === "function" ? member.bind(target) : member;
      },
    });
  }

  #listen(program: Program, executable: NativeExecutable): NativeExecutable {
    const name = program.name ?? "single ops";
    const heard: Heard = { name, program, executable, runs: 0, queued: [], releaseLater: false };
    this.#programs.add(heard);
    if (this.#active) executable.profile(true, this.#trace);
    const heed = (run: () => void) => {
      if (!this.#active) return run();
      heard.runs++;
      const start = now();
      run();
      heard.queued.push({ start, end: now() });
    };
    return {
      run: (inputs, outputs) => heed(() => executable.run(inputs, outputs)),
      bind: (inputs, outputs) => {
        const bound = executable.bind(inputs, outputs);
        return { run: () => heed(() => bound.run()), release: () => bound.release() };
      },
      release: () => {
        // Its counters are still to be read.
        if (this.#active) heard.releaseLater = true;
        else this.#drop(heard);
      },
      profile: (on, trace) => executable.profile(on, trace),
      readProfile: () => executable.readProfile(),
      readTrace: () => executable.readTrace(),
    };
  }

  #drop(heard: Heard): void {
    this.#programs.delete(heard);
    heard.executable.release();
  }

  /** Measures all that is queued from now on. */
  start({ trace = false }: { readonly trace?: boolean } = {}): void {
    this.#active = true;
    this.#trace = trace;
    for (const heard of this.#programs) {
      heard.runs = 0;
      heard.queued.length = 0;
      heard.executable.profile(true, trace);
    }
  }

  /** Waits for all that was queued since `start`, and says what it did. */
  async stop(): Promise<Profile> {
    const instructions: ProfiledInstruction[] = [];
    const programs: ProfiledProgram[] = [];
    const events: TraceEvent[] = [];
    let threads: readonly TraceSpan[] = [];
    for (const heard of [...this.#programs]) {
      const entries = await heard.executable.readProfile();
      const mine = flatten(heard.program).map(
        ({ program, instruction }, i): ProfiledInstruction => ({
          program: heard.name,
          op: instruction.op,
          name: describeOp(instruction.op, instruction.attributes),
          scope: instruction.scope ?? "",
          inputs: instruction.inputs.map((id) => describeValue(program.values[id]!)),
          outputs: instruction.outputs.map((id) => describeValue(program.values[id]!)),
          ...costOf(program, instruction),
          nanoseconds: entries[i]!.nanoseconds,
          calls: entries[i]!.calls,
        }),
      );
      if (mine.some((one) => one.calls > 0)) {
        const outer = heard.program.instructions.length;
        let at = 0;
        let nanoseconds = 0;
        // A loop's time holds that of its body.
        for (let i = 0; i < outer; i++) {
          nanoseconds += entries[at]!.nanoseconds;
          at += 1 + bodiesOf(heard.program.instructions[i]!);
        }
        programs.push({ name: heard.name, program: heard.program, runs: heard.runs, nanoseconds });
        instructions.push(...mine.filter((one) => one.calls > 0));
        if (this.#trace) {
          const trace = await heard.executable.readTrace();
          threads = trace.threads;
          events.push(...traceOf(heard, mine, trace.calls));
        }
      }
      heard.executable.profile(false);
    }
    this.#active = false;
    for (const heard of [...this.#programs]) if (heard.releaseLater) this.#drop(heard);
    programs.sort((a, b) => b.nanoseconds - a.nanoseconds);
    return { instructions, programs, ...(this.#trace ? { trace: rows(events, threads) } : {}) };
  }
}

/** Instructions in the order in which the native backend counts them: the bodies of a loop follow it. */
function flatten(program: Program): { program: Program; instruction: Instruction }[] {
  return program.instructions.flatMap((instruction) => [
    { program, instruction },
    ...(instruction.programs ?? []).flatMap(flatten),
  ]);
}

const bodiesOf = (instruction: Instruction): number =>
  (instruction.programs ?? []).reduce((n, body) => n + flatten(body).length, 0);

// ---- Traces ----

const JAVASCRIPT = 1;
const EXECUTOR = 2;
const POOL = 10;

function traceOf(
  heard: Heard,
  instructions: readonly ProfiledInstruction[],
  calls: readonly TraceSpan[],
): TraceEvent[] {
  const event = (
    tid: number,
    name: string,
    s: { start: number; end: number },
    args: TraceEvent["args"],
  ): TraceEvent => ({
    name,
    cat: heard.name,
    ph: "X",
    ts: s.start / 1e3,
    dur: (s.end - s.start) / 1e3,
    pid: 1,
    tid,
    ...(args ? { args } : {}),
  });
  return [
    ...heard.queued.map((span) => event(JAVASCRIPT, `queue ${heard.name}`, span, undefined)),
    ...calls.map((span) => {
      const { op, name, scope, inputs, outputs, flops, bytes } = instructions[span.number]!;
      return event(EXECUTOR, op, span, { ...(name === op ? {} : { name }), scope, inputs, outputs, flops, bytes });
    }),
  ];
}

/** Named rows, and times from the first event on. */
function rows(events: readonly TraceEvent[], threads: readonly TraceSpan[]): TraceEvent[] {
  const working = threads.map(
    (s): TraceEvent => ({
      name: "tasks",
      ph: "X",
      ts: s.start / 1e3,
      dur: (s.end - s.start) / 1e3,
      pid: 1,
      tid: POOL + s.number,
    }),
  );
  const all = [...events, ...working].sort((a, b) => a.ts - b.ts);
  const begin = all[0]?.ts ?? 0;
  const name = (tid: number, name: string): TraceEvent => ({
    name: "thread_name",
    ph: "M",
    ts: 0,
    pid: 1,
    tid,
    args: { name },
  });
  return [
    { name: "process_name", ph: "M", ts: 0, pid: 1, tid: 0, args: { name: "howdah" } },
    name(JAVASCRIPT, "JavaScript: programs queued"),
    name(EXECUTOR, "executor: instructions"),
    ...[...new Set(threads.map((s) => s.number))].sort((a, b) => a - b).map((i) => name(POOL + i, `pool thread ${i}`)),
    ...all.map((e) => ({ ...e, ts: e.ts - begin })),
  ];
}

// ---- Rooflines ----

export type ProfileKey = "op" | "shape" | "scope";

/** Instructions of one kind, per step. */
export interface ProfileRow {
  readonly kind: string;
  readonly milliseconds: number;
  readonly calls: number;
  readonly gflops: number;
  readonly gb_per_s: number;
  /**
   * The least time that arithmetic or memory allow (the longer of the two, at the measured peaks), as a part of the time taken: Williams,
   * Waterman & Patterson 2009. Above 1 where operands come from a cache.
   */
  readonly roofline: number;
}

/** Gathers a profile by kind, slowest first. Time of a loop is that of its body, and what it takes beside. */
export function profileRows(profile: Profile, by: ProfileKey, steps: number, peaks: Peaks): ProfileRow[] {
  const sums = new Map<string, { ns: number; calls: number; flops: number; bytes: number; least: number }>();
  for (const one of profile.instructions) {
    if (one.op === "while" || one.op === "scan") continue;
    const kind = kindOf(one, by);
    const sum = sums.get(kind) ?? { ns: 0, calls: 0, flops: 0, bytes: 0, least: 0 };
    const compute = (one.type === "bf16" && peaks.bf16) || peaks.f32;
    sum.ns += one.nanoseconds;
    sum.calls += one.calls;
    sum.flops += one.calls * one.flops;
    sum.bytes += one.calls * one.bytes;
    sum.least += one.calls * Math.max(one.flops / compute, one.bytes / peaks.read);
    sums.set(kind, sum);
  }
  return [...sums]
    .map(([kind, s]) => ({
      kind,
      milliseconds: s.ns / 1e6 / steps,
      calls: s.calls / steps,
      gflops: s.flops / s.ns,
      gb_per_s: s.bytes / s.ns,
      roofline: s.least / s.ns,
    }))
    .sort((a, b) => b.milliseconds - a.milliseconds);
}

function kindOf(one: ProfiledInstruction, by: ProfileKey): string {
  // Layers of one kind go together: h.3.mlp is h.*.mlp.
  if (by === "scope") return one.scope.replace(/\b\d+\b/g, "*") || "(none)";
  const op = one.op === "fused_elementwise" ? "fused" : one.op;
  if (by === "op") return op;
  if (one.op === "adamw" || one.op === "global_norm") return op;
  const made = one.op === "fused_elementwise" ? ` ${one.name.slice("fused: ".length)}` : "";
  const shapes = (one.op === "fused_elementwise" ? one.outputs.slice(0, 1) : one.inputs.slice(0, 3)).map((text) =>
    text.replace(/^\w+/, ""),
  );
  return `${op} ${shapes.join(" ")}${made}`;
}
