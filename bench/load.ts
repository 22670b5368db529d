import { request } from "node:http";
import { performance } from "node:perf_hooks";
import { InputError } from "../src/tensor/errors.ts";

/** A stream of a reply as its client sees it. */
export interface Stream {
  /** Milliseconds from the request to each piece of text. */
  readonly arrivals: readonly number[];
  /** Tokens of prompt and reply, as the server counts them. */
  readonly promptTokens: number;
  readonly tokens: number;
}

/** Sends one request for a streamed completion (OpenAI's /v1/completions) over a connection of its own, and reads it to its end. */
export function streamCompletion(port: number, body: object): Promise<Stream> {
  return new Promise((resolve, reject) => {
    const data = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
    const began = performance.now();
    const arrivals: number[] = [];
    let usage: { prompt_tokens: number; completion_tokens: number } | undefined;
    let rest = "";
    const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(data) };
    const call = request(
      { host: "127.0.0.1", port, path: "/v1/completions", method: "POST", headers, agent: false },
      (answer) => {
        answer.setEncoding("utf8");
        answer.on("data", (part: string) => {
          const now = performance.now() - began;
          const lines = (rest + part).split("\n");
          rest = lines.pop()!;
          for (const line of lines) {
            // Only the last message has a usage; the others are counted, not parsed.
            if (line.includes('"usage":{')) {
              const message = JSON.parse(line.slice(6)) as { usage: typeof usage; choices: { text?: string }[] };
              usage = message.usage;
              if (message.choices[0]?.text) arrivals.push(now);
            } else if (line.startsWith("data: {") && !line.includes('"text":""')) arrivals.push(now);
          }
        });
        answer.on("end", () => {
          if (answer.statusCode === 200 && usage)
            resolve({ arrivals, promptTokens: usage.prompt_tokens, tokens: usage.completion_tokens });
          else reject(new InputError(`The server answered ${answer.statusCode}: ${rest}`));
        });
        answer.on("error", reject);
      },
    );
    call.on("error", reject);
    call.end(data);
  });
}

/** What many clients saw who asked at the same time. */
export interface Burst {
  readonly seconds: number;
  readonly tokens: number;
  /** Milliseconds. */
  readonly firstMedian: number;
  readonly firstP95: number;
  /** Between two pieces of one stream. */
  readonly gapP95: number;
}

/** All requests at once. @throws InputError where one did not get the tokens it asked for */
export async function burst(
  port: number,
  bodies: readonly object[],
  promptTokens: number,
  tokens: number,
): Promise<Burst> {
  const began = performance.now();
  const streams = await Promise.all(bodies.map((body) => streamCompletion(port, body)));
  const seconds = (performance.now() - began) / 1000;
  for (const s of streams)
    if (s.tokens !== tokens || s.promptTokens !== promptTokens)
      throw new InputError(
        `A client asked for ${tokens} tokens after ${promptTokens} and got ${s.tokens} after ${s.promptTokens}.`,
      );
  const first = streams.map((s) => s.arrivals[0]!);
  const gaps = streams.flatMap((s) => s.arrivals.slice(1).map((t, i) => t - s.arrivals[i]!));
  return {
    seconds,
    tokens: tokens * streams.length,
    firstMedian: quantile(first, 0.5),
    firstP95: quantile(first, 0.95),
    gapP95: quantile(gaps, 0.95),
  };
}

/** The smallest value that this part of all is not above. */
export function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(Math.ceil(part * sorted.length) - 1, 0)]!;
}
