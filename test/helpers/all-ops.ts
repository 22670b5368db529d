// Importing the op files fills the table of ops.
import "../../src/tensor/grad.ts";
import "../../src/tensor/control.ts";
import "../../src/tensor/ops/batch-norm.ts";
import "../../src/tensor/ops/convolution.ts";
import "../../src/tensor/ops/cumulative.ts";
import "../../src/tensor/ops/attention.ts";
import "../../src/tensor/ops/loss.ts";
import "../../src/tensor/ops/nn.ts";
import "../../src/tensor/ops/norm.ts";
import "../../src/tensor/ops/optimizer.ts";
import "../../src/tensor/ops/paged.ts";
import "../../src/tensor/ops/quantized.ts";
import "../../src/tensor/ops/random.ts";
import "../../src/tensor/ops/recurrent.ts";
import "../../src/tensor/ops/sample.ts";
import "../../src/tensor/ops/sort.ts";
import "../../src/tensor/ops/window.ts";

export { allOps, findOp, type Op, type OpCase } from "../../src/tensor/op.ts";
