import {
  closeSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { HowdahError } from "../tensor/errors.ts";
import { codeOf, isAlive } from "./atomic.ts";

/** Another process is using the run. */
export class LockError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("locked", message, options);
  }
}

interface Holder {
  readonly pid: number;
  readonly host: string;
  /** When the process began, in the kernel's words: tells it from a later one with the same id. Linux only. */
  readonly began: string | undefined;
}

const heartbeat = 10_000;
/** A lock taken on another machine (a shared folder, an earlier container) counts as abandoned after this silence. */
const silence = 60_000;

function beganAt(pid: number): string | undefined {
  try {
    // Field 22 of /proc/PID/stat; the second field, the program's name, may itself hold spaces and parentheses.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined; // not Linux, or the process is gone
  }
}

function readHolder(path: string): { holder: Holder | undefined; text: string; age: number } | undefined {
  try {
    const text = readFileSync(path, "utf8");
    const age = Date.now() - statSync(path).mtimeMs;
    try {
      return { holder: JSON.parse(text) as Holder, text, age };
    } catch {
      return { holder: undefined, text, age };
    }
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function isLive(path: string, { holder, age }: { holder: Holder | undefined; age: number }): boolean {
  // Half a lock: being written this instant, or by a process that was killed in it.
  if (holder === undefined) return age < 2000;
  if (holder.host !== hostname()) return age < silence;
  if (holder.began !== undefined) return holder.began === beganAt(holder.pid);
  return holder.pid === process.pid ? held.has(path) : isAlive(holder.pid);
}

/** On a full disk a file can be made and not written: such a half lock is taken away again. */
function createLock(path: string, text: string): void {
  const file = openSync(path, "wx");
  try {
    writeFileSync(file, text);
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
}

/** Locks of this process, for systems that do not say when a process began. */
const held = new Set<string>();

/** The process that holds the lock at `path`, if it is alive. */
export function lockHolder(path: string): { readonly pid: number; readonly host: string } | undefined {
  const found = readHolder(path);
  return found?.holder !== undefined && isLive(path, found) ? found.holder : undefined;
}

/**
 * Takes the lock file at `path` for this process until `release()`, or until the process is gone: a lock whose process
 * has died is taken over.
 * @throws LockError naming the process that holds it
 */
export function acquireLock(path: string, what: string): { release(): void } {
  const text = JSON.stringify({ pid: process.pid, host: hostname(), began: beganAt(process.pid) } satisfies Holder);
  for (let tries = 0; ; tries++) {
    try {
      createLock(path, text);
      break;
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    }
    const found = readHolder(path);
    if (found === undefined) continue; // released just now
    if (isLive(path, found) || tries > 10) {
      const { pid, host } = found.holder ?? { pid: "unknown", host: hostname() };
      const where = host === hostname() ? "" : ` on ${host}`;
      throw new LockError(
        `${what} is in use by process ${pid}${where}: wait for it or stop it. If no such process runs, delete ${path}.`,
      );
    }
    // Take the dead lock away under another name, so that of two processes which saw it only one goes on with it.
    const aside = `${path}.${process.pid}.stale`;
    try {
      renameSync(path, aside);
    } catch (error) {
      if (codeOf(error) === "ENOENT") continue;
      throw error;
    }
    if (readFileSync(aside, "utf8") !== found.text) {
      // In between another process had taken over: give it its lock back.
      try {
        linkSync(aside, path);
      } catch (error) {
        if (codeOf(error) !== "EEXIST") throw error;
      }
    }
    rmSync(aside, { force: true });
  }
  held.add(path);
  const beat = setInterval(() => {
    try {
      utimesSync(path, new Date(), new Date());
    } catch {
      // The folder was removed under a running job; the next write will say so.
    }
  }, heartbeat);
  beat.unref();
  let released = false;
  return {
    release() {
      if (released) return;
      released = true;
      clearInterval(beat);
      rmSync(path, { force: true });
      held.delete(path);
    },
  };
}
