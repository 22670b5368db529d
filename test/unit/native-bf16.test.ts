import { describe, expect, it } from "vitest";
import type { Attributes } from "../../src/engine/program.ts";
import { missing, op, type Plain, plain, random, rounded } from "./native-support.ts";

/** Sizes of inputs and outputs; those that kernels also read or write as bf16 are marked. */
type Sized = readonly [shape: readonly number[], half?: "half"];
type Work = readonly [
  name: string,
  op: string,
  inputs: readonly Sized[],
  outputs: readonly Sized[],
  attributes: Attributes,
];

const plainly = { strides: [1, 1], lhs_dilation: [1, 1], rhs_dilation: [1, 1], groups: 1, batch_groups: 1 };
const ones = { low: [1, 1], high: [1, 1] };
const last = { ...plainly, input_spec: [0, 3, 1, 2], kernel_spec: [0, 1, 2, 3], output_spec: [0, 3, 1, 2] };
const ofKernel = { ...plainly, input_spec: [3, 0, 1, 2], kernel_spec: [3, 0, 1, 2], output_spec: [1, 0, 2, 3] };

const works: Work[] = [
  [
    "convolution, 16 features",
    "convolution",
    [[[3, 11, 13, 18], "half"], [[16, 18, 3, 3]]],
    [[[3, 11, 13, 16], "half"]],
    { ...last, ...ones },
  ],
  [
    "convolution of an odd number of channels, stride 2",
    "convolution",
    [[[2, 9, 10, 3], "half"], [[40, 3, 3, 3]]],
    [[[2, 5, 5, 40], "half"]],
    { ...last, ...ones, strides: [2, 2] },
  ],
  [
    "convolution with holes, some of which no tap fills",
    "convolution",
    [[[2, 4, 5, 20], "half"], [[24, 20, 1, 1]]],
    [[[2, 7, 9, 24], "half"]],
    { ...last, low: [0, 0], high: [0, 0], lhs_dilation: [2, 2] },
  ],
  [
    "gradient of a kernel",
    "convolution",
    [
      [[5, 11, 13, 18], "half"],
      [[5, 11, 13, 40], "half"],
    ],
    [[[40, 18, 3, 3]]],
    { ...ofKernel, ...ones },
  ],
  [
    "gradient of a kernel, stride 2",
    "convolution",
    [
      [[3, 9, 9, 5], "half"],
      [[3, 5, 5, 24], "half"],
    ],
    [[[24, 5, 3, 3]]],
    { ...ofKernel, ...ones, rhs_dilation: [2, 2] },
  ],
  [
    "convolution, channels first",
    "convolution",
    [
      [[2, 6, 9, 9], "half"],
      [[8, 6, 3, 3], "half"],
    ],
    [[[2, 8, 9, 9], "half"]],
    { ...last, input_spec: [0, 1, 2, 3], output_spec: [0, 1, 2, 3], ...ones },
  ],
  [
    "batch_norm",
    "batch_norm",
    [[[700, 37], "half"], [[37]], [[37]], [[700, 37], "half"]],
    [[[700, 37], "half"], [[37]], [[37]]],
    { epsilon: 1e-5, relu: true, residual: true },
  ],
  [
    "batch_norm_grad",
    "batch_norm_grad",
    [[[700, 37], "half"], [[700, 37], "half"], [[37]], [[37]], [[37]], [[700, 37], "half"]],
    [[[700, 37], "half"], [[37]], [[37]], [[700, 37]]],
    { epsilon: 1e-5, relu: true, residual: true },
  ],
];

describe.skipIf(missing !== undefined)("kernels that read and write bf16", () => {
  for (const matmul of ["f32", "bf16"] as const)
    it.each(works)(`%s: the same bits as rounding before and after (products in ${matmul})`, async (...work) => {
      const [, name, inputs, outputs, attributes] = work;
      const next = random(7);
      // Values that bf16 holds; the fifth input is a variance.
      const values = inputs.map(([shape, half], i) => {
        const wide = plain("f32", shape, () => (i === 4 ? next(0.5, 2) : next(-1, 1)));
        return half ? plain("f32", shape, (k) => rounded("bf16", wide.values[k]!)) : wide;
      });
      const as = (half: boolean) => (half ? ("bf16" as const) : ("f32" as const));
      const wanted = await op(
        name,
        values,
        outputs.map(([shape]) => ({ dtype: "f32", shape })),
        attributes,
        { matmul },
      );
      const places = [...inputs, ...outputs].flatMap(([, half], i) => (half ? [i] : []));
      for (const chosen of [places, ...places.map((i) => [i])]) {
        const given = values.map((x, i): Plain => ({ ...x, dtype: as(chosen.includes(i)) }));
        const types = outputs.map(([shape], i) => ({ dtype: as(chosen.includes(inputs.length + i)), shape }));
        const got = await op(name, given, types, attributes, { matmul });
        got.forEach((y, i) => {
          expect(y, `${name} ${chosen}, output ${i}`).toEqual(wanted[i]!.map((v) => rounded(types[i]!.dtype, v)));
        });
      }
    });
});
