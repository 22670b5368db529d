import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { openWeights } from "../checkpoint/weights.ts";
import { writeSafetensors } from "../checkpoint/write.ts";
import type { Context } from "../nn/context.ts";
import { writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Module } from "../tensor/tree.ts";
import type { BertConfig } from "./bert/config.ts";
import { bertFromHub, bertIgnores, bertMapping, bertPartsOf, bertRenaming, bertToHub } from "./bert/convert.ts";
import { type Bert, buildBert } from "./bert/model.ts";
import { readMapped, skeleton, writeMapped } from "./mapping.ts";

/** A model that reads a whole text at once, each token seeing all others. It keeps no cache and continues nothing. */
export interface Encoder extends Module {
  readonly config: { readonly width: number; readonly context: number; readonly vocabulary: number };
  /**
   * @param ids i32 (batch, time)
   * @returns (batch, time, width)
   */
  hidden(ids: Tensor<"i32">, context?: Omit<Context, "cache" | "rows">): Tensor;
}

/**
 * Loads a BERT from a Hugging Face folder: `config.json` with `model.safetensors`, of `BertModel`, `BertForMaskedLM` or `BertForPreTraining`.
 * The pooler and the head are there if the file holds them. Weights become f32.
 * @throws InputError naming each tensor that is missing, not expected, or of another shape
 */
export async function loadEncoder(folder: string): Promise<{ model: Bert; config: BertConfig }> {
  const path = join(folder, "config.json");
  let json: unknown;
  try {
    json = JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    throw new InputError(`${path} cannot be read: ${error instanceof Error ? error.message : String(error)}.`);
  }
  const type = typeof json === "object" && json !== null && "model_type" in json ? json.model_type : undefined;
  if (type !== "bert")
    throw new InputError(`${path}: model_type is ${JSON.stringify(type)}; encoders that can be loaded are: bert.`);
  const source = await openWeights(folder);
  try {
    const names = new Set(source.tensors.keys());
    const config = bertFromHub(json, path, bertPartsOf(names));
    const like = skeleton((key) => buildBert(config, key));
    const model = await readMapped(like, bertMapping(config), source, {
      where: folder,
      ignore: bertIgnores,
      rename: bertRenaming(names),
    });
    return { model, config };
  } finally {
    await source.close();
  }
}

/** Saves a BERT as a Hugging Face folder: `config.json` and `model.safetensors`. Tokenizer files are not touched. */
export async function saveEncoder(model: Bert, folder: string): Promise<void> {
  const { config } = model;
  const tensors = writeMapped(model, bertMapping(config));
  await writeSafetensors(join(folder, "model.safetensors"), tensors);
  const json = { ...bertToHub(config), dtype: "float32", torch_dtype: "float32" };
  writeFileAtomic(join(folder, "config.json"), `${JSON.stringify(json, null, 2)}\n`);
}
