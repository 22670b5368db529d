import {
  bytesPerElement,
  type DType,
  fromBfloat16,
  fromFloat16,
  type HostArray,
  hostArray,
  toBfloat16,
  toFloat16,
} from "../../../tensor/dtype.ts";
import { BackendError, HowdahError } from "../../../tensor/errors.ts";
import { type Shape, show, size } from "../../../tensor/shape.ts";
import type { Instruction, Program, ProgramValue } from "../../program.ts";
import type { Kernel, Numbers, Operand } from "./kernel.ts";
import { kernels } from "./kernels.ts";

/** A value's memory while a kernel runs: the bytes, and on demand its elements as numbers. */
class Memory implements Operand {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly bytes: Uint8Array;
  #numbers: Numbers | undefined;

  constructor(value: ProgramValue, bytes: Uint8Array) {
    this.dtype = value.dtype;
    this.shape = value.shape;
    this.bytes = bytes.subarray(0, size(value.shape) * bytesPerElement(value.dtype));
  }

  get data(): Numbers {
    this.#numbers ??= this.#decode();
    return this.#numbers;
  }

  #decode(): Numbers {
    const view = viewOf(this.bytes, this.dtype);
    if (this.dtype === "bf16") return Float32Array.from(view, fromBfloat16);
    if (this.dtype === "f16") return Float32Array.from(view, fromFloat16);
    return view as Numbers;
  }

  /** Brings what a kernel wrote as numbers back into the bytes. */
  encode(): void {
    if (!this.#numbers || (this.dtype !== "bf16" && this.dtype !== "f16")) return;
    const to = viewOf(this.bytes, this.dtype);
    const encode = this.dtype === "bf16" ? toBfloat16 : toFloat16;
    for (let i = 0; i < to.length; i++) to[i] = encode(this.#numbers[i]!);
  }
}

/** Bytes as the host array of a dtype, without a copy. */
export function viewOf(bytes: Uint8Array, dtype: DType): HostArray {
  const { buffer, byteOffset } = bytes;
  const length = bytes.byteLength / bytesPerElement(dtype);
  switch (dtype) {
    case "f32":
      return new Float32Array(buffer, byteOffset, length);
    case "bf16":
    case "f16":
      return new Uint16Array(buffer, byteOffset, length);
    case "i32":
      return new Int32Array(buffer, byteOffset, length);
    case "u8":
    case "bool":
      return new Uint8Array(buffer, byteOffset, length);
    case "i8":
      return new Int8Array(buffer, byteOffset, length);
    case "f64":
      return new Float64Array(buffer, byteOffset, length);
  }
}

export function bytesOf(data: HostArray): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

const valueBytes = (value: ProgramValue): number => size(value.shape) * bytesPerElement(value.dtype);

/** Where a value of one run is: its bytes in the arena, in a constant, or in a buffer of the caller. */
type Locate = (id: number) => Uint8Array;
type Step = (at: Locate) => void;

/** Runs a program in place: `inputs` and `outputs` are memory of the caller. */
export type Run = (inputs: readonly Uint8Array[], outputs: readonly Uint8Array[]) => void;

/** Prepares a program: one arena, addressed at the planned offsets, so that a mistake in the plan gives wrong numbers here too. */
export function prepare(program: Program): Run {
  const constants = program.constants.map((c) => bytesOf(c.slice()));
  const steps = program.instructions.map((instruction) => prepareStep(program, instruction));
  let arena: Uint8Array | undefined;
  return (inputs, outputs) => {
    arena ??= new Uint8Array(program.arenaBytes);
    const memory = arena;
    const at: Locate = (id) => {
      const value = program.values[id]!;
      const { storage } = value;
      switch (storage.kind) {
        case "input":
          return inputs[storage.index]!;
        case "output":
          return outputs[storage.index]!;
        case "constant":
          return constants[storage.index]!;
        case "arena":
          return memory.subarray(storage.offset, storage.offset + valueBytes(value));
      }
    };
    for (const step of steps) step(at);
    // A result that is an input, a constant or another result as it stands is copied out.
    program.outputs.forEach((id, k) => {
      const { storage } = program.values[id]!;
      if (storage.kind === "output" && storage.index === k) return;
      const bytes = valueBytes(program.values[id]!);
      outputs[k]!.set(at(id).subarray(0, bytes));
    });
  };
}

function prepareStep(program: Program, instruction: Instruction): Step {
  if (instruction.op === "while") return prepareWhile(instruction);
  if (instruction.op === "scan") return prepareScan(program, instruction);
  const kernel: Kernel | undefined = kernels[instruction.op];
  if (!kernel)
    throw new BackendError(
      `The reference backend has no kernel for ${instruction.op}. If it is a composite, it must be decomposed before.`,
    );
  return (at) => {
    const operand = (id: number) => new Memory(program.values[id]!, at(id));
    const inputs = instruction.inputs.map(operand);
    const outputs = instruction.outputs.map(operand);
    try {
      kernel({ inputs, outputs, attributes: instruction.attributes, matmul: program.matmul });
    } catch (error) {
      if (error instanceof HowdahError) throw error;
      const shapes = inputs.map((x) => `${x.dtype}${show(x.shape)}`).join(", ");
      throw new BackendError(`${instruction.op} of ${shapes} failed: ${(error as Error).message}`, { cause: error });
    }
    for (const y of outputs) y.encode();
  };
}

/** Memory for the outputs of a body: an aliased one is its input's, the others are new. */
function bodyOutputs(body: Program, inputs: readonly Uint8Array[]): Uint8Array[] {
  return body.outputs.map((id, k) => {
    const alias = body.aliases.find(([output]) => output === k);
    return alias ? inputs[alias[1]]! : new Uint8Array(valueBytes(body.values[id]!));
  });
}

/** `while` (condition, body) over carried values; inputs beyond them are the same in each round. */
function prepareWhile(instruction: Instruction): Step {
  const [conditionProgram, bodyProgram] = instruction.programs!;
  const condition = prepare(conditionProgram!);
  const body = prepare(bodyProgram!);
  const carried = instruction.outputs.length;
  return (at) => {
    const given = instruction.inputs.map((id) => at(id));
    const invariants = given.slice(carried);
    let carry: Uint8Array[] = given.slice(0, carried).map((bytes) => bytes.slice());
    const holds = new Uint8Array(1);
    for (;;) {
      condition([...carry, ...invariants], [holds]);
      if (!holds[0]) break;
      const inputs = [...carry, ...invariants];
      const next = bodyOutputs(bodyProgram!, inputs);
      body(inputs, next);
      carry = next;
    }
    instruction.outputs.forEach((id, k) => {
      at(id).set(carry[k]!);
    });
  };
}

/**
 * `scan`: inputs are the first carries, the sequences (stacked along axis 0) and what is the same in each step; outputs are the last
 * carries and the stacked results.
 */
function prepareScan(program: Program, instruction: Instruction): Step {
  const bodyProgram = instruction.programs![0]!;
  const body = prepare(bodyProgram);
  const {
    length,
    carries,
    invariants = 0,
    reverse,
  } = instruction.attributes as {
    length: number;
    carries: number;
    invariants?: number;
    reverse?: boolean;
  };
  const sequences = instruction.inputs.length - carries - invariants;
  const sliceBytes = (id: number) => (length === 0 ? 0 : valueBytes(program.values[id]!) / length);
  return (at) => {
    const given = instruction.inputs.map((id) => at(id));
    const stacked = instruction.outputs.slice(carries).map((id) => ({ bytes: at(id), step: sliceBytes(id) }));
    let carry: Uint8Array[] = given.slice(0, carries).map((bytes) => bytes.slice());
    for (let i = 0; i < length; i++) {
      const t = reverse ? length - 1 - i : i;
      const slices = given.slice(carries, carries + sequences).map((bytes, k) => {
        const step = sliceBytes(instruction.inputs[carries + k]!);
        return bytes.subarray(t * step, (t + 1) * step);
      });
      const inputs = [...carry, ...slices, ...given.slice(carries + sequences)];
      const next = bodyOutputs(bodyProgram, inputs);
      body(inputs, next);
      stacked.forEach(({ bytes, step }, k) => {
        bytes.set(next[carries + k]!, t * step);
      });
      carry = next.slice(0, carries);
    }
    instruction.outputs.slice(0, carries).forEach((id, k) => {
      at(id).set(carry[k]!);
    });
  };
}

/** A copy of the elements in a buffer. */
export function elements(bytes: Uint8Array, dtype: DType, count: number): HostArray {
  const out = hostArray(dtype, count);
  bytesOf(out).set(bytes.subarray(0, out.byteLength));
  return out;
}
