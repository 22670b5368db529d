import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { scan } from "../../src/tensor/control.ts";
import { checkpoint, grad } from "../../src/tensor/grad.ts";
import { type JitOptions, jit } from "../../src/tensor/jit.ts";
import { conv1d } from "../../src/tensor/ops/convolution.ts";
import { iota, scalar } from "../../src/tensor/ops/creation.ts";
import { cumsum } from "../../src/tensor/ops/cumulative.ts";
import * as e from "../../src/tensor/ops/elementwise.ts";
import { oneHot, scatter } from "../../src/tensor/ops/indexing.ts";
import { linearCrossEntropy } from "../../src/tensor/ops/loss.ts";
import { embedding, softmax } from "../../src/tensor/ops/nn.ts";
import { layerNorm } from "../../src/tensor/ops/norm.ts";
import { uniform } from "../../src/tensor/ops/random.ts";
import { argmax, sort, topK } from "../../src/tensor/ops/sort.ts";
import { concatenate, dynamicSlice, dynamicUpdateSlice, pad, reverse } from "../../src/tensor/ops/structure.ts";
import { maxPool } from "../../src/tensor/ops/window.ts";
import type { Runtime } from "../../src/tensor/runtime.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { difference, evaluate, generator, type Plain, reference } from "./support.ts";

checkLeaks();

const loaded = loadNativeBackend();

/** A step of a random program: takes values made before, gives a new one, or nothing if they do not fit. */
type Step = (pick: () => Tensor, below: (n: number) => number) => Tensor | undefined;

const rowScatter = {
  update_window_dims: [1],
  inserted_window_dims: [0],
  scatter_dims_to_operand_dims: [0],
  index_vector_dim: 1,
};
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
  (pick) => {
    const x = pick();
    if (!matrix(x)) return undefined;
    const [last, ys] = scan((c: Tensor, row: Tensor) => [c.mul(0.5).add(row).tanh(), c.sub(row)] as const, x.sum(0), x);
    return ys.add(last);
  },
  (pick) => {
    const [x, y] = [pick(), pick()];
    return same(x, y) ? checkpoint((a: Tensor, b: Tensor) => a.sin().mul(b.tanh()).exp().tanh())(x, y) : undefined;
  },
  (pick) => {
    const [h, w] = [pick(), pick()];
    if (!matrix(h) || !matrix(w) || h.shape[1] !== w.shape[1]) return undefined;
    const targets = e.clamp(iota([h.shape[0]!], 0).sub(1), -1, w.shape[0]! - 1);
    return h.add(linearCrossEntropy(h, w, targets).expandDims(1)).mul(0.3);
  },
  (pick) => {
    const [x, table] = [pick(), pick()];
    if (!matrix(x) || !matrix(table) || x.shape[1] !== table.shape[1]) return undefined;
    return x.add(embedding(table, e.clamp(iota([x.shape[0]!], 0), 0, table.shape[0]! - 1)));
  },
  (pick, below) => {
    const x = pick();
    if (!matrix(x)) return undefined;
    const row = scalar(below(7) - 2, "i32");
    const cut = dynamicSlice(x, [row, scalar(0, "i32")], [2, x.shape[1]!]);
    return dynamicUpdateSlice(x.mul(0.5), cut.sin(), [scalar(below(4), "i32"), row]);
  },
  (pick) => {
    const x = pick();
    if (!matrix(x)) return undefined;
    const y = conv1d(x.expandDims(0), x.reshape(1, ...x.shape).slice(2, 0, 3), { padding: 1 });
    return x.add(y.reshape(1, x.shape[1]!)).tanh();
  },
  (pick) => {
    const x = pick();
    return matrix(x)
      ? maxPool(x.reshape(1, 1, ...x.shape), 3, { stride: 1, padding: 1 }).reshape(...x.shape)
      : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x)
      ? sort(x, 1)
          .sub(topK(x, 2).values.sum(1, { keep: true }))
          .mul(0.3)
      : undefined;
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? x.mul(oneHot(argmax(x, 1), x.shape[1]!).add(0.5)) : undefined;
  },
  (pick, below) => {
    const x = pick();
    return e.where(uniform(tensor(Int32Array.of(below(100), 7)), x.shape).less(0.3), 0, x.mul(1 / 0.7));
  },
  (pick) => {
    const x = pick();
    return matrix(x) ? scatter(x, iota([3], 0).mul(3), x.slice(0, 0, 3).neg(), "add", rowScatter) : undefined;
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
    const gradients = grad(xs, (ys) => f(ys).reduce((total, y) => total.add(y.sum()), scalar(0)));
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
  const compiled = createRuntime("missing" in loaded ? new ReferenceBackend() : loaded);
  test.each(seeds.slice(0, 60))("program %i: donated inputs change no result", async (seed) => {
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
    expect(difference(got, wanted, 2e-5, 1)).toBeUndefined();
  });
});
