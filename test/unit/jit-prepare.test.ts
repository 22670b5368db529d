import { beforeEach, describe, expect, test } from "vitest";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { type Backend, lower, useBackend } from "../../src/engine/index.ts";
import { inSlices, type Sliced, whole } from "../../src/engine/slices.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import { jit, tensor, valueAndGrad } from "../../src/tensor/index.ts";
import { traceCall } from "../../src/tensor/jit.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { missing, backend as native } from "./native-support.ts";

const row = (...numbers: number[]) => tensor([numbers], { dtype: "f32" });
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Of some hundred nodes: enough to be cut in several slices on its first run. */
const deep = (x: Tensor): readonly [Tensor, Tensor] =>
  valueAndGrad(x, (at) => {
    let h = at;
    for (let i = 0; i < 60; i++)
      h = h
        .mul(0.5 + i / 100)
        .tanh()
        .add(at.exp().mul(0.1));
    return h.sum();
  }) as unknown as readonly [Tensor, Tensor];

const backends: [string, boolean, () => Backend][] = [
  ["reference", false, () => new ReferenceBackend()],
  ["native", Boolean(missing), () => native()],
];

describe.each(backends)("a compiled function that is prepared (%s)", (_, skip, make) => {
  beforeEach(() => {
    if (!skip) useBackend(make());
  });
  const check = test.skipIf(skip);

  check("gives the bits of one that compiles in its first call, and traces once", async () => {
    let traces = 0;
    const body = (x: Tensor) => {
      traces++;
      return deep(x);
    };
    const x = row(1, -2, 3);
    const [at, prepared] = [jit(body), jit(body)];
    const expected = at(x);
    await prepared.prepare(x);
    expect(prepared.programs).toBe(1);
    const found = prepared(x);
    expect(traces).toBe(2);
    for (const i of [0, 1]) expect(await found[i]!.numbers()).toEqual(await expected[i]!.numbers());
  });

  check("is one program for two that prepare at once, and gives the event loop turns", async () => {
    const f = jit(deep);
    const x = row(1, 2, 3);
    let turns = 0;
    let done = false;
    const counting = (async () => {
      while (!done) {
        await turn();
        turns++;
      }
    })();
    await Promise.all([f.prepare(x), f.prepare(x)]);
    done = true;
    await counting;
    expect(f.programs).toBe(1);
    expect(turns).toBeGreaterThan(1);
  });

  check("a call does not wait for what is being prepared, nor is it undone by it", async () => {
    const f = jit((x: Tensor) => x.mul(2).add(1));
    const x = row(1, 2);
    const pending = f.prepare(x);
    const y = f(x);
    expect(await y.numbers()).toEqual([3, 5]);
    await pending;
    expect(f.programs).toBe(1);
    expect(await f(x).numbers()).toEqual([3, 5]);
  });

  check("takes its arguments as they are when it is asked, and what it closes over too", async () => {
    let factor = 2;
    const f = jit((x: Tensor, o: { add: number }) => x.mul(factor).add(o.add));
    const o = { add: 10 };
    const x = row(1, 2);
    const pending = f.prepare(x, o);
    factor = 3;
    o.add = 20;
    x.dispose();
    await pending;
    const y = row(5, 7);
    // The program that was prepared is for `add: 10`, with the factor of its trace.
    expect(await f(y, { add: 10 }).numbers()).toEqual([20, 24]);
    expect(f.programs).toBe(1);
    // The changed argument is another program, traced now.
    expect(await f(y, o).numbers()).toEqual([35, 41]);
    expect(f.programs).toBe(2);
  });

  check("consumes no donated argument until it is called", async () => {
    const f = jit((x: Tensor) => x.mul(2), { donate: [0] });
    const x = row(1, 2);
    await f.prepare(x);
    expect(await x.numbers()).toEqual([1, 2]);
    const y = f(x);
    expect(await y.numbers()).toEqual([2, 4]);
    await expect(async () => x.numbers()).rejects.toThrow();
  });

  check("an argument that another call consumed meanwhile is refused by the call, not by the preparation", async () => {
    const f = jit((x: Tensor) => x.mul(3));
    const other = jit((x: Tensor) => x.add(1), { donate: [0] });
    const x = row(1, 2);
    const pending = f.prepare(x);
    other(x);
    await pending;
    expect(() => f(x)).toThrow();
    expect(await f(row(2, 3)).numbers()).toEqual([6, 9]);
  });

  check("rejects with what the trace throws, and can be asked again", async () => {
    let wrong = true;
    const f = jit((x: Tensor) => {
      if (wrong) throw new RangeError("not now");
      return x.neg();
    });
    const x = row(1, 2);
    await expect(f.prepare(x)).rejects.toThrow("not now");
    wrong = false;
    await f.prepare(x);
    expect(await f(x).numbers()).toEqual([-1, -2]);
  });

  check("a release while it is prepared leaves nothing behind", async () => {
    const f = jit((x: Tensor) => x.mul(2));
    const x = row(1, 2);
    const pending = f.prepare(x);
    f.release();
    await pending;
    expect(f.programs).toBe(0);
    expect(await f(x).numbers()).toEqual([2, 4]);
  });
});

describe("slices", () => {
  test("are the whole, in order", async () => {
    const work = function* (): Sliced<number[]> {
      const out: number[] = [];
      for (let i = 0; i < 5; i++) {
        out.push(i);
        yield;
      }
      return out;
    };
    expect(await inSlices(work())).toEqual(whole(work()));
  });

  test.skipIf(missing)("a program that the addon refuses is a rejection that says why", async () => {
    useBackend(native());
    const { graph } = traceCall((x: Tensor) => x.add(1), [row(1, 2)]);
    const program = lower(graph, native(), { matmul: "f32" });
    const instructions = program.instructions.map((i) => ({ ...i, op: "no_such_op" }));
    await expect(native().compileLater({ ...program, instructions })).rejects.toThrow(BackendError);
    await expect(native().compileLater({ ...program, instructions })).rejects.toThrow(/no such kernel/);
  });
});
