import type { ChatTurn, ModelHost, ModelRegistry, ReplyChunk, ReplyRequest } from "../../src/serve/host.ts";
import { InputError } from "../../src/tensor/errors.ts";

/** What the last calls of a scripted model were, for tests to look at. */
export interface Seen {
  chats: (readonly ChatTurn[])[];
  requests: ReplyRequest[];
  running: number;
  mostRunning: number;
  aborted: number;
}

/**
 * A model whose tokens are Unicode characters and whose replies are written in advance. It honours `maxTokens`, `stop`,
 * `seed` (which reply of the list) and the abort signal as a real host must, and waits `delayMs` before each token.
 */
export function scriptedModel(
  id: string,
  replies: readonly string[],
  options: { delayMs?: number; contextLength?: number; description?: string; failAfter?: number } = {},
): ModelHost & { seen: Seen } {
  const seen: Seen = { chats: [], requests: [], running: 0, mostRunning: 0, aborted: 0 };
  const encode = (text: string) => Array.from(text, (character) => character.codePointAt(0) ?? 0);
  return {
    id,
    created: 1_700_000_000,
    contextLength: options.contextLength ?? 4096,
    ...(options.description === undefined ? {} : { description: options.description }),
    seen,
    encode,
    encodeChat(messages) {
      seen.chats.push(messages);
      if (messages.some((message) => message.name === "Nobody")) throw new InputError("Nobody is not a speaker.");
      return messages.flatMap((message) => encode(`${message.name ?? message.role}: ${message.content}\n`));
    },
    async *generate(request, signal): AsyncGenerator<ReplyChunk> {
      seen.requests.push(request);
      seen.running++;
      seen.mostRunning = Math.max(seen.mostRunning, seen.running);
      try {
        const full = replies[(request.seed ?? 0) % replies.length] ?? "";
        const ends = (request.stop ?? []).map((stop) => full.indexOf(stop)).filter((at) => at >= 0);
        const text = Array.from(ends.length > 0 ? full.slice(0, Math.min(...ends)) : full);
        for (let i = 0; ; i++) {
          await wait(options.delayMs ?? 0, signal);
          if (options.failAfter === i) throw new Error("the scripted model broke: secret path");
          if (i === request.maxTokens) return yield { text: "", tokens: [], finish: "length" };
          if (i === text.length) return yield { text: "", tokens: [0], finish: "stop" };
          const token = text[i] ?? "";
          yield { text: token, tokens: encode(token) };
        }
      } catch (error) {
        if (signal.aborted) seen.aborted++;
        throw error;
      } finally {
        seen.running--;
      }
    },
  };
}

function wait(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
}

/** A registry that models can be added to while the server runs. */
export class ScriptedRegistry implements ModelRegistry {
  readonly #models = new Map<string, ModelHost>();
  readonly #listeners = new Set<() => void>();

  constructor(...models: ModelHost[]) {
    for (const model of models) this.#models.set(model.id, model);
  }

  list(): readonly ModelHost[] {
    return [...this.#models.values()];
  }

  get(id: string): ModelHost | undefined {
    return this.#models.get(id);
  }

  add(model: ModelHost): void {
    this.#models.set(model.id, model);
    for (const listener of this.#listeners) listener();
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** Waits until `condition` holds. */
export async function until(condition: () => boolean | Promise<boolean>, ms = 5000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`still not so after ${ms} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
