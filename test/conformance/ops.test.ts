import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { isFloat } from "../../src/tensor/dtype.ts";
import { grad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import type { Op } from "../../src/tensor/op.ts";
import { scalar } from "../../src/tensor/ops/creation.ts";
import { add, identity } from "../../src/tensor/ops/elementwise.ts";
import type { Runtime } from "../../src/tensor/runtime.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { apply } from "../../src/tensor/trace.ts";
import { vmap } from "../../src/tensor/vmap.ts";
import { allOps, type OpCase } from "../helpers/all-ops.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { NaiveRuntime } from "../helpers/naive-runtime.ts";
import { difference, evaluate, generator, materialize, type Plain, put, reference, withFloat } from "./support.ts";

/**
 * Ops without cases here: those with bodies have tests of their own (control.test.ts); the gradient of attention takes results of
 * attention, and is tested by attention's cases.
 */
const handTested = new Set(["scan", "while", "custom_gradient", "attention_grad"]);

checkLeaks();

const loaded = loadNativeBackend();
const native: Runtime | undefined = "missing" in loaded ? undefined : new NaiveRuntime(loaded);
if ("missing" in loaded) console.warn(`native backend not tested: ${loaded.missing}`);

/** The reference backend behind the compiler: the same numbers as without it. */
const compiled = createRuntime(new ReferenceBackend());
const compiledNative = "missing" in loaded ? undefined : createRuntime(loaded);

const run = (
  runtime: Runtime,
  op: Op,
  c: OpCase,
  inputs: readonly Plain[],
  float: "f32" | "f64" | "bf16" | "f16" = "f32",
) => evaluate(runtime, inputs, (xs) => apply(op, xs, withFloat(c.attributes, float)));

const runJitted = (runtime: Runtime, op: Op, c: OpCase, inputs: readonly Plain[]) =>
  evaluate(runtime, inputs, (xs) => {
    const f = jit((...ys: Tensor[]) => apply(op, ys, c.attributes ?? {}));
    const results = f(...xs);
    f.release();
    return results;
  });

const inputsOf = (op: Op, index: number, c: OpCase, float: "f32" | "f64" | "bf16" | "f16" = "f32"): Plain[] => {
  const next = generator(`${op.name} ${index}`);
  return c.inputs.map((input) => materialize(input, next, float));
};

const describeCase = (c: OpCase): string => {
  const shapes = c.inputs.map((i) => `${i.dtype ?? "f32"}(${i.shape})`).join(" ");
  const attributes = Object.entries(c.attributes ?? {}).map(([k, v]) => `${k}=${JSON.stringify(v)}`);
  return [shapes, ...attributes].join(" ");
};

/** A fixed random sum of all floating-point results: a scalar that depends on each of them. */
function project(results: readonly Tensor[], weights: readonly (Tensor | undefined)[], float: "f32" | "f64"): Tensor {
  return results.reduce<Tensor>(
    (total, y, i) => {
      const w = weights[i];
      return w ? add(total, y.mul(w).sum()) : total;
    },
    scalar(0, float),
  );
}

const randoms = (shapes: readonly Plain[], next: () => number, dtype: "f32" | "f64" = "f64"): Plain[] =>
  shapes.map((s) => ({ ...s, dtype, values: s.values.map(() => 2 * next() - 1) }));

/**
 * Compares the gradient of `f` with central differences of fourth order, along each coordinate of a small input and along random
 * directions of a large one. `f` and `gradient` map the floating-point inputs.
 */
async function checkGradient(
  inputs: readonly Plain[],
  f: (xs: Tensor[]) => Tensor,
  gradient: (xs: Tensor[]) => Tensor[],
  next: () => number,
): Promise<string | undefined> {
  const analytic = await evaluate(reference, inputs, gradient);
  const total = inputs.reduce((n, x) => n + x.values.length, 0);
  const directions: Plain[][] =
    total <= 12
      ? inputs.flatMap((x, k) =>
          x.values.map((_, i) =>
            inputs.map((y, l) => ({ ...y, values: y.values.map((_, j) => (k === l && i === j ? 1 : 0)) })),
          ),
        )
      : Array.from({ length: 5 }, () => randoms(inputs, next));
  const h = 1e-4;
  const step = jit((xs: Tensor[]) => f(xs));
  const at = async (direction: Plain[], by: number): Promise<number> => {
    const moved = inputs.map((x, k) => ({ ...x, values: x.values.map((v, i) => v + by * direction[k]!.values[i]!) }));
    return (await evaluate(reference, moved, (xs) => [step(xs)]))[0]!.values[0]!;
  };
  try {
    for (const [d, direction] of directions.entries()) {
      const [a, b] = [await at(direction, h), await at(direction, -h)];
      const [c, e] = [await at(direction, 2 * h), await at(direction, -2 * h)];
      const numeric = (8 * (a - b) - (c - e)) / (12 * h);
      let exact = 0;
      let scale = 1e-2;
      for (const [k, g] of analytic.entries())
        for (const [i, v] of g.values.entries()) {
          const term = v * direction[k]!.values[i]!;
          exact += term;
          scale += Math.abs(term);
        }
      if (!(Math.abs(exact - numeric) <= 1e-6 * scale))
        return `direction ${d}: the gradient says ${exact}, central differences ${numeric}`;
    }
  } finally {
    step.release();
  }
  return undefined;
}

/** The case as a function of its floating-point inputs, and a scalar of its results with a gradient that is not trivial. */
async function scalarOf(op: Op, c: OpCase, index: number, float: "f32" | "f64") {
  const inputs = inputsOf(op, index, c, float);
  const at = inputs.filter((x) => isFloat(x.dtype));
  const next = generator(`gradient ${op.name} ${index}`);
  const results = await run(reference, op, c, inputs, float);
  const weights = randoms(results, next, float);
  const directions = randoms(at, next, float);
  const f = (xs: readonly Tensor[]) => {
    let k = 0;
    // Everything but the variables is a constant of the program.
    const all = inputs.map((x) => (isFloat(x.dtype) ? xs[k++]! : put(x)));
    return project(
      apply(op, all, withFloat(c.attributes, float)),
      weights.map((w, i) => (isFloat(results[i]!.dtype) ? put(w) : undefined)),
      float,
    );
  };
  const slope = (xs: Tensor[]) => project(grad(xs, f), directions.map(put), float);
  return { at, next, f, slope };
}

function gradientTests(op: Op, c: OpCase, index: number): void {
  test("gradient equals central differences in f64", async () => {
    const { at, f, next } = await scalarOf(op, c, index, "f64");
    expect(await checkGradient(at, f, (xs) => grad(xs, f), next)).toBeUndefined();
  });
  test("gradient of the gradient equals central differences in f64", async () => {
    const { at, slope, next } = await scalarOf(op, c, index, "f64");
    expect(await checkGradient(at, slope, (xs) => grad(xs, slope), next)).toBeUndefined();
  });
  const compare = async (runtime: Runtime, tolerance: number) => {
    const { at, f } = await scalarOf(op, c, index, "f32");
    const wanted = await evaluate(reference, at, (xs) => grad(xs, f));
    expect(difference(await evaluate(runtime, at, (xs) => grad(xs, f)), wanted, tolerance)).toBeUndefined();
  };
  test("compiled gradient, the same", () => compare(compiled, 2e-5));
  test.skipIf(!native)("gradient compiled for native, the same", () =>
    compare(compiledNative!, Math.max(c.tolerance ?? 0, 5e-5)),
  );
}

/** Three elements per input: the case's own numbers, then the same in another order, and again. */
function batched(plain: Plain): Plain {
  const { values, shape } = plain;
  return { ...plain, shape: [3, ...shape], values: [...values, ...[...values].reverse(), ...values] };
}
const element = (plain: Plain, k: number): Plain => {
  const n = plain.values.length / 3;
  return { ...plain, shape: plain.shape.slice(1), values: plain.values.slice(k * n, (k + 1) * n) };
};

function vmapTests(op: Op, c: OpCase, index: number): void {
  const inputs = inputsOf(op, index, c);
  const all = inputs.map(() => true);
  const subsets = inputs.length > 1 ? [all, ...inputs.map((_, i) => all.map((_, j) => i === j))] : [all];
  test.each(subsets.map((flags) => [flags.map((b, i) => (b ? i : "")).join(" "), flags] as const))(
    "vmap over inputs %s equals a loop",
    async (_name, flags) => {
      const wide = inputs.map((x, i) => (flags[i] ? batched(x) : x));
      const mapped = await evaluate(reference, wide, (xs) => {
        const merge = (mine: readonly Tensor[]) => {
          let k = 0;
          return xs.map((x, i) => (flags[i] ? mine[k++]! : x));
        };
        return vmap((...mine: Tensor[]) => apply(op, merge(mine), c.attributes ?? {}))(
          ...xs.filter((_, i) => flags[i]),
        );
      });
      for (let k = 0; k < 3; k++) {
        const single = await run(
          reference,
          op,
          c,
          wide.map((x, i) => (flags[i] ? element(x, k) : x)),
        );
        expect(
          difference(
            mapped.map((y) => element(y, k)),
            single,
            1e-5,
          ),
          `element ${k}`,
        ).toBeUndefined();
      }
    },
  );
}

const bits = { bf16: 8, f16: 11 };

/** Element-wise ops on short floats: what f64 gives for the rounded inputs, rounded once. */
function shortFloatTests(op: Op, c: OpCase, index: number): void {
  test.each(["bf16", "f16"] as const)("%s is rounded once", async (dtype) => {
    const short = inputsOf(op, index, c, dtype);
    // Through the backend and back, so that the inputs are numbers of the short type.
    const rounded = await evaluate(reference, short, (xs) => xs.map((x) => identity(x)));
    const exact = await run(
      reference,
      op,
      c,
      rounded.map((x) => (x.dtype === dtype ? { ...x, dtype: "f64" as const } : x)),
      "f64",
    );
    const wanted = await evaluate(reference, exact, (ys) => ys.map((y) => (y.dtype === "f64" ? y.to(dtype) : y)));
    // f32 on the way may shift a tie: one unit in the last place at most.
    const unit = 2 ** (1 - bits[dtype]);
    expect(difference(await run(reference, op, c, rounded, dtype), wanted, unit)).toBeUndefined();
    if (native) expect(difference(await run(native, op, c, rounded, dtype), wanted, unit)).toBeUndefined();
  });
}

for (const op of allOps()) {
  if (handTested.has(op.name)) continue;
  describe(op.name, () => {
    test("has cases", () => {
      expect(op.cases?.length).toBeGreaterThan(0);
    });
    op.cases?.forEach((c, index) => {
      describe(`${index}: ${describeCase(c)}`, () => {
        const tolerance = c.tolerance ?? 1e-5;
        const inputs = inputsOf(op, index, c);
        if (c.outputs)
          test("closed answer", async () => {
            const results = await run(reference, op, c, inputs);
            const wanted = results.map((y, i) => ({ ...y, values: c.outputs![i]! }));
            expect(results.length).toBe(c.outputs!.length);
            results.forEach((y, i) => {
              expect(y.values.length).toBe(wanted[i]!.values.length);
            });
            expect(difference(results, wanted, Math.min(tolerance, 1e-6))).toBeUndefined();
          });
        else
          test("runs, and twice the same", async () => {
            const [a, b] = [await run(reference, op, c, inputs), await run(reference, op, c, inputs)];
            expect(difference(a, b, 0)).toBeUndefined();
          });
        test.skipIf(!native)("native kernel agrees with the reference", async () => {
          const [mine, theirs] = [await run(native!, op, c, inputs), await run(reference, op, c, inputs)];
          expect(difference(mine, theirs, tolerance)).toBeUndefined();
        });
        test("compiled, the same", async () => {
          const wanted = await run(reference, op, c, inputs);
          expect(difference(await runJitted(compiled, op, c, inputs), wanted, 1e-6)).toBeUndefined();
        });
        test.skipIf(!native)("compiled for native, the same", async () => {
          const wanted = await run(reference, op, c, inputs);
          expect(difference(await runJitted(compiledNative!, op, c, inputs), wanted, tolerance)).toBeUndefined();
        });
        const differentiable =
          c.differentiable !== false && (op.gradient || op.decompose) && inputs.some((x) => isFloat(x.dtype));
        if (differentiable && inputs.some((x) => x.values.length > 0)) gradientTests(op, c, index);
        if (inputs.length > 0) vmapTests(op, c, index);
        const onFloats = inputs.some((x) => x.dtype === "f32") && op.name !== "bitcast_convert";
        if (op.elementwise && !op.decompose && onFloats) shortFloatTests(op, c, index);
      });
    });
  });
}
