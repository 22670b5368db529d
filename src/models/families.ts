import { type Cache, makeCache } from "../nn/cache.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { initGPT } from "./gpt/model.ts";
import { initLlama } from "./llama/model.ts";
import type { LanguageModel, ModelConfig } from "./model.ts";

/** A model of the config's family with fresh weights. */
export function initModel(config: ModelConfig, key: Tensor<"i32">): LanguageModel {
  return config.family === "gpt" ? initGPT(config, key) : initLlama(config, key);
}

/** A key and value cache for `slots` sequences of at most `capacity` tokens, f32, zeros. */
export function emptyCache(config: ModelConfig, slots: number, capacity: number): Cache {
  const { layers } = config;
  return config.family === "gpt"
    ? makeCache({ layers, slots, capacity, groups: config.heads, width: config.width / config.heads })
    : makeCache({ layers, slots, capacity, groups: config.kvHeads, width: config.headWidth });
}
