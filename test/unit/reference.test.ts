import { describe, expect, test } from "vitest";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { philox } from "../../src/engine/backends/reference/random.ts";
import { erf, power, roundNearestEven } from "../../src/engine/backends/reference/special.ts";
import type { Program, ProgramValue } from "../../src/engine/program.ts";
import { toBfloat16 } from "../../src/tensor/dtype.ts";
import { BackendError } from "../../src/tensor/errors.ts";

describe("Philox4x32-10", () => {
  // The known answers published with Random123.
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ] as const)("counter %j with key %j", (counter, key, answer) => {
    expect(philox([...counter], key)).toEqual(answer);
  });
});

describe("special functions", () => {
  // Values to 16 digits from tables (DLMF 7.23 and higher-precision arithmetic).
  test.each([
    [1e-10, 1.1283791670955126e-10],
    [0.1, 0.1124629160182849],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [2, 0.9953222650189527],
    [3, 0.9999779095030014],
    [4, 0.9999999845827421],
    [5.5, 0.9999999999999927],
    [7, 1],
  ])("erf(%d)", (x, y) => {
    expect(Math.abs(erf(x) - y)).toBeLessThanOrEqual(4e-16 * Math.abs(y));
    expect(erf(-x)).toBe(-erf(x));
  });
  test("erf is smooth where the series gives way to the fraction", () => {
    const slope = (erf(3 + 1e-7) - erf(3 - 1e-7)) / 2e-7;
    expect(Math.abs(slope - (2 / Math.sqrt(Math.PI)) * Math.exp(-9))).toBeLessThan(1e-8);
  });
  test("halves round to even", () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, 4.2, -4.7].map(roundNearestEven)).toEqual([0, 2, 2, 0, -2, 4, -5]);
    expect(roundNearestEven(Number.POSITIVE_INFINITY)).toBe(Number.POSITIVE_INFINITY);
    expect(roundNearestEven(Number.NaN)).toBeNaN();
  });
  test("pow follows IEEE 754 where JavaScript does not", () => {
    expect([power(1, Number.NaN), power(-1, Number.NEGATIVE_INFINITY), power(2, -1)]).toEqual([1, 1, 0.5]);
  });
});

const f32 = (shape: number[], storage: ProgramValue["storage"]): ProgramValue => ({ dtype: "f32", shape, storage });
const input = (index: number) => ({ kind: "input", index }) as const;
const output = (index: number) => ({ kind: "output", index }) as const;
const arena = (offset: number) => ({ kind: "arena", offset }) as const;
const program = (p: Partial<Program>): Program => ({
  values: [],
  instructions: [],
  inputs: [],
  outputs: [],
  constants: [],
  aliases: [],
  arenaBytes: 0,
  matmul: "f32",
  ...p,
});

async function run(p: Program, inputs: number[][]): Promise<number[]> {
  const backend = new ReferenceBackend();
  const executable = backend.compile(p);
  const y = p.values[p.outputs[0]!]!;
  const size = y.shape.reduce((a, b) => a * b, 1);
  const out = backend.allocate(size * 4);
  executable.run(
    inputs.map((x) => backend.upload(Float32Array.from(x), "f32")),
    [out],
  );
  return [...(await backend.download(out, "f32", size))];
}

describe("the reference backend", () => {
  test("works in the planned memory: values given one offset overwrite each other", async () => {
    const build = (offset: number) =>
      program({
        values: [f32([2], input(0)), f32([2], arena(0)), f32([2], arena(offset)), f32([2], output(0))],
        instructions: [
          { op: "negate", inputs: [0], outputs: [1], attributes: {} },
          { op: "exponential", inputs: [0], outputs: [2], attributes: {} },
          { op: "copy", inputs: [1], outputs: [3], attributes: {} },
        ],
        inputs: [0],
        outputs: [3],
        arenaBytes: 128,
      });
    expect(await run(build(64), [[0, 3]])).toEqual([-0, -3]);
    expect(await run(build(0), [[0, 3]])).toEqual([1, Math.fround(Math.exp(3))]);
  });

  test("rounds matmul operands to bf16 where the program says so, and sums without rounding", async () => {
    const a = [1.001, 2.003];
    const build = (matmul: "f32" | "bf16") =>
      program({
        values: [f32([2], input(0)), f32([2], input(1)), f32([], output(0))],
        instructions: [
          {
            op: "dot_general",
            inputs: [0, 1],
            outputs: [2],
            attributes: { lhs_batch: [], rhs_batch: [], lhs_contract: [0], rhs_contract: [0] },
          },
        ],
        inputs: [0, 1],
        outputs: [2],
        matmul,
      });
    expect(await run(build("bf16"), [a, [1, 1]])).toEqual([3]);
    expect(await run(build("f32"), [a, [1, 1]])).toEqual([Math.fround(Math.fround(1.001) + Math.fround(2.003))]);
    expect(toBfloat16(1.001)).toBe(toBfloat16(1));
  });

  test("a failing run is reported by the next download, once", async () => {
    const backend = new ReferenceBackend();
    const x = backend.upload(Float32Array.of(1), "f32");
    const y = backend.allocate(4);
    const executable = backend.compile(
      program({
        values: [f32([1], input(0)), f32([1], output(0))],
        instructions: [{ op: "negate", inputs: [0], outputs: [1], attributes: {} }],
        inputs: [0],
        outputs: [1],
      }),
    );
    backend.release(x);
    executable.run([x], [y]);
    await expect(backend.download(y, "f32", 1)).rejects.toThrow(BackendError);
    await expect(backend.download(y, "f32", 1)).resolves.toEqual(Float32Array.of(0));
  });

  test("an op without a kernel is refused when the program is compiled, by name", () => {
    const p = program({ instructions: [{ op: "softmax", inputs: [], outputs: [], attributes: {} }] });
    expect(() => new ReferenceBackend().compile(p)).toThrow(/softmax/);
    expect(new ReferenceBackend().supports("softmax")).toBe(false);
    expect(new ReferenceBackend().supports("dot_general")).toBe(true);
  });

  test("an upload is a copy", async () => {
    const backend = new ReferenceBackend();
    const host = Float32Array.of(1, 2);
    const buffer = backend.upload(host, "f32");
    host[0] = 9;
    expect(await backend.download(buffer, "f32", 2)).toEqual(Float32Array.of(1, 2));
  });
});
