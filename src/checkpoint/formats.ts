import { type DType, fromFloat16, type HostArray, hostArray, isFloat, toBfloat16, toFloat16 } from "../tensor/dtype.ts";
import { DTypeError, InputError } from "../tensor/errors.ts";

/** The element types of safetensors that are read, by the names the format gives them. */
export const storedDTypes = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;
export type StoredDType = keyof typeof storedDTypes;

const names: Record<DType, StoredDType> = {
  f64: "F64",
  f32: "F32",
  f16: "F16",
  bf16: "BF16",
  i32: "I32",
  i8: "I8",
  u8: "U8",
  bool: "BOOL",
};

export function storedName(dtype: DType): StoredDType {
  return names[dtype];
}

/** What a stored tensor becomes when nobody asks for something else: I64 and I16 become i32. */
export function naturalDType(stored: StoredDType): DType {
  const found = (Object.keys(names) as DType[]).find((d) => names[d] === stored);
  return found ?? "i32";
}

/** Every value of an IEEE half, by its bits. */
let halves: Float32Array | undefined;

function halfTable(): Float32Array {
  if (!halves) halves = Float32Array.from({ length: 65536 }, (_, bits) => fromFloat16(bits));
  return halves;
}

/** Floats of 16 bits as f32. @returns `into` */
function widen(bits: Uint16Array, stored: "BF16" | "F16", into: Float32Array): Float32Array {
  if (stored === "BF16") {
    const wide = new Uint32Array(into.buffer, into.byteOffset, into.length);
    for (let i = 0; i < bits.length; i++) wide[i] = bits[i]! << 16;
  } else {
    const table = halfTable();
    for (let i = 0; i < bits.length; i++) into[i] = table[bits[i]!]!;
  }
  return into;
}

function i32FromInt64(values: BigInt64Array, what: string): Int32Array {
  const out = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    out[i] = Number(values[i]);
    if (BigInt(out[i]!) !== values[i])
      throw new InputError(`${what}: element ${i} is ${values[i]}, which does not fit 32 bits.`);
  }
  return out;
}

/** The bytes of a stored tensor as the typed array of its own kind. They are little-endian, as are all machines this runs on. */
function view(bytes: Uint8Array, stored: StoredDType): HostArray | BigInt64Array | Int16Array {
  const { buffer, byteOffset, byteLength } = bytes;
  const size = storedDTypes[stored];
  // Typed arrays need their start aligned; a slice of a larger buffer may not be.
  const at = byteOffset % size === 0 ? { buffer, byteOffset } : { buffer: bytes.slice().buffer, byteOffset: 0 };
  const [b, o, n] = [at.buffer, at.byteOffset, byteLength / size];
  switch (stored) {
    case "F64":
      return new Float64Array(b, o, n);
    case "F32":
      return new Float32Array(b, o, n);
    case "F16":
    case "BF16":
      return new Uint16Array(b, o, n);
    case "I64":
      return new BigInt64Array(b, o, n);
    case "I32":
      return new Int32Array(b, o, n);
    case "I16":
      return new Int16Array(b, o, n);
    case "I8":
      return new Int8Array(b, o, n);
    case "U8":
    case "BOOL":
      return new Uint8Array(b, o, n);
  }
}

/**
 * The elements of a stored tensor in another type. Floats go to floats (rounded to nearest even where narrower), integers to integers they fit
 * in; bytes and booleans to each other and to i32.
 * @param what names the tensor in errors
 * @throws DTypeError where the two kinds do not mix, InputError where an integer does not fit
 */
export function decode(bytes: Uint8Array, stored: StoredDType, dtype: DType, what: string): HostArray {
  const data = view(bytes, stored);
  if (names[dtype] === stored) return data as HostArray;
  const refuse = () =>
    new DTypeError(`${what}: holds ${stored}, expected ${names[dtype]} or a type that converts to it.`);
  if (isFloat(dtype)) {
    const wide = floats(data, stored);
    if (!wide) throw refuse();
    if (dtype === "f32") return wide instanceof Float32Array ? wide : Float32Array.from(wide);
    if (dtype === "f64") return Float64Array.from(wide);
    return Uint16Array.from(wide, dtype === "bf16" ? toBfloat16 : toFloat16);
  }
  const narrow = data instanceof BigInt64Array ? i32FromInt64(data, what) : data;
  const integral = !["F64", "F32", "F16", "BF16"].includes(stored);
  if (!integral) throw refuse();
  const out = hostArray(dtype, narrow.length);
  for (let i = 0; i < narrow.length; i++) {
    out[i] = dtype === "bool" ? Number(narrow[i] !== 0) : narrow[i]!;
    if (dtype !== "bool" && out[i] !== narrow[i])
      throw new InputError(`${what}: element ${i} is ${narrow[i]}, which does not fit ${dtype}.`);
  }
  return out;
}

/** `decode` to f32 into an array that is there. */
export function decodeInto(into: Float32Array, bytes: Uint8Array, stored: StoredDType, what: string): void {
  if (stored === "BF16" || stored === "F16") widen(view(bytes, stored) as Uint16Array, stored, into);
  else into.set(decode(bytes, stored, "f32", what));
}

function floats(data: ReturnType<typeof view>, stored: StoredDType): Float32Array | Float64Array | undefined {
  if (stored === "BF16" || stored === "F16") return widen(data as Uint16Array, stored, new Float32Array(data.length));
  return data instanceof Float32Array || data instanceof Float64Array ? data : undefined;
}
