import { beforeAll, describe, expect, it } from "vitest";
import { ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";

describe("a program bound to its arguments", () => {
  beforeAll(() => {
    useBackend(new ReferenceBackend());
  });
  const x = (...data: number[]) => tensor(Float32Array.from(data), { shape: [data.length] });

  it("writes the results it was given, and goes on in what was donated", async () => {
    const f = jit((sum: Tensor, x: Tensor) => ({ sum: sum.add(x), twice: x.mul(2) }), { donate: [0] });
    const [sum, one, twice] = [x(0, 0), x(1, 2), x(0, 0)];
    const bound = f.flat(sum, one).bind([sum, one], [sum, twice]);
    for (let i = 0; i < 3; i++) bound.run();
    expect(await sum.numbers()).toEqual([3, 6]);
    expect(await twice.numbers()).toEqual([2, 4]);
    bound.release();
    dispose([sum, one, twice]);
    f.release();
  });

  it("refuses what could not be run twice, and results of another form", () => {
    const f = jit((sum: Tensor, x: Tensor) => sum.add(x), { donate: [0] });
    const g = jit((sum: Tensor) => sum.sum(), { donate: [0] });
    const [sum, one, other, scalar] = [x(0, 0), x(1, 2), x(0, 0), x(0).reshape()];
    expect(() => f.flat(sum, one).bind([sum, one], [other])).toThrow("must be the same tensor");
    expect(() => f.flat(sum, one).bind([sum, one], [scalar])).toThrow("result 0 is f32");
    expect(() => f.flat(sum, one).bind([sum, one], [])).toThrow("0 results are given");
    expect(() => g.flat(sum).bind([sum], [scalar])).toThrow("a second run would not find it");
    dispose([sum, one, other, scalar]);
    f.release();
    g.release();
  });
});
