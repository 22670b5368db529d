export { type GenerateOptions, Generator, generateBatch, type Reply } from "./batch.ts";
export { ContinuousBatch, type Sequence } from "./continuous.ts";
export { Decoder, type DecoderOptions, type Piece } from "./decoder.ts";
export { type EngineOptions, endIdsOf, ReplyEngine } from "./engine.ts";
export { createModelHost, encodeConversation, type GeneratingHost, type HostOptions } from "./host.ts";
export { Registry } from "./registry.ts";
export { checkSampling, type Sampled, Sampler, type SamplingParameters, uniformAt } from "./sampler.ts";
export { ReplyText, StopMatcher } from "./text.ts";
export type { ChatTurn, ReplyChunk, ReplyRequest } from "./types.ts";
