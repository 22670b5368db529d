export { type GenerateOptions, Generator, generateBatch, type Reply } from "./batch.ts";
export { ContinuousBatch, type Sequence } from "./continuous.ts";
export { Decoder, type DecoderOptions, type Piece } from "./decoder.ts";
export { checkSampling, type Sampled, Sampler, type SamplingParameters, uniformAt } from "./sampler.ts";
