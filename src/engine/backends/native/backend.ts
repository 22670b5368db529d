import { type DType, type HostArray, hostArray } from "../../../tensor/dtype.ts";
import { BackendError } from "../../../tensor/errors.ts";
import type { Aval } from "../../../tensor/graph.ts";
import type { Attributes, Backend, BackendBuffer, BoundExecutable, Executable, Program } from "../../program.ts";
import { inSlices, type Sliced } from "../../slices.ts";
import {
  addonIdentity,
  loadAddon,
  type MemoryStats,
  type NativeAddon,
  type NativeFacts,
  type ProfileEntry,
} from "./addon.ts";
import { encodeProgram, encodingProgram } from "./encode.ts";
import { cacheFolder, hashingCode, ProgramFiles, programsFolder } from "./programs.ts";
import { supportsOp, workspaceOf } from "./supports.ts";

/** Memory of the native backend. A buffer that has been released is refused, never read. */
class NativeBuffer implements BackendBuffer {
  readonly bytes: number;
  readonly handle: number;

  constructor(bytes: number, handle: number) {
    this.bytes = bytes;
    this.handle = handle;
  }
}

/** A stretch of time: of an instruction (its number counts as in `readProfile`) or of a thread. Nanoseconds of `process.hrtime`'s clock. */
export interface TraceSpan {
  readonly number: number;
  readonly start: number;
  readonly end: number;
}

function spans(triples: Float64Array): TraceSpan[] {
  return Array.from({ length: triples.length / 3 }, (_, i) => ({
    number: triples[3 * i]!,
    start: triples[3 * i + 1]!,
    end: triples[3 * i + 2]!,
  }));
}

export interface NativeExecutable extends Executable {
  /** Starts (or stops) timing each instruction of runs queued from now on; the counters start at zero. `trace` keeps single calls too. */
  profile(on: boolean, trace?: boolean): void;
  /** The counters after everything queued so far is done. */
  readProfile(): Promise<ProfileEntry[]>;
  /** When each instruction ran, and when each thread worked, after everything queued so far is done. */
  readTrace(): Promise<{ readonly calls: readonly TraceSpan[]; readonly threads: readonly TraceSpan[] }>;
}

export interface NativeBackend extends Backend {
  compile(program: Program): NativeExecutable;
  compileLater(program: Program): Promise<NativeExecutable>;
  /** Processor features, threads and caches as the kernels see them. */
  readonly facts: NativeFacts;
  memory(): MemoryStats;
  /** Starts a new measurement of `memory().peakBytes`. */
  resetPeak(): void;
  /** Gives memory kept for reuse back to the system. */
  trim(): void;
}

function failure(error: unknown): BackendError {
  return new BackendError(error instanceof Error ? error.message : String(error), { cause: error });
}

function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw failure(error);
  }
}

function handleOf(buffer: BackendBuffer): number {
  if (buffer instanceof NativeBuffer) return buffer.handle;
  throw new BackendError("This buffer belongs to another backend. Move the tensor to the native backend first.");
}

class Compiled implements NativeExecutable {
  readonly #addon: NativeAddon;
  readonly #handle: number;
  readonly #inputs: Float64Array;
  readonly #outputs: Float64Array;

  constructor(addon: NativeAddon, program: Program, handle: number) {
    this.#addon = addon;
    this.#handle = handle;
    this.#inputs = new Float64Array(program.inputs.length);
    this.#outputs = new Float64Array(program.outputs.length);
  }

  run(inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]): void {
    this.#give(inputs, outputs);
    guarded(() => this.#addon.run(this.#handle, this.#inputs, this.#outputs));
  }

  bind(inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]): BoundExecutable {
    this.#give(inputs, outputs);
    const addon = this.#addon;
    const bound = guarded(() => addon.bind(this.#handle, this.#inputs, this.#outputs));
    return { run: () => guarded(() => addon.runBound(bound)), release: () => guarded(() => addon.releaseBound(bound)) };
  }

  #give(inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]): void {
    if (inputs.length !== this.#inputs.length || outputs.length !== this.#outputs.length)
      throw new BackendError(
        `A program with ${this.#inputs.length} inputs and ${this.#outputs.length} outputs was run with ${inputs.length} and ${outputs.length}.`,
      );
    for (let i = 0; i < inputs.length; i++) this.#inputs[i] = handleOf(inputs[i] as BackendBuffer);
    for (let i = 0; i < outputs.length; i++) this.#outputs[i] = handleOf(outputs[i] as BackendBuffer);
  }

  profile(on: boolean, trace = false): void {
    guarded(() => this.#addon.profile(this.#handle, on, trace));
  }

  async readTrace(): Promise<{ readonly calls: readonly TraceSpan[]; readonly threads: readonly TraceSpan[] }> {
    await this.#addon.sync().catch((error: unknown) => Promise.reject(failure(error)));
    const calls = guarded(() => this.#addon.readTrace(this.#handle));
    return { calls: spans(calls), threads: spans(guarded(() => this.#addon.readBusy())) };
  }

  async readProfile(): Promise<ProfileEntry[]> {
    await this.#addon.sync().catch((error: unknown) => Promise.reject(failure(error)));
    return guarded(() => this.#addon.readProfile(this.#handle));
  }

  release(): void {
    guarded(() => this.#addon.releaseExecutable(this.#handle));
  }
}

class Native implements NativeBackend {
  readonly name = "native";
  readonly facts: NativeFacts;
  readonly programs: ProgramFiles | undefined;
  readonly #addon: NativeAddon;

  constructor(addon: NativeAddon) {
    this.#addon = addon;
    this.facts = addon.facts();
    const folder = cacheFolder();
    // The same programs for any number of threads and any caches: kernels look at those themselves.
    const { isa, bf16 } = this.facts;
    const about = function* (): Sliced<string> {
      return `${yield* hashingCode()}\n${addonIdentity()}\n${isa} ${bf16}`;
    };
    this.programs = folder === undefined ? undefined : new ProgramFiles(programsFolder(folder), about);
  }

  get prefersBfloat16(): boolean {
    return this.facts.bf16;
  }

  supports(op: string, attributes: Attributes, dtypes: readonly DType[]): boolean {
    return this.#addon.supports(op) && supportsOp(op, attributes, dtypes);
  }

  workspace(op: string, inputs: readonly Aval[], matmul: "f32" | "bf16"): number {
    return workspaceOf(op, inputs, matmul);
  }

  allocate(bytes: number): BackendBuffer {
    return new NativeBuffer(
      bytes,
      guarded(() => this.#addon.allocate(bytes)),
    );
  }

  upload(data: HostArray, dtype: DType): BackendBuffer {
    if (dtype === "f64")
      throw new BackendError(
        "The native backend has no f64. Use the reference backend for gradient checks, or convert to f32.",
      );
    return new NativeBuffer(
      data.byteLength,
      guarded(() => this.#addon.upload(data)),
    );
  }

  write(buffer: BackendBuffer, at: number, data: HostArray): void {
    guarded(() => this.#addon.write(handleOf(buffer), at, data));
  }

  async download(buffer: BackendBuffer, dtype: DType, size: number): Promise<HostArray> {
    try {
      return await this.#addon.download(handleOf(buffer), hostArray(dtype, size));
    } catch (error) {
      throw error instanceof BackendError ? error : failure(error);
    }
  }

  compile(program: Program): NativeExecutable {
    const { json, constants } = encodeProgram(program);
    const handle = guarded(() => this.#addon.compile(json, constants, program.matmul === "bf16"));
    return new Compiled(this.#addon, program, handle);
  }

  async compileLater(program: Program): Promise<NativeExecutable> {
    const { json, constants } = await inSlices(encodingProgram(program));
    try {
      const handle = await this.#addon.compileLater(json, constants, program.matmul === "bf16");
      return new Compiled(this.#addon, program, handle);
    } catch (error) {
      throw failure(error);
    }
  }

  release(buffer: BackendBuffer): void {
    guarded(() => this.#addon.release(handleOf(buffer)));
  }

  async sync(): Promise<void> {
    try {
      await this.#addon.sync();
    } catch (error) {
      throw failure(error);
    }
  }

  memory(): MemoryStats {
    return this.#addon.memory();
  }

  resetPeak(): void {
    this.#addon.resetPeak();
  }

  trim(): void {
    this.#addon.trim();
  }
}

/** The native backend, or why there is none on this machine. */
export function loadNativeBackend(): NativeBackend | { readonly missing: string } {
  const addon = loadAddon();
  return "missing" in addon ? addon : new Native(addon);
}
