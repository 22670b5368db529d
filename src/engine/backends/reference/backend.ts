import type { DType, HostArray } from "../../../tensor/dtype.ts";
import { BackendError } from "../../../tensor/errors.ts";
import type { Attributes } from "../../../tensor/graph.ts";
import type { Backend, BackendBuffer, Executable, Program } from "../../program.ts";
import { bytesOf, elements, prepare } from "./execute.ts";
import { kernels } from "./kernels.ts";

class ReferenceBuffer implements BackendBuffer {
  readonly bytes: number;
  #memory: Uint8Array | undefined;

  constructor(memory: Uint8Array) {
    this.bytes = memory.byteLength;
    this.#memory = memory;
  }

  get memory(): Uint8Array {
    if (!this.#memory) throw new BackendError("A buffer of the reference backend is used after it was released.");
    return this.#memory;
  }

  release(): void {
    this.#memory = undefined;
  }
}

/**
 * The oracle: plain TypeScript, every op computed in f64 and rounded once to the dtype of its result. A queued run is done at
 * once; its failure waits for the next `download` or `sync`, as on a backend with a queue of its own.
 */
export class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly prefersBfloat16 = false;
  #failure: unknown;

  supports(op: string, attributes: Attributes = {}): boolean {
    if (attributes.epilogue) return false;
    return op in kernels || op === "while" || op === "scan";
  }

  allocate(bytes: number): BackendBuffer {
    return new ReferenceBuffer(new Uint8Array(bytes));
  }

  upload(data: HostArray, _dtype: DType): BackendBuffer {
    return new ReferenceBuffer(bytesOf(data).slice());
  }

  write(buffer: BackendBuffer, at: number, data: HostArray): void {
    memoryOf(buffer).set(bytesOf(data), at);
  }

  async download(buffer: BackendBuffer, dtype: DType, size: number): Promise<HostArray> {
    this.#raise();
    return elements(memoryOf(buffer), dtype, size);
  }

  compile(program: Program): Executable {
    const prepared = prepare(program);
    const run = (inputs: readonly BackendBuffer[], outputs: readonly BackendBuffer[]) => {
      try {
        prepared(inputs.map(memoryOf), outputs.map(memoryOf));
      } catch (error) {
        this.#failure ??= error;
      }
    };
    const release = () => {};
    return { run, bind: (inputs, outputs) => ({ run: () => run(inputs, outputs), release }), release };
  }

  release(buffer: BackendBuffer): void {
    if (buffer instanceof ReferenceBuffer) buffer.release();
  }

  async sync(): Promise<void> {
    this.#raise();
  }

  #raise(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure) throw failure;
  }
}

function memoryOf(buffer: BackendBuffer): Uint8Array {
  if (!(buffer instanceof ReferenceBuffer))
    throw new BackendError("A buffer of another backend was given to the reference backend.");
  return buffer.memory;
}
