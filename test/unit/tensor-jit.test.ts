import { beforeAll, describe, expect, test } from "vitest";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { useBackend } from "../../src/engine/runtime.ts";
import { DTypeError, ShapeError, StateError } from "../../src/tensor/errors.ts";
import { jit } from "../../src/tensor/jit.ts";
import { arange, zeros } from "../../src/tensor/ops/creation.ts";
import { matmul } from "../../src/tensor/ops/dot.ts";
import { embedding } from "../../src/tensor/ops/nn.ts";
import { concatenate } from "../../src/tensor/ops/structure.ts";
import { liveTensors, type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { scope } from "../../src/tensor/trace.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { checkLeaks } from "../helpers/leaks.ts";

beforeAll(() => {
  useBackend(new ReferenceBackend());
});
checkLeaks();

describe("jit", () => {
  test("traces once per signature", async () => {
    let traces = 0;
    const f = jit((x: Tensor, options: { scale: number }) => {
      traces++;
      return x.mul(options.scale);
    });
    const [a, b, c] = [tensor([1, 2]), tensor([3, 4]), tensor([5])];
    const results = [f(a, { scale: 2 }), f(b, { scale: 2 })];
    expect([traces, f.programs]).toEqual([1, 1]);
    results.push(f(a, { scale: 3 }), f(c, { scale: 3 }));
    expect([traces, f.programs]).toEqual([3, 3]);
    expect(await Promise.all(results.map((r) => r.numbers()))).toEqual([[2, 4], [6, 8], [3, 6], [15]]);
    f.release();
    expect(f.programs).toBe(0);
    dispose([results, a, b, c]);
  });

  test("gives back the structure that the function returned, plain values included", async () => {
    const f = jit((x: Tensor) => ({ twice: [x.add(x)], rank: x.rank, same: x }));
    const x = tensor([[1]]);
    const y = f(x);
    expect(y.rank).toBe(2);
    expect(await y.twice[0]!.numbers()).toEqual([2]);
    expect(await y.same.numbers()).toEqual([1]);
    expect(y.same).not.toBe(x);
    dispose([x, y]);
    f.release();
  });

  test("a captured tensor is an input, read anew at each call", async () => {
    const weights = tensor([10]);
    const f = jit((x: Tensor) => x.mul(weights));
    const x = tensor([2]);
    const y = f(x);
    expect(await y.numbers()).toEqual([20]);
    weights.dispose();
    expect(() => f(x)).toThrow(StateError);
    dispose([x, y]);
    f.release();
  });

  test("inside another trace it is inlined", () => {
    const inner = jit((x: Tensor) => x.mul(2));
    const outer = jit((x: Tensor) => inner(x).add(1));
    const x = tensor([1]);
    const y = outer(x);
    expect([inner.programs, outer.programs]).toEqual([0, 1]);
    dispose([x, y]);
    outer.release();
  });

  test("makes no tensors but its results", () => {
    const f = jit((x: Tensor) => x.exp().mul(3).sin().sum());
    const x = tensor([1, 2, 3]);
    const before = liveTensors();
    const y = f(x);
    expect(liveTensors()).toBe(before + 1);
    dispose([x, y]);
    f.release();
  });

  test("the same result twice is two tensors", async () => {
    const f = jit((x: Tensor) => {
      const y = x.neg();
      return [y, y, x, x] as const;
    });
    const x = tensor([1]);
    const [a, b, c, d] = f(x);
    a.dispose();
    c.dispose();
    expect([await b.numbers(), await d.numbers(), await x.numbers()]).toEqual([[-1], [1], [1]]);
    dispose([x, b, d]);
    f.release();
  });

  test("values cannot be read while tracing", () => {
    const f = jit((x: Tensor) => {
      void x.storage("numbers");
      return x;
    });
    const x = tensor([1]);
    expect(() => f(x)).toThrow(/only being traced/);
    x.dispose();
  });

  test("a tensor that escapes its trace cannot be used in another", () => {
    let escaped: Tensor | undefined;
    const f = jit((x: Tensor) => {
      escaped = x.add(1);
      return x.neg();
    });
    const x = tensor([1]);
    const y = f(x);
    const g = jit((z: Tensor) => z.add(escaped!));
    expect(() => g(x)).toThrow(StateError);
    dispose([x, y]);
    f.release();
  });
});

describe("donation", () => {
  test("a donated tensor is dead afterwards, and says so", async () => {
    const f = jit((state: Tensor, x: Tensor) => state.add(x), { donate: [0] });
    const [state, x] = [tensor([1, 2]), tensor([10, 20])];
    const next = f(state, x);
    expect(await next.numbers()).toEqual([11, 22]);
    expect(() => f(state, x)).toThrow(/donated/);
    expect(() => state.add(1)).toThrow(StateError);
    await expect(state.numbers()).rejects.toThrow(StateError);
    dispose([next, x]);
    f.release();
  });

  test("its memory becomes the result's", async () => {
    const backend = new ReferenceBackend();
    let allocated = 0;
    const allocate = backend.allocate.bind(backend);
    backend.allocate = (bytes) => {
      allocated++;
      return allocate(bytes);
    };
    useBackend(backend);
    const step = (state: Tensor) => state.mul(2).add(1);
    const [kept, given] = [jit(step), jit(step, { donate: [0] })];
    let state: Tensor = tensor([1, 2, 3]);
    const y = kept(state);
    expect(allocated).toBe(1);
    for (let i = 0; i < 3; i++) state = given(state);
    expect(allocated).toBe(1);
    expect(await state.numbers()).toEqual([15, 23, 31]);
    dispose([state, y]);
    kept.release();
    given.release();
    useBackend(new ReferenceBackend());
  });

  test("two results of one donated tensor are still two", async () => {
    const f = jit((s: Tensor) => [s.add(1), s.add(1), s] as const, { donate: [0] });
    const results = f(tensor([1]));
    results[0].dispose();
    expect([await results[1].numbers(), await results[2].numbers()]).toEqual([[2], [1]]);
    dispose(results);
    f.release();
  });
});

describe("concrete tensors", () => {
  test("`using` and dispose release; twice is harmless", () => {
    const before = liveTensors();
    const t = tensor([1]);
    expect(liveTensors()).toBe(before + 1);
    t.dispose();
    t.dispose();
    t[Symbol.dispose]();
    expect(liveTensors()).toBe(before);
  });

  test("a disposed tensor is refused by name of the op", () => {
    const t = tensor([1, 2]);
    t.dispose();
    expect(() => t.add(1)).toThrow(/add uses a tensor \(2\) that was disposed/);
  });

  test("nested lists give the shape; ragged ones are an error", async () => {
    const t = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(t.shape).toEqual([2, 3]);
    t.dispose();
    expect(() => tensor([[1, 2], [3]])).toThrow(ShapeError);
    expect(() => tensor([1, [2]])).toThrow(ShapeError);
    expect(() => tensor([1, 2, 3], { shape: [2, 2] })).toThrow(/\(2, 2\) holds 4 elements, but 3/);
  });

  test.each([
    ["bf16", [1.00390625, Math.PI], [1, 3.140625]],
    ["f16", [0.1, 70000, 1e-8], [0.0999755859375, Number.POSITIVE_INFINITY, 0]],
    ["u8", [255, 256, -1], [255, 0, 255]],
    ["i8", [127, 128], [127, -128]],
    ["bool", [0, 2, -1], [0, 1, 1]],
  ] as const)("%s round trip", async (dtype, values, wanted) => {
    const t = tensor([...values], { dtype });
    expect(await t.numbers()).toEqual(wanted);
    t.dispose();
  });
});

describe("errors name the op, the shapes, the dtypes and the way out", () => {
  const a = () => tensor([[1, 2, 3]]);
  const cases: [string, () => unknown, RegExp, typeof ShapeError | typeof DTypeError][] = [
    [
      "matmul",
      () => matmul(zeros([8, 384]), zeros([512, 9])),
      /matmul.*\(8, 384\) x \(512, 9\), 384 against 512/,
      ShapeError,
    ],
    ["add, shapes", () => a().add(zeros([2, 2])), /add.*\(1, 3\).*\(2, 2\).*3 against 2/, ShapeError],
    ["add, dtypes", () => a().add(arange(3).reshape(1, 3)), /add.*f32\(1, 3\).*i32\(1, 3\).*\.to\(/, DTypeError],
    ["exp of integers", () => arange(3).exp(), /exponential.*floating-point.*i32\(3\)/, DTypeError],
    ["reshape", () => a().reshape(2, 2), /reshape.*\(1, 3\) holds 3.*\(2, 2\)/, ShapeError],
    ["axis", () => a().sum(2), /axis 2 does not exist.*rank 2/, ShapeError],
    ["transpose", () => a().transpose(0, 0), /transpose.*\[0,0\].*\(1, 3\)/, ShapeError],
    ["concatenate", () => concatenate([a(), zeros([2, 2])], 0), /concatenate.*\(2, 2\).*\(1, 3\).*axis 0/, ShapeError],
    ["split", () => a().split(2), /split.*\(1, 3\).*2 parts/, ShapeError],
    [
      "embedding of floats",
      () => embedding(zeros([4, 2]), zeros([3])),
      /embedding.*i32.*f32|embedding.*f32/,
      DTypeError,
    ],
  ];
  test.each(cases)("%s", (_name, f, message, type) => {
    // While tracing, before anything runs; the tensors of the failed trace are only names.
    const trap = jit(() => f() as Tensor);
    expect(trap).toThrow(message);
    expect(trap).toThrow(type);
  });

  test("and where: the scopes from the inside out", () => {
    const f = jit((x: Tensor) => scope("GPT.forward", () => scope("h.3.mlp", () => x.matmul(zeros([5, 5])))));
    const x = tensor([[1, 2]]);
    expect(() => f(x)).toThrow(/\n {2}in h\.3\.mlp <- GPT\.forward/);
    x.dispose();
  });
});
