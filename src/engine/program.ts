import type { DType, HostArray } from "../tensor/dtype.ts";
import type { Attribute, Attributes, Aval } from "../tensor/graph.ts";
import type { Sliced } from "./slices.ts";

/**
 * Where a value's bytes live while its program runs. All values are row-major and contiguous;
 * a reshape is a second value with the same storage.
 */
export type Storage =
  | { readonly kind: "input"; readonly index: number }
  | { readonly kind: "output"; readonly index: number }
  | { readonly kind: "constant"; readonly index: number }
  /** Byte offset into the program's one arena, a multiple of 64. */
  | { readonly kind: "arena"; readonly offset: number };

export interface ProgramValue {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly storage: Storage;
}

export type { Attribute, Attributes };

/** One call of a kernel: `values[outputs] = op(values[inputs], attributes)`. */
export interface Instruction {
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly attributes: Attributes;
  /** Bodies of loops (`while`: [condition, body]; `scan`: [body]) and other region-carrying ops. */
  readonly programs?: readonly Program[];
  /** Scope names for errors and profiles, such as `GPT.forward/h.3.mlp`. */
  readonly scope?: string;
}

/** The instruction at which most of the arena is in use, and what holds it. */
export interface ArenaPeak {
  /** Position of the instruction. */
  readonly at: number;
  /** Bytes in use then, its own results included: no arrangement of the arena can be smaller. */
  readonly bytes: number;
  /** What the instruction's kernel wants for itself. */
  readonly workspace?: number;
  /** Largest first: what lies in the arena then, as it was called when it was made, and the instruction that made it. */
  readonly holders: readonly { readonly value: number; readonly instruction: number; readonly bytes: number }[];
}

/**
 * What a backend runs: a flat list of instructions over values with static shapes and planned memory.
 * Outputs named in `aliases` reuse the buffer of a donated input (`[output index, input index]`); that input is
 * consumed by the call.
 */
export interface Program {
  /** Of the compiled function, for profiles. */
  readonly name?: string;
  readonly values: readonly ProgramValue[];
  readonly instructions: readonly Instruction[];
  /** Value ids, in the order of the call's arguments. */
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly constants: readonly HostArray[];
  readonly aliases: readonly (readonly [output: number, input: number])[];
  readonly arenaBytes: number;
  /** Where the arena is fullest, for people to read: backends do not need it. */
  readonly peak?: ArenaPeak;
  /** The type matmul operands are rounded to; accumulation is in f32 always. */
  readonly matmul: "f32" | "bf16";
}

/** A program as it is kept between processes: its constants are positions among those of the graph, or their elements. */
export type StoredProgram = Omit<Program, "constants" | "instructions"> & {
  readonly constants: readonly (number | HostArray)[];
  readonly instructions: readonly (Omit<Instruction, "programs"> & { readonly programs?: readonly StoredProgram[] })[];
};

/** Where a backend keeps programs between processes. */
export interface ProgramStore {
  /** A key for what is given and for all else that programs depend on: the compiler's code, the backend's kernels. */
  digesting(parts: readonly (string | HostArray)[]): Sliced<string>;
  /** Undefined for whatever is missing, damaged, or of another version. */
  load(key: string): StoredProgram | undefined;
  /** Some time soon, unless it cannot be done: nobody waits for it. */
  save(key: string, program: StoredProgram): void;
}

/** An opaque handle to device memory; only the backend that made it can read it. */
export interface BackendBuffer {
  readonly bytes: number;
}

export interface Executable {
  /**
   * Queues the program and returns at once; runs happen in the order they were queued. `outputs` are buffers allocated
   * by the caller (for aliased outputs: the donated input's own buffer). A failure surfaces at the next `download` or `sync`.
   */
  run(inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]): void;
  /** The program with these buffers, to be run often. They must live until it is released. */
  bind(inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]): BoundExecutable;
  release(): void;
}

export interface BoundExecutable {
  /** As `Executable.run`. */
  run(): void;
  /** Runs that are queued still finish. */
  release(): void;
}

export interface Backend {
  readonly name: string;
  /** Whether the backend has its own kernel for this op; if not, a composite is decomposed before it gets here. */
  supports(op: string, attributes: Attributes, dtypes: readonly DType[]): boolean;
  /**
   * Bytes that the kernel of an instruction wants while it runs, where they are many: the plan leaves a hole in the arena, and the backend
   * may put them there.
   */
  workspace?(op: string, inputs: readonly Aval[], matmul: "f32" | "bf16"): number;
  /** Whether matmuls run faster with bf16 operands on this processor. */
  readonly prefersBfloat16: boolean;
  /** Where programs for it are kept between processes, if anywhere. */
  readonly programs?: ProgramStore | undefined;
  allocate(bytes: number): BackendBuffer;
  upload(data: HostArray, dtype: DType): BackendBuffer;
  /** Copies `data` to byte `at` of a buffer that nothing queued uses, before this returns. */
  write(buffer: BackendBuffer, at: number, data: HostArray): void;
  /** Waits for everything queued before it, then copies out. */
  download(buffer: BackendBuffer, dtype: DType, size: number): Promise<HostArray>;
  compile(program: Program): Executable;
  /** As `compile`, in slices and outside of this thread where the backend can. */
  compileLater?(program: Program): Promise<Executable>;
  release(buffer: BackendBuffer): void;
  sync(): Promise<void>;
}
