import { isDeepStrictEqual } from "node:util";
import { describe, expect, test } from "vitest";
import { loadNativeBackend, type NativeBackend } from "../../src/engine/backends/native/backend.ts";
import { fuseEpilogues } from "../../src/engine/passes/epilogue.ts";
import { fuseElementwise } from "../../src/engine/passes/fuse.ts";
import { plan } from "../../src/engine/passes/plan.ts";
import { simplify } from "../../src/engine/passes/simplify.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import type { Graph, Node } from "../../src/tensor/graph.ts";
import { jit } from "../../src/tensor/jit.ts";
import { linear } from "../../src/tensor/ops/dot.ts";
import { gelu, silu } from "../../src/tensor/ops/nn.ts";
import { size } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { traceFunction } from "../../src/tensor/trace.ts";
import { difference, evaluate, generator, materialize, type Plain, reference } from "../conformance/support.ts";

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

  test("a value that is kept rounded is what the activation is of, and its gradient is taken at the rounded one", () => {
    const g = fused(
      (x, w, b) => {
        const kept = linear(x!, w!, b!).to("bf16");
        return [gelu(kept.to("f32")).to("bf16"), kept];
      },
      [X, W, B],
    );
    expect(names(g)).toEqual(["dot_general"]);
    const [dot] = dots(g);
    expect(dot!.attributes.epilogue).toEqual({ ...plain, bias: true, activation: "gelu", pre_activation: true });
    expect(dot!.outputs.map((v) => v.dtype)).toEqual(["bf16", "bf16"]);
    expect(g.outputs).toEqual(dot!.outputs);
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

  test("the gradient of an activation ends the product that made its result's gradient, and the bias's gradient leaves with it", () => {
    const g = fused(
      (x, w, b, v) =>
        valueAndGrad([x!, w!, b!, v!], ([x, w, b, v]) => gelu(x!.matmul(w!).add(b!)).matmul(v!).sum())[1] as Tensor[],
      [X, [4, 5], B, [5, 4]],
    );
    const finished = dots(g).find((n) => n.attributes.epilogue && (n.attributes.epilogue as { total?: boolean }).total);
    expect(finished!.attributes.epilogue).toEqual({ ...plain, activation: "gelu", gradient: true, total: true });
    expect(finished!.outputs.map((v) => v.shape)).toEqual([Y, B]);
    expect(names(g)).not.toContain("gelu_grad");
    expect(names(g)).not.toContain("reduce");
  });

  test("a bias's gradient without an activation leaves beside its weight's", () => {
    const g = fused(
      (x, w, b) =>
        valueAndGrad([x!, w!, b!], ([x, w, b]) => x!.matmul(w!).add(b!).square().sum())[1].slice(1) as Tensor[],
      [X, [4, 5], B],
    );
    expect(dots(g).map((n) => n.attributes.epilogue)).toContainEqual({ ...plain, sum: true });
    const sums = dots(g).find((n) => (n.attributes.epilogue as { sum?: boolean } | undefined)?.sum);
    expect(sums!.outputs[1]!.shape).toEqual(B);
  });

  test("a sum that the product's other operand waits for is not taken in", () => {
    const g = fused(
      (x, y) => [linear(x!.add(y!.sum(0)).transpose(1, 0), y!.transpose(1, 0))],
      [
        [6, 5],
        [6, 5],
      ],
    );
    expect(names(g)).toContain("reduce");
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

/** Runs the graph of `f` on native with the pass, beside how often the pass applied. */
async function runFused(backend: NativeBackend, f: Build, inputs: readonly Plain[]) {
  const graph = fuseElementwise(
    fused(
      f,
      inputs.map((x) => x.shape),
    ),
  );
  const program = plan(graph, {
    donated: graph.inputs.map(() => false),
    matmul: "f32",
    fills: false,
    workspace: () => 0,
    body: () => {
      throw new Error("no loops here");
    },
  });
  const executable = backend.compile(program);
  const given = inputs.map((x) => backend.upload(Float32Array.from(x.values), "f32"));
  const made = graph.outputs.map((v) => backend.allocate(4 * size(v.shape)));
  try {
    executable.run(given, made);
    const data = await Promise.all(made.map((b, i) => backend.download(b, "f32", size(graph.outputs[i]!.shape))));
    const results = data.map(
      (d, i): Plain => ({ dtype: "f32", shape: graph.outputs[i]!.shape, values: [...d].map(Number) }),
    );
    const storage = (id: number) => program.values[id]!.storage;
    const finished = program.instructions.filter((n) => n.op === "dot_general" && n.attributes.epilogue);
    const inPlace = finished.filter((n) =>
      n.inputs.slice(2).some((id) => isDeepStrictEqual(storage(id), storage(n.outputs[0]!))),
    );
    return { results, finished: finished.length, inPlace: inPlace.length };
  } finally {
    executable.release();
    for (const b of [...given, ...made]) backend.release(b);
  }
}

describe.skipIf("missing" in native)("epilogues on native", () => {
  const next = generator("epilogues");
  const draw = (shape: readonly number[]) => materialize({ shape }, next);
  const block: Build = (...given) => {
    const [loss, gradients] = valueAndGrad(given, (p) => {
      const [x, w, b, v, c] = p as [Tensor, Tensor, Tensor, Tensor, Tensor];
      return x
        .add(linear(gelu(linear(x, w, b), { approximate: "tanh" }), v, c))
        .square()
        .mean();
    });
    return [loss, ...gradients];
  };
  test.each([
    ["small", 3, 4],
    ["wider than a tile", 70, 150],
    ["of many rows", 300, 64],
  ])("a feed-forward block %s and its gradients are the reference's", async (_title, rows, width) => {
    if ("missing" in native) return;
    const inputs = [[2, rows, width], [2 * width, width], [2 * width], [width, 2 * width], [width]].map(draw);
    const { results, finished } = await runFused(native, block, inputs);
    expect(finished).toBeGreaterThanOrEqual(2);
    const compiled = jit(block);
    expect(difference(results, await evaluate(reference, inputs, (xs) => compiled(...xs)), 2e-5)).toBeUndefined();
    compiled.release();
  });

  test("a value that is kept rounded before an activation is the reference's", async () => {
    if ("missing" in native) return;
    const inputs = [[70, 90], [150, 90], [150]].map(draw);
    const f: Build = (x, w, b) => {
      const kept = linear(x!, w!, b!).to("bf16").to("f32");
      return [gelu(kept, { approximate: "tanh" }).to("bf16").to("f32"), kept.mul(2)];
    };
    const { results, finished } = await runFused(native, f, inputs);
    expect(finished).toBe(1);
    // A sum whose last bits differ may round to the neighbour.
    expect(difference(results, await evaluate(reference, inputs, (xs) => f(...xs)), 1e-2)).toBeUndefined();
  });

  test.each([40, 1100])(
    "a residual that nobody needs afterwards is overwritten with the right result, %d deep",
    async (k) => {
      if ("missing" in native) return;
      const inputs = [[40, k], [70, k], [70], [40, 70]].map(draw);
      const f: Build = (x, w, b, r) => [
        r!
          .tanh()
          .add(linear(x!, w!, b!))
          .tanh(),
      ];
      const { results, inPlace } = await runFused(native, f, inputs);
      expect(inPlace).toBe(1);
      expect(difference(results, await evaluate(reference, inputs, (xs) => f(...xs)), 2e-5)).toBeUndefined();
    },
  );
});
