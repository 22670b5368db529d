import { performance } from "node:perf_hooks";
import type { Backend, BackendBuffer, Program, ProgramValue } from "../engine/program.ts";
import type { DType } from "../tensor/dtype.ts";

/** Seconds of the fastest of several runs of a program, after one to warm up. */
async function fastest(
  backend: Backend,
  program: Program,
  data: readonly BackendBuffer[],
  seconds: number,
): Promise<number> {
  const executable = backend.compile(program);
  const bytes = (id: number) => 4 * program.values[id]!.shape.reduce((size, n) => size * n, 1);
  const outputs = program.outputs.map((id) => backend.allocate(bytes(id)));
  let best = Number.POSITIVE_INFINITY;
  const until = performance.now() + 1000 * seconds;
  try {
    for (let run = 0; run < 3 || performance.now() < until; run++) {
      const start = performance.now();
      executable.run(data, outputs);
      await backend.sync();
      if (run > 0) best = Math.min(best, (performance.now() - start) / 1000);
    }
  } finally {
    for (const buffer of outputs) backend.release(buffer);
    executable.release();
  }
  return best;
}

const value = (
  shape: readonly number[],
  kind: "input" | "output",
  index: number,
  dtype: DType = "f32",
): ProgramValue => ({
  dtype,
  shape,
  storage: { kind, index },
});

/**
 * Matrix multiplication, n x n x n with f32 matrices in memory, packing and conversion included.
 * @returns 10^9 floating-point operations a second
 */
export async function measureMatmul(
  backend: Backend,
  matmul: "f32" | "bf16",
  n = 1024,
  seconds = 0.5,
): Promise<number> {
  const program: Program = {
    values: [value([n, n], "input", 0), value([n, n], "input", 1), value([n, n], "output", 0)],
    instructions: [
      {
        op: "dot_general",
        inputs: [0, 1],
        outputs: [2],
        attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [1], rhs_contract: [0] },
      },
    ],
    inputs: [0, 1],
    outputs: [2],
    constants: [],
    aliases: [],
    arenaBytes: 0,
    matmul,
  };
  const data = Float32Array.from({ length: n * n }, (_, i) => Math.sin(i));
  const buffers = [backend.upload(data, "f32"), backend.upload(data, "f32")];
  try {
    return (2 * n ** 3) / (await fastest(backend, program, buffers, seconds)) / 1e9;
  } finally {
    for (const buffer of buffers) backend.release(buffer);
  }
}

/**
 * Reading memory: the sum of an array too large for the caches.
 * @returns 10^9 bytes a second
 */
export async function measureBandwidth(backend: Backend, megabytes = 256, seconds = 0.5): Promise<number> {
  const rows = 1024;
  const columns = Math.ceil((megabytes * 1e6) / 4 / rows);
  const program: Program = {
    values: [value([rows, columns], "input", 0), value([rows], "output", 0)],
    instructions: [{ op: "reduce", inputs: [0], outputs: [1], attributes: { kind: "add", axes: [1] } }],
    inputs: [0],
    outputs: [1],
    constants: [],
    aliases: [],
    arenaBytes: 0,
    matmul: "f32",
  };
  const buffer = backend.upload(new Float32Array(rows * columns).fill(1), "f32");
  try {
    return (4 * rows * columns) / (await fastest(backend, program, [buffer], seconds)) / 1e9;
  } finally {
    backend.release(buffer);
  }
}
