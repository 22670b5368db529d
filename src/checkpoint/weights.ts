import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import type { DType, HostArray } from "../tensor/dtype.ts";
import { InputError } from "../tensor/errors.ts";
import { find, SafetensorsFile, type StoredTensor, type TensorSource } from "./safetensors.ts";

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The weights of a Hugging Face folder that are spread over several files. */
class ShardedWeights implements TensorSource {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly #files: ReadonlyMap<string, SafetensorsFile>;
  readonly #where: Readonly<Record<string, string>>;
  readonly #path: string;

  constructor(path: string, where: Readonly<Record<string, string>>, files: ReadonlyMap<string, SafetensorsFile>) {
    this.#path = path;
    this.#where = where;
    this.#files = files;
    this.tensors = new Map(
      Object.entries(where).map(([name, file]) => {
        const shard = files.get(file)!;
        return [name, find(shard.tensors, name, shard.path)];
      }),
    );
  }

  read(name: string, dtype?: DType): Promise<HostArray> {
    return this.#shardOf(name).read(name, dtype);
  }

  readInto(into: Float32Array, name: string, from: number): Promise<void> {
    return this.#shardOf(name).readInto(into, name, from);
  }

  /** @throws InputError if there is no such tensor */
  #shardOf(name: string): SafetensorsFile {
    find(this.tensors, name, this.#path);
    return this.#files.get(this.#where[name]!)!;
  }

  async close(): Promise<void> {
    for (const file of this.#files.values()) await file.close();
  }
}

async function openSharded(folder: string, indexPath: string): Promise<TensorSource> {
  let json: unknown;
  try {
    json = JSON.parse(await readFile(indexPath, "utf8"));
  } catch (error) {
    throw new InputError(`${indexPath} is not JSON: ${error instanceof Error ? error.message : String(error)}.`);
  }
  const parsed = indexSchema.safeParse(json);
  if (!parsed.success) throw new InputError(`${indexPath}: "weight_map" must map tensor names to file names.`);
  const where = parsed.data.weight_map;
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const name of new Set(Object.values(where))) {
      // The index comes from somebody else: it may only name files of its own folder.
      if (name !== basename(name) || !name.endsWith(".safetensors"))
        throw new InputError(`${indexPath}: "${name}" is not the name of a safetensors file in its folder.`);
      files.set(name, await SafetensorsFile.open(join(folder, name)));
    }
    return new ShardedWeights(indexPath, where, files);
  } catch (error) {
    for (const file of files.values()) await file.close();
    throw error;
  }
}

/** The weights of a Hugging Face folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists. */
export async function openWeights(folder: string): Promise<TensorSource> {
  const single = join(folder, "model.safetensors");
  if (existsSync(single)) return SafetensorsFile.open(single);
  const index = join(folder, "model.safetensors.index.json");
  if (existsSync(index)) return openSharded(folder, index);
  const pickle = existsSync(join(folder, "pytorch_model.bin"))
    ? " It has a pytorch_model.bin, which can run code when opened and is not read: save the model as safetensors."
    : "";
  throw new InputError(`${folder}: there is no model.safetensors, nor a model.safetensors.index.json.${pickle}`);
}
