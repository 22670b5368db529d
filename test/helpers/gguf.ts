/** A GGUF file without tensors. */
export function gguf(fields: Record<string, string | number | boolean | string[] | number[]>): Buffer {
  const parts: Buffer[] = [Buffer.from("GGUF")];
  const u32 = (n: number) => parts.push(Buffer.from(Uint32Array.of(n).buffer));
  const u64 = (n: number) => parts.push(Buffer.from(BigUint64Array.of(BigInt(n)).buffer));
  const string = (text: string) => {
    u64(Buffer.byteLength(text));
    parts.push(Buffer.from(text));
  };
  u32(3);
  u64(0);
  u64(Object.keys(fields).length);
  for (const [key, value] of Object.entries(fields)) {
    string(key);
    if (typeof value === "string") {
      u32(8);
      string(value);
    } else if (typeof value === "number") {
      u32(4);
      u32(value);
    } else if (typeof value === "boolean") {
      u32(7);
      parts.push(Buffer.of(Number(value)));
    } else {
      u32(9);
      const text = typeof value[0] === "string";
      u32(text ? 8 : 6);
      u64(value.length);
      for (const item of value) {
        if (typeof item === "string") string(item);
        else parts.push(Buffer.from(Float32Array.of(item).buffer));
      }
    }
  }
  return Buffer.concat(parts);
}
