import { createHash } from "node:crypto";
import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { explainWrite, writeAll } from "../../runs/atomic.ts";

const KEPT = "What was finished before is kept; make room and run the same command again.";

/** A file that is written beside its name and gets it when it is whole. */
export class PartFile {
  readonly path: string;
  readonly #part: string;
  readonly #file: number;
  #buffer: Buffer[] = [];
  #size = 0;
  #open = true;
  readonly #hash = createHash("sha256");

  constructor(path: string) {
    this.path = path;
    this.#part = `${path}.${process.pid}.part`;
    this.#file = openSync(this.#part, "w");
  }
  write(data: string | Uint8Array): void {
    const bytes = typeof data === "string" ? Buffer.from(data) : Buffer.from(data);
    this.#buffer.push(bytes);
    this.#size += bytes.length;
    if (this.#size > 2 ** 20) this.#flush();
  }
  #flush(): void {
    const all = Buffer.concat(this.#buffer);
    this.#hash.update(all);
    try {
      writeAll(this.#file, all);
    } catch (error) {
      throw explainWrite(error, this.path, KEPT);
    }
    this.#buffer = [];
    this.#size = 0;
  }
  /** @returns the SHA-256 of what is in it: its first 32 hexadecimal digits */
  finish(): string {
    this.#flush();
    try {
      fsyncSync(this.#file);
    } catch (error) {
      throw explainWrite(error, this.path, KEPT);
    }
    closeSync(this.#file);
    this.#open = false;
    renameSync(this.#part, this.path);
    return this.#hash.digest("hex").slice(0, 32);
  }
  /** Takes it away, unless it was finished. */
  [Symbol.dispose](): void {
    if (!this.#open) return;
    closeSync(this.#file);
    this.#open = false;
    rmSync(this.#part, { force: true });
  }
}
