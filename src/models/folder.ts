import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TensorSource } from "../checkpoint/safetensors.ts";
import { openWeights } from "../checkpoint/weights.ts";
import { writeSafetensors } from "../checkpoint/write.ts";
import { writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import { hubTokens, parseConfig, tokensFromHub, tokensToHub } from "./config.ts";
import { configFromHub, configToHub, ignores, mappingOf, modelSkeleton } from "./families.ts";
import { findMapped, readMapped, writeMapped } from "./mapping.ts";
import type { LanguageModel, ModelConfig } from "./model.ts";
import { readPacked, type WeightChoice } from "./packed.ts";

async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw new InputError(`${path} cannot be read: ${error instanceof Error ? error.message : String(error)}.`);
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new InputError(`${path} is not JSON: ${error instanceof Error ? error.message : String(error)}.`);
  }
}

/** The config of a Hugging Face folder. `generation_config.json` has the last word on special tokens. */
export async function loadConfig(folder: string): Promise<ModelConfig> {
  const path = join(folder, "config.json");
  const json = await readJson(path);
  if (json === undefined) throw new InputError(`${folder}: there is no config.json, so this is not a model's folder.`);
  const config = configFromHub(json, path);
  const generationPath = join(folder, "generation_config.json");
  const generation = await readJson(generationPath);
  if (generation === undefined) return config;
  const tokens = tokensFromHub(parseConfig(z.looseObject(hubTokens), generation, generationPath));
  return { ...config, tokens: { ...config.tokens, ...tokens } };
}

/** The base model alone is stored without its name in front: `h.0.ln_1.weight`, not `transformer.h.0.ln_1.weight`. */
function renaming(source: TensorSource): (name: string) => string {
  const bare = !["transformer.", "model."].some((prefix) =>
    [...source.tensors.keys()].some((n) => n.startsWith(prefix)),
  );
  return bare ? (name) => name.replace(/^(transformer|model)\./, "") : (name) => name;
}

/**
 * Loads a model from a Hugging Face folder: `config.json` with `model.safetensors`, whole or sharded, of GPT-2, Llama, Mistral or Qwen2.
 * Weights become f32, whatever they are stored as, or are packed while they are read, for reading fast (`packModel`).
 * @throws InputError naming each tensor that is missing, not expected, or of another shape
 */
export async function loadModel(
  folder: string,
  { weights = "f32" }: { readonly weights?: WeightChoice } = {},
): Promise<{ model: LanguageModel; config: ModelConfig }> {
  const config = await loadConfig(folder);
  const source = await openWeights(folder);
  try {
    const like = modelSkeleton(config);
    const options = { where: folder, ignore: (name: string) => ignores(config, name), rename: renaming(source) };
    if (weights === "f32") return { model: await readMapped(like, mappingOf(config), source, options), config };
    const found = findMapped(like, mappingOf(config), source, options);
    return { model: await readPacked(like, found, { format: weights }), config };
  } finally {
    await source.close();
  }
}

/**
 * Saves a model as a Hugging Face folder, to be read by transformers and whatever reads its format: `config.json`, `generation_config.json`,
 * `model.safetensors`. Tokenizer files are not touched.
 */
export async function saveModel(model: LanguageModel, folder: string): Promise<void> {
  const { config } = model;
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  await writeSafetensors(join(folder, "model.safetensors"), writeMapped(model, mappingOf(config)));
  const generation = Object.entries(tokensToHub(config.tokens)).filter(([, value]) => value !== null);
  writeFileAtomic(join(folder, "generation_config.json"), json(Object.fromEntries(generation)));
  writeFileAtomic(
    join(folder, "config.json"),
    json({ ...configToHub(config), dtype: "float32", torch_dtype: "float32" }),
  );
}
