import { StateError } from "./errors.ts";
import type { Graph } from "./graph.ts";
import { type Compiled, type CompileOptions, type Precision, runtime } from "./runtime.ts";
import { Tensor } from "./tensor.ts";
import { currentTrace, lift, trace } from "./trace.ts";
import { type Pattern, patternOf, signature, tensors, tensorsLike, withTensors } from "./tree.ts";

export interface JitOptions {
  /** Positions of arguments whose tensors the call may consume and reuse for its results. They are dead afterwards. */
  readonly donate?: readonly number[];
  /** What matmul operands are rounded to; `auto` picks bf16 where the processor multiplies it. Default `f32`. */
  readonly precision?: Precision;
  readonly name?: string;
}

interface Entry {
  /** Of the arguments that it was compiled for. */
  readonly pattern: Pattern;
  readonly compiled: Compiled;
  readonly captured: readonly Tensor[];
  /** Result structure with the positions of its tensors; leaves that are plain values are kept. */
  readonly rebuild: (outputs: readonly Tensor[]) => unknown;
}

export type Jitted<A extends readonly unknown[], R> = ((...args: A) => R) & {
  /**
   * Traces the function for such arguments in this call, and compiles the program while the event loop goes on, in slices of a few
   * milliseconds; calls with such arguments find it then. Nothing is run, kept or consumed of the arguments. A call that comes before does not
   * wait: it compiles by itself. Tracing is one call of the function and cannot be cut.
   * @throws (by rejection) what tracing and compiling would throw in a call
   */
  prepare(...args: A): Promise<void>;
  /** Frees the compiled programs. */
  release(): void;
  /**
   * The program for such arguments, on lists in place of trees: tensors in the order of `tensors(args)`, and of `tensors(result)`. For calls so
   * short that walking the trees of a whole model costs as much as the work. The caller sees to it that what it gives fits.
   */
  flat(...args: A): Pick<Compiled, "run" | "bind">;
  /** How many programs were compiled: one per structure, shapes, dtypes and plain values of the arguments. */
  readonly programs: number;
};

/** The trace of `f` for these arguments: its inputs are the arguments' tensors in order, then what it captured. */
export function traceCall<A extends readonly unknown[], R>(
  f: (...args: A) => R,
  args: A,
): { graph: Graph; result: R; captured: readonly Tensor[] } {
  const { graph, result } = trace((g) => {
    const inputs = tensors(args).map((t) => Tensor.traced(g.input(t)));
    const out = f(...withTensors(args, inputs));
    g.outputs = tensors(out).map((t) => lift(g, t));
    return out;
  });
  return { graph, result, captured: graph.captured.map((c) => c.tensor) };
}

/**
 * Traces `f` once per signature of its arguments (structure, shapes, dtypes, plain values), compiles the graph, and from then on only
 * runs the program. Arguments and results are trees. Inside another trace, `f` is simply inlined.
 */
export function jit<A extends readonly unknown[], R>(f: (...args: A) => R, options: JitOptions = {}): Jitted<A, R> {
  const cache = new Map<string, Entry>();
  /** Programs on their way, by signature. */
  const pending = new Map<string, Promise<void>>();
  // Most calls are like the one before, and the signature of a whole model's tree takes longer to write than a short program to run.
  let last: Entry | undefined;
  const entryOf = (args: A): Entry => {
    const key = signature(args);
    let entry = cache.get(key);
    if (!entry) {
      entry = compile(args);
      cache.set(key, entry);
    }
    return entry;
  };
  const call = (...args: A): R => {
    if (currentTrace()) return f(...args);
    const same = last && tensorsLike(last.pattern, args);
    const entry = same ? last! : entryOf(args);
    last = entry;
    const outputs = entry.compiled.run([...(same ?? tensors(args)), ...entry.captured]);
    return entry.rebuild(outputs) as R;
  };
  /** All that compiling takes of the arguments, and the entry that it makes with the program. */
  const traced = (args: A): { graph: Graph; how: CompileOptions; entry: (compiled: Compiled) => Entry } => {
    const { graph, result, captured } = traceCall(f, args);
    const donated = args.flatMap((arg, i) => tensors(arg).map(() => options.donate?.includes(i) ?? false));
    for (const t of captured)
      if (t.isTraced) throw new StateError("jit: the function uses a tensor of another trace; pass it as an argument.");
    const how = {
      donated: [...donated, ...captured.map(() => false)],
      precision: options.precision ?? "f32",
      name: options.name ?? (f.name || "anonymous"),
    };
    const pattern = patternOf(args);
    const rebuild = (outputs: readonly Tensor[]) => withTensors(result, outputs);
    return { graph, how, entry: (compiled) => ({ pattern, compiled, captured, rebuild }) };
  };
  const compile = (args: A): Entry => {
    const { graph, how, entry } = traced(args);
    return entry(runtime().compile(graph, how));
  };
  const prepare = (args: A): Promise<void> => {
    // Inside of a trace the function is inlined.
    if (currentTrace() || (last && tensorsLike(last.pattern, args))) return Promise.resolve();
    const key = signature(args);
    if (cache.has(key)) return Promise.resolve();
    const known = pending.get(key);
    if (known) return known;
    const { graph, how, entry } = traced(args);
    const mine: Promise<void> = runtime()
      .compileLater(graph, how)
      .then((compiled) => {
        // A call that did not wait has its own, and after a release nobody wants it.
        if (pending.get(key) !== mine || cache.has(key)) compiled.release();
        else cache.set(key, entry(compiled));
      })
      .finally(() => {
        if (pending.get(key) === mine) pending.delete(key);
      });
    pending.set(key, mine);
    return mine;
  };
  return Object.defineProperty(
    Object.assign(call, {
      flat(...args: A) {
        const { compiled, captured } = entryOf(args);
        return {
          run: (inputs: readonly Tensor[]) => compiled.run([...inputs, ...captured]),
          bind: (inputs: readonly Tensor[], results: readonly Tensor[]) =>
            compiled.bind([...inputs, ...captured], results),
        };
      },
      async prepare(...args: A) {
        await prepare(args);
      },
      release() {
        for (const e of cache.values()) e.compiled.release();
        cache.clear();
        pending.clear();
        last = undefined;
      },
    }),
    "programs",
    { get: () => cache.size },
  ) as Jitted<A, R>;
}
