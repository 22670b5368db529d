import { ReadError } from "../document.ts";
import type { Access } from "./access.ts";
import { mediaType } from "./warc.ts";

export interface Fetched {
  readonly chunks: AsyncGenerator<Uint8Array>;
  readonly mediaType: string;
  readonly charset: string | undefined;
  readonly size: number | undefined;
  /** After redirections. */
  readonly url: string;
}

export interface HttpOptions {
  readonly signal?: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>>;
  /** Without an answer, or without a byte for so long, the request is given up. Milliseconds, default 60,000. */
  readonly patience?: number;
}

const agent = { "user-agent": "howdah (https://www.npmjs.com/package/howdah)" };

async function request(
  url: string,
  { signal, headers = {}, patience = 60_000 }: HttpOptions,
  more: Record<string, string> = {},
): Promise<{ response: Response; alive: () => void; done: () => void }> {
  const controller = new AbortController();
  let timer = setTimeout(
    () => controller.abort(new ReadError("network", `The server did not answer within ${patience / 1000} seconds.`)),
    patience,
  );
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(
      () => controller.abort(new ReadError("network", `The server sent nothing for ${patience / 1000} seconds.`)),
      patience,
    );
  };
  const stop = () => controller.abort(signal?.reason);
  signal?.addEventListener("abort", stop, { once: true });
  const done = () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  };
  try {
    for (let attempt = 0; ; attempt++) {
      const response = await fetch(url, { headers: { ...agent, ...headers, ...more }, signal: controller.signal });
      alive();
      if ((response.status === 429 || response.status >= 500) && attempt < 2) {
        await response.body?.cancel();
        await new Promise((go) => setTimeout(go, 500 * 2 ** attempt));
        continue;
      }
      if (!response.ok) {
        await response.body?.cancel();
        const code =
          response.status === 404 || response.status === 410
            ? "missing"
            : response.status === 401 || response.status === 403
              ? "unreadable"
              : "network";
        throw new ReadError(code, `The server answered ${response.status} ${response.statusText}.`);
      }
      return { response, alive, done };
    }
  } catch (error) {
    done();
    throw networkProblem(error, signal);
  }
}

function networkProblem(error: unknown, signal: AbortSignal | undefined): unknown {
  if (error instanceof ReadError || signal?.aborted === true) return signal?.aborted === true ? signal.reason : error;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return new ReadError(
    "network",
    `It could not be fetched (${cause instanceof Error ? cause.message || cause.name : String(cause)}).`,
    { cause: error },
  );
}

/** The body of an address, as it comes. */
export async function fetchChunks(url: string, options: HttpOptions = {}): Promise<Fetched> {
  const { response, alive, done } = await request(url, options);
  const length = response.headers.get("content-length");
  async function* chunks(): AsyncGenerator<Uint8Array> {
    try {
      if (response.body === null) return;
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        alive();
        yield chunk;
      }
    } catch (error) {
      throw networkProblem(error, options.signal);
    } finally {
      done();
    }
  }
  return {
    chunks: chunks(),
    ...mediaType(response.headers.get("content-type") ?? ""),
    size: length === null || response.headers.get("content-encoding") !== null ? undefined : Number(length),
    url: response.url || url,
  };
}

export async function fetchJson(
  url: string,
  options: HttpOptions = {},
): Promise<{ readonly json: unknown; readonly next: string | undefined }> {
  const { response, done } = await request(url, options);
  try {
    const json: unknown = await response.json();
    return { json, next: /<([^>]+)>;\s*rel="next"/.exec(response.headers.get("link") ?? "")?.[1] };
  } catch (error) {
    throw error instanceof SyntaxError
      ? new ReadError("malformed", "The server's answer is no JSON.", { cause: error })
      : networkProblem(error, options.signal);
  } finally {
    done();
  }
}

/** Reading an address at any place, if its server answers ranges; undefined if it does not. */
export async function urlAccess(url: string, options: HttpOptions = {}): Promise<Access | undefined> {
  const { response, done } = await request(url, options, { range: "bytes=0-0" });
  await response.body?.cancel();
  done();
  const size = Number(/\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1]);
  if (response.status !== 206 || !Number.isSafeInteger(size)) return undefined;
  return {
    size,
    async read(from, to) {
      if (from < 0 || to > size) throw new ReadError("malformed", "It ends too early.");
      if (from === to) return new Uint8Array(0);
      const part = await request(url, options, { range: `bytes=${from}-${to - 1}` });
      try {
        const bytes = new Uint8Array(await part.response.arrayBuffer());
        if (bytes.length !== to - from)
          throw new ReadError("network", "The server did not send the part it was asked for.");
        return bytes;
      } catch (error) {
        throw networkProblem(error, options.signal);
      } finally {
        part.done();
      }
    },
    close: async () => {},
  };
}
