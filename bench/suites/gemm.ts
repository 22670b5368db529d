import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend } from "../../src/engine/index.ts";
import { type Outcome, sameNumbers, type Work } from "../contest.ts";
import { ours, pythonPeer } from "../environment.ts";
import { chooseWorks, contestShape, runContest } from "../suite.ts";
import type { GemmParameters } from "../workers/gemm.ts";

type Layout = GemmParameters["layout"];

/** m x n x k as the models multiply them: NT is x W^T (forward), NN its gradient by x, TN its gradient by W. */
const shapes: readonly (readonly [what: string, m: number, n: number, k: number, layouts: readonly Layout[]])[] = [
  ["64^3", 64, 64, 64, ["NN", "NT", "TN"]],
  ["512^3", 512, 512, 512, ["NT"]],
  // The 0.8M model: 12 x 64 tokens, width 128.
  ["768x128x128", 768, 128, 128, ["NT", "NN"]],
  ["128x128x768", 128, 128, 768, ["TN"]],
  ["768x512x128", 768, 512, 128, ["NT"]],
  ["768x128x512", 768, 128, 512, ["NT"]],
  // The 10.7M model: 64 x 256 tokens, width 384.
  ["16384x384x384", 16384, 384, 384, ["NT", "NN"]],
  ["384x384x16384", 384, 384, 16384, ["TN"]],
  ["16384x1536x384", 16384, 1536, 384, ["NT"]],
  ["16384x384x1536", 16384, 384, 1536, ["NN"]],
  ["1536x384x16384", 1536, 384, 16384, ["TN"]],
  // GPT-2 small: 4 x 256 tokens, width 768.
  ["1024x768x768", 1024, 768, 768, ["NT", "NN"]],
  ["768x768x1024", 768, 768, 1024, ["TN"]],
  ["1024x3072x768", 1024, 3072, 768, ["NT"]],
  ["1024x768x3072", 1024, 768, 3072, ["NN"]],
  ["3072x768x1024", 3072, 768, 1024, ["TN"]],
  ["1024x50257x768", 1024, 50257, 768, ["NT"]],
  ["1024x768x50257", 1024, 768, 50257, ["NN"]],
  // Decoding.
  ["1x768x768", 1, 768, 768, ["NT"]],
  ["8x3072x768", 8, 3072, 768, ["NT"]],
];

const options = z.object({
  ...contestShape,
  seconds: z.number().positive().default(0.3).describe("length of a turn").meta({ value: "S" }),
  type: z.enum(["f32", "bf16", "both"]).default("both").describe("of the matrices in memory"),
});

/** Sums of products differ in their order; a bf16 result is rounded to 8 bits. */
const tolerance = (ours: Outcome, peer: Outcome) => (`${ours.about} ${peer.about}`.includes("bf16") ? 2e-2 : 1e-3);

export const gemm = defineCommand({
  name: "gemm",
  summary: "products of matrices beside torch.matmul",
  description:
    "Products of matrices beside torch.matmul with a preallocated result. NN multiplies A B, NT A B^T, TN A^T B; m x n x k.",
  options,
  async run({ works, rounds, seconds, alone, type }, context) {
    const native = loadNativeBackend();
    const bf16 = !("missing" in native) && native.facts.bf16;
    const types = type === "both" ? (["f32", "bf16"] as const) : [type];
    const all = types.flatMap((dtype) =>
      shapes.flatMap(([name, m, n, k, layouts]) =>
        layouts.map((layout): Work => {
          const flops = 2 * m * n * k;
          // A step long enough that what starts it does not count: about 15 ms at 300 GFLOP/s, less for the smallest.
          const repeat = Math.min(Math.max(Math.round(4.5e9 / flops), 1), 500);
          const parameters: GemmParameters = { dtype, layout, m, n, k, repeat };
          return {
            name: `${dtype} ${layout} ${name}`,
            parameters,
            flops: flops * repeat,
            peak: dtype === "bf16" && bf16 ? "bf16" : "f32",
            check: sameNumbers(tolerance, "sum of squares"),
          };
        }),
      ),
    );
    const peers = alone ? [] : [pythonPeer("PyTorch", "gemm", "")];
    const sides = { ours: ours("gemm"), peers };
    return runContest("gemm", chooseWorks(all, works), sides, { rounds, seconds, fresh: false }, context);
  },
});
