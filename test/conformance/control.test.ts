import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { scan, whileLoop } from "../../src/tensor/control.ts";
import { customGrad, grad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { scalar } from "../../src/tensor/ops/creation.ts";
import { concatenate } from "../../src/tensor/ops/structure.ts";
import type { Runtime } from "../../src/tensor/runtime.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { vmap } from "../../src/tensor/vmap.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { difference, evaluate, generator, type Plain, reference } from "./support.ts";

checkLeaks();

const loaded = loadNativeBackend();
const runtimes: [string, Runtime][] = [
  ["reference, program as traced", reference],
  ["reference, compiled", createRuntime(new ReferenceBackend())],
  ...("missing" in loaded ? [] : [["native", createRuntime(loaded)] as [string, Runtime]]),
];

const random = (seed: string, shape: number[], dtype: "f32" | "f64" = "f32"): Plain => {
  const next = generator(seed);
  const values = Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => Math.fround(2 * next() - 1));
  return { dtype, shape, values };
};
const numbers = (...values: number[]): Plain => ({ dtype: "f32", shape: [values.length], values });

/** Runs a traced function once. */
const once =
  (f: (...xs: Tensor[]) => readonly Tensor[]) =>
  (xs: Tensor[]): readonly Tensor[] => {
    const g = jit(f);
    const results = g(...xs);
    g.release();
    return results;
  };

/** h' = tanh(w h + x), y = sum(h'): a recurrent network without a loop, as long as the sequence. */
function unrolled(w: Tensor, h: Tensor, xs: Tensor, reverse: boolean): Tensor[] {
  const ys: Tensor[] = [];
  const n = xs.shape[0]!;
  for (let i = 0; i < n; i++) {
    const t = reverse ? n - 1 - i : i;
    h = w
      .matmul(h)
      .add(xs.slice(0, t, t + 1).squeeze(0))
      .tanh();
    ys[t] = h.mul(h).sum();
  }
  return [h, ...ys];
}
function looped(w: Tensor, h: Tensor, xs: Tensor, reverse: boolean): Tensor[] {
  const [last, ys] = scan(
    (carry: Tensor, x: Tensor) => {
      const next = w.matmul(carry).add(x).tanh();
      return [next, next.mul(next).sum()] as const;
    },
    h,
    xs,
    { reverse },
  );
  return [last, ...ys.split(xs.shape[0]!, 0).map((y) => y.squeeze(0))];
}

describe.each(runtimes)("loops on %s", (_name, runtime) => {
  const inputs = [random("w", [3, 3]), random("h", [3]), random("xs", [5, 3])];

  test.each([false, true])("scan equals the unrolled loop (reverse %s)", async (reverse) => {
    const wanted = await evaluate(
      reference,
      inputs,
      once((w, h, xs) => unrolled(w!, h!, xs!, reverse)),
    );
    const got = await evaluate(
      runtime,
      inputs,
      once((w, h, xs) => looped(w!, h!, xs!, reverse)),
    );
    expect(difference(got, wanted, 1e-5)).toBeUndefined();
  });

  test.each([false, true])(
    "so do its gradients, with respect to carry, sequence and captured weights (reverse %s)",
    async (reverse) => {
      const loss = (f: typeof looped) => (xs: Tensor[]) => {
        const [last, ...ys] = f(xs[0]!, xs[1]!, xs[2]!, reverse);
        return ys.reduce((total, y, i) => total.add(y.mul(i + 1)), last!.sum());
      };
      const gradients = (f: typeof looped) => once((...xs) => grad(xs, loss(f)));
      const wanted = await evaluate(reference, inputs, gradients(unrolled));
      expect(difference(await evaluate(runtime, inputs, gradients(looped)), wanted, 1e-5)).toBeUndefined();
    },
  );

  test("the gradient of the gradient of a scan equals the unrolled one", async () => {
    const second = (f: typeof looped) =>
      once((...xs) =>
        grad(xs, (ys) => {
          const g = grad(ys, (zs) => f(zs[0]!, zs[1]!, zs[2]!, false).reduce((a, y) => a.add(y.sum()), scalar(0)));
          return g.reduce((a, y) => a.add(y.mul(y).sum()), scalar(0));
        }),
      );
    const wanted = await evaluate(reference, inputs, second(unrolled));
    expect(difference(await evaluate(runtime, inputs, second(looped)), wanted, 2e-5)).toBeUndefined();
  });

  test("a scan inside a scan", async () => {
    // Sum over i of the running sums of row i, kept in one carry.
    const nested = once((m) => {
      const [total, rows] = scan(
        (carry: Tensor, row: Tensor) => {
          const [sum, running] = scan((c: Tensor, x: Tensor) => [c.add(x), c.add(x)] as const, carry, row);
          return [sum, running] as const;
        },
        scalar(0),
        m!,
      );
      return [total, rows];
    });
    const m = { dtype: "f32", shape: [2, 3], values: [1, 2, 3, 4, 5, 6] } as const;
    const [total, rows] = await evaluate(runtime, [m], nested);
    expect(total!.values).toEqual([21]);
    expect(rows!.values).toEqual([1, 3, 6, 10, 15, 21]);
  });

  test("a scan of no steps gives the carry back", async () => {
    const none = once((c, xs) => {
      const [carry, ys] = scan((a: Tensor, x: Tensor) => [a.add(x), x.mul(2)] as const, c!, xs!);
      return [carry, ys];
    });
    const empty = { dtype: "f32", shape: [0, 2], values: [] } as const;
    const [carry, ys] = await evaluate(runtime, [numbers(3, 4), empty], none);
    expect(carry!.values).toEqual([3, 4]);
    expect(ys!.shape).toEqual([0, 2]);
  });

  test("a carry that two results share", async () => {
    const f = once((c) => {
      const [[a, b]] = scan(
        ([x, y]: readonly [Tensor, Tensor]) => [[y, x.add(y)] as const, []] as const,
        [c!, c!] as const,
        [],
        {
          length: 5,
        },
      );
      return [a, b];
    });
    const [a, b] = await evaluate(runtime, [numbers(1)], f);
    expect([a!.values, b!.values]).toEqual([[8], [13]]);
  });

  test.each([1, 2, 5])("loops write over nothing but their own carries (%i steps)", async (length) => {
    const rows = random("rows", [length, 4]);
    const start = random("start", [4]);
    // The initial carry is also captured by the body, carried a second time, and read after the loop.
    const f = once((c, x) => {
      const [[h, swapped]] = scan(
        ([a, b]: readonly [Tensor, Tensor], row: Tensor) =>
          [[b.mul(row).sub(c!), a.add(row).mul(2).tanh()] as const, []] as const,
        [c!, c!] as const,
        x!,
      );
      const [i, w] = whileLoop(
        ([n]: readonly [Tensor, Tensor]) => n.less(length),
        ([n, v]: readonly [Tensor, Tensor]) => [n.add(1), v.mul(2).add(c!)] as const,
        [scalar(0), c!] as const,
      );
      return [h, swapped, i, w, c!.add(0), x!.mul(1)];
    });
    const g = once((c, x) => {
      let [a, b, w] = [c!, c!, c!];
      for (let t = 0; t < length; t++) {
        const row = x!.slice(0, t, t + 1).squeeze(0);
        [a, b] = [b.mul(row).sub(c!), a.add(row).mul(2).tanh()];
        w = w.mul(2).add(c!);
      }
      return [a, b, scalar(length), w, c!.add(0), x!.mul(1)];
    });
    const [got, want] = [await evaluate(runtime, [start, rows], f), await evaluate(reference, [start, rows], g)];
    expect(difference(got, want, 1e-6)).toBeUndefined();
  });

  test("while runs as long as the condition holds, with captured tensors on both sides", async () => {
    const f = once((x, limit, step) => [
      whileLoop(
        (c: Tensor) => c.sum().less(limit!.sum()),
        (c: Tensor) => c.add(step!),
        x!,
      ),
    ]);
    const [y] = await evaluate(runtime, [numbers(0, 1), numbers(10), numbers(1, 2)], f);
    expect(y!.values).toEqual([3, 7]);
  });

  test("while may run not at all", async () => {
    const f = once((x) => [
      whileLoop(
        (c: Tensor) => c.sum().less(0),
        (c: Tensor) => c.mul(2),
        x!,
      ),
    ]);
    expect((await evaluate(runtime, [numbers(5)], f))[0]!.values).toEqual([5]);
  });

  test("vmap of a scan equals a loop over the elements", async () => {
    const wide = [random("w2", [3, 3]), random("h2", [4, 3]), random("xs2", [4, 5, 3])];
    const f = once((w, hs, xs) => vmap((h: Tensor, x: Tensor) => looped(w!, h, x, false))(hs!, xs!));
    const loop = once((w, hs, xs) => {
      const each = hs!.split(4, 0).map((h, k) => unrolled(w!, h.squeeze(0), xs!.slice(0, k, k + 1).squeeze(0), false));
      return each[0]!.map((_, i) => concatenate(each.map((r) => r[i]!.expandDims(0))));
    });
    const wanted = await evaluate(reference, wide, loop);
    expect(difference(await evaluate(runtime, wide, f), wanted, 1e-5)).toBeUndefined();
  });

  test("vmap of a while stops each element on its own", async () => {
    const f = once((xs) => [
      vmap((x: Tensor) =>
        whileLoop(
          (c: Tensor) => c.less(20),
          (c: Tensor) => c.mul(2),
          x,
        ),
      )(xs!),
    ]);
    expect((await evaluate(runtime, [numbers(1, 3, 50)], f))[0]!.values).toEqual([32, 24, 50]);
  });

  test("customGrad gives its own gradient, inside a scan too", async () => {
    const twice = customGrad(
      (x) => x.mul(2),
      (g) => [g.mul(100)],
    );
    const f = once((...xs) =>
      grad(xs, ([x]) => {
        const [last] = scan((c: Tensor, y: Tensor) => [c.add(twice(y).sum()), []] as const, scalar(0), x!);
        return last;
      }),
    );
    expect((await evaluate(runtime, [numbers(1, 2)], f))[0]!.values).toEqual([100, 100]);
  });
});

describe("mistakes", () => {
  test.each([
    [
      "a carry that changes its shape",
      (x: Tensor) => scan((c: Tensor) => [c.expandDims(0), []] as const, x, [], { length: 2 })[0],
    ],
    ["no length", (x: Tensor) => scan((c: Tensor) => [c, []] as const, x, [])[0]],
    [
      "a condition that is no bool",
      (x: Tensor) =>
        whileLoop(
          (c: Tensor) => c.sum(),
          (c: Tensor) => c,
          x,
        ),
    ],
  ])("%s is an error while tracing", async (_name, f) => {
    await expect(
      evaluate(
        reference,
        [numbers(1)],
        once((x) => [f(x!)]),
      ),
    ).rejects.toThrow(/scan|whileLoop/);
  });
});
