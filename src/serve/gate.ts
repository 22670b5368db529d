import { ApiError } from "./errors.ts";

interface Waiting {
  readonly count: number;
  readonly admit: () => void;
}

/**
 * Admission in order of arrival: at most `slots` continuations run, at most `queue` requests wait, one more is refused
 * with 429. A request that asks for several continuations takes that many slots at once.
 */
export class Gate {
  readonly slots: number;
  readonly queue: number;
  #free: number;
  readonly #waiting: Waiting[] = [];
  readonly #idle: (() => void)[] = [];
  /** Mean seconds that a request held its slots, for Retry-After; forgets slowly. */
  #meanSeconds = 1;

  constructor(slots: number, queue: number) {
    this.slots = slots;
    this.queue = queue;
    this.#free = slots;
  }

  get running(): number {
    return this.slots - this.#free;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /**
   * Waits for `count` slots (1 <= count <= slots).
   * @returns gives them back; calling it twice does nothing
   * @throws ApiError 429 when the queue is full, or the signal's reason when it is aborted while waiting
   */
  async enter(count: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.#waiting.length > 0 || this.#free < count) await this.#wait(count, signal);
    else this.#free -= count;
    const began = performance.now();
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#meanSeconds += 0.2 * ((performance.now() - began) / 1000 - this.#meanSeconds);
      this.#free += count;
      this.#admit();
    };
  }

  /** Resolves when nothing runs and nothing waits. */
  idle(): Promise<void> {
    if (this.running === 0 && this.waiting === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #wait(count: number, signal: AbortSignal): Promise<void> {
    if (this.#waiting.length >= this.queue) {
      const seconds = Math.max(1, Math.ceil((this.#meanSeconds * (this.#waiting.length + 1)) / this.slots));
      const message = `The server is busy: ${this.running} continuations run and ${this.#waiting.length} requests wait. Try again in ${seconds} s.`;
      throw new ApiError(429, "rate_limit_exceeded", message, { headers: { "Retry-After": String(seconds) } });
    }
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1);
        this.#admit(); // the one behind may need fewer slots
        reject(signal.reason);
      };
      const entry: Waiting = {
        count,
        admit: () => {
          signal.removeEventListener("abort", leave);
          this.#free -= count;
          resolve();
        },
      };
      signal.addEventListener("abort", leave, { once: true });
      this.#waiting.push(entry);
    });
  }

  /** Lets in from the front of the queue only: a wide request is not overtaken for ever by narrow ones. */
  #admit(): void {
    for (let next = this.#waiting[0]; next !== undefined && next.count <= this.#free; next = this.#waiting[0]) {
      this.#waiting.shift();
      next.admit();
    }
    if (this.running === 0 && this.waiting === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }
}
