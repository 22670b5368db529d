import { encodeUtf8 } from "./bytes.ts";

/** Bytes of text that one call into the native code takes at most (a single longer text goes alone): bounds the memory of a call. */
const BATCH_BYTES = 64 << 20;

/** Many documents at once: bytes one after another, where each ends; ids likewise. */
export type NativeBatch = (
  bytes: Uint8Array,
  ends: Float64Array,
) => Promise<{ readonly ids: Uint32Array; readonly ends: Float64Array }>;

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
    const batch: Uint8Array[] = [];
    let bytes = 0;
    while (first + batch.length < parts.length && (batch.length === 0 || bytes < BATCH_BYTES)) {
      const part = parts[first + batch.length]!;
      const encoded = typeof part === "string" ? encodeUtf8(part) : part;
      batch.push(encoded);
      bytes += encoded.length;
    }
    first += batch.length;
    const joined = new Uint8Array(bytes);
    const ends = new Float64Array(batch.length);
    let at = 0;
    batch.forEach((part, i) => {
      joined.set(part, at);
      at += part.length;
      ends[i] = at;
    });
    const encoded = await encode(joined, ends);
    let begin = 0;
    for (const end of encoded.ends) {
      // A copy, so that keeping one text's ids does not keep the whole batch.
      out.push(batch.length === 1 ? (encoded.ids as Uint32Array<ArrayBuffer>) : encoded.ids.slice(begin, end));
      begin = end;
    }
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
