import { InputError } from "../tensor/errors.ts";
import { decodeUtf8 } from "./bytes.ts";

/** The fields of one protobuf message (wire format, proto2), by number. Of a field that is not repeated the last value counts. */
export class Fields {
  private readonly values = new Map<number, (number | Uint8Array)[]>();

  /** @throws InputError naming `place` when the bytes are no message */
  constructor(bytes: Uint8Array, place: string) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    const broken = (): InputError => new InputError(`${place}: not a SentencePiece model, or cut short at byte ${at}.`);
    const varint = (): number => {
      let value = 0;
      for (let scale = 1, i = 0; i < 10; i++, scale *= 128) {
        const byte = bytes[at++];
        if (byte === undefined) throw broken();
        value += (byte & 0x7f) * scale;
        if (byte < 0x80) return value;
      }
      throw broken();
    };
    while (at < bytes.length) {
      const tag = varint();
      const wire = tag % 8;
      const field = Math.floor(tag / 8);
      let value: number | Uint8Array;
      if (field === 0) throw broken();
      if (wire === 0) value = varint();
      else if (wire === 1 || wire === 5) {
        const width = wire === 1 ? 8 : 4;
        if (at + width > bytes.length) throw broken();
        value = wire === 1 ? view.getFloat64(at, true) : view.getFloat32(at, true);
        at += width;
      } else if (wire === 2) {
        const length = varint();
        if (at + length > bytes.length) throw broken();
        value = bytes.subarray(at, at + length);
        at += length;
      } else throw broken();
      const list = this.values.get(field);
      if (list === undefined) this.values.set(field, [value]);
      else list.push(value);
    }
  }

  /** Every value of a repeated message or string field. */
  messages(field: number): Uint8Array[] {
    return (this.values.get(field) ?? []).filter((value) => typeof value !== "number");
  }

  bytes(field: number): Uint8Array | undefined {
    return this.messages(field).at(-1);
  }

  text(field: number): string | undefined {
    const bytes = this.bytes(field);
    return bytes === undefined ? undefined : decodeUtf8(bytes);
  }

  /** An int32, enum or bool; negative numbers come as ten-byte varints. */
  number(field: number): number | undefined {
    const value = this.values.get(field)?.at(-1);
    return typeof value === "number" ? (value >= 2 ** 63 ? value - 2 ** 64 : value) : undefined;
  }

  float(field: number): number | undefined {
    const value = this.values.get(field)?.at(-1);
    return typeof value === "number" ? value : undefined;
  }
}
