import { randomBytes } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { open, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { HowdahError } from "../tensor/errors.ts";

/** The disk is full or a write failed; what was there before is untouched. */
export class DiskError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("disk", message, options);
  }
}

/** 1.5 GB, 12 MB: powers of 1000, as disks are sold. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** Free bytes on the file system that holds `path`, or its nearest parent that exists. */
export function freeBytes(path: string): number {
  for (let at = path; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = statfsSync(at);
      return bavail * bsize;
    } catch (error) {
      if (codeOf(error) !== "ENOENT" || dirname(at) === at) throw error;
    }
  }
}

/**
 * Checked before a job starts, so that it does not die hours later.
 * @param bytes what the job will write at most
 * @throws DiskError if the file system of `path` has less
 */
export function requireSpace(path: string, bytes: number, what: string, free: number = freeBytes(path)): void {
  if (free >= bytes) return;
  throw new DiskError(
    `${what} needs ${formatBytes(bytes)} in ${path}, and ${formatBytes(free)} are free: make room, or choose another folder.`,
  );
}

/**
 * Makes a folder that results are to go to, and sees that files can be made in it, before the work that gives them.
 * @throws DiskError where a file stands in the way, or permission or the file system denies it
 */
export function requireFolder(path: string): void {
  try {
    makeFolder(path);
    accessSync(path, constants.W_OK);
  } catch (error) {
    throw explainWrite(error, path, "Choose another place.");
  }
}

export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
}

/** Explains a failed write in a person's words; other errors pass through. */
export function explainWrite(error: unknown, path: string, kept: string): unknown {
  const reasons: Record<string, string> = {
    ENOSPC: "the disk is full",
    EDQUOT: "the disk quota is used up",
    EROFS: "the file system is read-only",
    EACCES: "permission is denied",
    EPERM: "permission is denied",
    EFBIG: "the file is too large for this file system",
    EIO: "the disk reports an error",
  };
  const reason = reasons[codeOf(error) ?? ""];
  return reason === undefined
    ? error
    : new DiskError(`${path} could not be written: ${reason}. ${kept}`, { cause: error });
}

let serial = 0;
/** Tells this process from an earlier one with the same id: in a container the same ids come back. */
const life = randomBytes(4).toString("hex");
/** A name beside `path`, on the same file system, that no other process uses. Starts with a dot: never taken for a result. */
function beside(path: string): string {
  return join(dirname(path), `.${basename(path)}.${process.pid}.${life}${serial++}.partial`);
}
const leftover = /^\..+\.(\d+)\.([0-9a-f]{8})\d+\.partial$/;

/** Makes a rename in `folder` survive a power cut. Windows cannot open folders, and needs no such call. */
function syncFolder(folder: string): void {
  if (process.platform === "win32") return;
  const handle = openSync(folder, "r");
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/**
 * Makes a folder and the folders it stands in, where they are missing. Not with Node's `recursive`, which never returns where a file system
 * answers that there is no such folder to one whose parent is there, as Linux's /proc does.
 * @throws DiskError where a file stands in the way, or where no folder can be made
 */
export function makeFolder(path: string): void {
  const there = statOf(path);
  if (there?.isDirectory()) return;
  const parent = dirname(path);
  if (there !== undefined) throw new DiskError(`${path} is a file, where a folder is to be: choose another place.`);
  if (parent !== path) makeFolder(parent);
  try {
    mkdirSync(path);
  } catch (error) {
    // Another process may have been faster.
    if (codeOf(error) === "EEXIST" && statOf(path)?.isDirectory()) return;
    if (codeOf(error) === "ENOENT" || codeOf(error) === "EEXIST") {
      throw new DiskError(`${path}: no folder of this name can be made in ${parent}. Choose another place.`, {
        cause: error,
      });
    }
    throw error;
  }
}

/** What is at `path`; undefined for nothing, and for what would be inside a file. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch (error) {
    if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
    throw error;
  }
}

/** @param position in the file; default where the last write ended */
export function writeAll(handle: number, data: Uint8Array, position?: number): void {
  for (let at = 0; at < data.length; )
    at += writeSync(handle, data, at, data.length - at, position === undefined ? undefined : position + at);
}

/**
 * Reads until `into` is full or the file ends.
 * @param position in the file; default where the last read ended
 * @returns how many bytes were read
 */
export function readFull(handle: number, into: Uint8Array, position?: number): number {
  let at = 0;
  while (at < into.length) {
    const got = readSync(handle, into, at, into.length - at, position === undefined ? null : position + at);
    if (got === 0) break;
    at += got;
  }
  return at;
}

/**
 * Writes a file so that at any instant, power cuts included, `path` holds either all of the old or all of the new:
 * written beside, flushed, renamed.
 * @throws DiskError naming the reason; the old file is then intact
 */
export function writeFileAtomic(path: string, data: string | Uint8Array): void {
  const partial = beside(path);
  try {
    makeFolder(dirname(path));
    const handle = openSync(partial, "wx");
    try {
      writeAll(handle, typeof data === "string" ? Buffer.from(data) : data);
      fsyncSync(handle);
    } finally {
      closeSync(handle);
    }
    renameSync(partial, path);
    syncFolder(dirname(path));
  } catch (error) {
    discard(partial);
    throw explainWrite(error, path, "What was there before is unchanged.");
  }
}

/**
 * Makes a folder appear all at once: `fill` writes into a folder beside it, every file is flushed, and a rename puts
 * it in place. An older folder at `path` is replaced.
 * @throws DiskError naming the reason; the old folder is then intact
 */
export async function writeFolderAtomic(path: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const partial = beside(path);
  try {
    makeFolder(partial);
    await fill(partial);
    const entries = await readdir(partial, { recursive: true, withFileTypes: true });
    for (const entry of entries) {
      const at = join(entry.parentPath, entry.name);
      if (entry.isDirectory()) {
        syncFolder(at);
      } else if (entry.isFile()) {
        const handle = await open(at, "r+");
        try {
          await handle.sync();
        } finally {
          await handle.close();
        }
      }
    }
    syncFolder(partial);
    replaceFolder(partial, path);
    syncFolder(dirname(path));
  } catch (error) {
    discard(partial);
    throw explainWrite(error, path, "What was saved before is unchanged.");
  }
}

/** Removes what was begun. Why it could not be finished matters, not whether there was anything to remove. */
export function discard(partial: string): void {
  try {
    rmSync(partial, { recursive: true, force: true });
  } catch {
    // Inside what is no folder: nothing was begun.
  }
}

/**
 * A folder cannot be renamed onto one that holds files, so the old one steps aside first. A kill between the two renames
 * loses `to`: callers that must not lose anything give each version its own name, as checkpoints do.
 */
function replaceFolder(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!["ENOTEMPTY", "EEXIST", "EPERM"].includes(codeOf(error) ?? "")) throw error;
    const aside = beside(to);
    renameSync(to, aside);
    renameSync(from, to);
    rmSync(aside, { recursive: true });
  }
}

/** Removes what writers that were killed left behind in `folder`; those of living processes stay. */
export async function removeLeftovers(folder: string): Promise<void> {
  const entries = await readdir(folder).catch(() => []);
  for (const name of entries) {
    const [, pid, writer] = leftover.exec(name) ?? [];
    if (pid === undefined || writer === life) continue;
    if (Number(pid) === process.pid || !isAlive(Number(pid)))
      rmSync(join(folder, name), { recursive: true, force: true });
  }
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}
