import { bytesPerElement, type DType, type HostArray } from "../tensor/dtype.ts";
import { StateError } from "../tensor/errors.ts";
import { Graph } from "../tensor/graph.ts";
import {
  type Bound,
  type Compiled,
  type CompileOptions,
  type Estate,
  installRuntime,
  type Runtime,
  type Storage,
} from "../tensor/runtime.ts";
import { type Shape, sameShape, show, size } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { loweringThrough, lowerThrough } from "./cache.ts";
import type { LowerOptions } from "./compile.ts";
import type { Backend, BackendBuffer, Executable, Program } from "./program.ts";
import { inSlices } from "./slices.ts";

/** A buffer of a backend as a tensor holds it. */
export class BufferStorage implements Storage {
  readonly #backend: Backend;
  readonly buffer: BackendBuffer;
  readonly estate: BufferEstate;

  constructor(backend: Backend, buffer: BackendBuffer) {
    this.#backend = backend;
    this.buffer = buffer;
    this.estate = new BufferEstate(backend, buffer);
  }
  get bytes(): number {
    return this.buffer.bytes;
  }
  release(): void {
    this.estate.release();
  }
  read(dtype: DType, count: number): Promise<HostArray> {
    return this.#backend.download(this.buffer, dtype, count);
  }
  write(at: number, data: HostArray): void {
    this.#backend.write(this.buffer, at, data);
  }
}

class BufferEstate implements Estate {
  owned = false;
  watched = false;
  readonly #backend: Backend;
  readonly #buffer: BackendBuffer;
  #released = false;

  constructor(backend: Backend, buffer: BackendBuffer) {
    this.#backend = backend;
    this.#buffer = buffer;
  }
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#backend.release(this.#buffer);
  }
}

/** Off in tests that compare: see `LowerOptions`. */
export type RuntimeOptions = Pick<LowerOptions, "optimize" | "bfloat16" | "recompute">;

/** How many one-op programs eager use keeps compiled. */
const EAGER_PROGRAMS = 512;
/** Bytes of constants that one of them may hold. */
const EAGER_CONSTANTS = 1 << 16;

export function createRuntime(backend: Backend, options: RuntimeOptions = {}): Runtime {
  const eagerCache = new Map<string, Ready>();

  const optionsOf = ({ donated, precision = "f32" }: CompileOptions): LowerOptions => ({
    ...options,
    matmul: precision === "bf16" || (precision === "auto" && backend.prefersBfloat16) ? "bf16" : "f32",
    ...(donated ? { donated } : {}),
  });
  const named = (program: Program, { name }: CompileOptions): Program =>
    name === undefined ? program : { ...program, name };
  const ready = (graph: Graph, o: CompileOptions): Ready => {
    const program = named(lowerThrough(backend.programs, graph, backend, optionsOf(o)), o);
    return new Ready(backend, program, backend.compile(program), o.donated ?? []);
  };

  return {
    compile: (graph, o): Compiled => ready(graph, o),
    async compileLater(graph, o): Promise<Compiled> {
      const program = named(await inSlices(loweringThrough(backend.programs, graph, backend, optionsOf(o))), o);
      const executable = await (backend.compileLater?.(program) ?? backend.compile(program));
      return new Ready(backend, program, executable, o.donated ?? []);
    },
    upload: (data, dtype) => new BufferStorage(backend, backend.upload(data, dtype)),
    allocate: (bytes) => new BufferStorage(backend, backend.allocate(bytes)),
    eager(op, inputs, attributes, outputs, extra) {
      for (const t of inputs) t.storage(op.name);
      const cacheable = !extra.data && !extra.bodies?.length;
      const key = cacheable
        ? `${op.name} ${JSON.stringify(attributes)} ${inputs.map((t) => `${t.dtype}[${t.shape}]`).join()}`
        : "";
      let program = cacheable ? eagerCache.get(key) : undefined;
      if (!program) {
        const graph = new Graph();
        const values = inputs.map((t) => graph.input(t));
        graph.outputs = graph.add(op, values, attributes, outputs, { bodies: extra.bodies, data: extra.data }).outputs;
        program = ready(graph, {});
        if (cacheable && program.small) {
          eagerCache.set(key, program);
          if (eagerCache.size > EAGER_PROGRAMS) {
            const [oldest, old] = eagerCache.entries().next().value!;
            eagerCache.delete(oldest);
            old.release();
          }
        }
      }
      const result = program.run(inputs);
      if (!(cacheable && program.small)) program.release();
      return result;
    },
  };
}

interface Output {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly bytes: number;
  /** The donated input whose memory it takes over. */
  readonly from: number | undefined;
}

class Ready implements Compiled {
  readonly #backend: Backend;
  readonly program: Program;
  readonly #executable: Executable;
  readonly #donated: readonly boolean[];
  readonly #outputs: readonly Output[];

  constructor(backend: Backend, program: Program, executable: Executable, donated: readonly boolean[]) {
    this.#backend = backend;
    this.program = program;
    this.#executable = executable;
    this.#donated = donated;
    const from = new Map(program.aliases);
    this.#outputs = program.outputs.map((id, k) => {
      const { dtype, shape } = program.values[id]!;
      return { dtype, shape, bytes: Math.max(size(shape), 1) * bytesPerElement(dtype), from: from.get(k) };
    });
  }

  /** Whether it may be kept for good: large constants may not. */
  get small(): boolean {
    return this.program.constants.reduce((n, c) => n + c.byteLength, 0) <= EAGER_CONSTANTS;
  }

  run(inputs: readonly Tensor[]): Tensor[] {
    const buffers = inputs.map((t) => (t.storage("a compiled function") as BufferStorage).buffer);
    const given = inputs.map((t, i) => (this.#donated[i] ? t.donate() : undefined));
    const outputs: BackendBuffer[] = [];
    const results = this.#outputs.map(({ dtype, shape, bytes, from }) => {
      const taken = from === undefined ? undefined : given[from];
      if (taken) {
        given[from!] = undefined;
        outputs.push(buffers[from!]!);
        return Tensor.concrete(dtype, shape, taken);
      }
      const buffer = this.#backend.allocate(bytes);
      outputs.push(buffer);
      return Tensor.concrete(dtype, shape, new BufferStorage(this.#backend, buffer));
    });
    this.#executable.run(buffers, outputs);
    // Donated inputs that became no output are free once the run is over; the backend keeps them until then.
    for (const storage of given) storage?.release();
    return results;
  }

  bind(inputs: readonly Tensor[], results: readonly Tensor[]): Bound {
    const bufferOf = (t: Tensor) => (t.storage("a bound program") as BufferStorage).buffer;
    if (results.length !== this.#outputs.length)
      throw new StateError(`bind: ${results.length} results are given for a program of ${this.#outputs.length}.`);
    const taken = new Set<number>();
    for (const [k, { dtype, shape, from }] of this.#outputs.entries()) {
      const given = results[k]!;
      if (given.dtype !== dtype || !sameShape(given.shape, shape))
        throw new StateError(`bind: result ${k} is ${dtype} ${show(shape)}, and ${given} is given for it.`);
      if (from === undefined) continue;
      taken.add(from);
      if (given !== inputs[from])
        throw new StateError(`bind: result ${k} takes over donated input ${from}, and must be the same tensor.`);
    }
    const lost = this.#donated.findIndex((is, i) => is && !taken.has(i));
    if (lost >= 0) throw new StateError(`bind: donated input ${lost} is no result, so a second run would not find it.`);
    return this.#executable.bind(inputs.map(bufferOf), results.map(bufferOf));
  }

  release(): void {
    this.#executable.release();
  }
}

let active: Backend | undefined;

/** Makes `backend` the one new tensors and programs use; gives back what was used before. */
export function useBackend(backend: Backend, options: RuntimeOptions = {}): Backend | undefined {
  const before = active;
  active = backend;
  installRuntime(createRuntime(backend, options));
  return before;
}

export function activeBackend(): Backend | undefined {
  return active;
}
