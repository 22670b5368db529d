import { afterEach, describe, expect, test } from "vitest";
import type { Capabilities } from "../../src/engine/compile.ts";
import { loadNativeBackend, lower, type Program, ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import type { RuntimeOptions } from "../../src/engine/runtime.ts";
import { type GPT, gptConfig, initGPT } from "../../src/models/index.ts";
import { scan } from "../../src/tensor/control.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit, traceCall } from "../../src/tensor/jit.ts";
import { linearCrossEntropy } from "../../src/tensor/ops/loss.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { tensors } from "../../src/tensor/tree.ts";
import { Optimizer, type TrainState, trainStep } from "../../src/train/index.ts";

const native = loadNativeBackend();
const hasBfloat16 = !("missing" in native) && native.facts.bf16;

const batch = 4;
const time = 32;
/** Heads of width 64: their scale, 1/8, commutes with rounding. */
const config = gptConfig.parse({
  family: "gpt",
  vocabulary: 50,
  context: time,
  layers: 2,
  width: 128,
  heads: 2,
  mlpWidth: 256,
  activation: "gelu_tanh",
  tieEmbeddings: true,
});
const ids = (seed: number) =>
  tensor(
    Int32Array.from({ length: batch * time }, (_, i) => (i * 7 + seed * i * i) % 50),
    { dtype: "i32", shape: [batch, time] },
  );

const lossOf = (m: GPT, x: Tensor<"i32">, y: Tensor<"i32">): Tensor => {
  const { hidden } = m.hidden(x);
  return linearCrossEntropy(hidden.reshape(batch * time, 128), m.unembedding, y.reshape(batch * time)).mean();
};
const optimizer = new Optimizer({
  kind: "adamw",
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  clip: 1,
  muonMomentum: 0.95,
});
const step = trainStep<GPT, { x: Tensor<"i32">; y: Tensor<"i32"> }>({
  optimizer,
  precision: "bf16",
  loss: (m, b) => [lossOf(m, b.x, b.y), {}],
});

function dispose(tree: unknown): void {
  for (const t of tensors(tree)) t.dispose();
}

/** Loss and gradients of one batch, as numbers. */
async function gradients(options: RuntimeOptions): Promise<{ loss: number; all: number[][] }> {
  if ("missing" in native) throw new Error(native.missing);
  useBackend(native, options);
  const model = initGPT(config, randomKey(3));
  const [x, y] = [ids(1), ids(2)];
  const f = jit((m: GPT, a: Tensor<"i32">, b: Tensor<"i32">) => valueAndGrad(m, (p) => lossOf(p, a, b)), {
    precision: "bf16",
  });
  const [loss, grads] = f(model, x, y);
  const all = await Promise.all(tensors(grads).map(async (t) => Array.from(await t.data()) as number[]));
  const value = await loss.item();
  dispose([model, x, y, loss, grads]);
  f.release();
  return { loss: value, all };
}

/** Losses of a few updates. */
async function losses(options: RuntimeOptions, steps = 5): Promise<number[]> {
  if ("missing" in native) throw new Error(native.missing);
  useBackend(native, options);
  step.release();
  const model = initGPT(config, randomKey(3));
  let state: TrainState<GPT> = { model, optimizer: optimizer.init(model), key: randomKey(2) };
  const data = { x: ids(1), y: ids(2) };
  const rates = { adamw: tensor(1e-3), muon: tensor(0) };
  const out: number[] = [];
  for (let i = 0; i < steps; i++) {
    const result = step(state, data, rates);
    state = result.state;
    out.push(await result.metrics.loss!.item());
    dispose(result.metrics);
  }
  dispose([state, data, rates]);
  return out;
}

/** |a - b| / |b| over all gradients together. */
function distance(a: number[][], b: number[][]): number {
  let [difference, size] = [0, 0];
  a.forEach((g, i) => {
    g.forEach((x, k) => {
      difference += (x - b[i]![k]!) ** 2;
      size += b[i]![k]! ** 2;
    });
  });
  return Math.sqrt(difference / size);
}

const everything = { smallProgram: 0, smallValue: 0 };

describe.runIf(hasBfloat16)("values kept as bf16", () => {
  afterEach(() => step.release());

  test("change no bit where products round them anyway", async () => {
    const without = await gradients({ bfloat16: "none", recompute: false });
    const exact = await gradients({ bfloat16: "exact", recompute: false });
    expect(exact).toEqual(without);
  });

  test("for the backward pass: the loss within 5e-3, gradients as near as those of bf16 products are to f32's", async () => {
    const wide = await gradients({ bfloat16: "none", recompute: false });
    const held = await gradients({ recompute: false });
    expect(Math.abs(held.loss - wide.loss)).toBeLessThan(5e-3 * wide.loss);
    const error = distance(held.all, wide.all);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(1e-2);
  });

  test("for the optimizer too: losses of five updates within 5e-3", async () => {
    const wide = await losses({ bfloat16: "none" });
    const held = await losses({});
    held.forEach((x, i) => {
      expect(Math.abs(x - wide[i]!)).toBeLessThan(5e-3 * wide[i]!);
    });
    expect(held[4]!).toBeLessThan(held[0]!);
  });
});

describe.runIf(!("missing" in native))("values computed again", () => {
  afterEach(() => step.release());

  test("give the same bits as values kept", async () => {
    expect(await gradients({ recompute: everything })).toEqual(await gradients({ recompute: false }));
    expect(await losses({ recompute: everything })).toEqual(await losses({ recompute: false }));
  });
});

/** The training step's program for a backend with all kernels. */
function planned(
  bfloat16: "none" | "exact" | "held",
  recompute: typeof everything | false,
  workspace?: Capabilities["workspace"],
): Program {
  const backend = new ReferenceBackend();
  useBackend(backend);
  const model = initGPT(config, randomKey(3));
  const state = { model, optimizer: optimizer.init(model), key: randomKey(2) };
  const data = { x: ids(1), y: ids(2) };
  const rates = { adamw: tensor(1e-3), muon: tensor(0) };
  const { graph } = traceCall(
    (s: typeof state, b: typeof data, r: typeof rates) => {
      const [loss, grads] = valueAndGrad(s.model, (m) => lossOf(m, b.x, b.y));
      const next = optimizer.update(s.model, s.optimizer, grads, r);
      return [next.model, next.state, loss];
    },
    [state, data, rates],
  );
  const given = [state, data, rates].flatMap((arg, i) => tensors(arg).map(() => i === 0));
  dispose([state, data, rates]);
  return lower(
    graph,
    { supports: () => true, prefersBfloat16: true, ...(workspace ? { workspace } : {}) },
    { matmul: "bf16", donated: graph.inputs.map((_, i) => given[i] ?? false), bfloat16, recompute },
  );
}

const makers = (p: Program, dtype: string): Set<string> =>
  new Set(p.instructions.filter((i) => i.outputs.some((v) => p.values[v]!.dtype === dtype)).map((i) => i.op));

describe("the plan of a training step", () => {
  test("leaves a hole for what a kernel wants while it runs, among values where it can", () => {
    const without = planned("held", false);
    // At the step's end nothing of the forward pass is left: there is room.
    const small = planned("held", false, (op) => (op === "adamw" ? without.arenaBytes / 4 : 0));
    expect(small.arenaBytes).toBeLessThan(1.02 * without.arenaBytes);
    expect(small.peak?.workspace).toBeUndefined();
    const large = planned("held", false, (op) => (op === "adamw" ? 2 * without.arenaBytes : 0));
    expect(large.arenaBytes).toBeGreaterThanOrEqual(2 * without.arenaBytes);
    expect(large.arenaBytes).toBeLessThan(3 * without.arenaBytes);
    expect(large.peak?.workspace).toBe(2 * without.arenaBytes);
    expect(large.instructions[large.peak!.at]!.op).toBe("adamw");
  });

  test("writes norms, activations and packed heads as bf16 where that changes no bit, and more of it for the backward pass", () => {
    expect([...makers(planned("none", false), "bf16")]).toEqual([]);
    expect(makers(planned("exact", false), "bf16")).toEqual(new Set(["layer_norm", "dot_general"]));
    const held = planned("held", false);
    expect(makers(held, "bf16")).toEqual(new Set(["layer_norm", "attention", "dot_general"]));
  });

  test("holds less at its peak with bf16, and less again with values computed again", () => {
    const [wide, held, again] = [planned("none", false), planned("held", false), planned("held", everything)].map(
      (p) => p.peak!.bytes,
    ) as [number, number, number];
    expect(held).toBeLessThan(0.7 * wide);
    expect(again).toBeLessThan(0.95 * held);
    const norms = (p: Program) => p.instructions.filter((i) => i.op === "layer_norm").length;
    expect(norms(planned("held", everything))).toBeGreaterThan(norms(planned("held", false)));
  });

  test("computes nothing again in a small program", () => {
    const ops = (p: Program) => p.instructions.map((i) => i.op);
    expect(ops(planned("held", { smallProgram: 64 << 20, smallValue: 0 }))).toEqual(ops(planned("held", false)));
  });

  test("adds an embedding's gradient onto that of the head it is tied to, in place", () => {
    const p = planned("none", false);
    const grads = p.instructions.filter((i) => i.op === "embedding_grad" && i.inputs.length === 3);
    expect(grads.length).toBe(1);
    const [grad] = grads;
    expect(p.values[grad!.outputs[0]!]!.storage).toEqual(p.values[grad!.inputs[2]!]!.storage);
  });
});

test("what a loop carries is updated where it lies", () => {
  useBackend(new ReferenceBackend());
  const rows = tensor(new Float32Array(12), { shape: [3, 4] });
  const start = tensor(new Float32Array(4));
  const { graph } = traceCall(
    (c: Tensor, x: Tensor) => {
      const body = (h: Tensor, row: Tensor) => [h.add(row), row.sum()] as const;
      return scan(body, c, x);
    },
    [start, rows],
  );
  const program = lower(graph, new ReferenceBackend(), { matmul: "f32" });
  const loop = program.instructions.find((i) => i.op === "scan")!;
  expect(loop.programs![0]!.aliases).toEqual([[0, 0]]);
  dispose([start, rows]);
});
