export { parseConfig, type SpecialTokens } from "./config.ts";
export { emptyCache, initModel } from "./families.ts";
export { type GPTConfig, gptConfig } from "./gpt/config.ts";
export { GPT, GPTBlock, initGPT } from "./gpt/model.ts";
export { type LlamaConfig, llamaConfig } from "./llama/config.ts";
export { initLlama, Llama, LlamaBlock } from "./llama/model.ts";
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
