import type { GeneratingHost } from "./host.ts";

/** The models there are now. They come and go while they are served: a training job adds one with each stage. */
export class Registry {
  readonly #hosts = new Map<string, GeneratingHost>();
  readonly #listeners = new Set<() => void>();
  readonly #closing = new Set<Promise<void>>();

  list(): readonly GeneratingHost[] {
    return [...this.#hosts.values()];
  }

  get(id: string): GeneratingHost | undefined {
    return this.#hosts.get(id);
  }

  /** Offers a model. One with the same id is replaced in its place: its replies under way go on to their end, then it is closed. */
  add(host: GeneratingHost): void {
    const before = this.#hosts.get(host.id);
    this.#hosts.set(host.id, host);
    if (before && before !== host) this.#retire(before);
    this.#changed();
  }

  /** @returns whether there was one */
  remove(id: string): boolean {
    const host = this.#hosts.get(id);
    if (!host) return false;
    this.#hosts.delete(id);
    this.#retire(host);
    this.#changed();
    return true;
  }

  /** Calls `listener` after each change; the result stops that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Closes every model, those too that were replaced and still write. */
  async close(): Promise<void> {
    for (const id of [...this.#hosts.keys()]) this.remove(id);
    await Promise.all(this.#closing);
  }

  #retire(host: GeneratingHost): void {
    const closed = host.close().finally(() => this.#closing.delete(closed));
    this.#closing.add(closed);
  }

  #changed(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
