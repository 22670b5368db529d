import { describe, expect, it } from "vitest";
import type { Instruction, Program, ProgramValue } from "../../src/engine/program.ts";
import type { DType, HostArray } from "../../src/tensor/dtype.ts";
import { backend, missing, op, plain, run, single } from "./native-support.ts";

const f32 = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
const i32 = { dtype: "i32", shape: [] } as const;

interface Typed {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A program over named values: inputs and outputs by name, everything else in the arena, one slot of 64 bytes each. */
function program(options: {
  values: Record<string, Typed>;
  inputs: string[];
  outputs: string[];
  steps: [op: string, inputs: string[], outputs: string[], attributes?: Instruction["attributes"]][];
  constants?: Record<string, HostArray>;
  aliases?: [number, number][];
}): Program {
  const names = Object.keys(options.values);
  const constants = Object.keys(options.constants ?? {});
  let arenaBytes = 0;
  const values = names.map((name): ProgramValue => {
    const { dtype, shape } = options.values[name] as Typed;
    const [input, output, constant] = [options.inputs, options.outputs, constants].map((list) =>
      list.indexOf(name),
    ) as [number, number, number];
    const aliased = options.aliases?.find(([o]) => o === output);
    if (output >= 0 && aliased) return { dtype, shape, storage: { kind: "input", index: aliased[1] } };
    if (input >= 0) return { dtype, shape, storage: { kind: "input", index: input } };
    if (output >= 0) return { dtype, shape, storage: { kind: "output", index: output } };
    if (constant >= 0) return { dtype, shape, storage: { kind: "constant", index: constant } };
    arenaBytes += 64;
    return { dtype, shape, storage: { kind: "arena", offset: arenaBytes - 64 } };
  });
  const ids = (list: string[]) => list.map((name) => names.indexOf(name));
  return {
    values,
    instructions: options.steps.map(([op, inputs, outputs, attributes]) => ({
      op,
      inputs: ids(inputs),
      outputs: ids(outputs),
      attributes: attributes ?? {},
    })),
    inputs: ids(options.inputs),
    outputs: ids(options.outputs),
    constants: constants.map((name) => options.constants?.[name] as HostArray),
    aliases: options.aliases ?? [],
    arenaBytes,
    matmul: "f32",
  };
}

/** i < limit, for carries (i, x). */
const below = (limit: number, carried: Typed): Program =>
  program({
    values: { i: i32, x: carried, limit: i32, go: { dtype: "bool", shape: [] } },
    inputs: ["i", "x"],
    outputs: ["go"],
    constants: { limit: Int32Array.of(limit) },
    steps: [["compare", ["i", "limit"], ["go"], { direction: "LT" }]],
  });

const addAndDouble = (carried: Typed): Program =>
  program({
    values: { i: i32, x: carried, one: i32, j: i32, y: carried },
    inputs: ["i", "x"],
    outputs: ["j", "y"],
    constants: { one: Int32Array.of(1) },
    steps: [
      ["add", ["i", "one"], ["j"]],
      ["add", ["x", "x"], ["y"]],
    ],
  });

describe.skipIf(missing !== undefined)("native loops", () => {
  const start = [plain("i32", [], [0]), plain("f32", [3], [1, 2, 3])];

  it.each([
    [0, [1, 2, 3]],
    [1, [2, 4, 6]],
    [5, [32, 64, 96]],
    [6, [64, 128, 192]],
  ])("while runs its body %i times", async (limit, wanted) => {
    const programs = [below(limit, f32(3)), addAndDouble(f32(3))];
    expect(await op("while", start, [i32, f32(3)], {}, { programs })).toEqual([[limit], wanted]);
  });

  it("while updates carries in place where the body says so", async () => {
    const body = program({
      values: { i: i32, x: f32(8), one: i32, j: i32, y: f32(8), value: f32(1) },
      inputs: ["i", "x"],
      outputs: ["j", "y"],
      constants: { one: Int32Array.of(1), value: Float32Array.of(7) },
      aliases: [[1, 1]],
      steps: [
        ["dynamic_update_slice", ["x", "value", "i"], ["y"]],
        ["add", ["i", "one"], ["j"]],
      ],
    });
    const inputs = [plain("i32", [], [2]), plain("f32", [8], (i) => i)];
    const got = await op("while", inputs, [i32, f32(8)], {}, { programs: [below(5, f32(8)), body] });
    expect(got).toEqual([[5], [0, 1, 7, 7, 7, 5, 6, 7]]);
  });

  it("while passes carries through and swaps them", async () => {
    const body = program({
      values: { i: i32, a: f32(2), b: f32(2), one: i32, j: i32 },
      inputs: ["i", "a", "b"],
      outputs: ["j", "b", "a"],
      constants: { one: Int32Array.of(1) },
      steps: [["add", ["i", "one"], ["j"]]],
    });
    const swapped: Program = {
      ...body,
      values: body.values.map((v, k) => (k === 1 || k === 2 ? { ...v, storage: { kind: "input", index: k } } : v)),
      outputs: [4, 2, 1],
    };
    const condition = program({
      values: { i: i32, a: f32(2), b: f32(2), limit: i32, go: { dtype: "bool", shape: [] } },
      inputs: ["i", "a", "b"],
      outputs: ["go"],
      constants: { limit: Int32Array.of(3) },
      steps: [["compare", ["i", "limit"], ["go"], { direction: "LT" }]],
    });
    const inputs = [plain("i32", [], [0]), plain("f32", [2], [1, 2]), plain("f32", [2], [3, 4])];
    const got = await op("while", inputs, [i32, f32(2), f32(2)], {}, { programs: [condition, swapped] });
    expect(got).toEqual([[3], [3, 4], [1, 2]]);
  });

  const body = program({
    values: { sum: f32(2), x: f32(2), scale: f32(2), scaled: f32(2), next: f32(2), y: f32(2) },
    inputs: ["sum", "x", "scale"],
    outputs: ["next", "y"],
    steps: [
      ["multiply", ["x", "scale"], ["scaled"]],
      ["add", ["sum", "scaled"], ["next"]],
      ["negate", ["next"], ["y"]],
    ],
  });

  it.each([1, 2, 3, 4])("scan over %i steps gives the final carry and stacks the rest", async (length) => {
    for (const reverse of [false, true]) {
      const xs = plain("f32", [length, 2], (i) => i + 1);
      const inputs = [plain("f32", [2], [100, 200]), xs, plain("f32", [2], [1, 10])];
      const got = await op(
        "scan",
        inputs,
        [f32(2), f32(length, 2)],
        { length, carries: 1, invariants: 1, reverse },
        { programs: [body] },
      );
      const sum = [100, 200];
      const ys = new Array<number>(2 * length);
      for (let t = 0; t < length; t++) {
        const at = reverse ? length - 1 - t : t;
        for (const c of [0, 1]) {
          sum[c]! += xs.values[2 * at + c]! * (c ? 10 : 1);
          ys[2 * at + c] = -sum[c]!;
        }
      }
      expect(got).toEqual([sum, ys]);
    }
  });

  it("scan of no steps gives the initial carry", async () => {
    const inputs = [plain("f32", [2], [100, 200]), plain("f32", [0, 2], []), plain("f32", [2], [1, 10])];
    expect(
      await op("scan", inputs, [f32(2), f32(0, 2)], { length: 0, carries: 1, invariants: 1 }, { programs: [body] }),
    ).toEqual([[100, 200], []]);
  });

  it("a donated initial carry may hold the result", async () => {
    for (const length of [1, 2, 3]) {
      const types = [f32(2), f32(length, 2), f32(2)];
      const b = backend();
      const exe = b.compile({
        ...single("scan", types, [f32(2), f32(length, 2)], { length, carries: 1, invariants: 1 }, { programs: [body] }),
        aliases: [[0, 0]],
      });
      const carry = b.upload(Float32Array.of(0, 0), "f32");
      const xs = b.upload(new Float32Array(2 * length).fill(1), "f32");
      const scale = b.upload(Float32Array.of(1, 2), "f32");
      const ys = b.allocate(8 * length);
      exe.run([carry, xs, scale], [carry, ys]);
      expect([...(await b.download(carry, "f32", 2))]).toEqual([length, 2 * length]);
      for (const buffer of [carry, xs, scale, ys]) b.release(buffer);
      exe.release();
    }
  });

  it("loops nest: each level has its own part of the stack", async () => {
    const inner = single(
      "while",
      [i32, f32(3)],
      [i32, f32(3)],
      {},
      { programs: [below(2, f32(3)), addAndDouble(f32(3))] },
    );
    const outerBody = program({
      values: { x: f32(3), zero: i32, count: i32, y: f32(3), kept: f32(3), z: f32(3) },
      inputs: ["x"],
      outputs: ["z", "kept"],
      constants: { zero: Int32Array.of(0) },
      steps: [
        ["copy", ["x"], ["kept"]],
        ["while", ["zero", "x"], ["count", "y"]],
        ["add", ["y", "kept"], ["z"]],
      ],
    });
    const withInner: Program = {
      ...outerBody,
      instructions: outerBody.instructions.map((i) =>
        i.op === "while" ? { ...i, programs: inner.instructions[0]!.programs! } : i,
      ),
    };
    const outer = single("scan", [f32(3)], [f32(3), f32(2, 3)], { length: 2, carries: 1 }, { programs: [withInner] });
    // Each step: 4 x + x.
    expect(await run(outer, [plain("f32", [3], [1, 2, 3])])).toEqual([
      [25, 50, 75],
      [1, 2, 3, 5, 10, 15],
    ]);
  });

  it("refuses bodies whose values do not fit", () => {
    const wrong = [below(2, f32(4)), addAndDouble(f32(3))];
    expect(() => backend().compile(single("while", [i32, f32(3)], [i32, f32(3)], {}, { programs: wrong }))).toThrow(
      /inputs of the condition: f32 \(4\) where f32 \(3\) is carried/,
    );
  });
});
