import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { explainWrite } from "../../runs/atomic.ts";

/** A file that is written beside its name and gets it when it is whole. */
export class PartFile {
  readonly path: string;
  readonly #part: string;
  readonly #file: number;
  #buffer: Buffer[] = [];
  #size = 0;
  #open = true;

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
    try {
      for (let at = 0; at < all.length; ) at += writeSync(this.#file, all, at);
    } catch (error) {
      throw explainWrite(
        error,
        this.path,
        "What was finished before is kept; make room and run the same command again.",
      );
    }
    this.#buffer = [];
    this.#size = 0;
  }
  finish(): void {
    this.#flush();
    fsyncSync(this.#file);
    closeSync(this.#file);
    this.#open = false;
    renameSync(this.#part, this.path);
  }
  /** Takes it away, unless it was finished. */
  [Symbol.dispose](): void {
    if (!this.#open) return;
    closeSync(this.#file);
    this.#open = false;
    rmSync(this.#part, { force: true });
  }
}
