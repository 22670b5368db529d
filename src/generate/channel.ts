import type { ReplyChunk } from "./types.ts";

/** From the batch, which does not wait, to one reader, who may be slow: what was not read yet is joined into one chunk. */
export class ReplyChannel {
  #text = "";
  #tokens: number[] = [];
  #finish: "stop" | "length" | undefined;
  #failure: { readonly reason: unknown } | undefined;
  #wake: (() => void) | undefined;
  #cached: number | undefined;

  /** @param cached tokens of the prompt that need not be read */
  begin(cached: number): void {
    this.#cached = cached;
  }

  push(text: string, token: number, finish?: "stop" | "length"): void {
    this.#text += text;
    this.#tokens.push(token);
    if (finish) this.#finish = finish;
    this.#wake?.();
  }

  /** Ends the reply with an error; what was not read yet is lost. */
  fail(reason: unknown): void {
    if (this.#finish) return;
    this.#failure ??= { reason };
    this.#wake?.();
  }

  /** The next chunk; waits for at least one token. */
  async take(): Promise<ReplyChunk> {
    while (this.#tokens.length === 0 && !this.#failure)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    this.#wake = undefined;
    if (this.#failure) throw this.#failure.reason;
    const chunk: ReplyChunk = {
      text: this.#text,
      tokens: this.#tokens,
      ...(this.#finish ? { finish: this.#finish } : {}),
      ...(this.#cached ? { cached: this.#cached } : {}),
    };
    this.#cached = undefined;
    this.#text = "";
    this.#tokens = [];
    return chunk;
  }
}
