import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import type { Backend } from "../../src/engine/program.ts";
import { useBackend } from "../../src/engine/runtime.ts";
import { grad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { conv1d, conv2d, convTranspose1d, convTranspose2d } from "../../src/tensor/ops/convolution.ts";
import { fromParts, full } from "../../src/tensor/ops/creation.ts";
import { cummax, cumprod, cumsum } from "../../src/tensor/ops/cumulative.ts";
import { argmax, argmin, argsort, sort, sortBy, takeAlongAxis, topK } from "../../src/tensor/ops/sort.ts";
import { avgPool, maxPool } from "../../src/tensor/ops/window.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, tensors } from "../../src/tensor/tree.ts";
import { checkLeaks } from "../helpers/leaks.ts";

beforeAll(() => {
  useBackend(new ReferenceBackend());
});
checkLeaks();

/** The results of `f` on concrete inputs as flat numbers, everything released. */
async function values(f: (...xs: Tensor[]) => Tensor | readonly Tensor[], ...inputs: Tensor[]): Promise<number[][]> {
  const step = jit(f);
  const results = tensors(step(...inputs));
  step.release();
  const out = await Promise.all(results.map((r) => r.numbers()));
  dispose([results, inputs]);
  return out;
}

function count(from: number, ...shape: number[]): Tensor {
  const n = shape.reduce((a, b) => a * b, 1);
  return tensor(
    Array.from({ length: n }, (_, i) => ((i * 7 + from) % 11) - 5),
    { shape },
  );
}

test.each(["f32", "bf16", "i32", "bool"] as const)(
  "a number repeated so often that the backend does it, %s",
  async (dtype) => {
    using x = full([200, 100], 1, dtype);
    expect(x.shape).toEqual([200, 100]);
    const numbers = await x.numbers();
    expect(numbers).toHaveLength(20_000);
    expect(numbers.every((n) => n === 1)).toBe(true);
  },
);

describe("a tensor read in parts", () => {
  const native = loadNativeBackend();
  const backends: Backend[] = "missing" in native ? [new ReferenceBackend()] : [new ReferenceBackend(), native];
  afterAll(() => void useBackend(new ReferenceBackend()));

  test.each(backends)("holds them one after the other, in $name", async (backend) => {
    useBackend(backend);
    const part = new Float32Array(4);
    const sizes: number[] = [];
    using x = await fromParts([5, 2], part, async (into, from) => {
      sizes.push(into.length);
      for (let i = 0; i < into.length; i++) into[i] = from + i;
    });
    expect(sizes).toEqual([4, 4, 2]);
    expect(await x.numbers()).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    await expect(fromParts([8], part, () => Promise.reject(new Error("torn")))).rejects.toThrow("torn");
  });

  test.skipIf("missing" in native)("is not written past its end", () => {
    const backend = native as Backend;
    const buffer = backend.allocate(8);
    expect(() => backend.write(buffer, 4, Float32Array.of(1, 2))).toThrow("8 bytes at 4 into a buffer of 8");
    backend.release(buffer);
  });
});

describe("convolution", () => {
  /** Cross-correlation by its definition. x (b, c, h, w), k (o, c / groups, kh, kw). */
  function direct(
    x: number[][][][],
    k: number[][][][],
    {
      stride = 1,
      pad = 0,
      dilation = 1,
      groups = 1,
    }: { stride?: number; pad?: number; dilation?: number; groups?: number },
  ): number[] {
    const [h, w] = [x[0]![0]!.length, x[0]![0]![0]!.length];
    const [kh, kw] = [k[0]![0]!.length, k[0]![0]![0]!.length];
    const places = (n: number, m: number) => Math.floor((n + 2 * pad - dilation * (m - 1) - 1) / stride) + 1;
    const out: number[] = [];
    for (const image of x)
      for (const [o, kernel] of k.entries()) {
        const group = Math.floor(o / (k.length / groups));
        for (let i = 0; i < places(h, kh); i++)
          for (let j = 0; j < places(w, kw); j++) {
            let total = 0;
            kernel.forEach((plane, c) => {
              plane.forEach((row, a) => {
                row.forEach((weight, b) => {
                  const [y, z] = [i * stride + a * dilation - pad, j * stride + b * dilation - pad];
                  total += weight * (image[group * kernel.length + c]![y]?.[z] ?? 0);
                });
              });
            });
            out.push(total);
          }
      }
    return out;
  }
  const nested = (t: number[], [a, b, c, d]: [number, number, number, number]): number[][][][] =>
    Array.from({ length: a }, (_, i) =>
      Array.from({ length: b }, (_, j) =>
        Array.from({ length: c }, (_, k) => t.slice(((i * b + j) * c + k) * d, ((i * b + j) * c + k + 1) * d)),
      ),
    );

  test.each([
    {},
    { stride: 2, pad: 1 },
    { dilation: 2, pad: 2 },
    { groups: 2 },
    { groups: 4, stride: 3, pad: 2, dilation: 2 },
  ])("conv2d equals its definition: %j", async (options) => {
    const groups = options.groups ?? 1;
    const [x, k] = [count(0, 2, 4, 7, 6), count(3, 8, 4 / groups, 3, 2)];
    const [xs, ks] = [await x.numbers(), await k.numbers()];
    const { pad, ...rest } = options as { pad?: number };
    const [got] = await values((a, b) => conv2d(a!, b!, { ...rest, padding: pad ?? 0 }), x, k);
    expect(got).toEqual(direct(nested(xs, [2, 4, 7, 6]), nested(ks, [8, 4 / groups, 3, 2]), options));
  });

  test("channels last gives the same numbers in the other order", async () => {
    const [first, last] = await values(
      (x, k) => [
        conv2d(x!, k!, { stride: 2, padding: 1 }).transpose(0, 2, 3, 1),
        conv2d(x!.transpose(0, 2, 3, 1), k!, { stride: 2, padding: 1, channels: "last" }),
      ],
      count(0, 2, 3, 5, 6),
      count(1, 4, 3, 3, 3),
    );
    expect(last).toEqual(first);
  });

  test("'same' padding keeps the length at stride 1 and divides it, rounded up, otherwise", async () => {
    const shapes: number[][] = [];
    await values(
      (x, k) => {
        const ys = [1, 2, 3].map((stride) => conv1d(x!, k!, { padding: "same", stride }));
        shapes.push(...ys.map((y) => [...y.shape]));
        return ys;
      },
      count(0, 1, 2, 7),
      count(1, 3, 2, 4),
    );
    expect(shapes).toEqual([
      [1, 3, 7],
      [1, 3, 4],
      [1, 3, 3],
    ]);
  });

  test("a bias is added to each output channel", async () => {
    const [y] = await values(
      (x, k, b) => conv1d(x!, k!, { bias: b! }),
      tensor([[[1, 2]]]),
      tensor([[[1]], [[10]]]),
      tensor([100, 1000]),
    );
    expect(y).toEqual([101, 102, 1010, 1020]);
  });

  test.each([{}, { stride: 2, padding: 1, outputPadding: 1 }, { stride: 3, dilation: 2, groups: 2 }])(
    "convTranspose2d is the gradient of conv2d with respect to its input: %j",
    async (options) => {
      const { outputPadding: _, ...forward } = options as { outputPadding?: number; groups?: number };
      const groups = options.groups ?? 1;
      const small = count(2, 2, 4, 3, 4); // (batch, conv's out, ...)
      const kernel = count(5, 4, 6 / groups, 3, 3);
      const [y, dx] = await values(
        (g, k) => {
          const up = convTranspose2d(g!, k!, options);
          const zero = up.mul(0);
          return [up, grad(zero, (x) => conv2d(x, k!, forward).mul(g!).sum())];
        },
        small,
        kernel,
      );
      expect(y).toEqual(dx);
    },
  );

  test("convTranspose1d of one impulse is the kernel", async () => {
    const [y] = await values(
      (x, k) => convTranspose1d(x!, k!, { stride: 2 }),
      tensor([[[0, 1, 0]]]),
      tensor([[[3, 5, 7]]]),
    );
    expect(y).toEqual([0, 0, 3, 5, 7, 0, 0]);
  });

  test("features that do not fit are named with both shapes", () => {
    const [x, k] = [count(0, 1, 3, 5), count(0, 2, 4, 3)];
    expect(() => conv1d(x, k)).toThrow(/3 features.*4.*\(1, 3, 5\).*\(2, 4, 3\)/);
    dispose([x, k]);
  });
});

describe("pooling", () => {
  test("maxPool and avgPool over 2 x 2", async () => {
    const image = tensor([
      [
        [
          [1, 2, 5, 3],
          [4, 0, 1, 1],
          [7, 8, 2, 2],
          [6, 5, 2, 9],
        ],
      ],
    ]);
    const [most, mean] = await values((x) => [maxPool(x!, 2), avgPool(x!, 2)], image);
    expect(most).toEqual([4, 5, 8, 9]);
    expect(mean).toEqual([1.75, 2.5, 6.5, 3.75]);
  });

  test("padding of avgPool counts as zeros, or not at all", async () => {
    const row = () => tensor([[[3, 6, 9]]]);
    const [counted, left] = [
      await values((x) => avgPool(x!, 3, { stride: 1, padding: 1 }), row()),
      await values((x) => avgPool(x!, 3, { stride: 1, padding: 1, countPadding: false }), row()),
    ];
    expect(counted).toEqual([[3, 6, 5]]);
    expect(left).toEqual([[4.5, 6, 7.5]]);
  });

  test("the gradient of maxPool goes to the first of equals", async () => {
    const [g] = await values((x) => grad(x!, (y) => maxPool(y, 2).sum()), tensor([[[4, 4, 1, 7]]]));
    expect(g).toEqual([1, 0, 0, 1]);
  });
});

describe("order", () => {
  test("sort, argsort and takeAlongAxis agree", async () => {
    const [sorted, taken, back] = await values(
      (x) => [sort(x!, 0), takeAlongAxis(x!, argsort(x!, 0), 0), sort(x!, 1, { descending: true })],
      tensor([
        [3, 1, 2],
        [0, 5, 2],
      ]),
    );
    expect(sorted).toEqual([0, 1, 2, 3, 5, 2]);
    expect(taken).toEqual(sorted);
    expect(back).toEqual([3, 2, 1, 5, 2, 0]);
  });

  test("sortBy carries payloads along", async () => {
    const [keys, letters] = await values((k, v) => sortBy(k!, [v!]), tensor([2, 1, 2, 0]), tensor([10, 20, 30, 40]));
    expect(keys).toEqual([0, 1, 2, 2]);
    expect(letters).toEqual([40, 20, 10, 30]);
  });

  test("topK, argmax and argmin choose the first of equals", async () => {
    const [best, at, most, least] = await values(
      (x) => {
        const { values: v, indices } = topK(x!, 2);
        return [v, indices, argmax(x!), argmin(x!)];
      },
      tensor([[1, 7, 7, 1]]),
    );
    expect([best, at, most, least]).toEqual([[7, 7], [1, 2], [1], [0]]);
  });

  test("argmin of whole numbers reaches the lowest one", async () => {
    const x = tensor([5, -2147483648, 2147483647], { dtype: "i32" });
    expect(await values((y) => argmin(y!), x)).toEqual([[1]]);
  });

  test("the gradient of topK goes where the values came from", async () => {
    const [g] = await values(
      (x) =>
        grad(x!, (y) =>
          topK(y, 2)
            .values.mul(tensor([10, 1]))
            .sum(),
        ),
      tensor([3, 9, 5]),
    );
    expect(g).toEqual([0, 10, 1]);
  });
});

describe("cumulative", () => {
  test("sums, products and maxima, from either end", async () => {
    const [s, r, p, m] = await values(
      (x) => [cumsum(x!), cumsum(x!, 0, { reverse: true }), cumprod(x!), cummax(x!)],
      tensor([2, 1, 4, 3]),
    );
    expect([s, r, p, m]).toEqual([
      [2, 3, 7, 10],
      [10, 8, 7, 3],
      [2, 2, 8, 24],
      [2, 2, 4, 4],
    ]);
  });

  test("the gradient of a running product is exact at zeros", async () => {
    // y = (0, 0, 0): dy/dx0 = (1, x1, x1 x2), and x1, x2 never matter, as x0 = 0.
    const [g] = await values((x) => grad(x!, (y) => cumprod(y).sum()), tensor([0, 3, 5]));
    expect(g).toEqual([1 + 3 + 15, 0, 0]);
    const [h] = await values((x) => grad(x!, (y) => cumprod(y).sum()), tensor([2, 0, 0]));
    expect(h).toEqual([1, 2, 0]);
  });
});

describe("gradients at special points", () => {
  test("x^2 at 0 is flat, and 0^b does not depend on b", async () => {
    const [a, b] = await values((x, y) => grad([x!, y!], ([p, q]) => p!.pow(q!).sum()), tensor([0]), tensor([2]));
    expect([a, b]).toEqual([[0], [0]]);
  });

  test("a maximum of equals gives each its half", async () => {
    const [a, b] = await values((x, y) => grad([x!, y!], ([p, q]) => p!.maximum(q!).sum()), tensor([1]), tensor([1]));
    expect([a, b]).toEqual([[0.5], [0.5]]);
  });
});
