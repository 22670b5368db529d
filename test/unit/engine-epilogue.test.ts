import { describe, expect, test } from "vitest";
import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { fuseEpilogues } from "../../src/engine/passes/epilogue.ts";
import { simplify } from "../../src/engine/passes/simplify.ts";
import { createRuntime } from "../../src/engine/runtime.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import type { Graph, Node } from "../../src/tensor/graph.ts";
import { jit } from "../../src/tensor/jit.ts";
import { linear } from "../../src/tensor/ops/dot.ts";
import { gelu, silu } from "../../src/tensor/ops/nn.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { traceFunction } from "../../src/tensor/trace.ts";
import { difference, evaluate, generator, materialize, reference } from "../conformance/support.ts";

type Build = (...xs: Tensor[]) => readonly Tensor[];

/** The graph of `f` after the pass, on a backend that has every kernel. */
function fused(f: Build, shapes: readonly (readonly number[])[], supports: () => boolean = () => true): Graph {
  const graph = traceFunction(
    shapes.map((shape) => ({ dtype: "f32" as const, shape })),
    f,
  );
  return fuseEpilogues(simplify(graph, { supports: () => true, optimize: true }), supports);
}

const dots = (g: Graph): Node[] => g.nodes.filter((n) => n.op.name === "dot_general");
const names = (g: Graph): string[] => g.nodes.map((n) => n.op.name);
const plain = { bias: false, activation: null, residual: false, pre_activation: false };

const X = [2, 3, 4]; // (batch, time, in)
const W = [5, 4]; // (out, in)
const B = [5];
const Y = [2, 3, 5];

describe("epilogues of products", () => {
  test("a bias and a residual become inputs of the product", () => {
    const g = fused((x, w, b, r) => [r!.add(linear(x!, w!, b!))], [X, W, B, Y]);
    expect(names(g)).toEqual(["dot_general"]);
    const [dot] = dots(g);
    expect(dot!.attributes.epilogue).toEqual({ ...plain, bias: true, residual: true });
    expect(dot!.inputs).toEqual([g.inputs[0], g.inputs[1], g.inputs[2], g.inputs[3]]);
  });

  test("an activation is taken in, and what it was applied to leaves only if somebody reads it", () => {
    const alone = fused((x, w, b) => [gelu(linear(x!, w!, b!))], [X, W, B]);
    expect(names(alone)).toEqual(["dot_general"]);
    expect(dots(alone)[0]!.attributes.epilogue).toEqual({ ...plain, bias: true, activation: "gelu" });
    const both = fused(
      (x, w, b) => {
        const h = linear(x!, w!, b!);
        return [silu(h), h];
      },
      [X, W, B],
    );
    expect(names(both)).toEqual(["dot_general"]);
    expect(dots(both)[0]!.attributes.epilogue).toEqual({
      ...plain,
      bias: true,
      activation: "silu",
      pre_activation: true,
    });
    expect(both.outputs).toEqual(dots(both)[0]!.outputs);
  });

  test("a product that something else reads stays as it is", () => {
    const g = fused(
      (x, w, b) => {
        const y = linear(x!, w!);
        return [y.add(b!), y.tanh()];
      },
      [X, W, B],
    );
    expect(dots(g)[0]!.attributes.epilogue).toBeUndefined();
    expect(names(g)).toContain("add");
  });

  test("what is not one number per column is no bias", () => {
    const perRow = fused((x, w, b) => [linear(x!, w!).add(b!)], [X, W, [3, 1]]);
    expect(dots(perRow)[0]!.attributes.epilogue).toBeUndefined();
    const perBatch = fused((x, w, b) => [linear(x!, w!).add(b!)], [X, W, [2, 1, 5]]);
    expect(dots(perBatch)[0]!.attributes.epilogue).toBeUndefined();
    const scalar = fused((x, w) => [linear(x!, w!).add(1)], [X, W]);
    expect(dots(scalar)[0]!.attributes.epilogue).toBeUndefined();
  });

  test("the sum of two products is one product with the other as its residual", () => {
    const g = fused((x, w, v) => [linear(x!, w!).add(linear(x!, v!))], [X, W, W]);
    expect(names(g)).toEqual(["dot_general", "dot_general"]);
    expect(dots(g).map((n) => n.inputs.length)).toEqual([2, 3]);
    expect(dots(g)[1]!.inputs[2]).toBe(dots(g)[0]!.outputs[0]);
  });

  test("a product added to itself is not its own residual", () => {
    const g = fused(
      (x, w) => {
        const y = linear(x!, w!);
        return [y.add(y)];
      },
      [X, W],
    );
    expect(dots(g)[0]!.attributes.epilogue).toBeUndefined();
  });

  test("a backend without epilogues gets none", () => {
    const g = fused(
      (x, w, b) => [linear(x!, w!, b!)],
      [X, W, B],
      () => false,
    );
    expect(dots(g)[0]!.attributes.epilogue).toBeUndefined();
  });
});

const native = loadNativeBackend();

describe.skipIf("missing" in native)("epilogues on native", () => {
  const next = generator("epilogues");
  const draw = (shape: readonly number[]) => materialize({ shape }, next);
  const block: Build = (x, w, b, v, c) => {
    const value = (...p: Tensor[]) => {
      const [x, w, b, v, c] = p as [Tensor, Tensor, Tensor, Tensor, Tensor];
      return x
        .add(linear(gelu(linear(x, w, b), { approximate: "tanh" }), v, c))
        .square()
        .mean();
    };
    const [loss, gradients] = valueAndGrad([x!, w!, b!, v!, c!], (p) => value(...p));
    return [loss, ...gradients];
  };
  test.each([
    ["small", 3, 4],
    ["wider than a tile", 70, 150],
    ["of many rows", 300, 64],
  ])("a feed-forward block %s and its gradients are the reference's", async (_title, rows, width) => {
    if ("missing" in native) return;
    const inputs = [[2, rows, width], [2 * width, width], [2 * width], [width, 2 * width], [width]].map(draw);
    const compiled = jit(block);
    const ours = await evaluate(createRuntime(native), inputs, (xs) => compiled(...xs));
    compiled.release();
    const expected = await evaluate(reference, inputs, (xs) => jit(block)(...xs));
    expect(difference(ours, expected, 2e-5)).toBeUndefined();
  });

  test("a residual that nobody needs afterwards is overwritten with the right result", async () => {
    if ("missing" in native) return;
    const inputs = [[40, 1100], [70, 1100], [70], [40, 70]].map(draw);
    const f: Build = (x, w, b, r) => [r!.mul(2).add(linear(x!, w!, b!))];
    const compiled = jit(f);
    const ours = await evaluate(createRuntime(native), inputs, (xs) => compiled(...xs));
    compiled.release();
    expect(difference(ours, await evaluate(reference, inputs, (xs) => f(...xs)), 2e-5)).toBeUndefined();
  });
});
