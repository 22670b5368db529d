import { type FileHandle, open } from "node:fs/promises";
import type { DType, HostArray } from "../tensor/dtype.ts";
import { InputError } from "../tensor/errors.ts";
import { fromHost } from "../tensor/ops/creation.ts";
import { show } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { decode, decodeInto, naturalDType, type StoredDType, storedDTypes } from "./formats.ts";

/** One tensor of a file, not read yet. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  /** Where its bytes lie in the file. */
  readonly start: number;
  readonly end: number;
}

/** Named tensors that are read one at a time. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** The elements, converted (see `decode`). @throws InputError if there is no such tensor */
  read(name: string, dtype?: DType): Promise<HostArray>;
  /** The f32 elements from `from` on, as many as `into` holds. */
  readInto(into: Float32Array, name: string, from: number): Promise<void>;
  close(): Promise<void>;
}

/** The format's own limit; a header of a model with a hundred thousand tensors is a tenth of it. */
const LARGEST_HEADER = 100_000_000;

/** Node reads at most 2^31 - 1 bytes at once. */
const CHUNK = 2 ** 30;

async function readBytes(
  handle: FileHandle,
  path: string,
  start: number,
  length: number,
  bytes: Uint8Array = new Uint8Array(length),
): Promise<Uint8Array> {
  for (let at = 0; at < length; ) {
    const { bytesRead } = await handle.read(bytes, at, Math.min(CHUNK, length - at), start + at);
    if (bytesRead === 0)
      throw new InputError(`${path}: the file ends at byte ${start + at}; it was cut while being read.`);
    at += bytesRead;
  }
  return bytes;
}

const isRecord = (x: unknown): x is Record<string, unknown> => typeof x === "object" && x !== null && !Array.isArray(x);

interface Header {
  readonly tensors: Map<string, StoredTensor>;
  readonly metadata: Record<string, string>;
}

/**
 * Checks all that a header claims before anything is allocated for it.
 * @param from where the data begin in the file
 * @param size of the file
 */
function parseHeader(text: string, path: string, from: number, size: number): Header {
  const bad = (why: string) => new InputError(`${path}: not a safetensors file: ${why}.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw bad(`its header is not JSON (${error instanceof Error ? error.message : String(error)})`);
  }
  if (!isRecord(json)) throw bad("its header is not a JSON object");
  const tensors = new Map<string, StoredTensor>();
  const metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json)) {
    if (!isRecord(entry)) throw bad(`the entry "${name}" is not an object`);
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(entry)) if (typeof value === "string") metadata[key] = value;
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = entry;
    if (typeof dtype !== "string" || !Object.hasOwn(storedDTypes, dtype))
      throw new InputError(
        `${path}: the tensor "${name}" has the element type ${JSON.stringify(dtype)}, which is not read here; there are ${Object.keys(storedDTypes).join(", ")}. Convert it first.`,
      );
    const natural = (x: unknown): x is number => Number.isSafeInteger(x) && (x as number) >= 0;
    if (!Array.isArray(shape) || !shape.every(natural)) throw bad(`the shape of "${name}" is ${JSON.stringify(shape)}`);
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(natural))
      throw bad(`the offsets of "${name}" are ${JSON.stringify(offsets)}`);
    const [start, end] = offsets as [number, number];
    const bytes = shape.reduce((n: number, d: number) => n * d, storedDTypes[dtype as StoredDType]);
    if (end - start !== bytes)
      throw bad(`"${name}" of ${dtype}${show(shape)} needs ${bytes} bytes, its offsets say ${end - start}`);
    if (from + end > size)
      throw bad(`"${name}" ends at byte ${from + end}, the file has ${size}; it is cut off, download it again`);
    tensors.set(name, { name, dtype: dtype as StoredDType, shape, start: from + start, end: from + end });
  }
  // The data are one row of tensors without gaps: two entries over the same bytes would be a way to exhaust memory.
  let at = from;
  for (const t of [...tensors.values()].sort((a, b) => a.start - b.start || a.end - b.end)) {
    if (t.start !== at) throw bad(`"${t.name}" begins at byte ${t.start}, the one before it ends at ${at}`);
    at = t.end;
  }
  if (at !== size) throw bad(`the tensors end at byte ${at}, the file at ${size}`);
  return { tensors, metadata };
}

/** An open safetensors file. The header is read and checked; tensors are read when asked for. */
export class SafetensorsFile implements TensorSource {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #handle: FileHandle;
  /** For bytes that `readInto` converts, used again by the next call. */
  #raw: Uint8Array | undefined;

  private constructor(path: string, handle: FileHandle, header: Header) {
    this.path = path;
    this.#handle = handle;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
  }

  /** @throws InputError if the file is not what it should be, with what is wrong */
  static async open(path: string): Promise<SafetensorsFile> {
    let handle: FileHandle;
    try {
      handle = await open(path, "r");
    } catch (error) {
      throw new InputError(`${path} cannot be opened: ${error instanceof Error ? error.message : String(error)}.`, {
        cause: error,
      });
    }
    try {
      const { size } = await handle.stat();
      if (size < 8) throw new InputError(`${path}: not a safetensors file: it has ${size} bytes.`);
      const length = new DataView((await readBytes(handle, path, 0, 8)).buffer).getBigUint64(0, true);
      if (length > BigInt(Math.min(LARGEST_HEADER, size - 8)))
        throw new InputError(
          `${path}: not a safetensors file: its header would be ${length} bytes long, in a file of ${size}.`,
        );
      const from = 8 + Number(length);
      const text = new TextDecoder().decode(await readBytes(handle, path, 8, Number(length)));
      return new SafetensorsFile(path, handle, parseHeader(text, path, from, size));
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  async read(name: string, dtype?: DType): Promise<HostArray> {
    const stored = find(this.tensors, name, this.path);
    const bytes = await readBytes(this.#handle, this.path, stored.start, stored.end - stored.start);
    return decode(bytes, stored.dtype, dtype ?? naturalDType(stored.dtype), `${this.path}: ${name}`);
  }

  async readInto(into: Float32Array, name: string, from: number): Promise<void> {
    const stored = find(this.tensors, name, this.path);
    const width = storedDTypes[stored.dtype];
    const start = stored.start + from * width;
    const length = into.length * width;
    if (stored.dtype === "F32") {
      const bytes = new Uint8Array(into.buffer, into.byteOffset, into.byteLength);
      await readBytes(this.#handle, this.path, start, length, bytes);
      return;
    }
    // Two reads at once must not share it.
    const raw = this.#raw !== undefined && this.#raw.length >= length ? this.#raw : new Uint8Array(length);
    this.#raw = undefined;
    const bytes = await readBytes(this.#handle, this.path, start, length, raw.subarray(0, length));
    decodeInto(into, bytes, stored.dtype, `${this.path}: ${name}`);
    this.#raw = raw;
  }

  close(): Promise<void> {
    return this.#handle.close();
  }
}

export function find(tensors: ReadonlyMap<string, StoredTensor>, name: string, path: string): StoredTensor {
  const stored = tensors.get(name);
  if (stored) return stored;
  const some = [...tensors.keys()].slice(0, 8).join(", ");
  throw new InputError(`${path}: there is no tensor "${name}"; there are ${some}${tensors.size > 8 ? ", ..." : ""}.`);
}

/** A tensor of a file, uploaded. */
export async function readTensor<D extends DType>(source: TensorSource, name: string, dtype?: D): Promise<Tensor<D>> {
  const data = await source.read(name, dtype);
  const stored = source.tensors.get(name)!;
  return fromHost((dtype ?? naturalDType(stored.dtype)) as D, stored.shape, data);
}

/** All tensors of a file, uploaded, by name. */
export async function readSafetensors(path: string): Promise<Map<string, Tensor>> {
  const file = await SafetensorsFile.open(path);
  try {
    const out = new Map<string, Tensor>();
    for (const name of file.tensors.keys()) out.set(name, await readTensor(file, name));
    return out;
  } finally {
    await file.close();
  }
}
