import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { discard, explainWrite, makeFolder } from "../runs/atomic.ts";
import { bytesPerElement, type DType, type HostArray } from "../tensor/dtype.ts";
import { InputError } from "../tensor/errors.ts";
import { type Shape, show, size } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { storedName } from "./formats.ts";

/** A tensor to be written whose elements are fetched when their turn comes. */
export interface TensorToWrite {
  readonly dtype: DType;
  readonly shape: Shape;
  data(): Promise<HostArray>;
}

/**
 * The order of the data: wide elements first, so that each tensor is aligned for its type, then by name; the same as the format's own library.
 */
function ordered(tensors: ReadonlyMap<string, TensorToWrite>): [string, TensorToWrite][] {
  return [...tensors].sort(
    ([a, x], [b, y]) => bytesPerElement(y.dtype) - bytesPerElement(x.dtype) || (a < b ? -1 : a > b ? 1 : 0),
  );
}

function headerOf(tensors: readonly [string, TensorToWrite][], metadata: Readonly<Record<string, string>>): Uint8Array {
  const entries: Record<string, unknown> = { __metadata__: metadata };
  let at = 0;
  for (const [name, t] of tensors) {
    if (name === "__metadata__") throw new InputError('A tensor cannot be named "__metadata__" in a safetensors file.');
    const end = at + size(t.shape) * bytesPerElement(t.dtype);
    entries[name] = { dtype: storedName(t.dtype), shape: t.shape, data_offsets: [at, end] };
    at = end;
  }
  const text = Buffer.from(JSON.stringify(entries));
  // The data begin at a multiple of 8; spaces fill the header up to there.
  const header = Buffer.alloc(8 + Math.ceil(text.length / 8) * 8, " ");
  header.writeBigUInt64LE(BigInt(header.length - 8), 0);
  text.copy(header, 8);
  return header;
}

async function writeAll(handle: FileHandle, data: Uint8Array): Promise<void> {
  for (let at = 0; at < data.length; ) {
    const { bytesWritten } = await handle.write(data, at, Math.min(2 ** 30, data.length - at));
    at += bytesWritten;
  }
}

let serial = 0;
const life = randomBytes(4).toString("hex");

/**
 * Writes tensors into one safetensors file, one after the other, so that only one of them is in host memory at a time. The file appears all
 * at once: written beside, flushed, renamed.
 * @throws DiskError naming the reason; an older file of that name is then intact
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorToWrite>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const list = ordered(tensors);
  const header = headerOf(list, metadata);
  const partial = join(dirname(path), `.${basename(path)}.${process.pid}.${life}${serial++}.partial`);
  try {
    makeFolder(dirname(path));
    const handle = await open(partial, "wx");
    try {
      await writeAll(handle, header);
      for (const [name, t] of list) {
        const data = await t.data();
        if (data.length !== size(t.shape))
          throw new InputError(`${name}: ${data.length} elements for the shape ${show(t.shape)}.`);
        await writeAll(handle, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, path);
  } catch (error) {
    discard(partial);
    throw explainWrite(error, path, "What was there before is unchanged.");
  }
}

/** A host array as something to write. */
export function hostTensor(dtype: DType, shape: Shape, data: HostArray): TensorToWrite {
  return { dtype, shape, data: () => Promise.resolve(data) };
}

/** A concrete tensor as something to write: downloaded when its turn comes. */
export function deviceTensor(tensor: Tensor): TensorToWrite {
  return { dtype: tensor.dtype, shape: tensor.shape, data: () => tensor.data() };
}
