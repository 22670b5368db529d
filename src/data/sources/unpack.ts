import type { Transform } from "node:stream";
import zlib from "node:zlib";
import { ReadError, type ReadLimits } from "../document.ts";
import type { Chunks } from "./access.ts";

/** What has come out of a packed file so far, against what has gone in. One for a whole archive, so that many small members count together. */
export class Budget {
  readonly #limits: ReadLimits;
  in = 0;
  out = 0;

  constructor(limits: ReadLimits) {
    this.#limits = limits;
  }

  /** @throws ReadError `bomb` or `too-large` */
  add(bytes: number): void {
    this.out += bytes;
    const { ratio, unpacked } = this.#limits;
    if (this.out > 2 ** 24 && this.out > this.in * ratio) {
      throw new ReadError(
        "bomb",
        `It grows more than ${ratio} times when unpacked. If that is right, unpack it before.`,
      );
    }
    if (this.out > unpacked)
      throw new ReadError("too-large", `It unpacks to more than ${Math.round(unpacked / 2 ** 20)} MB.`);
  }
}

/** What Node says of a broken stream, said for a person. */
function explain(error: unknown, kind: string): unknown {
  if (error instanceof ReadError || !(error instanceof Error)) return error;
  const code = "code" in error ? String(error.code) : "";
  if (code === "Z_BUF_ERROR" || /unexpected e(?:nd of file|of)/i.test(error.message)) {
    return new ReadError("malformed", `The ${kind} data is cut off before its end.`, { cause: error });
  }
  if (code.startsWith("Z_") || code.startsWith("ZSTD_") || code.startsWith("ERR__ERROR_FORMAT")) {
    return new ReadError("malformed", `The ${kind} data is damaged (${error.message}).`, { cause: error });
  }
  return error;
}

/** Packed bytes given to a decompressor at a time: what comes out of them at once is at most about a thousand times as much. */
const STEP = 16_384;

/**
 * A stream through one of Node's decompressors. Step by step and not as a pipe, because a pipe that ends with an error throws away what it
 * had unpacked before.
 */
export async function* through(
  chunks: Chunks,
  transform: Transform,
  budget: Budget,
  kind: string,
): AsyncGenerator<Uint8Array> {
  let ready: Uint8Array[] = [];
  let failure: unknown;
  transform.on("data", (chunk: Uint8Array) => {
    if (failure !== undefined) return;
    try {
      budget.add(chunk.length);
      ready.push(chunk);
    } catch (error) {
      failure = error;
      transform.destroy();
    }
  });
  transform.on("error", (error) => {
    failure ??= error;
  });
  const take = (): Uint8Array[] => {
    const taken = ready;
    ready = [];
    return taken;
  };
  const settle = (start: (done: () => void) => void) =>
    new Promise<void>((resolve) => {
      transform.once("close", resolve);
      start(() => {
        transform.off("close", resolve);
        resolve();
      });
    });
  try {
    for await (const chunk of chunks) {
      for (let at = 0; at < chunk.length && failure === undefined; at += STEP) {
        const part = chunk.subarray(at, at + STEP);
        budget.in += part.length;
        await settle((done) => transform.write(part, done));
        yield* take();
      }
      if (failure !== undefined) break;
    }
    if (failure === undefined) {
      await settle((done) => {
        transform.once("end", done);
        transform.end();
      });
    }
    yield* take();
    if (failure !== undefined) throw explain(failure, kind);
  } finally {
    transform.destroy();
  }
}

export const gunzip = (chunks: Chunks, budget: Budget): AsyncGenerator<Uint8Array> =>
  through(chunks, zlib.createGunzip({ chunkSize: 65_536 }), budget, "gzip");

/** Node has zstd from 22.15 on; before that a small package does it. */
export async function* unzstd(chunks: Chunks, budget: Budget): AsyncGenerator<Uint8Array> {
  const native = (zlib as { createZstdDecompress?: () => Transform }).createZstdDecompress;
  if (native !== undefined) {
    yield* through(chunks, native(), budget, "zstd");
    return;
  }
  const { Decompress } = await import("fzstd");
  let ready: Uint8Array[] = [];
  // Limits are checked as each block comes out, not after a whole chunk of input.
  let ended = false;
  const stream = new Decompress((data, final) => {
    ended = final === true;
    budget.add(data.length);
    ready.push(data.slice());
  });
  const run = (chunk: Uint8Array, final: boolean): Uint8Array[] => {
    try {
      stream.push(chunk, final);
    } catch (error) {
      if (error instanceof ReadError) throw error;
      const cut = /EOF/i.test(String(error));
      throw new ReadError(
        "malformed",
        cut ? "The zstd data is cut off before its end." : `The zstd data is damaged (${String(error)}).`,
        { cause: error },
      );
    }
    const out = ready;
    ready = [];
    return out;
  };
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += 16_384) {
      const part = chunk.slice(at, at + 16_384);
      budget.in += part.length;
      yield* run(part, false);
    }
  }
  yield* run(new Uint8Array(0), true);
  if (!ended) throw new ReadError("malformed", "The zstd data is cut off before its end.");
}
