import { beforeAll, describe, expect, test } from "vitest";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { useBackend } from "../../src/engine/runtime.ts";
import { ShapeError, StateError } from "../../src/tensor/errors.ts";
import { checkpoint, customGrad, grad, valueAndGrad, vjp } from "../../src/tensor/grad.ts";
import { jit, traceCall } from "../../src/tensor/jit.ts";
import { arange } from "../../src/tensor/ops/creation.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { vmap } from "../../src/tensor/vmap.ts";
import { checkLeaks } from "../helpers/leaks.ts";

beforeAll(() => {
  useBackend(new ReferenceBackend());
});
checkLeaks();

const numbers = async (...ts: Tensor[]): Promise<number[][]> => {
  const out = await Promise.all(ts.map((t) => t.numbers()));
  dispose(ts);
  return out;
};

describe("valueAndGrad", () => {
  test("gives the loss, a tree of gradients of the same structure, and what else the function returns", async () => {
    const at = { w: tensor([1, 2]), deep: [{ b: tensor([3]) }], rate: 0.5 };
    const [loss, gradients, more] = valueAndGrad(at, (m) => {
      const y = m.w.mul(m.w).sum().add(m.deep[0]!.b.sum());
      return [y.mul(m.rate), { y }] as const;
    });
    expect(gradients.rate).toBe(0.5);
    expect(await numbers(loss, gradients.w, gradients.deep[0]!.b, more.y)).toEqual([[4], [1, 2], [0.5], [8]]);
    dispose(at);
  });

  test("integer tensors and tensors the loss does not use get zeros", async () => {
    const at = { ids: arange(3), unused: tensor([1, 1]), x: tensor([2]) };
    const g = grad(at, (t) => t.x.mul(t.ids.to("f32").sum()).sum());
    expect([g.ids.dtype, g.unused.shape]).toEqual(["i32", [2]]);
    expect(await numbers(g.ids, g.unused, g.x)).toEqual([[0, 0, 0], [0, 0], [3]]);
    dispose(at);
  });

  test("the same tensor at two places has two gradients", async () => {
    const w = tensor([3]);
    const g = grad({ a: w, b: w }, ({ a, b }) => a.mul(a).mul(b).sum());
    expect(await numbers(g.a, g.b)).toEqual([[18], [9]]);
    w.dispose();
  });

  test("the loss must be one floating-point number", () => {
    const x = tensor([1, 2]);
    expect(() => grad(x, (y) => y.mul(2))).toThrow(/one floating-point number, got f32\(2\)/);
    expect(() => grad(x, (y) => y.sum().to("i32"))).toThrow(ShapeError);
    x.dispose();
  });

  test("gradients of gradients of gradients", async () => {
    const x = tensor([2]);
    const third = jit((t: Tensor) =>
      grad(t, (a) => grad(a, (b) => grad(b, (c) => c.mul(c).mul(c).mul(c).sum()).sum()).sum()),
    );
    expect(await numbers(third(x))).toEqual([[48]]);
    third.release();
    x.dispose();
  });

  test("stopGradient and a use outside the function cut the flow", async () => {
    const x = tensor([3]);
    const g = jit(
      (t: Tensor) => [grad(t, (y) => y.mul(y.stopGradient()).sum()), grad(t, (y) => y.mul(t).sum())] as const,
    );
    expect(await numbers(...g(x))).toEqual([[3], [3]]);
    g.release();
    x.dispose();
  });

  test("an op without a gradient is named", () => {
    const custom = customGrad(
      (x) => x.mul(2),
      () => [undefined],
    );
    const x = tensor([1]);
    const g = grad(x, (y) => custom(y).sum());
    g.dispose();
    x.dispose();
  });

  test("vjp outside a trace says what to do", () => {
    expect(() => vjp((x) => [x], [])).toThrow(StateError);
  });
});

describe("checkpoint", () => {
  const layer = (x: Tensor) => x.sin().exp().mul(x).tanh();
  const loss = (f: (x: Tensor) => Tensor) => (x: Tensor) => f(f(x)).sum();

  test("the same values and gradients", async () => {
    const x = tensor([0.3, -0.7, 1.1]);
    const [plain, kept] = [valueAndGrad(x, loss(layer)), valueAndGrad(x, loss(checkpoint(layer)))];
    const [a, b, c, d] = await numbers(...plain, ...kept);
    expect([c, d]).toEqual([a, b]);
    x.dispose();
  });

  test("its inner values are computed a second time, in regions of their own", () => {
    const x = tensor([0.3, -0.7]);
    const count = (f: (x: Tensor) => Tensor) => {
      const { graph } = traceCall((t: Tensor) => valueAndGrad(t, loss(f)), [x]);
      return {
        sines: graph.nodes.filter((n) => n.op.name === "sine").length,
        regions: new Set(graph.nodes.map((n) => n.region)).size,
      };
    };
    expect(count(layer)).toEqual({ sines: 2, regions: 1 });
    // Two calls, each with its copy; and the nodes outside.
    expect(count(checkpoint(layer))).toEqual({ sines: 4, regions: 5 });
    x.dispose();
  });
});

describe("customGrad", () => {
  test("uses the given rule, with inputs and output", async () => {
    const clipped = customGrad(
      (x, y) => x.mul(y),
      (g, [x, y], output) => [g.mul(y!).add(output), g.mul(x!).mul(0)],
    );
    const [x, y] = [tensor([2]), tensor([5])];
    const g = grad([x, y] as const, ([a, b]) => clipped(a, b).sum());
    expect(await numbers(...g)).toEqual([[15], [0]]);
    expect(await numbers(clipped(x, y))).toEqual([[10]]);
    dispose([x, y]);
  });
});

describe("vmap", () => {
  test("maps trees, shares what is captured and repeats what does not depend on the element", async () => {
    const [w, xs] = [
      tensor([10, 1]),
      tensor([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
    ];
    const f = vmap(({ x }: { x: Tensor }) => ({ dot: x.mul(w).sum(), constant: w.sum() }));
    const { dot, constant } = f({ x: xs });
    expect(await numbers(dot, constant)).toEqual([
      [12, 34, 56],
      [11, 11, 11],
    ]);
    dispose([w, xs]);
  });

  test("gradients per example: vmap of grad", async () => {
    const [w, xs] = [
      tensor([1, 2]),
      tensor([
        [1, 0],
        [0, 3],
      ]),
    ];
    const perExample = vmap((x: Tensor) => grad(w, (v) => v.mul(x).sum().square()));
    expect(await numbers(perExample(xs))).toEqual([[2, 0, 0, 36]]);
    dispose([w, xs]);
  });

  test("vmap inside vmap", async () => {
    const [a, b] = [tensor([1, 2]), tensor([10, 20, 30])];
    const outer = vmap((x: Tensor) => vmap((y: Tensor) => x.mul(y))(b));
    const y = outer(a);
    expect(y.shape).toEqual([2, 3]);
    expect(await numbers(y)).toEqual([[10, 20, 30, 20, 40, 60]]);
    dispose([a, b]);
  });

  test("a custom gradient survives vmap inside grad", async () => {
    const twice = customGrad(
      (x) => x.mul(2),
      (g) => [g.mul(7)],
    );
    const xs = tensor([1, 2]);
    const g = grad(xs, (t) => vmap((x: Tensor) => twice(x))(t).sum());
    // The mapped op is inlined, so its own derivative counts.
    expect(await numbers(g)).toEqual([[2, 2]]);
    xs.dispose();
  });

  test("first axes that differ are named", () => {
    const [a, b] = [tensor([1, 2]), tensor([1, 2, 3])];
    expect(() => vmap((x: Tensor, y: Tensor) => x.add(y))(a, b)).toThrow(/2 against \(3\)/);
    dispose([a, b]);
  });
});
