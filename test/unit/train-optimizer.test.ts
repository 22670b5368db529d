import { beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel } from "../../src/models/index.ts";
import { jit } from "../../src/tensor/jit.ts";
import { scalar } from "../../src/tensor/ops/creation.ts";
import { normal, randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves, withTensors } from "../../src/tensor/tree.ts";
import { Optimizer, type OptimizerConfig, orthogonalize } from "../../src/train/index.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { once } from "../helpers/once.ts";

const config: OptimizerConfig = {
  kind: "adamw",
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  clip: 1e9,
  muonMomentum: 0.95,
};

type Numbers = Record<string, { shape: number[]; values: number[] }>;
const treeOf = (numbers: Numbers): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(numbers).map(([name, { shape, values }]) => [name, tensor(values, { shape })]));

/** Updates `start` with each of the gradients in turn. @returns all values after each update, and the norms of the gradients */
async function updates(
  optimizer: Optimizer,
  start: Numbers,
  gradients: readonly Numbers[],
  rates: { adamw: number; muon: number },
): Promise<{ values: Record<string, number[]>[]; norms: number[] }> {
  const step = jit(
    (model: Record<string, Tensor>, state: ReturnType<Optimizer["init"]>, g: Record<string, Tensor>, r: typeof on) =>
      optimizer.update(model, state, g, r),
    { donate: [0, 1] },
  );
  const on = { adamw: scalar(rates.adamw), muon: scalar(rates.muon) };
  let model = treeOf(start);
  let state = optimizer.init(model);
  const values: Record<string, number[]>[] = [];
  const norms: number[] = [];
  for (const numbers of gradients) {
    const g = treeOf(numbers);
    const next = step(model, state, g, on);
    ({ model, state } = next);
    norms.push(await next.norm.item());
    values.push(
      Object.fromEntries(await Promise.all(leaves(model).map(async (l) => [l.path, await l.tensor.numbers()]))),
    );
    dispose([g, next.norm]);
  }
  dispose([model, state, on]);
  step.release();
  return { values, norms };
}

const close = (got: readonly number[], wanted: readonly number[], digits = 6) => {
  expect(got.length).toBe(wanted.length);
  got.forEach((x, i) => {
    expect(x).toBeCloseTo(wanted[i]!, digits);
  });
};

/** Numbers that look random and are the same each time. */
const wave = (n: number, phase: number) => Array.from({ length: n }, (_, i) => Math.sin(1.7 * i + phase) + 0.1);

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  beforeAll(() => useBackend(backend));
  checkLeaks();

  test("the first AdamW update moves each weight by the learning rate against the sign of its gradient, after decay", async () => {
    // m / (1 - beta1) = g and v / (1 - beta2) = g^2: the step is g / (|g| + epsilon).
    const { values } = await updates(
      new Optimizer(config),
      { weight: { shape: [2, 2], values: [1, -2, 3, 0.5] }, bias: { shape: [2], values: [1, -1] } },
      [{ weight: { shape: [2, 2], values: [0.5, -3, 1e-3, 7] }, bias: { shape: [2], values: [2, -4] } }],
      { adamw: 0.01, muon: 0 },
    );
    const decay = 1 - 0.01 * 0.1;
    close(values[0]!.weight!, [1 * decay - 0.01, -2 * decay + 0.01, 3 * decay - 0.01, 0.5 * decay - 0.01]);
    // A vector does not decay.
    close(values[0]!.bias!, [0.99, -0.99]);
  });

  test("ten AdamW updates are those of PyTorch's published loop", async () => {
    const n = 6;
    const gradients = Array.from({ length: 10 }, (_, t) => wave(n, t));
    const { values } = await updates(
      new Optimizer(config),
      { weight: { shape: [2, 3], values: wave(n, 9) } },
      gradients.map((g) => ({ weight: { shape: [2, 3], values: g } })),
      { adamw: 0.02, muon: 0 },
    );
    const p = wave(n, 9);
    const m = new Array<number>(n).fill(0);
    const v = new Array<number>(n).fill(0);
    gradients.forEach((g, t) => {
      for (let i = 0; i < n; i++) {
        p[i]! *= 1 - 0.02 * 0.1;
        m[i] = 0.9 * m[i]! + 0.1 * g[i]!;
        v[i] = 0.95 * v[i]! + 0.05 * g[i]! ** 2;
        const corrected = Math.sqrt(v[i]!) / Math.sqrt(1 - 0.95 ** (t + 1)) + 1e-8;
        p[i]! -= ((0.02 / (1 - 0.9 ** (t + 1))) * m[i]!) / corrected;
      }
      close(values[t]!.weight!, p, 5);
    });
  });

  test("gradients above the clipping norm are scaled to it together, smaller ones are left alone", async () => {
    // With beta 0 and a large epsilon the update is the gradient itself, divided by epsilon: what is clipped is seen.
    const plain = { ...config, beta1: 0, beta2: 0, epsilon: 1e6, weightDecay: 0, clip: 1 };
    const start = { a: { shape: [2], values: [0, 0] }, b: { shape: [1, 1], values: [0] } };
    const gradient = (size: number) => ({
      a: { shape: [2], values: [3 * size, 0] },
      b: { shape: [1, 1], values: [4 * size] },
    });
    const run = (size: number) => updates(new Optimizer(plain), start, [gradient(size)], { adamw: 1e6, muon: 0 });
    const large = await run(2);
    close(large.norms, [10]);
    close([...large.values[0]!.a!, ...large.values[0]!.b!], [-0.6, 0, -0.8], 4);
    const small = await run(0.1);
    close(small.norms, [0.5]);
    close([...small.values[0]!.a!, ...small.values[0]!.b!], [-0.3, 0, -0.4], 4);
    const none = await run(0);
    close([...none.norms, ...none.values[0]!.a!], [0, 0, 0]);
  });

  test("a tensor that is not trainable stays, and its gradient does not count in the norm", async () => {
    const optimizer = new Optimizer(config, ({ path }) => path !== "frozen");
    const { values, norms } = await updates(
      optimizer,
      { frozen: { shape: [1], values: [5] }, free: { shape: [1], values: [5] } },
      [{ frozen: { shape: [1], values: [1000] }, free: { shape: [1], values: [2] } }],
      { adamw: 0.1, muon: 0.1 },
    );
    close(values[0]!.frozen!, [5]);
    close(values[0]!.free!, [4.9]);
    close(norms, [2]);
  });

  test.each([
    [16, 16],
    [12, 40],
    [40, 12],
  ])("orthogonalize brings all singular values of a %d x %d matrix near 1, in its own frame", async (rows, columns) => {
    const f = jit((x: Tensor) => orthogonalize(x));
    const x = once(() => normal(randomKey(3), [rows, columns]));
    const y = f(x);
    const [a, b] = [await x.numbers(), await y.numbers()];
    dispose([x, y]);
    f.release();
    for (const s of singularValues(b, rows, columns)) {
      expect(s).toBeGreaterThan(0.6);
      expect(s).toBeLessThan(1.3);
    }
    // The same left and right singular vectors: x^T y is symmetric.
    const cross = (i: number, j: number) => {
      let sum = 0;
      for (let r = 0; r < rows; r++) sum += a[r * columns + i]! * b[r * columns + j]!;
      return sum;
    };
    for (let i = 0; i < columns; i++)
      for (let j = 0; j < i; j++) expect(Math.abs(cross(i, j) - cross(j, i))).toBeLessThan(1e-2);
  });

  test("Muon moves the matrices of the blocks and AdamW moves tables, norms and biases", async () => {
    const key = randomKey(1);
    const model = initModel(
      gptConfig.parse({ family: "gpt", vocabulary: 12, context: 8, layers: 1, width: 16, heads: 2, mlpWidth: 32 }),
      key,
    );
    const optimizer = new Optimizer({ ...config, kind: "muon", weightDecay: 0 });
    const state = optimizer.init(model);
    const byMuon = new Set(leaves(model).flatMap(({ path }, i) => (state.v[i]!.size === 0 ? [path] : [])));
    expect(byMuon.size).toBeGreaterThan(2);
    for (const { path, tensor: t } of leaves(model)) {
      const hidden = t.rank === 2 && path !== "tokens.weight" && path !== "positions.weight";
      expect([path, byMuon.has(path)]).toEqual([path, hidden]);
    }
    // A learning rate of 0 for one of the two tells them apart.
    const step = jit((m: typeof model, s: typeof state, rates: { adamw: Tensor; muon: Tensor }) => {
      const gradients = withTensors(
        m,
        leaves(m).map(({ tensor: t }) => t.mul(0).add(1)),
      );
      return optimizer.update(m, s, gradients, rates);
    });
    for (const [adamw, muon] of [
      [0, 0.1],
      [0.1, 0],
    ] as const) {
      const rates = { adamw: scalar(adamw), muon: scalar(muon) };
      const next = step(model, state, rates);
      const after = leaves(next.model);
      for (const [i, { path, tensor: t }] of leaves(model).entries()) {
        const now = await after[i]!.tensor.numbers();
        const same = (await t.numbers()).every((x, k) => x === now[k]);
        expect([path, same]).toEqual([path, byMuon.has(path) ? muon === 0 : adamw === 0]);
      }
      dispose([rates, next]);
    }
    step.release();
    dispose([model, state, key]);
  });

  test("Muon's step is the learning rate times the orthogonal factor, scaled for tall matrices", async () => {
    // Of c times the identity, the orthogonal factor is the identity times the quintic's value; the same for both gradients.
    const muon = new Optimizer({ ...config, kind: "muon", weightDecay: 0 });
    const eye = (c: number) => ({
      w: { shape: [4, 4], values: Array.from({ length: 16 }, (_, i) => (i % 5 ? 0 : c)) },
    });
    const start = { w: { shape: [4, 4], values: new Array<number>(16).fill(0) } };
    const small = (await updates(muon, start, [eye(1e-3)], { adamw: 0, muon: 0.1 })).values[0]!.w!;
    const large = (await updates(muon, start, [eye(50)], { adamw: 0, muon: 0.1 })).values[0]!.w!;
    close(small, large, 3);
    small.forEach((x, i) => {
      if (i % 5) expect(Math.abs(x)).toBeLessThan(1e-6);
      else {
        expect(-x).toBeGreaterThan(0.06);
        expect(-x).toBeLessThan(0.13);
      }
    });
    const tall = {
      w: { shape: [8, 2], values: Array.from({ length: 16 }, (_, i) => (i === 0 || i === 3 ? 1 : 0)) },
    };
    const [first] = (
      await updates(muon, { w: { shape: [8, 2], values: zerosOf(16) } }, [tall], { adamw: 0, muon: 0.1 })
    ).values;
    expect(-first!.w![0]!).toBeGreaterThan(0.06 * 2);
    expect(-first!.w![0]!).toBeLessThan(0.13 * 2);
  });
});

const zerosOf = (n: number) => new Array<number>(n).fill(0);

/** Singular values by one-sided Jacobi rotations. */
function singularValues(data: readonly number[], rows: number, columns: number): number[] {
  const short = Math.min(rows, columns);
  const long = Math.max(rows, columns);
  // Columns of the taller of the matrix and its transpose.
  const u = Array.from({ length: short }, (_, c) =>
    Array.from({ length: long }, (_, r) => (rows >= columns ? data[r * columns + c]! : data[c * columns + r]!)),
  );
  const dot = (x: readonly number[], y: readonly number[]) => x.reduce((sum, v, i) => sum + v * y[i]!, 0);
  for (let sweep = 0; sweep < 30; sweep++)
    for (let p = 0; p < short; p++)
      for (let q = p + 1; q < short; q++) {
        const [x, y] = [u[p]!, u[q]!];
        const [a, b, c] = [dot(x, x), dot(y, y), dot(x, y)];
        if (Math.abs(c) < 1e-14 * Math.sqrt(a * b)) continue;
        const zeta = (b - a) / (2 * c);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const cos = 1 / Math.sqrt(1 + t * t);
        u[p] = x.map((v, i) => cos * v - cos * t * y[i]!);
        u[q] = x.map((v, i) => cos * t * v + cos * y[i]!);
      }
  return u.map((column) => Math.sqrt(dot(column, column)));
}
