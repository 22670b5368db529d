export { type BertConfig, bertBase, bertConfig } from "./bert/config.ts";
export { Bert, type BertContext, BertLayer, initBert, MaskedHead, maskedLanguageModelLoss } from "./bert/model.ts";
export { parseConfig, type SpecialTokens } from "./config.ts";
export { type Encoder, loadEncoder, saveEncoder } from "./encoder.ts";
export { cacheShape, configFromHub, configToHub, emptyCache, initModel, mappingOf, modelSkeleton } from "./families.ts";
export { loadConfig, loadModel, saveModel } from "./folder.ts";
export { type GPTConfig, gptConfig } from "./gpt/config.ts";
export { GPT, GPTBlock, initGPT } from "./gpt/model.ts";
export { type LlamaConfig, llamaConfig } from "./llama/config.ts";
export { readLlama2c } from "./llama/llama2c.ts";
export { initLlama, Llama, LlamaBlock } from "./llama/model.ts";
export { type Mapping, readMapped, skeleton, writeMapped } from "./mapping.ts";
export {
  type HiddenStates,
  type LanguageModel,
  type LanguageModelBatch,
  languageModelLoss,
  logits,
  type ModelConfig,
  parameterCount,
  tokenLogProbabilities,
  trainingFlopsPerToken,
} from "./model.ts";
export { type PackOptions, packModel, type WeightChoice, weightChoices } from "./packed.ts";
export { loadResNet, saveResNet, type TrainedResNet } from "./resnet/convert.ts";
export {
  initResNet,
  initResNetStatistics,
  ResidualBlock,
  ResNet,
  type ResNetConfig,
  type ResNetStatistics,
  resNet20,
} from "./resnet/model.ts";
