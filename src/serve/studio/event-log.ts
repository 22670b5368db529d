import { type FSWatcher, watch } from "node:fs";
import { open } from "node:fs/promises";
import type { EventsPage, RunEvent } from "../api.ts";

/** Bytes read at once: a long run's history arrives in pages, not in one message of many megabytes. */
const pageBytes = 512 * 1024;

/**
 * Whole lines of an events.jsonl from byte `offset` on. A line that is still being written waits for the next call; a line
 * that is not JSON (torn by a crash and not yet repaired) is skipped.
 * A file that does not exist is empty: a run's folder is there before its first event.
 */
export async function readEvents(file: string, offset: number): Promise<EventsPage> {
  let handle: Awaited<ReturnType<typeof open>>;
  try {
    handle = await open(file, "r");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return { offset: 0, next: 0, events: [], more: false, ...(offset > 0 ? { reset: true } : {}) };
  }
  try {
    const { size } = await handle.stat();
    const reset = size < offset;
    const from = reset ? 0 : offset;
    let bytes = Buffer.alloc(0);
    let last = -1;
    // A single line longer than a page is read whole.
    for (let want = pageBytes; last < 0 && bytes.length < size - from; want *= 2) {
      const buffer = Buffer.alloc(Math.min(want, size - from));
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, from);
      const got = buffer.subarray(0, bytesRead);
      if (got.length <= bytes.length) break;
      bytes = got;
      last = bytes.lastIndexOf(10);
    }
    const next = from + last + 1;
    const events: RunEvent[] = [];
    for (const line of bytes.toString("utf8", 0, last + 1).split("\n")) {
      const event = parseLine(line);
      if (event !== undefined) events.push(event);
    }
    const more = last >= 0 && from + bytes.length < size;
    return { offset: from, next, events, more, ...(reset ? { reset } : {}) };
  } finally {
    await handle.close();
  }
}

/** The writer validates events against their schema; a reader only needs to know that it has one. */
function parseLine(line: string): RunEvent | undefined {
  if (line.trim() === "") return undefined;
  try {
    const value: unknown = JSON.parse(line);
    const isEvent = typeof value === "object" && value !== null && "type" in value && "t" in value;
    return isEvent ? (value as RunEvent) : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Waits for changes in a folder: `fs.watch` where it works, and a look each second in any case, because on network and
 * container file systems it may stay silent without an error.
 */
export class FolderWatch {
  readonly #listener: () => void;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(folder: string, listener: () => void, pollMs = 1000) {
    this.#listener = listener;
    try {
      this.#watcher = watch(folder, { persistent: false }, () => this.#listener());
      this.#watcher.on("error", () => this.#watcher?.close());
    } catch {
      // Not there yet, or the system has no watches left: the timer does it.
    }
    this.#timer = setInterval(() => this.#listener(), pollMs);
    this.#timer.unref();
  }

  close(): void {
    this.#watcher?.close();
    clearInterval(this.#timer);
  }
}

/**
 * Calls `onPage` with everything from `offset` on, then with what is appended, until `signal` is aborted. Pages come in
 * order and `onPage` is awaited, so that a slow reader holds the disk reads back and not memory.
 */
export async function followEvents(
  folder: string,
  offset: number,
  signal: AbortSignal,
  onPage: (page: EventsPage) => Promise<void>,
): Promise<void> {
  let wake = () => {};
  let changed = true;
  const poke = () => {
    changed = true;
    wake();
  };
  const folderWatch = new FolderWatch(folder, poke);
  signal.addEventListener("abort", poke, { once: true });
  try {
    let at = offset;
    while (!signal.aborted) {
      changed = false;
      const page = await readEvents(`${folder}/events.jsonl`, at);
      at = page.next;
      if (page.events.length > 0 || page.reset) await onPage(page);
      if (page.more) continue;
      if (!changed && !signal.aborted) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    folderWatch.close();
    signal.removeEventListener("abort", poke);
  }
}
