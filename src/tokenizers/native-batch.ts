import { byteLength, joined } from "./bytes.ts";

/** Bytes of text that one call into the native code takes at most (a single longer text goes alone): bounds the memory of a call. */
const BATCH_BYTES = 64 << 20;

/** Many documents at once: bytes one after another, where each ends; the ids of each. */
export type NativeBatch = (bytes: Uint8Array, ends: Float64Array) => Promise<Uint32Array<ArrayBuffer>[]>;

/** A text as what becomes of it: ids that are certain already, and stretches (strings, or well-formed UTF-8) for the native encoder. */
export type Plan = readonly (number | string | Uint8Array)[];

/** The ids of each plan, between `before` and `after`. */
export async function encodePlans(
  plans: readonly Plan[],
  encode: NativeBatch,
  before: readonly number[],
  after: readonly number[],
): Promise<Uint32Array<ArrayBuffer>[]> {
  const parts = plans.flatMap((plan) => plan.filter((item) => typeof item !== "number"));
  const encoded = await inBatches(parts, encode);
  let next = 0;
  return plans.map((plan) => {
    const pieces = plan.map((item) => (typeof item === "number" ? Uint32Array.of(item) : encoded[next++]!));
    if (pieces.length === 1 && before.length + after.length === 0) return pieces[0]!;
    return concatenated([Uint32Array.from(before), ...pieces, Uint32Array.from(after)]);
  });
}

async function inBatches(
  parts: readonly (string | Uint8Array)[],
  encode: NativeBatch,
): Promise<Uint32Array<ArrayBuffer>[]> {
  const out: Uint32Array<ArrayBuffer>[] = [];
  for (let first = 0; first < parts.length; ) {
    const batch: (string | Uint8Array)[] = [];
    const sizes: number[] = [];
    let bytes = 0;
    while (first + batch.length < parts.length && (batch.length === 0 || bytes < BATCH_BYTES)) {
      const part = parts[first + batch.length]!;
      const size = byteLength(part);
      batch.push(part);
      sizes.push(size);
      bytes += size;
    }
    first += batch.length;
    const all = joined(batch, sizes);
    for (const ids of await encode(all.bytes, all.ends)) out.push(ids);
  }
  return out;
}

function concatenated(parts: readonly Uint32Array[]): Uint32Array<ArrayBuffer> {
  const out = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
