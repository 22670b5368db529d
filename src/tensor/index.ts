export { type ScanOptions, scan, whileLoop } from "./control.ts";
export { type DType, dtypes, type FloatDType, type HostArray } from "./dtype.ts";
export { BackendError, DTypeError, HowdahError, InputError, ShapeError, StateError } from "./errors.ts";
export { checkpoint, customGrad, grad, valueAndGrad, vjp } from "./grad.ts";
export { type JitOptions, type Jitted, jit } from "./jit.ts";
export { allOps, findOp, type OpDefinition } from "./op.ts";
export { type AttentionOptions, attention, packedAttention } from "./ops/attention.ts";
export * from "./ops/convolution.ts";
export * from "./ops/creation.ts";
export * from "./ops/cumulative.ts";
export { dotGeneral, linear, matmul } from "./ops/dot.ts";
export {
  abs,
  add,
  align,
  and,
  atan2,
  bitcastConvert,
  ceil,
  clamp,
  compare,
  convert,
  cos,
  divide,
  erf,
  exp,
  expm1,
  floor,
  isFiniteNumber,
  log,
  log1p,
  logistic,
  maximum,
  minimum,
  multiply,
  negate,
  not,
  optimizationBarrier,
  or,
  power,
  remainder,
  round,
  rsqrt,
  shiftLeft,
  shiftRightArithmetic,
  shiftRightLogical,
  sign,
  sin,
  sqrt,
  stopGradient,
  subtract,
  tanh,
  where,
  xor,
} from "./ops/elementwise.ts";
export { gather, moveAxis, oneHot, scatter, take, takeAlongLast } from "./ops/indexing.ts";
export { crossEntropy, linearCrossEntropy } from "./ops/loss.ts";
export { embedding, gelu, logSoftmax, relu, rotary, silu, softmax, swiglu } from "./ops/nn.ts";
export { layerNorm, rmsNorm } from "./ops/norm.ts";
export { adamwUpdate, globalNorm } from "./ops/optimizer.ts";
export { type Pages, type PageType, type Places, pagedAttention, pageWrite } from "./ops/paged.ts";
export {
  type PackedMatrixParts,
  type PackedWeight,
  packWeight,
  quantizedEmbedding,
  quantizedLinear,
  unpackWeight,
  type WeightFormat,
  weightFormats,
} from "./ops/quantized.ts";
export { bernoulli, dropout, foldIn, gumbel, normal, randomBits, randomKey, splitKey, uniform } from "./ops/random.ts";
export { all, any, logSumExp, max, mean, min, product, reduce, sum, variance } from "./ops/reduction.ts";
export { type SampledTokens, sampleSettings, sampleToken } from "./ops/sample.ts";
export * from "./ops/sort.ts";
export * from "./ops/structure.ts";
export * from "./ops/window.ts";
export type { Precision } from "./runtime.ts";
export type { Shape } from "./shape.ts";
export { liveTensors, type Operand, Tensor, tensor } from "./tensor.ts";
export { scope } from "./trace.ts";
export { dispose, leaves, Module, mapTree, signature, tensors, withTensors, zipTree } from "./tree.ts";
export { vmap } from "./vmap.ts";
