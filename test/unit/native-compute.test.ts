import { describe, expect, it } from "vitest";
import type { Attributes } from "../../src/engine/program.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import {
  at,
  count,
  distance,
  indices,
  missing,
  op,
  op1,
  type Plain,
  plain,
  random,
  rounded,
} from "./native-support.ts";

const uniform = (dtype: DType, shape: readonly number[], seed: number, low = -1, high = 1): Plain => {
  const next = random(seed);
  return plain(dtype, shape, () => next(low, high));
};
const whole = (dtype: DType, shape: readonly number[], seed: number, low: number, high: number): Plain => {
  const next = random(seed);
  return plain(dtype, shape, () => Math.floor(next(low, high)));
};

describe.skipIf(missing !== undefined)("native element-wise ops", () => {
  it.each([
    ["bf16", "add", (a: number, b: number) => a + b],
    ["bf16", "divide", (a: number, b: number) => a / b],
    ["f16", "multiply", (a: number, b: number) => a * b],
    ["f16", "maximum", Math.max],
  ] as const)("%s %s is computed in f32 and rounded once", async (dtype, name, f) => {
    const [a, b] = [uniform(dtype, [3, 700], 1, -9, 9), uniform(dtype, [3, 700], 2, 0.1, 9)];
    expect(await op1(name, [a, b], a)).toEqual(a.values.map((x, i) => rounded(dtype, Math.fround(f(x, b.values[i]!)))));
  });

  it("small integers wrap around", async () => {
    const [a, b] = [whole("u8", [700], 1, 0, 256), whole("u8", [700], 2, 0, 256)];
    expect(await op1("add", [a, b], a)).toEqual(a.values.map((x, i) => (x + b.values[i]!) & 255));
    expect(await op1("multiply", [a, b], a)).toEqual(a.values.map((x, i) => (x * b.values[i]!) & 255));
    const [c, d] = [whole("i8", [700], 3, -128, 128), whole("i8", [700], 4, -128, 128)];
    expect(await op1("subtract", [c, d], c)).toEqual(c.values.map((x, i) => ((x - d.values[i]!) << 24) >> 24));
    const shift = whole("i8", [700], 5, 0, 8);
    expect(await op1("shift_right_logical", [c, shift], c)).toEqual(
      c.values.map((x, i) => (((x & 255) >> shift.values[i]!) << 24) >> 24),
    );
    expect(await op1("compare", [a, b], { dtype: "bool", shape: [700] }, { direction: "LT" })).toEqual(
      a.values.map((x, i) => Number(x < b.values[i]!)),
    );
  });

  it("converts between all dtypes: floats truncate and saturate", async () => {
    const x = plain("f32", [9], [1.9, -1.9, Number.NaN, 1e30, -1e30, 300.5, -0.5, 127.9, 0]);
    const to = (dtype: DType) => op1("convert", [x], { dtype, shape: [9] }, { dtype });
    expect(await to("i32")).toEqual([1, -1, 0, 2147483647, -2147483648, 300, 0, 127, 0]);
    expect(await to("u8")).toEqual([1, 0, 0, 255, 0, 255, 0, 127, 0]);
    expect(await to("i8")).toEqual([1, -1, 0, 127, -128, 127, 0, 127, 0]);
    expect(await to("bool")).toEqual([1, 1, 1, 1, 1, 1, 1, 1, 0]);
    for (const dtype of ["bf16", "f16"] as const) {
      const y = uniform("f32", [700], 3, -1000, 1000);
      expect(await op1("convert", [y], { dtype, shape: [700] }, { dtype })).toEqual(
        y.values.map((v) => rounded(dtype, v)),
      );
      const z = uniform(dtype, [700], 4, -1000, 1000);
      expect(await op1("convert", [z], { dtype: "f32", shape: [700] }, { dtype: "f32" })).toEqual(z.values);
    }
    const ints = whole("i8", [256], 5, -128, 128);
    expect(await op1("convert", [ints], { dtype: "f16", shape: [256] }, { dtype: "f16" })).toEqual(ints.values);
  });

  it("clamp and select take scalar bounds and conditions", async () => {
    const x = uniform("f32", [40], 6, -5, 5);
    const s = (dtype: DType, v: number) => plain(dtype, [], [v]);
    expect(await op1("clamp", [s("f32", -1), x, s("f32", 2)], x)).toEqual(
      x.values.map((v) => Math.min(Math.max(v, -1), 2)),
    );
    expect(await op1("select", [s("bool", 0), x, s("f32", 7)], x)).toEqual(x.values.map(() => 7));
  });
});

describe.skipIf(missing !== undefined)("native reductions", () => {
  const kinds = {
    add: [0, (a: number, b: number) => a + b],
    multiply: [1, (a: number, b: number) => a * b],
    maximum: [-Infinity, (a: number, b: number) => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : Math.max(a, b))],
    minimum: [Infinity, (a: number, b: number) => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : Math.min(a, b))],
  } as const;

  function fold(x: Plain, axes: readonly number[], kind: keyof typeof kinds): { shape: number[]; values: number[] } {
    const kept = x.shape.map((_, d) => d).filter((d) => !axes.includes(d));
    const shape = kept.map((d) => x.shape[d]!);
    const step = x.shape.map((_, d) =>
      kept.includes(d) ? count(kept.filter((k) => k > d).map((k) => x.shape[k]!)) : 0,
    );
    const out = new Array<number>(count(shape)).fill(kinds[kind][0]);
    for (let i = 0; i < x.values.length; i++) {
      let [rest, to] = [i, 0];
      for (let d = x.shape.length - 1; d >= 0; d--) {
        to += (rest % x.shape[d]!) * step[d]!;
        rest = Math.floor(rest / x.shape[d]!);
      }
      out[to] = kinds[kind][1](out[to]!, x.values[i]!);
    }
    return { shape, values: out };
  }

  it.each([
    [[3, 200000], [1]],
    [[4000, 96], [0]],
    [[300000], [0]],
    [[7, 300, 33], [1]],
    [
      [7, 30, 9, 65],
      [0, 2],
    ],
    [
      [7, 30, 9, 65],
      [1, 3],
    ],
    [
      [40, 3, 5000],
      [0, 2],
    ],
    [
      [2, 3, 5],
      [0, 1, 2],
    ],
    [
      [60, 1, 70, 33],
      [0, 1],
    ],
    [[5, 3], [1]],
  ])("folds %j over %j like a loop", async (shape, axes) => {
    const x = uniform("f32", shape, 8);
    for (const kind of ["add", "maximum"] as const) {
      const wanted = fold(x, axes, kind);
      const got = await op1("reduce", [x], { dtype: "f32", shape: wanted.shape }, { kind, axes });
      const size = Math.max(1, Math.sqrt(x.values.length / wanted.values.length));
      expect(distance(got, wanted.values)).toBeLessThan(kind === "add" ? 1e-6 * size : 1e-12);
    }
  });

  it.each(["bf16", "f16", "i32", "u8", "i8"] as const)("folds %s", async (dtype) => {
    const float = dtype === "bf16" || dtype === "f16";
    const x = float ? uniform(dtype, [9, 700], 9) : whole(dtype, [9, 700], 9, dtype === "u8" ? 0 : -100, 100);
    for (const kind of ["add", "maximum", "minimum"] as const)
      for (const axes of [[0], [1]]) {
        const wanted = fold(x, axes, kind);
        const wrap = (v: number) =>
          dtype === "u8" ? v & 255 : dtype === "i8" ? (v << 24) >> 24 : dtype === "i32" ? v | 0 : rounded(dtype, v);
        const got = await op1("reduce", [x], { dtype, shape: wanted.shape }, { kind, axes });
        expect(distance(got, wanted.values.map(wrap))).toBeLessThan(
          dtype === "bf16" ? 0.01 : dtype === "f16" ? 0.002 : 1e-12,
        );
      }
  });

  it("a NaN anywhere wins a maximum and a minimum", async () => {
    for (const position of [0, 17, 63, 64, 699])
      for (const kind of ["maximum", "minimum"] as const) {
        const x = plain("f32", [700], (i) => (i === position ? Number.NaN : i));
        expect(await op1("reduce", [x], { dtype: "f32", shape: [] }, { kind, axes: [0] })).toEqual([Number.NaN]);
        const y = plain("f32", [700, 2], (i) => (i === 2 * position ? Number.NaN : 1));
        expect(await op1("reduce", [y], { dtype: "f32", shape: [2] }, { kind, axes: [0] })).toEqual([Number.NaN, 1]);
      }
  });

  it("cumulative ops and pooling equal loops", async () => {
    const x = uniform("f32", [3, 90, 70], 10);
    for (const reverse of [false, true]) {
      const got = await op1("cumulative", [x], x, { kind: "add", axis: 1, reverse });
      const wanted = indices([3, 70]).flatMap(([a, c]) => {
        const order = Array.from({ length: 90 }, (_, t) => (reverse ? 89 - t : t));
        let sum = 0;
        return order.map((t) => {
          sum += at(x, [a!, t, c!]);
          return [(a! * 90 + t) * 70 + c!, sum] as const;
        });
      });
      for (const [i, sum] of wanted) expect(Math.abs(got[i]! - sum)).toBeLessThan(1e-5);
    }
    const picture = uniform("f32", [2, 3, 9, 11], 11);
    const pooled = await op1(
      "reduce_window",
      [picture],
      { dtype: "f32", shape: [2, 3, 4, 5] },
      {
        kind: "maximum",
        window: [1, 1, 3, 3],
        strides: [1, 1, 2, 2],
        low: [0, 0, 0, 0],
        high: [0, 0, 0, 0],
        window_dilation: [1, 1, 1, 1],
        base_dilation: [1, 1, 1, 1],
      },
    );
    expect(pooled).toEqual(
      indices([2, 3, 4, 5]).map(([n, c, i, j]) =>
        Math.max(...indices([3, 3]).map(([a, b]) => at(picture, [n!, c!, 2 * i! + a!, 2 * j! + b!]))),
      ),
    );
  });
});

describe.skipIf(missing !== undefined)("native dot_general", () => {
  interface Dims {
    readonly lhs_batch: number[];
    readonly rhs_batch: number[];
    readonly lhs_contract: number[];
    readonly rhs_contract: number[];
  }

  function dot(a: Plain, b: Plain, d: Dims): { shape: number[]; values: number[] } {
    const free = (x: Plain, batch: number[], contract: number[]) =>
      x.shape.map((_, i) => i).filter((i) => !batch.includes(i) && !contract.includes(i));
    const [fa, fb] = [free(a, d.lhs_batch, d.lhs_contract), free(b, d.rhs_batch, d.rhs_contract)];
    const sizes = (x: Plain, axes: number[]) => axes.map((i) => x.shape[i]!);
    const shape = [...sizes(a, d.lhs_batch), ...sizes(a, fa), ...sizes(b, fb)];
    const inner = indices(sizes(a, d.lhs_contract));
    const values = indices(shape).map((index) => {
      const batch = index.slice(0, d.lhs_batch.length);
      const [ia, ib]: [number[], number[]] = [[], []];
      batch.forEach((v, i) => {
        ia[d.lhs_batch[i]!] = v;
        ib[d.rhs_batch[i]!] = v;
      });
      fa.forEach((axis, i) => {
        ia[axis] = index[batch.length + i]!;
      });
      fb.forEach((axis, i) => {
        ib[axis] = index[batch.length + fa.length + i]!;
      });
      let sum = 0;
      for (const k of inner) {
        k.forEach((v, i) => {
          ia[d.lhs_contract[i]!] = v;
          ib[d.rhs_contract[i]!] = v;
        });
        sum += at(a, ia) * at(b, ib);
      }
      return sum;
    });
    return { shape, values };
  }
  const dims = (lhs_batch: number[], rhs_batch: number[], lhs_contract: number[], rhs_contract: number[]): Dims => ({
    lhs_batch,
    rhs_batch,
    lhs_contract,
    rhs_contract,
  });

  it.each([
    ["NN", [33, 40], [40, 21], dims([], [], [1], [0])],
    ["NT", [33, 40], [21, 40], dims([], [], [1], [1])],
    ["TN", [40, 33], [40, 21], dims([], [], [0], [0])],
    ["TT", [40, 33], [21, 40], dims([], [], [0], [1])],
    ["a vector and a matrix", [40], [40, 21], dims([], [], [0], [0])],
    ["two vectors", [40], [40], dims([], [], [0], [0])],
    ["outer product", [5], [7], dims([], [], [], [])],
    ["leading free axes", [2, 3, 17], [17, 5], dims([], [], [2], [0])],
    ["one batch axis", [4, 9, 8], [4, 8, 6], dims([0], [0], [2], [1])],
    ["batch axes inside", [3, 7, 2, 8], [3, 5, 2, 8], dims([0, 2], [0, 2], [3], [3])],
    ["batch axes in another order", [3, 2, 4, 5], [2, 5, 3, 6], dims([0, 1], [2, 0], [3], [1])],
    ["two contracted axes apart", [3, 4, 5], [5, 3, 2], dims([], [], [0, 2], [1, 0])],
    ["interleaved free axes", [3, 4, 5, 2], [4, 2, 6], dims([], [], [1, 3], [0, 1])],
    ["sizes of one", [1, 4, 1], [1, 1, 4], dims([], [], [1], [2])],
    ["nothing to sum", [3, 0], [0, 2], dims([], [], [1], [0])],
    ["a step of decoding", [1, 64], [96, 64], dims([], [], [1], [1])],
  ] as const)("%s in all types", async (_name, aShape, bShape, d) => {
    for (const dtype of ["f32", "bf16", "f16", "i32"] as const) {
      const [a, b] =
        dtype === "i32"
          ? [whole(dtype, aShape, 1, -9, 9), whole(dtype, bShape, 2, -9, 9)]
          : [uniform(dtype, aShape, 1), uniform(dtype, bShape, 2)];
      const wanted = dot(a, b, d);
      const got = await op1("dot_general", [a, b], { dtype, shape: wanted.shape }, { ...d });
      expect(distance(got, wanted.values), dtype).toBeLessThan({ f32: 1e-5, bf16: 0.02, f16: 3e-3, i32: 1e-12 }[dtype]);
    }
  });

  it("rounds operands to bf16 when the program says so", async () => {
    const [a, b] = [uniform("f32", [40, 300], 1), uniform("f32", [300, 50], 2)];
    const d = dims([], [], [1], [0]);
    const exact = dot(a, b, d).values;
    const rough = dot(plain("bf16", a.shape, a.values), plain("bf16", b.shape, b.values), d).values;
    const got = await op1("dot_general", [a, b], { dtype: "f32", shape: [40, 50] }, { ...d }, { matmul: "bf16" });
    // Where the processor has no bf16 products the result is the exact one.
    expect(Math.min(distance(got, rough), distance(got, exact))).toBeLessThan(1e-4);
  });

  it("adds bias, activation and residual in its epilogue", async () => {
    const [m, k, n] = [37, 50, 43];
    const [a, b, bias, residual] = [
      uniform("f32", [m, k], 1),
      uniform("f32", [n, k], 2),
      uniform("f32", [n], 3),
      uniform("f32", [m, n], 4),
    ];
    const d = dims([], [], [1], [1]);
    const sums = dot(a, b, d).values.map((v, i) => v + bias.values[i % n]!);
    const activations: Record<string, (x: number) => number> = {
      relu: (x) => Math.max(x, 0),
      silu: (x) => x / (1 + Math.exp(-x)),
      gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    };
    const y = { dtype: "f32", shape: [m, n] } as const;
    for (const [name, f] of Object.entries(activations)) {
      const epilogue: Attributes = { bias: true, activation: name, residual: true, pre_activation: true };
      const [got, before] = (await op("dot_general", [a, b, bias, residual], [y, y], { ...d, epilogue })) as [
        number[],
        number[],
      ];
      expect(distance(before, sums)).toBeLessThan(1e-5);
      expect(
        distance(
          got,
          sums.map((v, i) => f(v) + residual.values[i]!),
        ),
        name,
      ).toBeLessThan(1e-5);
    }
    const plainBias = await op1("dot_general", [a, b, bias], y, {
      ...d,
      epilogue: { bias: true, activation: null, residual: false },
    });
    expect(distance(plainBias, sums)).toBeLessThan(1e-5);
  });
});

describe.skipIf(missing !== undefined)("native convolution", () => {
  interface Case {
    readonly x: number[];
    readonly w: number[];
    readonly y: number[];
    readonly a: {
      strides: number[];
      low: number[];
      high: number[];
      lhs_dilation: number[];
      rhs_dilation: number[];
      groups: number;
      batch_groups: number;
    };
    readonly input_spec: number[];
    readonly kernel_spec: number[];
    readonly output_spec: number[];
  }

  function convolve(x: Plain, w: Plain, c: Case): number[] {
    const [xs, ws] = [c.input_spec, c.kernel_spec];
    const spatial = c.a.strides.length;
    const windows = ws.slice(2).map((axis) => w.shape[axis]!);
    const taps = indices(windows);
    const [outs, channels] = [w.shape[ws[0]!]!, w.shape[ws[1]!]!];
    const batch = c.y[c.output_spec[0]!]!;
    return indices(c.y).map((index) => {
      const [b, o] = [index[c.output_spec[0]!]!, index[c.output_spec[1]!]!];
      const group = Math.floor(o / (outs / c.a.groups));
      const batchGroup = Math.floor(o / (outs / c.a.batch_groups));
      let sum = 0;
      for (const tap of taps) {
        const place: number[] = [];
        let inside = true;
        for (let d = 0; d < spatial; d++) {
          const p = index[c.output_spec[d + 2]!]! * c.a.strides[d]! + tap[d]! * c.a.rhs_dilation[d]! - c.a.low[d]!;
          const q = p / c.a.lhs_dilation[d]!;
          inside &&= p >= 0 && Number.isInteger(q) && q < x.shape[xs[d + 2]!]!;
          place[d] = q;
        }
        if (!inside) continue;
        for (let ch = 0; ch < channels; ch++) {
          const [ix, iw]: [number[], number[]] = [[], []];
          ix[xs[0]!] = batchGroup * batch + b;
          ix[xs[1]!] = group * channels + ch;
          iw[ws[0]!] = o;
          iw[ws[1]!] = ch;
          for (let d = 0; d < spatial; d++) {
            ix[xs[d + 2]!] = place[d]!;
            iw[ws[d + 2]!] = tap[d]!;
          }
          sum += at(x, ix) * at(w, iw);
        }
      }
      return sum;
    });
  }

  const unit = {
    strides: [1, 1],
    low: [0, 0],
    high: [0, 0],
    lhs_dilation: [1, 1],
    rhs_dilation: [1, 1],
    groups: 1,
    batch_groups: 1,
  };
  const first = { input_spec: [0, 1, 2, 3], kernel_spec: [0, 1, 2, 3], output_spec: [0, 1, 2, 3] };
  const last = { input_spec: [0, 3, 1, 2], kernel_spec: [3, 2, 0, 1], output_spec: [0, 3, 1, 2] };
  const cases: Record<string, Case> = {
    "channels first, padded": {
      x: [2, 16, 20, 19],
      w: [24, 16, 3, 3],
      y: [2, 24, 20, 19],
      a: { ...unit, low: [1, 1], high: [1, 1] },
      ...first,
    },
    "channels first, stride 2": {
      x: [2, 5, 33, 30],
      w: [9, 5, 5, 4],
      y: [2, 9, 15, 14],
      a: { ...unit, strides: [2, 2] },
      ...first,
    },
    "channels last": {
      x: [2, 14, 13, 16],
      w: [3, 3, 16, 24],
      y: [2, 14, 13, 24],
      a: { ...unit, low: [1, 1], high: [1, 1] },
      ...last,
    },
    "channels last, three colours, stride 4": {
      x: [2, 32, 32, 3],
      w: [4, 4, 3, 20],
      y: [2, 8, 8, 20],
      a: { ...unit, strides: [4, 4] },
      ...last,
    },
    "small pictures, many of them": {
      x: [30, 12, 4, 4],
      w: [18, 12, 3, 3],
      y: [30, 18, 4, 4],
      a: { ...unit, low: [1, 1], high: [1, 1] },
      ...first,
    },
    "transposed by holes": {
      x: [2, 8, 7, 6],
      w: [6, 8, 4, 4],
      y: [2, 6, 14, 12],
      a: { ...unit, lhs_dilation: [2, 2], low: [2, 2], high: [2, 2] },
      ...first,
    },
    "the kernel's gradient": {
      x: [6, 4, 18, 17],
      w: [6, 10, 16, 15],
      y: [10, 4, 3, 3],
      a: { ...unit },
      input_spec: [1, 0, 2, 3],
      kernel_spec: [1, 0, 2, 3],
      output_spec: [1, 0, 2, 3],
    },
    groups: { x: [2, 12, 10, 9], w: [20, 6, 3, 3], y: [2, 20, 8, 7], a: { ...unit, groups: 2 }, ...first },
    depthwise: {
      x: [2, 12, 10, 9],
      w: [12, 1, 3, 3],
      y: [2, 12, 10, 9],
      a: { ...unit, groups: 12, low: [1, 1], high: [1, 1] },
      ...first,
    },
    "depthwise, channels last": {
      x: [2, 10, 9, 12],
      w: [3, 3, 1, 12],
      y: [2, 10, 9, 12],
      a: { ...unit, groups: 12, low: [1, 1], high: [1, 1] },
      ...last,
    },
    "depthwise kernel's gradient": {
      x: [4, 5, 12, 11],
      w: [4, 5, 10, 9],
      y: [1, 5, 3, 3],
      a: { ...unit, batch_groups: 5 },
      input_spec: [1, 0, 2, 3],
      kernel_spec: [1, 0, 2, 3],
      output_spec: [0, 1, 2, 3],
    },
    "dilated and cropped": {
      x: [2, 7, 16, 15],
      w: [9, 7, 3, 2],
      y: [2, 9, 11, 13],
      a: { ...unit, rhs_dilation: [2, 3], low: [-1, 0], high: [0, 1] },
      ...first,
    },
    "one by one": { x: [3, 20, 9, 9], w: [17, 20, 1, 1], y: [3, 17, 9, 9], a: { ...unit }, ...first },
  };

  it.each(Object.entries(cases))("%s equals a loop", async (_name, c) => {
    const [x, w] = [uniform("f32", c.x, 1), uniform("f32", c.w, 2)];
    const { input_spec, kernel_spec, output_spec } = c;
    const got = await op1(
      "convolution",
      [x, w],
      { dtype: "f32", shape: c.y },
      { ...c.a, input_spec, kernel_spec, output_spec },
    );
    expect(distance(got, convolve(x, w, c))).toBeLessThan(3e-5);
  });

  it("takes bf16 operands", async () => {
    const c = cases["channels first, padded"] as Case;
    const [x, w] = [uniform("bf16", c.x, 1), uniform("bf16", c.w, 2)];
    const got = await op1("convolution", [x, w], { dtype: "bf16", shape: c.y }, { ...c.a, ...first });
    expect(
      distance(
        got,
        convolve(x, w, c).map((v) => rounded("bf16", v)),
      ),
    ).toBeLessThan(0.01);
  });
});
