import { loadNativeBackend, type NativeBackend } from "../../src/engine/backends/native/backend.ts";
import type { Attributes, Instruction, Program, ProgramValue } from "../../src/engine/program.ts";
import {
  bytesPerElement,
  type DType,
  fromBfloat16,
  fromFloat16,
  type HostArray,
  hostArray,
  toBfloat16,
  toFloat16,
} from "../../src/tensor/dtype.ts";

/** A host tensor of a test: plain numbers, rounded to the dtype when it is uploaded. */
export interface Plain {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

export interface OutputType {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

const loaded = loadNativeBackend();
export const missing = "missing" in loaded ? loaded.missing : undefined;
if (missing) console.warn(missing);

export function backend(): NativeBackend {
  if ("missing" in loaded) throw new Error(loaded.missing);
  return loaded;
}

export const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

export function plain(
  dtype: DType,
  shape: readonly number[],
  values: readonly number[] | ((i: number) => number),
): Plain {
  const list = typeof values === "function" ? Array.from({ length: count(shape) }, (_, i) => values(i)) : values;
  return { dtype, shape, values: list.map((x) => rounded(dtype, x)) };
}

/** Repeatable numbers in [low, high). */
export function random(seed: number): (low: number, high: number) => number {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return (low, high) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return low + ((high - low) * (state >>> 8)) / 2 ** 24;
  };
}

export function rounded(dtype: DType, x: number): number {
  if (dtype === "f32") return Math.fround(x);
  if (dtype === "bf16") return fromBfloat16(toBfloat16(x));
  if (dtype === "f16") return fromFloat16(toFloat16(x));
  return x;
}

export function toHost(p: Plain): HostArray {
  const data = hostArray(p.dtype, p.values.length);
  p.values.forEach((x, i) => {
    data[i] = p.dtype === "bf16" ? toBfloat16(x) : p.dtype === "f16" ? toFloat16(x) : x;
  });
  return data;
}

export function fromHost(dtype: DType, data: HostArray): number[] {
  return Array.from(data, (x) => (dtype === "bf16" ? fromBfloat16(x) : dtype === "f16" ? fromFloat16(x) : x));
}

/** A program of one instruction whose inputs and outputs are its arguments. */
export function single(
  op: string,
  inputs: readonly OutputType[],
  outputs: readonly OutputType[],
  attributes: Attributes,
  more: Partial<Instruction & { matmul: "f32" | "bf16" }> = {},
): Program {
  const { matmul = "f32", ...rest } = more;
  const values: ProgramValue[] = [
    ...inputs.map((t, index) => ({ dtype: t.dtype, shape: t.shape, storage: { kind: "input", index } as const })),
    ...outputs.map((t, index) => ({ dtype: t.dtype, shape: t.shape, storage: { kind: "output", index } as const })),
  ];
  const ids = inputs.map((_, i) => i);
  const outs = outputs.map((_, i) => inputs.length + i);
  return {
    values,
    instructions: [{ op, inputs: ids, outputs: outs, attributes, ...rest }],
    inputs: ids,
    outputs: outs,
    constants: [],
    aliases: [],
    arenaBytes: 0,
    matmul,
  };
}

/** Uploads, runs once, downloads, releases everything. */
export async function run(program: Program, inputs: readonly Plain[]): Promise<number[][]> {
  const b = backend();
  const executable = b.compile(program);
  const ins = inputs.map((p) => b.upload(toHost(p), p.dtype));
  const outs = program.outputs.map((id) => {
    const v = program.values[id] as ProgramValue;
    return b.allocate(count(v.shape) * bytesPerElement(v.dtype));
  });
  try {
    executable.run(ins, outs);
    return await Promise.all(
      program.outputs.map(async (id, i) => {
        const v = program.values[id] as ProgramValue;
        return fromHost(v.dtype, await b.download(outs[i] as (typeof outs)[number], v.dtype, count(v.shape)));
      }),
    );
  } finally {
    for (const buffer of [...ins, ...outs]) b.release(buffer);
    executable.release();
  }
}

export async function op(
  name: string,
  inputs: readonly Plain[],
  outputs: readonly OutputType[],
  attributes: Attributes = {},
  more: Partial<Instruction & { matmul: "f32" | "bf16" }> = {},
): Promise<number[][]> {
  return run(single(name, inputs, outputs, attributes, more), inputs);
}

export async function op1(
  name: string,
  inputs: readonly Plain[],
  output: OutputType,
  attributes: Attributes = {},
  more: Partial<Instruction & { matmul: "f32" | "bf16" }> = {},
): Promise<number[]> {
  return (await op(name, inputs, [output], attributes, more))[0] as number[];
}

/** All index vectors of a shape, row-major. */
export function indices(shape: readonly number[]): number[][] {
  return Array.from({ length: count(shape) }, (_, flat) => {
    const index: number[] = [];
    let rest = flat;
    for (let d = shape.length - 1; d >= 0; d--) {
      const n = shape[d] as number;
      index[d] = rest % n;
      rest = Math.floor(rest / n);
    }
    return index;
  });
}

export function offset(index: readonly number[], shape: readonly number[]): number {
  return shape.reduce((at, n, d) => at * n + (index[d] as number), 0);
}

export const at = (p: Plain, index: readonly number[]): number => p.values[offset(index, p.shape)] as number;

/** The largest |a - b| / max(1, |b|); infinite when one is NaN and the other is not. */
export function distance(a: readonly number[], b: readonly number[]): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  a.forEach((x, i) => {
    const y = b[i] as number;
    if (Object.is(x, y) || x === y) return;
    const d = Math.abs(x - y) / Math.max(1, Math.abs(y));
    worst = Number.isNaN(d) ? Number.POSITIVE_INFINITY : Math.max(worst, d);
  });
  return worst;
}
