import { describe, expect, it } from "vitest";
import type { DType } from "../../src/tensor/dtype.ts";
import { at, count, distance, indices, missing, offset, op, op1, type Plain, plain, random } from "./native-support.ts";

const all: readonly DType[] = ["f32", "bf16", "f16", "i32", "u8", "i8", "bool"];
const numbers = (dtype: DType, shape: number[], seed = 1): Plain => {
  const next = random(seed);
  const [low, high] = dtype === "bool" ? [0, 2] : dtype === "u8" ? [0, 256] : [-100, 100];
  const whole = dtype === "i32" || dtype === "u8" || dtype === "i8" || dtype === "bool";
  return plain(dtype, shape, () => (whole ? Math.floor(next(low, high)) : next(low, high)));
};

/** The result of an op that only moves elements: for each output index the input index it comes from. */
const moved = (x: Plain, shape: number[], from: (index: number[]) => number[]): number[] =>
  indices(shape).map((index) => at(x, from(index)));

describe.skipIf(missing !== undefined)("native ops that move elements", () => {
  it.each(all)("transpose, broadcast, slice, reverse and pad keep every bit of %s", async (dtype) => {
    const x = numbers(dtype, [3, 5, 4]);
    const y = { dtype, shape: [4, 3, 5] };
    expect(await op1("transpose", [x], y, { permutation: [2, 0, 1] })).toEqual(
      moved(x, y.shape, ([a, b, c]) => [b!, c!, a!]),
    );
    const row = numbers(dtype, [5]);
    const wide = { dtype, shape: [3, 5, 4] };
    expect(await op1("broadcast_in_dim", [row], wide, { dimensions: [1] })).toEqual(
      moved(row, wide.shape, ([, b]) => [b!]),
    );
    const part = { dtype, shape: [2, 2, 2] };
    expect(await op1("slice", [x], part, { start: [1, 0, 1], limit: [3, 5, 4], stride: [1, 3, 2] })).toEqual(
      moved(x, part.shape, ([a, b, c]) => [a! + 1, b! * 3, c! * 2 + 1]),
    );
    expect(await op1("reverse", [x], x, { axes: [0, 2] })).toEqual(
      moved(x, [3, 5, 4], ([a, b, c]) => [2 - a!, b!, 3 - c!]),
    );
    const filling = plain(dtype, [], [1]);
    const padded = { dtype, shape: [6, 4, 8] };
    expect(await op1("pad", [x, filling], padded, { low: [2, -1, 0], high: [1, 0, 1], interior: [0, 0, 1] })).toEqual(
      indices(padded.shape).map(([a, b, c]) =>
        a! >= 2 && a! < 5 && c! % 2 === 0 && c! < 8 && c! / 2 < 4 ? at(x, [a! - 2, b! + 1, c! / 2]) : 1,
      ),
    );
  });

  it.each([
    [
      [520, 260],
      [1, 0],
    ],
    [
      [131, 1031],
      [1, 0],
    ],
    [
      [31, 64, 70],
      [0, 2, 1],
    ],
    [
      [16, 33, 7, 37],
      [2, 0, 3, 1],
    ],
    [
      [5, 64, 14, 32],
      [0, 2, 1, 3],
    ],
  ])("transposes %j by %j on several threads", async (shape, permutation) => {
    const y = permutation.map((p) => shape[p]!);
    const step = permutation.map((p) => count(shape.slice(p + 1)));
    for (const dtype of ["f32", "u8"] as const) {
      const x = plain(dtype, shape, (i) => (dtype === "u8" ? i % 251 : i));
      const got = await op1("transpose", [x], { dtype, shape: y }, { permutation });
      let wrong = 0;
      for (let i = 0; i < got.length; i++) {
        let [rest, from] = [i, 0];
        for (let d = y.length - 1; d >= 0; d--) {
          from += (rest % y[d]!) * step[d]!;
          rest = Math.floor(rest / y[d]!);
        }
        if (got[i] !== x.values[from]) wrong++;
      }
      expect(wrong).toBe(0);
    }
  });

  it("moves large tensors whole: copy, broadcast, concatenate", async () => {
    const x = plain("f32", [350, 1000], (i) => i);
    expect(await op1("copy", [x], x)).toEqual(x.values);
    const row = plain("f32", [1000], (i) => i);
    const wide = await op1("broadcast_in_dim", [row], x, { dimensions: [1] });
    expect(wide.every((v, i) => v === i % 1000)).toBe(true);
    const column = await op1("broadcast_in_dim", [plain("f32", [350], (i) => i)], x, { dimensions: [0] });
    expect(column.every((v, i) => v === Math.floor(i / 1000))).toBe(true);
    const scalar = await op1(
      "broadcast_in_dim",
      [plain("bf16", [], [3])],
      { dtype: "bf16", shape: [350, 1000] },
      { dimensions: [] },
    );
    expect(scalar.every((v) => v === 3)).toBe(true);
    const y = plain("f32", [350, 3], (i) => -i);
    const joined = await op1("concatenate", [x, y, x], { dtype: "f32", shape: [350, 2003] }, { axis: 1 });
    expect(
      joined.every((v, i) => {
        const [r, c] = [Math.floor(i / 2003), i % 2003];
        return (
          v ===
          (c < 1000
            ? r * 1000 + c
            : c < 1003
              ? r === 0 && c === 1000
                ? -0
                : -(r * 3 + c - 1000)
              : r * 1000 + c - 1003)
        );
      }),
    ).toBe(true);
  });

  it("clamps the starts of dynamic slices and updates", async () => {
    const x = numbers("f32", [4, 6]);
    const start = (...s: number[]) => s.map((v) => plain("i32", [], [v]));
    expect(
      await op1("dynamic_slice", [x, ...start(9, -5)], { dtype: "f32", shape: [2, 3] }, { sizes: [2, 3] }),
    ).toEqual(moved(x, [2, 3], ([a, b]) => [a! + 2, b!]));
    const update = numbers("f32", [2, 3], 7);
    expect(await op1("dynamic_update_slice", [x, update, ...start(1, 99)], x)).toEqual(
      indices([4, 6]).map(([a, b]) => (a! >= 1 && a! < 3 && b! >= 3 ? at(update, [a! - 1, b! - 3]) : at(x, [a!, b!]))),
    );
  });

  it("handles empty tensors", async () => {
    const x = plain("f32", [0, 3], []);
    expect(await op1("transpose", [x], { dtype: "f32", shape: [3, 0] }, { permutation: [1, 0] })).toEqual([]);
    expect(
      await op1("concatenate", [x, plain("f32", [1, 3], [1, 2, 3])], { dtype: "f32", shape: [1, 3] }, { axis: 0 }),
    ).toEqual([1, 2, 3]);
    expect(
      await op1(
        "pad",
        [x, plain("f32", [], [7])],
        { dtype: "f32", shape: [2, 3] },
        { low: [1, 0], high: [1, 0], interior: [3, 0] },
      ),
    ).toEqual([7, 7, 7, 7, 7, 7]);
    expect(await op1("reduce", [x], { dtype: "f32", shape: [3] }, { kind: "maximum", axes: [0] })).toEqual([
      -Infinity,
      -Infinity,
      -Infinity,
    ]);
    expect(await op1("reduce", [x], { dtype: "f32", shape: [0] }, { kind: "add", axes: [1] })).toEqual([]);
    expect(await op("sort", [x], [x], { axis: 0, descending: false })).toEqual([[]]);
  });

  it("gathers and scatters windows with StableHLO's dimension numbers", async () => {
    const next = random(3);
    const x = numbers("f32", [6, 4, 5]);
    const starts = plain("i32", [3, 2, 2], () => Math.floor(next(-2, 8)));
    const dims = {
      offset_dims: [1, 3],
      collapsed_slice_dims: [1],
      start_index_map: [2, 0],
      index_vector_dim: 1,
      slice_sizes: [2, 1, 3],
    };
    const shape = [3, 2, 2, 3];
    expect(await op1("gather", [x, starts], { dtype: "f32", shape }, dims)).toEqual(
      moved(x, shape, ([b0, w0, b1, w1]) => {
        const clamp = (v: number, last: number) => Math.min(Math.max(v, 0), last);
        return [clamp(at(starts, [b0!, 1, b1!]), 4) + w0!, 0, clamp(at(starts, [b0!, 0, b1!]), 2) + w1!];
      }),
    );
    const scatterDims = {
      update_window_dims: [1, 3],
      inserted_window_dims: [1],
      scatter_dims_to_operand_dims: [2, 0],
      index_vector_dim: 1,
    };
    for (const kind of ["add", "maximum", "minimum", "multiply"] as const) {
      const updates = numbers("f32", shape, 11);
      const wanted = [...x.values];
      for (const index of indices(shape)) {
        const [b0, w0, b1, w1] = index as [number, number, number, number];
        const target = [at(starts, [b0, 1, b1]) + w0, 0, at(starts, [b0, 0, b1]) + w1];
        if (target.some((v, d) => v < 0 || v >= x.shape[d]!)) continue;
        const i = offset(target, x.shape);
        const [a, b] = [wanted[i]!, at(updates, index)];
        wanted[i] = Math.fround(
          kind === "add" ? a + b : kind === "maximum" ? Math.max(a, b) : kind === "minimum" ? Math.min(a, b) : a * b,
        );
      }
      // Row-major order over batch positions, then window elements.
      const got = await op1("scatter", [x, starts, updates], x, { kind, ...scatterDims });
      expect(distance(got, wanted), kind).toBeLessThan(1e-6);
    }
  });

  it("gathers rows and adds rows back, large, and the last of equal targets wins when setting", async () => {
    const next = random(5);
    const table = plain("f32", [500, 64], () => next(-1, 1));
    const ids = plain("i32", [2000, 1], () => Math.floor(next(-5, 505)));
    const rows = {
      offset_dims: [1],
      collapsed_slice_dims: [0],
      start_index_map: [0],
      index_vector_dim: 1,
      slice_sizes: [1, 64],
    };
    const got = await op1("gather", [table, ids], { dtype: "f32", shape: [2000, 64] }, rows);
    const clamp = (v: number) => Math.min(Math.max(v, 0), 499);
    expect(got.every((v, i) => v === table.values[clamp(ids.values[Math.floor(i / 64)]!) * 64 + (i % 64)])).toBe(true);
    const updates = plain("f32", [2000, 64], () => next(-1, 1));
    const dims = {
      update_window_dims: [1],
      inserted_window_dims: [0],
      scatter_dims_to_operand_dims: [0],
      index_vector_dim: 1,
    };
    const [sum, set] = [new Float32Array(table.values), new Float32Array(table.values)];
    ids.values.forEach((id, r) => {
      if (id < 0 || id >= 500) return;
      for (let c = 0; c < 64; c++) {
        sum[id * 64 + c]! += updates.values[r * 64 + c]!;
        set[id * 64 + c] = updates.values[r * 64 + c]!;
      }
    });
    expect(distance(await op1("scatter", [table, ids, updates], table, { kind: "add", ...dims }), [...sum])).toBe(0);
    expect(await op1("scatter", [table, ids, updates], table, { kind: "set", ...dims })).toEqual([...set]);
  });

  it.each(["f32", "bf16", "i32", "u8"] as const)("sorts %s stably along any axis with its payloads", async (dtype) => {
    const next = random(9);
    for (const [shape, axis] of [
      [[7, 40, 3], 1],
      [[3, 5000], 1],
      [[6, 4], 0],
    ] as const)
      for (const descending of [false, true]) {
        const keys = plain(dtype, shape, () => (dtype === "u8" ? Math.floor(next(0, 9)) : Math.floor(next(-9, 9))));
        const withNaN =
          dtype === "f32" ? plain(dtype, shape, (i) => (i % 17 === 3 ? Number.NaN : keys.values[i]!)) : keys;
        const payload = plain("i32", shape, (i) => i);
        const [k, p] = (await op("sort", [withNaN, payload], [withNaN, payload], { axis, descending })) as [
          number[],
          number[],
        ];
        const length = shape[axis]!;
        const inner = count(shape.slice(axis + 1));
        for (let line = 0; line < count(shape) / length; line++) {
          const base = Math.floor(line / inner) * length * inner + (line % inner);
          const order = Array.from({ length }, (_, t) => base + t * inner);
          const value = (i: number) => withNaN.values[i]!;
          const sorted = [...order].sort((a, b) => {
            const [x, y] = [value(a), value(b)];
            if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y)) || a - b;
            return (descending ? y - x : x - y) || a - b;
          });
          expect(order.map((i) => p[i])).toEqual(sorted);
          expect(order.map((i) => k[i])).toEqual(sorted.map(value));
        }
      }
  });

  it("finds the largest of each row, equal ones by index", async () => {
    const next = random(13);
    for (const dtype of ["f32", "f16", "i32"] as const) {
      const x = plain(dtype, [5, 700], () => Math.floor(next(-50, 50)));
      const [values, at] = (await op(
        "top_k",
        [x],
        [
          { dtype, shape: [5, 9] },
          { dtype: "i32", shape: [5, 9] },
        ],
        { k: 9 },
      )) as [number[], number[]];
      for (let r = 0; r < 5; r++) {
        const row = x.values.slice(r * 700, (r + 1) * 700);
        const order = row
          .map((_, i) => i)
          .sort((a, b) => row[b]! - row[a]! || a - b)
          .slice(0, 9);
        expect(at.slice(r * 9, r * 9 + 9)).toEqual(order);
        expect(values.slice(r * 9, r * 9 + 9)).toEqual(order.map((i) => row[i]));
      }
    }
  });

  it("argmax takes the first of equals, and a NaN before every number", async () => {
    const next = random(14);
    const [rows, columns] = [6, 70001];
    const x = plain("f32", [rows, columns], () => Math.floor(next(-2000, 2000)));
    const values = [...x.values];
    values[2 * columns + 69000] = Number.NaN;
    values[2 * columns + 300] = Number.NaN;
    for (let c = 0; c < columns; c++) values[3 * columns + c] = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < columns; c++) values[4 * columns + c] = c % 2 === 0 ? -0 : 0;
    const wanted = Array.from({ length: rows }, (_, r) => {
      const row = values.slice(r * columns, (r + 1) * columns);
      const nan = row.findIndex(Number.isNaN);
      return nan >= 0 ? nan : row.indexOf(row.reduce((a, b) => Math.max(a, b)));
    });
    const got = await op1("argmax", [plain("f32", x.shape, values)], { dtype: "i32", shape: [rows] }, { axis: 1 });
    expect(got).toEqual(wanted);
    expect(got.slice(2, 5)).toEqual([300, 0, 0]);
  });
});
