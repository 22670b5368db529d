import { type FileHandle, open } from "node:fs/promises";
import { ReadError } from "../document.ts";

/** Bytes that can be read at any place: a file, a URL that answers ranges, memory. */
export interface Access {
  readonly size: number;
  /** The bytes `[from, to)`. @throws ReadError when they are not all there */
  read(from: number, to: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

export const bufferAccess = (bytes: Uint8Array): Access => ({
  size: bytes.length,
  read: async (from, to) => {
    if (from < 0 || to > bytes.length) throw new ReadError("malformed", "It ends too early.");
    return bytes.subarray(from, to);
  },
  close: async () => {},
});

export async function fileAccess(path: string): Promise<Access> {
  const handle: FileHandle = await open(path, "r");
  const { size } = await handle.stat();
  return {
    size,
    async read(from, to) {
      if (from < 0 || to > size) throw new ReadError("malformed", "It ends too early.");
      const buffer = new Uint8Array(to - from);
      let done = 0;
      while (done < buffer.length) {
        const { bytesRead } = await handle.read(buffer, done, buffer.length - done, from + done);
        if (bytesRead === 0) throw new ReadError("malformed", "It became shorter while it was being read.");
        done += bytesRead;
      }
      return buffer;
    },
    close: () => handle.close(),
  };
}

export type Chunks = AsyncIterable<Uint8Array>;

/** A file from its beginning, 256 KB at a time. */
export async function* fileChunks(path: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
  const handle = await open(path, "r");
  try {
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead, buffer } = await handle.read(new Uint8Array(262_144), 0, 262_144);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

/** All of a stream, if it is not more than `limit` bytes. */
export async function readAll(chunks: Chunks, limit: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunks) {
    size += chunk.length;
    if (size > limit) {
      throw new ReadError(
        "too-large",
        `It is larger than ${Math.round(limit / 2 ** 20)} MB, the limit for what must be in memory as a whole.`,
      );
    }
    parts.push(chunk);
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts, size);
}

/** A stream whose first bytes have been looked at. */
export interface Peeked {
  readonly head: Uint8Array;
  /** The stream with its first bytes still in it. */
  readonly chunks: Chunks;
  /** For who does not read the stream to its end: lets go of the file under it. */
  close(): Promise<void>;
}

/** @param count bytes to look at, at least, if the stream has them */
export async function peek(chunks: Chunks, count: number): Promise<Peeked> {
  const iterator = chunks[Symbol.asyncIterator]();
  const parts: Uint8Array[] = [];
  let size = 0;
  let failure: unknown;
  while (size < count) {
    try {
      const { value, done } = await iterator.next();
      if (done === true) break;
      parts.push(value);
      size += value.length;
    } catch (error) {
      // What came before a stream broke off is worth reading.
      if (size === 0) throw error;
      failure = error;
      break;
    }
  }
  const head = parts.length === 1 ? parts[0]! : Buffer.concat(parts, size);
  const close = async () => {
    await iterator.return?.();
  };
  async function* all(): AsyncGenerator<Uint8Array> {
    try {
      if (head.length > 0) yield head;
      if (failure !== undefined) throw failure;
      for (;;) {
        const { value, done } = await iterator.next();
        if (done === true) return;
        yield value;
      }
    } finally {
      await close();
    }
  }
  return { head, chunks: all(), close };
}
