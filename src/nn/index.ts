export { type AttentionSizes, type LayerContext, SelfAttention } from "./attention.ts";
export { Cache, type CacheShape, type LayerCache, makeCache, PAGE, pageBytes, placesIn } from "./cache.ts";
export type { Context } from "./context.ts";
export {
  BatchNorm,
  type BatchNormPass,
  Conv2d,
  initBatchNorm,
  initConv2d,
  initStatistics,
  type RunningStatistics,
} from "./convolution.ts";
export { Embedding, initEmbedding } from "./embedding.ts";
export { initLinear, Linear } from "./linear.ts";
export { type Activation, activate, activations, MLP, SwiGLU } from "./mlp.ts";
export { initLayerNorm, initRMSNorm, LayerNorm, RMSNorm } from "./norm.ts";
export {
  PackedEmbedding,
  PackedLinear,
  PackedMatrix,
  PackedSwiGLU,
  packEmbedding,
  packLinear,
  packMatrix,
  packSwiGLU,
} from "./quantized.ts";
export {
  GRU,
  initGRU,
  initLSTM,
  LSTM,
  type LSTMState,
  type RecurrentSizes,
  RecurrentWeights,
} from "./recurrent.ts";
export {
  type RotaryAngles,
  type RotaryConfig,
  type RotaryScaling,
  rotaryAngles,
  rotaryFrequencies,
} from "./rotary.ts";
