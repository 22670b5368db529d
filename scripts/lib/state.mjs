// What set-up remembers between runs (build/setup.json): a hash of each step's inputs. Nothing is rebuilt while it agrees.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const stateFile = join(root, "build", "setup.json");
const lockFile = join(root, "build", "setup.lock");

/** Every file under `folder`, sorted; `skip(relativePath)` leaves a file or a whole folder out. */
export function filesUnder(folder, skip = () => false) {
  const found = [];
  const walk = (at) => {
    for (const entry of readdirSync(at, { withFileTypes: true })) {
      const path = join(at, entry.name);
      if (skip(relative(folder, path).split(sep).join("/"))) continue;
      if (entry.isDirectory()) walk(path);
      else if (entry.isFile()) found.push(path);
    }
  };
  if (existsSync(folder)) walk(folder);
  return found.sort();
}

/** One hash over the names and contents of files, and over extra strings. */
export function hashOf(files, extra = []) {
  const hash = createHash("sha256");
  for (const text of extra) hash.update(`${text}\n`);
  for (const file of files) {
    hash.update(`${relative(root, file)}\n`);
    hash.update(readFileSync(file));
  }
  return hash.digest("hex");
}

export function readState() {
  try {
    return JSON.parse(readFileSync(stateFile, "utf8"));
  } catch {
    return {}; // missing, or cut off by a crash: every step is checked again
  }
}

export function remember(key, value) {
  mkdirSync(dirname(stateFile), { recursive: true });
  const beside = `${stateFile}.${process.pid}`;
  writeFileSync(beside, `${JSON.stringify({ ...readState(), [key]: value }, null, 2)}\n`);
  renameSync(beside, stateFile);
}

const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
};

/**
 * Runs `work` while no other set-up of this checkout does (`npm start` and `npm test` in two terminals). A lock whose
 * process is gone is taken over.
 */
export async function withLock(work, onWait) {
  mkdirSync(dirname(lockFile), { recursive: true });
  for (let waited = false; ; ) {
    try {
      writeFileSync(lockFile, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      let holder = Number.NaN;
      let age = Number.POSITIVE_INFINITY;
      try {
        holder = Number(readFileSync(lockFile, "utf8"));
        age = Date.now() - statSync(lockFile).mtimeMs;
      } catch {
        continue; // released just now
      }
      // An empty file is a lock being written this instant, unless it stays empty.
      const stale = holder > 0 ? !alive(holder) : age > 2000;
      if (stale) {
        rmSync(lockFile, { force: true });
        continue;
      }
      if (!waited) onWait(holder);
      waited = true;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
  const release = () => rmSync(lockFile, { force: true });
  process.once("exit", release);
  try {
    return await work();
  } finally {
    process.removeListener("exit", release);
    release();
  }
}
