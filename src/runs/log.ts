import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import { codeOf, explainWrite, makeFolder, readFull, writeAll } from "./atomic.ts";
import { type Event, eventSchema } from "./events.ts";
import { parse, stringify } from "./json.ts";

const lineFeed = 10;

/** The bytes from `from` to the end of an open file. */
function readFrom(handle: number, from: number): Buffer {
  const size = fstatSync(handle).size;
  const buffer = Buffer.allocUnsafe(Math.max(0, size - from));
  return buffer.subarray(0, readFull(handle, buffer, from));
}

/**
 * Where the whole lines of the file end. A process killed in the middle of a write leaves half a line; a power cut may
 * leave a last line of zeros.
 */
function endOfWholeLines(handle: number): number {
  const size = fstatSync(handle).size;
  const window = 1 << 16;
  for (let from = Math.max(0, size - window); ; from = Math.max(0, from - window)) {
    const bytes = readFrom(handle, from);
    const last = bytes.lastIndexOf(lineFeed);
    if (last >= 0 && last === bytes.length - 1) {
      const before = bytes.lastIndexOf(lineFeed, last - 1);
      if (before >= 0 || from === 0) {
        try {
          parse(bytes.toString("utf8", before + 1, last));
          return from + last + 1;
        } catch {
          return from + before + 1;
        }
      }
    } else if (last >= 0) {
      return from + last + 1;
    }
    if (from === 0) return 0;
  }
}

/** The append-only event file of a run. Opening it repairs a torn last line. */
export class EventLog {
  readonly path: string;
  #handle: number | undefined;
  /** Bytes that a crash had left after the last whole line. */
  readonly repaired: number;

  constructor(path: string) {
    this.path = path;
    makeFolder(dirname(path));
    this.repaired = 0;
    if (existsSync(path)) {
      const old = openSync(path, "r+");
      try {
        const end = endOfWholeLines(old);
        const torn = fstatSync(old).size - end;
        if (torn > 0) {
          ftruncateSync(old, end);
          fsyncSync(old);
          this.repaired = torn;
        }
      } finally {
        closeSync(old);
      }
    }
    this.#handle = openSync(path, "a");
  }

  /**
   * Writes one event as one line. Events of the run's and its stages' state are on the disk when this returns; the others
   * survive the end of the process, and reach the disk with the next of those.
   * @throws DiskError if the disk is full
   */
  readonly append = (event: Event): void => {
    if (this.#handle === undefined) return;
    try {
      const line = Buffer.from(`${stringify(event)}\n`);
      const before = fstatSync(this.#handle).size;
      try {
        writeAll(this.#handle, line);
      } catch (error) {
        // Half a line on a full disk must not spoil the next one.
        try {
          ftruncateSync(this.#handle, before);
        } catch {
          // The error of the write says more; opening the file again repairs the line.
        }
        throw error;
      }
      if (event.type === "run" || event.type === "stage") fsyncSync(this.#handle);
    } catch (error) {
      throw explainWrite(error, this.path, "The events before are kept.");
    }
  };

  close(): void {
    if (this.#handle === undefined) return;
    fsyncSync(this.#handle);
    closeSync(this.#handle);
    this.#handle = undefined;
  }
}

export interface ReadEvents {
  readonly events: Event[];
  /** The byte offset to go on from: after the last whole line. */
  readonly offset: number;
}

/**
 * Reads the whole lines of an event file from a byte offset; half a line at the end is left for the next call. A file
 * that does not exist yet has no events.
 * @throws InputError naming file and byte offset if a line is not an event
 */
export function readEvents(path: string, from = 0): ReadEvents {
  let handle: number;
  try {
    handle = openSync(path, "r");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return { events: [], offset: from };
    throw error;
  }
  try {
    const bytes = readFrom(handle, from);
    const events: Event[] = [];
    let start = 0;
    for (let end = bytes.indexOf(lineFeed); end >= 0; end = bytes.indexOf(lineFeed, start)) {
      if (end > start) events.push(parseEvent(bytes.toString("utf8", start, end), path, from + start));
      start = end + 1;
    }
    return { events, offset: from + start };
  } finally {
    closeSync(handle);
  }
}

function parseEvent(line: string, path: string, at: number): Event {
  let value: unknown;
  try {
    value = parse(line);
  } catch (error) {
    throw new InputError(`${path}: the line at byte ${at} is not JSON: ${line.slice(0, 80)}`, { cause: error });
  }
  const result = eventSchema.safeParse(value);
  if (result.success) return result.data;
  throw new InputError(`${path}: the line at byte ${at} is not an event of a run: ${z.prettifyError(result.error)}`);
}
