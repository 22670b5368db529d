import type { ErrorBody } from "../../src/serve/api.ts";

/** What the server said no to, or a network failure (status 0). */
export class RequestError extends Error {
  readonly status: number;
  constructor(status: number, message: string) {
    super(message);
    this.name = "RequestError";
    this.status = status;
  }
}

let key = readKey();
const keyListeners = new Set<() => void>();

function readKey(): string | undefined {
  try {
    return sessionStorage.getItem("howdah.key") ?? undefined;
  } catch {
    return undefined;
  }
}

export function setKey(given: string): void {
  key = given;
  try {
    sessionStorage.setItem("howdah.key", given);
  } catch {
    // Then it is asked for again after a reload.
  }
}

/** Calls `listener` whenever the server refuses for want of a key. */
export function onKeyWanted(listener: () => void): () => void {
  keyListeners.add(listener);
  return () => keyListeners.delete(listener);
}

/** @throws RequestError */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key !== undefined) headers.set("Authorization", `Bearer ${key}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new RequestError(0, (error as Error).message);
  }
  if (response.ok) return response;
  if (response.status === 401) for (const listener of keyListeners) listener();
  const body = (await response.json().catch(() => undefined)) as ErrorBody | undefined;
  throw new RequestError(response.status, body?.error?.message ?? response.statusText);
}

export async function getJson<T>(path: string): Promise<T> {
  return (await request(path)).json() as Promise<T>;
}

export function sendJson(
  method: "POST" | "DELETE",
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  return request(path, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** The data of each server-sent event. fetch rather than EventSource, which can send neither a key nor a body. */
export async function* eventData(response: Response): AsyncGenerator<string> {
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const part = await reader?.read();
      if (part === undefined || part.done) return;
      const blocks = (rest + part.value).split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const data = block
          .split(/\r?\n/)
          .flatMap((line) => (line.startsWith("data:") ? [line.slice(5).trimStart()] : []));
        if (data.length > 0) yield data.join("\n");
      }
    }
  } finally {
    await reader?.cancel().catch(() => {});
  }
}

/**
 * Follows an event stream until `signal` is aborted, connecting again (after 0.5 s, then more, at most 8 s) when it breaks.
 * @param path asked for each connection, so that it can say from where to go on
 * @param onState told whether the stream is there
 */
export async function follow(
  path: () => string,
  onData: (data: string) => void,
  signal: AbortSignal,
  onState: (connected: boolean) => void = () => {},
): Promise<void> {
  for (let wait = 500; !signal.aborted; wait = Math.min(wait * 2, 8000)) {
    try {
      const response = await request(path(), { signal });
      onState(true);
      for await (const data of eventData(response)) {
        wait = 500;
        onData(data);
      }
    } catch {
      // The next round tells whether it is back.
    }
    if (signal.aborted) return;
    onState(false);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, wait);
      const now = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", now, { once: true });
      window.addEventListener("online", now, { once: true });
    });
  }
}
