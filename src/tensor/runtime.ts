import type { DType, HostArray } from "./dtype.ts";
import { StateError } from "./errors.ts";
import type { Attributes, Aval, Graph } from "./graph.ts";
import type { Op } from "./op.ts";
import type { Tensor } from "./tensor.ts";
import type { ApplyExtra } from "./trace.ts";

/** Memory of a backend as a concrete tensor holds it. */
export interface Storage {
  readonly bytes: number;
  /** What is left of it when it has been collected without a release. It must not lead back to the storage. */
  readonly estate: Estate;
  release(): void;
  read(dtype: DType, size: number): Promise<HostArray>;
  /** Copies `data` to byte `at`, before this returns; for memory that no computation was given yet. */
  write(at: number, data: HostArray): void;
}

export interface Estate {
  /** Whether a living tensor holds the storage. Kept by the tensors. */
  owned: boolean;
  /** Whether the garbage collector tells when the storage has gone. Kept by the tensors. */
  watched: boolean;
  /** Frees the memory. Harmless when repeated. */
  release(): void;
}

export interface CompileOptions {
  /** Which inputs (flat positions) may be consumed by the call. */
  readonly donated?: readonly boolean[];
  readonly precision?: Precision;
  readonly name?: string;
}

/** `auto`: matmul operands in bf16 where the processor multiplies bf16, f32 elsewhere. Sums are always f32. */
export type Precision = "auto" | "f32" | "bf16";

export interface Compiled {
  /** Queues one run. Donated inputs are dead afterwards. */
  run(inputs: readonly Tensor[]): Tensor[];
  /**
   * The program with its arguments, for calls so short that handing those over costs as much as the work. Nothing is consumed: a donated
   * input is its result as well, and holds what the last run made of it.
   * @param results what each run writes; where a result takes over a donated input, that input. All tensors must live as long as this
   */
  bind(inputs: readonly Tensor[], results: readonly Tensor[]): Bound;
  release(): void;
}

export interface Bound {
  /** Queues one run. */
  run(): void;
  release(): void;
}

/** What the language needs of an engine. The engine installs itself here; `src/tensor` knows no backend. */
export interface Runtime {
  eager(
    op: Op,
    inputs: readonly Tensor[],
    attributes: Attributes,
    outputs: readonly Aval[],
    extra: ApplyExtra,
  ): Tensor[];
  compile(graph: Graph, options: CompileOptions): Compiled;
  /** As `compile`, while the event loop goes on: none of it is done in the call itself. The graph must stay as it is. */
  compileLater(graph: Graph, options: CompileOptions): Promise<Compiled>;
  upload(data: HostArray, dtype: DType): Storage;
  /** Memory with undefined contents. */
  allocate(bytes: number): Storage;
}

let installed: Runtime | undefined;

export function runtime(): Runtime {
  if (!installed)
    throw new StateError(
      'No engine is installed. Import from "howdah" (which installs the default one), or call useBackend(...) first.',
    );
  return installed;
}

export function installRuntime(next: Runtime): Runtime | undefined {
  const before = installed;
  installed = next;
  return before;
}
