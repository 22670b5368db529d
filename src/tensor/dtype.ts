/** The element types of the language. `f64` exists on the reference backend only, for gradient checks. */
export const dtypes = ["f32", "bf16", "f16", "i32", "u8", "i8", "bool", "f64"] as const;
export type DType = (typeof dtypes)[number];
export type FloatDType = "f32" | "bf16" | "f16" | "f64";

/** How a dtype looks in host memory. bf16 and f16 travel as their 16 bits, bool as 0 or 1 in a byte. */
export interface HostArrays {
  f32: Float32Array;
  bf16: Uint16Array;
  f16: Uint16Array;
  i32: Int32Array;
  u8: Uint8Array;
  i8: Int8Array;
  bool: Uint8Array;
  f64: Float64Array;
}
export type HostArray = HostArrays[DType];

const bytes: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1, i8: 1, bool: 1, f64: 8 };

export function bytesPerElement(dtype: DType): number {
  return bytes[dtype];
}

export function isFloat(dtype: DType): dtype is FloatDType {
  return dtype === "f32" || dtype === "bf16" || dtype === "f16" || dtype === "f64";
}

export function isInteger(dtype: DType): boolean {
  return dtype === "i32" || dtype === "u8" || dtype === "i8";
}

/** A zeroed host array for `size` elements. */
export function hostArray<D extends DType>(dtype: D, size: number): HostArrays[D];
export function hostArray(dtype: DType, size: number): HostArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(size);
    case "bf16":
    case "f16":
      return new Uint16Array(size);
    case "i32":
      return new Int32Array(size);
    case "u8":
    case "bool":
      return new Uint8Array(size);
    case "i8":
      return new Int8Array(size);
    case "f64":
      return new Float64Array(size);
  }
}

const word = new DataView(new ArrayBuffer(4));

/** The 16 bits of the bfloat16 nearest to `x`, ties to even. */
export function toBfloat16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBfloat16(bits: number): number {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

/** The 16 bits of the IEEE half nearest to `x`, ties to even; overflow goes to infinity. */
export function toFloat16(x: number): number {
  word.setFloat32(0, x);
  const bits = word.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return sign | 0x7e00;
  if (rest >= 0x47800000) return sign | 0x7c00;
  if (rest < 0x38800000) {
    // Subnormal half: the value is a multiple of 2^-24.
    const scaled = Math.abs(x) * 2 ** 24;
    const floor = Math.floor(scaled);
    const fraction = scaled - floor;
    return sign | (fraction > 0.5 || (fraction === 0.5 && floor & 1) ? floor + 1 : floor);
  }
  const half = (rest - 0x38000000) >>> 13;
  const tail = rest & 0x1fff;
  return sign | (tail > 0x1000 || (tail === 0x1000 && half & 1) ? half + 1 : half);
}

export function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}
