import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deserialize, serialize } from "node:v8";
import type { HostArray } from "../../../tensor/dtype.ts";
import type { ProgramStore, StoredProgram } from "../../program.ts";
import { type Sliced, whole } from "../../slices.ts";

/** Bytes that a folder of programs may take, and what is left of them once it is cleared out: those used last. */
const MOST_BYTES = 128 << 20;
const KEPT_BYTES = 96 << 20;
/** A file that was being written for so long belongs to a process that is gone. Milliseconds. */
const STALE = 3_600_000;
const MAGIC = "howdah program 1\n";
const DIGEST = 32;

/**
 * The user's folder for programs: HOWDAH_CACHE, or where the system keeps what can be made again. Undefined where HOWDAH_CACHE is `off` or
 * the user has no such folder.
 */
export function cacheFolder(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const { HOWDAH_CACHE: given, XDG_CACHE_HOME: xdg, LOCALAPPDATA: local } = environment;
  if (given === "off") return undefined;
  if (given) return given;
  const home = environment.HOME ?? homedir();
  if (process.platform === "win32") return local ? join(local, "howdah", "cache") : undefined;
  if (xdg?.startsWith("/")) return join(xdg, "howdah");
  if (!home.startsWith("/")) return undefined;
  return process.platform === "darwin" ? join(home, "Library", "Caches", "howdah") : join(home, ".cache", "howdah");
}

/** Where programs lie in it. */
export const programsFolder = (cache: string): string => join(cache, "programs");

/** A hash of the code that makes programs: all of `tensor` and `engine`, as it runs (sources or compiled). */
export function hashOfCode(): string {
  return whole(hashingCode());
}

/** As `hashOfCode`, to be done in slices. */
export function* hashingCode(): Sliced<string> {
  const engine = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
  const hash = createHash("sha256");
  for (const room of [join(dirname(engine), "tensor"), engine])
    for (const name of readdirSync(room, { recursive: true, encoding: "utf8" }).sort())
      if (/\.[cm]?[jt]s$/.test(name) && !name.endsWith(".d.ts")) {
        yield;
        const text = readFileSync(join(room, name));
        hash.update(`${name} ${text.byteLength}\n`).update(text);
      }
  return hash.digest("hex");
}

/**
 * Programs in files of a folder, one each, found by the hash of all that they depend on. A file is written beside its place and renamed, and
 * carries a hash of its own contents: whoever reads sees a whole program or none, however many write at once.
 * @param about what programs depend on beside the compiler's code: the kernels there are
 */
export class ProgramFiles implements ProgramStore {
  readonly #folder: string;
  readonly #about: () => Sliced<string>;
  #version: string | undefined;
  #swept = false;
  #writing: Promise<void> = Promise.resolve();

  constructor(folder: string, about: () => Sliced<string>) {
    this.#folder = folder;
    this.#about = about;
  }

  *digesting(parts: readonly (string | HostArray)[]): Sliced<string> {
    this.#version ??= `${MAGIC}${process.version}\n${yield* this.#about()}`;
    const hash = createHash("sha256").update(this.#version);
    for (const part of parts) {
      const bytes =
        typeof part === "string" ? Buffer.from(part) : new Uint8Array(part.buffer, part.byteOffset, part.byteLength);
      hash.update(`\n${bytes.byteLength}\n`).update(bytes);
    }
    return hash.digest("hex");
  }

  load(key: string): StoredProgram | undefined {
    const path = this.#path(key);
    try {
      const program = decode(readFileSync(path), key);
      // When it was used last, for whoever clears out.
      if (program) utimes(path, new Date(), new Date()).catch(() => {});
      return program;
    } catch {
      return undefined;
    }
  }

  save(key: string, program: StoredProgram): void {
    this.#writing = this.#writing.then(() => this.#write(key, program)).catch(() => {});
  }

  /** After everything that was to be saved is, or could not be. */
  settled(): Promise<void> {
    return this.#writing;
  }

  #path(key: string): string {
    return join(this.#folder, `${key}.program`);
  }

  async #write(key: string, program: StoredProgram): Promise<void> {
    // Not in the call that compiled it.
    await new Promise((resolve) => setImmediate(resolve));
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const beside = `${this.#path(key)}.${process.pid}-${randomBytes(6).toString("hex")}`;
    try {
      await writeFile(beside, encode(program, key), { mode: 0o600 });
      await rename(beside, this.#path(key));
    } catch (error) {
      await rm(beside, { force: true });
      throw error;
    }
    if (this.#swept) return;
    this.#swept = true;
    await sweep(this.#folder);
  }
}

/** What a folder of programs holds; nothing if there is none. */
export function programsIn(folder: string): { readonly count: number; readonly bytes: number } {
  if (!existsSync(folder)) return { count: 0, bytes: 0 };
  const sizes = readdirSync(folder)
    .filter((name) => name.endsWith(".program"))
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0);
  return { count: sizes.length, bytes: sizes.reduce((a, b) => a + b, 0) };
}

/** Magic, hash of the rest, key, program. */
function encode(program: StoredProgram, key: string): Buffer {
  const body = Buffer.concat([Buffer.from(`${key}\n`), serialize(program)]);
  return Buffer.concat([Buffer.from(MAGIC), createHash("sha256").update(body).digest(), body]);
}

function decode(file: Buffer, key: string): StoredProgram | undefined {
  const start = MAGIC.length + DIGEST;
  if (file.length < start + key.length + 1 || file.toString("latin1", 0, MAGIC.length) !== MAGIC) return undefined;
  const body = file.subarray(start);
  if (!createHash("sha256").update(body).digest().equals(file.subarray(MAGIC.length, start))) return undefined;
  if (body.toString("latin1", 0, key.length) !== key) return undefined;
  return deserialize(body.subarray(key.length + 1)) as StoredProgram;
}

/** Removes what broken-off writes left, and the programs not used for longest where they are too many. */
export async function sweep(
  folder: string,
  most: number = MOST_BYTES,
  kept: number = Math.min(KEPT_BYTES, most),
): Promise<void> {
  const files: { path: string; bytes: number; used: number }[] = [];
  for (const name of await readdir(folder)) {
    if (!name.includes(".program")) continue;
    const path = join(folder, name);
    const found = await stat(path).catch(() => undefined);
    if (!found?.isFile()) continue;
    if (name.endsWith(".program")) files.push({ path, bytes: found.size, used: found.mtimeMs });
    else if (Date.now() - found.mtimeMs > STALE) await rm(path, { force: true });
  }
  let total = files.reduce((sum, f) => sum + f.bytes, 0);
  if (total <= most) return;
  for (const { path, bytes } of files.sort((a, b) => a.used - b.used)) {
    if (total <= kept) break;
    await rm(path, { force: true });
    total -= bytes;
  }
}
