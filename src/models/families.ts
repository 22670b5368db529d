import { type Cache, makeCache } from "../nn/cache.ts";
import { InputError } from "../tensor/errors.ts";
import type { PageType } from "../tensor/ops/paged.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { gptFromHub, gptIgnores, gptMapping, gptToHub } from "./gpt/convert.ts";
import { buildGPT, initGPT } from "./gpt/model.ts";
import { llamaFromHub, llamaIgnores, llamaMapping, llamaModelTypes, llamaToHub } from "./llama/convert.ts";
import { buildLlama, initLlama } from "./llama/model.ts";
import { type Mapping, skeleton } from "./mapping.ts";
import type { LanguageModel, ModelConfig } from "./model.ts";

/** `model_type` in a `config.json` -> how to read it. */
const fromHub: Readonly<Record<string, (json: unknown, where: string) => ModelConfig>> = {
  gpt2: gptFromHub,
  ...Object.fromEntries(llamaModelTypes.map((type) => [type, llamaFromHub])),
};

/** A Hugging Face `config.json` as ours. */
export function configFromHub(json: unknown, where: string): ModelConfig {
  const type = typeof json === "object" && json !== null && "model_type" in json ? json.model_type : undefined;
  const read = typeof type === "string" && Object.hasOwn(fromHub, type) ? fromHub[type] : undefined;
  if (type === "bert")
    throw new InputError(
      `${where}: model_type is "bert", an encoder, which continues no text: load it with loadEncoder.`,
    );
  if (!read)
    throw new InputError(
      `${where}: model_type is ${JSON.stringify(type)}; supported are ${Object.keys(fromHub).join(", ")}.`,
    );
  return read(json, where);
}

export function configToHub(config: ModelConfig): Record<string, unknown> {
  return config.family === "gpt" ? gptToHub(config) : llamaToHub(config);
}

export function mappingOf(config: ModelConfig): Mapping {
  return config.family === "gpt" ? gptMapping(config) : llamaMapping(config);
}

/** Whether a tensor of a checkpoint is one that nobody needs. */
export function ignores(config: ModelConfig, name: string): boolean {
  return config.family === "gpt" ? gptIgnores(config, name) : llamaIgnores(config, name);
}

/** A model of the config's family with fresh weights. */
export function initModel(config: ModelConfig, key: Tensor<"i32">): LanguageModel {
  return config.family === "gpt" ? initGPT(config, key) : initLlama(config, key);
}

/** A model with shapes and no values: what a checkpoint is read into. */
export function modelSkeleton(config: ModelConfig): LanguageModel {
  return skeleton((key): LanguageModel => (config.family === "gpt" ? buildGPT(config, key) : buildLlama(config, key)));
}

/**
 * A key and value cache for `slots` sequences of at most `capacity` tokens.
 * @throws InputError if the model has no positions for that many
 */
export function emptyCache(
  config: ModelConfig,
  slots: number,
  capacity: number,
  options: { readonly type?: PageType | undefined; readonly pages?: number | undefined } = {},
): Cache {
  const { context } = config;
  if (config.family === "gpt" && capacity > context)
    throw new InputError(`cache: a capacity of ${capacity} tokens, but the model has only ${context} positions.`);
  return makeCache({ ...cacheShape(config), slots, capacity, ...options });
}

/** What one position of a model's cache holds. */
export function cacheShape(config: ModelConfig): { layers: number; groups: number; width: number } {
  const { layers } = config;
  if (config.family === "llama") return { layers, groups: config.kvHeads, width: config.headWidth };
  return { layers, groups: config.heads, width: config.width / config.heads };
}
