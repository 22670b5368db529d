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
      let response: Response;
      try {
        response = await fetch(url, { headers: { ...agent, ...headers, ...more }, signal: controller.signal });
      } catch (error) {
        // A connection that was refused or reset may be had a moment later; a name that nobody knows, not.
        if (controller.signal.aborted || attempt >= 2 || /ENOTFOUND|ERR_/.test(codeOfCause(error))) throw error;
        await pause(500 * 2 ** attempt);
        continue;
      }
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

const codeOfCause = (error: unknown): string =>
  error instanceof Error && error.cause instanceof Error && "code" in error.cause ? String(error.cause.code) : "";

function networkProblem(error: unknown, signal: AbortSignal | undefined): unknown {
  if (error instanceof ReadError || signal?.aborted === true) return signal?.aborted === true ? signal.reason : error;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return new ReadError(
    "network",
    `It could not be fetched (${cause instanceof Error ? cause.message || cause.name : String(cause)}).`,
    { cause: error },
  );
}

/** Times that a transfer is taken up again without a byte having come in between. */
const TRIES = 4;
const pause = (milliseconds: number) => new Promise((go) => setTimeout(go, milliseconds));

/** What tells whether an address still gives the same: its entity tag or time (RFC 9110, 8.8), and its size. */
interface Version {
  readonly tag: string | undefined;
  readonly size: number | undefined;
}

/**
 * The body of an address, as it comes. A transfer that breaks off is taken up where it broke off (RFC 9110, 14: ranges), as long as the address gives
 * the same as at first.
 */
export async function fetchChunks(url: string, options: HttpOptions = {}): Promise<Fetched> {
  const first = await request(url, options);
  const version = versionOf(first.response);
  /** Packed on the way, so that places in it are not places in what arrives. */
  const packed = first.response.headers.get("content-encoding") !== null;
  async function* chunks(): AsyncGenerator<Uint8Array> {
    let { response, alive, done } = first;
    let at = 0;
    try {
      for (let tries = 0; ; tries++) {
        try {
          for await (const chunk of (response.body ?? []) as unknown as AsyncIterable<Uint8Array>) {
            alive();
            at += chunk.length;
            tries = 0;
            yield chunk;
          }
          if (packed || version.size === undefined || at >= version.size) return;
          throw new ReadError("network", `The server sent ${at} of ${version.size} bytes.`);
        } catch (error) {
          const problem = networkProblem(error, options.signal);
          if (packed || tries >= TRIES || !(problem instanceof ReadError) || problem.code !== "network") throw problem;
          done();
          await pause(250 * 2 ** tries);
          ({ response, alive, done } = await goOn(at, problem));
        }
      }
    } finally {
      done();
    }
  }
  /** Asks for the rest; from a server without ranges for everything, of which the beginning is left out. */
  async function goOn(at: number, problem: ReadError): Promise<Awaited<ReturnType<typeof request>>> {
    const { tag } = version;
    // A weak tag is none to go on by.
    const condition: Record<string, string> = tag === undefined || tag.startsWith("W/") ? {} : { "if-range": tag };
    const again = await request(url, options, at === 0 ? {} : { range: `bytes=${at}-`, ...condition });
    const [, from, size] = /^bytes (\d+)-\d+\/(\d+)$/.exec(again.response.headers.get("content-range") ?? "") ?? [];
    const now = versionOf(again.response);
    const ranged = again.response.status === 206;
    const whole = ranged ? Number(size) : now.size;
    if (
      (ranged && Number(from) !== at) ||
      (now.tag !== tag && !(ranged && "if-range" in condition)) ||
      whole !== version.size
    ) {
      await again.response.body?.cancel();
      again.done();
      throw new ReadError("network", `${problem.message} It changed meanwhile, so that reading cannot go on.`);
    }
    if (ranged || at === 0) return again;
    const reader = again.response.body?.getReader();
    let left = at;
    const rest = new ReadableStream<Uint8Array>({
      async pull(controller) {
        for (;;) {
          const next = await reader?.read();
          if (next === undefined || next.done) return controller.close();
          again.alive();
          const chunk: Uint8Array = next.value;
          const skip = Math.min(left, chunk.length);
          left -= skip;
          if (skip < chunk.length) return controller.enqueue(chunk.subarray(skip));
        }
      },
      cancel: (reason) => reader?.cancel(reason),
    });
    return { ...again, response: new Response(rest) };
  }
  return {
    chunks: chunks(),
    ...mediaType(first.response.headers.get("content-type") ?? ""),
    size: version.size,
    url: first.response.url || url,
  };
}

function versionOf({ headers }: Response): Version {
  const length = headers.get("content-length");
  return {
    tag: headers.get("etag") ?? headers.get("last-modified") ?? undefined,
    size: length === null || headers.get("content-encoding") !== null ? undefined : Number(length),
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
      for (let tries = 0; ; tries++) {
        const part = await request(url, options, { range: `bytes=${from}-${to - 1}` });
        try {
          const bytes = new Uint8Array(await part.response.arrayBuffer());
          if (bytes.length !== to - from)
            throw new ReadError("network", "The server did not send the part it was asked for.");
          return bytes;
        } catch (error) {
          if (tries >= 2 || options.signal?.aborted === true) throw networkProblem(error, options.signal);
          await pause(250 * 2 ** tries);
        } finally {
          part.done();
        }
      }
    },
    close: async () => {},
  };
}
