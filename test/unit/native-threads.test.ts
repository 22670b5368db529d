import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { encodeProgram } from "../../src/engine/backends/native/encode.ts";
import { bytesPerElement, type DType } from "../../src/tensor/dtype.ts";
import { backend, count, missing, type OutputType, single } from "./native-support.ts";

const f = (...shape: number[]): OutputType => ({ dtype: "f32", shape });
const i = (...shape: number[]): OutputType => ({ dtype: "i32", shape });
const dot = (lhs_batch: number[], rhs_batch: number[], lhs_contract: number[], rhs_contract: number[]) => ({
  lhs_batch,
  rhs_batch,
  lhs_contract,
  rhs_contract,
});
const rows = {
  update_window_dims: [1],
  inserted_window_dims: [0],
  scatter_dims_to_operand_dims: [0],
  index_vector_dim: 1,
};
const image = {
  input_spec: [0, 1, 2, 3],
  kernel_spec: [0, 1, 2, 3],
  output_spec: [0, 1, 2, 3],
  groups: 1,
  batch_groups: 1,
};
/** Channels last, and what the gradient of their kernel is as a convolution: images are summed, places slide. */
const last = { ...image, input_spec: [0, 3, 1, 2], output_spec: [0, 3, 1, 2] };
const ofKernel = { ...image, input_spec: [3, 0, 1, 2], kernel_spec: [3, 0, 1, 2], output_spec: [1, 0, 2, 3] };
const ones = { strides: [1, 1], lhs_dilation: [1, 1], rhs_dilation: [1, 1], low: [1, 1], high: [1, 1] };

type Work = Parameters<typeof single>;
const works: Work[] = [
  ["dot_general", [f(513, 300), f(300, 257)], [f(513, 257)], dot([], [], [1], [0])],
  ["dot_general", [f(9000, 40), f(9000, 48)], [f(40, 48)], dot([], [], [0], [0])],
  ["dot_general", [f(513, 300), f(257, 300)], [f(513, 257)], dot([], [], [1], [1]), { matmul: "bf16" }],
  ["dot_general", [f(20, 33, 5, 64), f(20, 65, 5, 64)], [f(20, 5, 33, 65)], dot([0, 2], [0, 2], [3], [3])],
  ["reduce", [f(3, 200000)], [f(3)], { kind: "add", axes: [1] }],
  ["reduce", [f(5000, 70)], [f(70)], { kind: "add", axes: [0] }],
  ["scatter", [f(100, 200), i(2000, 1), f(2000, 200)], [f(100, 200)], { kind: "add", ...rows }],
  ["convolution", [f(4, 20, 30, 30), f(24, 20, 3, 3)], [f(4, 24, 30, 30)], { ...image, ...ones }],
  ["convolution", [f(9, 30, 31, 20), f(24, 20, 3, 3)], [f(9, 30, 31, 24)], { ...last, ...ones }],
  [
    "convolution",
    [f(9, 30, 31, 20), f(9, 30, 31, 24)],
    [f(24, 20, 3, 3)],
    { ...ofKernel, ...ones },
    { matmul: "bf16" },
  ],
  ["batch_norm", [f(9000, 20), f(20), f(20)], [f(9000, 20), f(20), f(20)], { epsilon: 1e-5, relu: true }],
  ["batch_norm_grad", [f(9000, 20), f(9000, 20), f(20), f(20), f(20)], [f(9000, 20), f(20), f(20)], { epsilon: 1e-5 }],
  [
    "lstm",
    [f(7, 30, 400), f(400, 100), f(30, 100), f(30, 100)],
    [f(7, 30, 100), f(7, 30, 100), f(7, 30, 400)],
    {},
    { matmul: "bf16" },
  ],
  [
    "lstm_grad",
    [f(7, 30, 400), f(400, 100), f(30, 100), f(7, 30, 100), f(7, 30, 100)],
    [f(7, 30, 400), f(30, 100), f(30, 100)],
    { dh: true },
  ],
  ["cumulative", [f(40, 900, 7)], [f(40, 900, 7)], { kind: "add", axis: 1, reverse: false }],
  ["sort", [f(30, 4000), i(30, 4000)], [f(30, 4000), i(30, 4000)], { axis: 1, descending: true }],
  ["softmax", [f(400, 700)], [f(400, 700)], {}],
  ["layer_norm_grad", [f(900, 200), f(900, 200), f(200), f(900), f(900)], [f(900, 200), f(200), f(200)], {}],
  [
    "attention",
    [f(2, 200, 4, 32), f(2, 200, 2, 32), f(2, 200, 2, 32)],
    [f(2, 200, 4, 32), f(2, 4, 200)],
    { causal: true },
  ],
  [
    "attention_grad",
    [f(2, 200, 4, 32), f(2, 200, 4, 32), f(2, 200, 2, 32), f(2, 200, 2, 32), f(2, 200, 4, 32), f(2, 4, 200)],
    [f(2, 200, 4, 32), f(2, 200, 2, 32), f(2, 200, 2, 32)],
    { causal: true },
  ],
  // Tokens of two sequences, whose keys are walked in pieces by several threads; pages and positions are below 90 here.
  [
    "paged_attention",
    [f(3, 6, 32), f(90, 2, 32, 16), f(90, 2, 16, 32), i(2, 24), i(3), i(3)],
    [f(3, 6, 32)],
    { heads: 6, scale: 0.2 },
  ],
  [
    "linear_cross_entropy_value_and_grad",
    [f(600, 96), f(1000, 96), i(600), f(600)],
    [f(600), f(600), f(600, 96), f(1000, 96)],
    {},
  ],
  ["embedding_grad", [f(5000, 64), i(5000)], [f(300, 64)], {}],
  ["global_norm", [f(300000), f(77)], [f()], {}],
];

/** Runs each program once on numbers made from a counter and prints one hash per program. */
const child = `
  const addon = require("node:module").createRequire("/")(process.env.HOWDAH_ADDON);
  const { createHash } = require("node:crypto");
  (async () => {
    for (const work of JSON.parse(require("node:fs").readFileSync(0, "utf8"))) {
      const exe = addon.compile(work.json, [], work.bf16);
      let state = 1;
      const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
      const ins = work.inputs.map(([dtype, n]) => {
        const data = dtype === "i32" ? new Int32Array(n) : new Float32Array(n);
        for (let k = 0; k < n; k++) data[k] = dtype === "i32" ? next() * 90 : next() - 0.3;
        return addon.upload(data);
      });
      const outs = work.outputs.map((bytes) => addon.allocate(bytes));
      addon.run(exe, Float64Array.from(ins), Float64Array.from(outs));
      const hash = createHash("sha1");
      for (let k = 0; k < outs.length; k++) hash.update(await addon.download(outs[k], new Uint8Array(work.outputs[k])));
      console.log(work.op, hash.digest("hex"));
    }
  })();
`;

describe.skipIf(missing !== undefined)("native kernels", () => {
  it("give the same bits on one, two and three threads", () => {
    const input = JSON.stringify(
      works.map((work) => {
        const program = single(...work);
        const sized = (types: readonly OutputType[]) => types.map((t): [DType, number] => [t.dtype, count(t.shape)]);
        return {
          op: work[0],
          json: encodeProgram(program).json,
          bf16: program.matmul === "bf16",
          inputs: sized(work[1]),
          outputs: sized(work[2]).map(([dtype, n]) => n * bytesPerElement(dtype)),
        };
      }),
    );
    const path = process.env.HOWDAH_NATIVE ?? fileURLToPath(new URL("../../native/build/howdah.node", import.meta.url));
    const on = (threads: number, isa: string) =>
      execFileSync(process.execPath, ["-e", child], {
        input,
        encoding: "utf8",
        env: { ...process.env, HOWDAH_ADDON: path, HOWDAH_THREADS: String(threads), HOWDAH_ISA: isa },
      }).trim();
    const { isa, available } = backend().facts;
    for (const one of new Set([isa, available[0] as string])) {
      const alone = on(1, one);
      expect(alone.split("\n").length).toBe(works.length);
      expect(on(2, one)).toBe(alone);
      if (one === isa) expect(on(3, one)).toBe(alone);
    }
  });
});
