import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { grad } from "../../src/tensor/grad.ts";
import { type JitOptions, jit } from "../../src/tensor/jit.ts";
import { iota } from "../../src/tensor/ops/creation.ts";
import { cumsum } from "../../src/tensor/ops/cumulative.ts";
import * as e from "../../src/tensor/ops/elementwise.ts";
import { layerNorm, softmax } from "../../src/tensor/ops/nn.ts";
import { concatenate, pad, reverse } from "../../src/tensor/ops/structure.ts";
import type { Runtime } from "../../src/tensor/runtime.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { difference, evaluate, generator, type Plain, reference } from "./support.ts";

checkLeaks();

const loaded = loadNativeBackend();

/** A step of a random program: takes values made before, gives a new one, or nothing if they do not fit. */
type Step = (pick: () => Tensor, below: (n: number) => number) => Tensor | undefined;

const same = (a: Tensor, b: Tensor) => a.shape.join() === b.shape.join();
const matrix = (x: Tensor) => x.rank === 2;

const steps: Step[] = [
  (pick) => pick().tanh(),
  (pick) => pick().sin(),
  (pick) => pick().neg(),
  (pick) => pick().sigmoid(),
  (pick) => pick().square().mul(0.5).tanh(),
  (pick) => e.exp(pick().tanh()),
  (pick) => pick().add(0),
  (pick) => pick().mul(1),
  (pick) => pick().mul(0),
  (pick) => pick().sub(0.25).div(3),
  (pick) => pick().stopGradient(),
  (pick) => e.optimizationBarrier(pick()),
  (pick) => e.clamp(pick(), -0.7, 0.7),
  (pick) => pick().to("bf16").to("f32"),
  (pick) => pick().to("i32").to("f32"),
  ...Array.from(
    { length: 4 },
    (_, k): Step =>
      (pick) => {
        const [a, b] = [pick(), pick()];
        if (!same(a, b)) return undefined;
        return [a.add(b), a.mul(b), a.sub(b).tanh(), e.maximum(a, b)][k];
      },
  ),
  (pick) => {
    const [a, b] = [pick(), pick()];
    return same(a, b) ? e.where(a.less(b), a, b.neg()) : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? x.transpose() : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? x.transpose().transpose().tanh() : undefined;
  },
  (pick) => {
    const [a, b] = [pick(), pick()];
    return matrix(a) && matrix(b) && a.shape[1] === b.shape[0] ? a.matmul(b).tanh() : undefined;
  },
  (pick) => {
    const [a, b] = [pick(), pick()];
    return matrix(a) && matrix(b) && a.shape[1] === b.shape[1] ? a.matmul(b.transpose()).tanh() : undefined;
  },
  (pick) => {
    const [a, b] = [pick(), pick()];
    return matrix(a) && matrix(b) && a.shape[0] === b.shape[0] ? a.transpose().matmul(b).tanh() : undefined;
  },
  (pick, below) => {
    const x = pick();
    return x.rank ? x.sum(below(x.rank), { keep: true }).broadcastTo(x.shape).tanh() : undefined;
  },
  (pick, below) => {
    const x = pick();
    return x.rank ? x.sub(x.max(below(x.rank), { keep: true })) : undefined;
  },
  (pick) => (matrix(pick()) ? softmax(pick()) : undefined),
  (pick) => {
    const x = pick();
    if (!matrix(x)) return undefined;
    const scale = iota([x.shape[1]!], 0, "f32").mul(0.1);
    return layerNorm(x, scale, scale.neg());
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? x.reshape(x.shape[1]!, x.shape[0]!) : undefined;
  },
  (pick) => {
    const x = pick();
    return x
      .reshape(x.size)
      .reshape(...x.shape)
      .sin();
  },
  (pick, below) => {
    const x = pick();
    if (!matrix(x)) return undefined;
    const cut = 1 + below(x.shape[0]! - 1);
    return concatenate([x.slice(0, cut), x.slice(0, 0, cut)]);
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? reverse(x, [1]) : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? pad(x, 0, [1, -1], [-1, 1]) : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? cumsum(x, 0).mul(0.1) : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? x.take(iota([x.shape[0]!], 0).mul(2)) : undefined;
  },
];

const shapes = [
  [4, 6],
  [4, 6],
  [6, 5],
  [4, 5],
];

/** The random program number `seed`, as a function of its inputs; several of its values are results, some twice. */
function program(seed: number, length: number): (inputs: Tensor[]) => Tensor[] {
  return (inputs) => {
    const next = generator(`graph ${seed}`);
    const below = (n: number) => Math.floor(next() * n);
    const made = [...inputs];
    for (let tries = 0; made.length < inputs.length + length && tries < 40 * length; tries++) {
      const step = steps[below(steps.length)]!;
      // Recent values are likelier, so that programs get deep.
      const pick = () => made[next() < 0.5 ? made.length - 1 - below(Math.min(4, made.length)) : below(made.length)]!;
      const y = step(pick, below);
      if (y) made.push(y);
    }
    const last = made[made.length - 1]!;
    return [last, made[below(made.length)]!, made[below(made.length)]!, last];
  };
}

function inputsOf(seed: number): Plain[] {
  const next = generator(`inputs ${seed}`);
  return shapes.map((shape) => ({
    dtype: "f32",
    shape,
    values: Array.from({ length: shape[0]! * shape[1]! }, () => Math.fround(2 * next() - 1)),
  }));
}

/** All results of the program and the gradient of their sum, from one compiled function. */
function everything(f: (inputs: Tensor[]) => Tensor[], inputs: Tensor[]): Tensor[] {
  const step = jit((xs: Tensor[]) => {
    const gradients = grad(xs, (ys) => f(ys).reduce((total, y) => total.add(y.sum()), iota([], 0, "f32")));
    return [...f(xs), ...gradients];
  });
  const results = step(inputs);
  step.release();
  return results;
}

async function agree(runtime: Runtime, seed: number, tolerance: number): Promise<string | undefined> {
  const f = program(seed, 5 + (seed % 30));
  const inputs = inputsOf(seed);
  const wanted = await evaluate(reference, inputs, (xs) => everything(f, xs));
  return difference(await evaluate(runtime, inputs, (xs) => everything(f, xs)), wanted, tolerance, 1);
}

const seeds = Array.from({ length: 120 }, (_, i) => i);

describe("random programs and their gradients", () => {
  const compiled = createRuntime(new ReferenceBackend());
  test.each(seeds)("program %i: all passes on the reference backend change nothing", async (seed) => {
    expect(await agree(compiled, seed, 2e-5)).toBeUndefined();
  });
  const native = "missing" in loaded ? undefined : createRuntime(loaded);
  test.skipIf(!native).each(seeds)("program %i: native agrees with the reference", async (seed) => {
    expect(await agree(native!, seed, 2e-4)).toBeUndefined();
  });
});

describe("donation", () => {
  const compiled = createRuntime(new ReferenceBackend());
  test.each(seeds.slice(0, 40))("program %i: donated inputs change no result", async (seed) => {
    const f = program(seed, 12);
    const inputs = inputsOf(seed);
    const results = (options: JitOptions) => (xs: Tensor[]) => {
      const step = jit((ys: Tensor[]) => f(ys), options);
      const made = step(xs);
      step.release();
      return made;
    };
    const wanted = await evaluate(reference, inputs, results({}));
    const got = await evaluate(compiled, inputs, results({ donate: [0] }));
    expect(difference(got, wanted, 1e-6)).toBeUndefined();
  });
});
