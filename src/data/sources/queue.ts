import type { Chunks } from "./access.ts";

/** A stream of bytes from which lines and counted bytes are taken in turn, holding no more than it must. */
export class ByteQueue {
  readonly #iterator: AsyncIterator<Uint8Array>;
  #buffer: Uint8Array = new Uint8Array(0);
  #at = 0;
  #ended = false;

  constructor(chunks: Chunks) {
    this.#iterator = chunks[Symbol.asyncIterator]();
  }

  async #more(): Promise<boolean> {
    if (this.#ended) return false;
    const { value, done } = await this.#iterator.next();
    if (done === true) {
      this.#ended = true;
      return false;
    }
    const rest = this.#buffer.subarray(this.#at);
    this.#buffer = rest.length === 0 ? value : Buffer.concat([rest, value]);
    this.#at = 0;
    return true;
  }

  /** A line without its end (LF or CRLF), as Latin-1; undefined at the end of the stream. A line of more than `limit` bytes is cut there. */
  async line(limit = 65_536): Promise<string | undefined> {
    let from = this.#at;
    for (;;) {
      const end = this.#buffer.indexOf(10, from);
      if (end !== -1) return this.#take(end, end + 1);
      if (this.#buffer.length - this.#at > limit) return this.#take(this.#buffer.length, this.#buffer.length);
      const seen = this.#buffer.length - this.#at;
      if (!(await this.#more()))
        return this.#at < this.#buffer.length ? this.#take(this.#buffer.length, this.#buffer.length) : undefined;
      from = this.#at + seen;
    }
  }

  #take(end: number, next: number): string {
    const line = Buffer.from(this.#buffer.buffer, this.#buffer.byteOffset + this.#at, end - this.#at).toString(
      "latin1",
    );
    this.#at = next;
    return line.endsWith("\r") ? line.slice(0, -1) : line;
  }

  /** The next `count` bytes, or fewer at the end of the stream. */
  async read(count: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    let left = count;
    while (left > 0) {
      if (this.#at === this.#buffer.length && !(await this.#more())) break;
      const part = this.#buffer.subarray(this.#at, this.#at + left);
      parts.push(part);
      this.#at += part.length;
      left -= part.length;
    }
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** Leaves out `count` bytes without holding them. Returns how many there were. */
  async skip(count: number): Promise<number> {
    let left = count;
    while (left > 0) {
      if (this.#at === this.#buffer.length && !(await this.#more())) break;
      const step = Math.min(left, this.#buffer.length - this.#at);
      this.#at += step;
      left -= step;
    }
    return count - left;
  }

  async close(): Promise<void> {
    await this.#iterator.return?.();
  }
}
