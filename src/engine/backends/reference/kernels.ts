import { dotKernels } from "./dot.ts";
import { elementwiseKernels } from "./elementwise.ts";
import { indexingKernels } from "./indexing.ts";
import type { Kernels } from "./kernel.ts";
import { randomKernels } from "./random.ts";
import { reductionKernels } from "./reduction.ts";
import { sampleKernels } from "./sample.ts";
import { sortKernels } from "./sort.ts";
import { structureKernels } from "./structure.ts";
import { windowKernels } from "./window.ts";

/** The kernel of each primitive op. Loops (`while`, `scan`) belong to the executor. */
export const kernels: Kernels = {
  ...elementwiseKernels,
  ...structureKernels,
  ...reductionKernels,
  ...dotKernels,
  ...indexingKernels,
  ...windowKernels,
  ...sortKernels,
  ...randomKernels,
  ...sampleKernels,
};
