import zlib from "node:zlib";
import { ReadError, type ReadLimits } from "../document.ts";
import type { Access } from "./access.ts";
import { type Budget, through } from "./unpack.ts";

/** One file of a ZIP archive. */
export interface ZipMember {
  readonly name: string;
  readonly size: number;
  readonly packed: number;
  readonly method: number;
  readonly encrypted: boolean;
  readonly crc: number;
  readonly offset: number;
}

const bad = (reason: string) => new ReadError("malformed", `Not a ZIP archive that can be read: ${reason}.`);

/**
 * The members of an archive, from its central directory (PKWARE APPNOTE 6.3.10, 4.3; with ZIP64). Folders are left out.
 * @throws ReadError when the directory is missing or damaged, or has more members than the limit
 */
export async function zipMembers(access: Access, limits: ReadLimits): Promise<ZipMember[]> {
  const tail = Math.min(access.size, 65_557);
  const end = view(await access.read(access.size - tail, access.size));
  let at = tail - 22;
  while (at >= 0 && end.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw bad("the directory at its end is missing, so it is cut off or something else");
  let count = end.getUint16(at + 10, true);
  let size = end.getUint32(at + 12, true);
  let offset = end.getUint32(at + 16, true);
  if (count === 0xffff || size === 0xffffffff || offset === 0xffffffff) {
    if (at < 20 || end.getUint32(at - 20, true) !== 0x07064b50) throw bad("its ZIP64 directory is missing");
    const place = Number(end.getBigUint64(at - 20 + 8, true));
    const record = view(await access.read(place, place + 56));
    if (record.getUint32(0, true) !== 0x06064b50) throw bad("its ZIP64 directory is damaged");
    count = Number(record.getBigUint64(32, true));
    size = Number(record.getBigUint64(40, true));
    offset = Number(record.getBigUint64(48, true));
  }
  if (count > limits.members)
    throw new ReadError("too-large", `It has ${count} members; the limit is ${limits.members}.`);
  if (size > limits.whole)
    throw new ReadError("too-large", `Its directory is larger than ${Math.round(limits.whole / 2 ** 20)} MB.`);
  const bytes = await access.read(offset, offset + size);
  const directory = view(bytes);
  const members: ZipMember[] = [];
  let here = 0;
  for (let i = 0; i < count; i++) {
    if (here + 46 > size || directory.getUint32(here, true) !== 0x02014b50) throw bad("its directory is damaged");
    const flags = directory.getUint16(here + 8, true);
    const nameLength = directory.getUint16(here + 28, true);
    const extraLength = directory.getUint16(here + 30, true);
    const nameBytes = bytes.subarray(here + 46, here + 46 + nameLength);
    const member = {
      name: nameOf(nameBytes, (flags & 0x800) !== 0),
      method: directory.getUint16(here + 10, true),
      crc: directory.getUint32(here + 16, true),
      packed: directory.getUint32(here + 20, true),
      size: directory.getUint32(here + 24, true),
      offset: directory.getUint32(here + 42, true),
      encrypted: (flags & 1) !== 0,
    };
    readZip64(directory, here + 46 + nameLength, extraLength, member);
    if (!member.name.endsWith("/")) members.push(member);
    here += 46 + nameLength + extraLength + directory.getUint16(here + 32, true);
  }
  return members;
}

const view = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function nameOf(bytes: Uint8Array, isUtf8: boolean): string {
  const attempts = isUtf8 ? ["utf-8"] : ["utf-8", "gb18030"];
  for (const encoding of attempts) {
    try {
      return new TextDecoder(encoding, { fatal: true }).decode(bytes).replaceAll("\\", "/");
    } catch {
      // The next one.
    }
  }
  return new TextDecoder("latin1").decode(bytes).replaceAll("\\", "/");
}

/** Sizes and offsets of 64 bits stand in the extra field, each only where its own field is full. */
function readZip64(
  directory: DataView,
  from: number,
  length: number,
  member: { size: number; packed: number; offset: number },
): void {
  let at = from;
  const end = from + length;
  while (at + 4 <= end && end <= directory.byteLength) {
    const id = directory.getUint16(at, true);
    const size = directory.getUint16(at + 2, true);
    if (id === 1) {
      let field = at + 4;
      for (const key of ["size", "packed", "offset"] as const) {
        if (member[key] !== 0xffffffff || field + 8 > end) continue;
        member[key] = Number(directory.getBigUint64(field, true));
        field += 8;
      }
    }
    at += 4 + size;
  }
}

/** The bytes of a member, checked against its size and CRC-32. */
export async function* readMember(access: Access, member: ZipMember, budget: Budget): AsyncGenerator<Uint8Array> {
  if (member.encrypted) throw new ReadError("encrypted", "It is encrypted with a password.");
  if (member.method !== 0 && member.method !== 8) {
    throw new ReadError(
      "unsupported",
      `It is packed with ZIP method ${member.method}; stored and deflated members are read.`,
    );
  }
  const local = view(await access.read(member.offset, member.offset + 30));
  if (local.getUint32(0, true) !== 0x04034b50) throw bad("a member is not where the directory says");
  const start = member.offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
  async function* packed() {
    for (let at = start; at < start + member.packed; at += 65_536)
      yield await access.read(at, Math.min(at + 65_536, start + member.packed));
  }
  let size = 0;
  let crc = 0;
  const check = (zlib as { crc32?: (data: Uint8Array, value?: number) => number }).crc32;
  const chunks =
    member.method === 8
      ? through(packed(), zlib.createInflateRaw({ chunkSize: 65_536 }), budget, "ZIP")
      : stored(packed(), budget);
  for await (const chunk of chunks) {
    size += chunk.length;
    if (size > member.size) throw new ReadError("bomb", "It unpacks to more than its archive says.");
    if (check !== undefined) crc = check(chunk, crc);
    yield chunk;
  }
  if (size !== member.size) throw bad(`a member has ${size} bytes where the directory says ${member.size}`);
  if (check !== undefined && crc >>> 0 !== member.crc) throw bad("a member's checksum is wrong");
}

async function* stored(chunks: AsyncIterable<Uint8Array>, budget: Budget): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    budget.in += chunk.length;
    budget.add(chunk.length);
    yield chunk;
  }
}
