import { open } from "node:fs/promises";
import { InputError } from "../tensor/errors.ts";
import { refuseMistaken } from "./read-file.ts";

export type Value = number | bigint | boolean | string | Value[];

/** A GGUF file's metadata is read up to here; a vocabulary of a million tokens takes less. */
const LARGEST_METADATA = 512 << 20;
const FIRST_READ = 4 << 20;

/**
 * The metadata of a GGUF file (version 2 or 3). Only the head of the file is read.
 * @throws InputError when it is not GGUF, or cut short
 */
export async function readGgufMetadata(path: string): Promise<Map<string, Value>> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    for (let length = Math.min(size, FIRST_READ); ; length = Math.min(size, length * 4)) {
      const head = Buffer.alloc(length);
      let filled = 0;
      while (filled < length) {
        const { bytesRead } = await file.read(head, filled, length - filled, filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      try {
        return parseMetadata(head.subarray(0, filled), path);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        if (length === size || length > LARGEST_METADATA) {
          throw new InputError(`${path}: the GGUF file ends in the middle of its metadata.`, { cause: error });
        }
      }
    }
  } finally {
    await file.close();
  }
}

/** @throws RangeError when more of the file is needed */
function parseMetadata(bytes: Buffer, path: string): Map<string, Value> {
  if (bytes.length < 8 || bytes.toString("latin1", 0, 4) !== "GGUF") {
    refuseMistaken(bytes, path);
    throw new InputError(
      `${path}: not a GGUF file: it begins with ${JSON.stringify(bytes.toString("latin1", 0, 4))}, where "GGUF" is expected.`,
    );
  }
  const version = bytes.readUInt32LE(4);
  if (version !== 2 && version !== 3)
    throw new InputError(`${path}: GGUF version ${version} is not supported; known are 2 and 3.`);
  let at = 8;
  const long = (): number => {
    const value = Number(bytes.readBigUInt64LE(at));
    at += 8;
    return value;
  };
  const string = (): string => {
    const length = long();
    if (at + length > bytes.length) throw new RangeError("more is needed");
    at += length;
    return bytes.toString("utf8", at - length, at);
  };
  const value = (kind: number): Value => {
    const took = (width: number): number => {
      at += width;
      return at - width;
    };
    switch (kind) {
      case 0:
        return bytes.readUInt8(took(1));
      case 1:
        return bytes.readInt8(took(1));
      case 2:
        return bytes.readUInt16LE(took(2));
      case 3:
        return bytes.readInt16LE(took(2));
      case 4:
        return bytes.readUInt32LE(took(4));
      case 5:
        return bytes.readInt32LE(took(4));
      case 6:
        return bytes.readFloatLE(took(4));
      case 7:
        return bytes.readUInt8(took(1)) !== 0;
      case 8:
        return string();
      case 9: {
        const inner = bytes.readUInt32LE(took(4));
        const length = long();
        const list: Value[] = [];
        for (let i = 0; i < length; i++) list.push(value(inner));
        return list;
      }
      case 10:
        return bytes.readBigUInt64LE(took(8));
      case 11:
        return bytes.readBigInt64LE(took(8));
      case 12:
        return bytes.readDoubleLE(took(8));
      default:
        throw new InputError(`${path}: the GGUF metadata has a value of the unknown kind ${kind}.`);
    }
  };
  long(); // tensors
  const count = long();
  const fields = new Map<string, Value>();
  for (let i = 0; i < count; i++) {
    const key = string();
    const kind = bytes.readUInt32LE(at);
    at += 4;
    fields.set(key, value(kind));
  }
  return fields;
}
