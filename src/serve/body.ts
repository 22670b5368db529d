import type { HttpBindings } from "@hono/node-server";
import type { Context } from "hono";
import { ApiError } from "./errors.ts";

/** What Node gives along with each request. */
export type Env = { Bindings: HttpBindings };

/**
 * The body as JSON. Only `application/json`, which another site's page cannot send without asking first.
 * @param maxBytes a longer body is not read to its end
 * @throws ApiError 413, 415, or 400 for what is not JSON
 */
export async function readJson(c: Context<Env>, maxBytes: number): Promise<unknown> {
  if (!/^application\/json\b/i.test(c.req.header("content-type") ?? "")) {
    throw new ApiError(415, "unsupported_media_type", "Send the body as `Content-Type: application/json`.");
  }
  const parts: Uint8Array[] = [];
  let size = Number(c.req.header("content-length") ?? 0);
  if (size <= maxBytes) {
    size = 0;
    // Leaving the loop early must not close the connection: the refusal goes back over it.
    for await (const part of c.env.incoming.iterator({ destroyOnReturn: false })) {
      parts.push(part as Uint8Array);
      size += (part as Uint8Array).length;
      if (size > maxBytes) break;
    }
  }
  if (size > maxBytes) {
    throw new ApiError(413, "body_too_large", `The body is larger than this server's ${maxBytes} bytes.`, {
      headers: { Connection: "close" },
    });
  }
  try {
    return JSON.parse(Buffer.concat(parts).toString("utf8"));
  } catch (error) {
    throw new ApiError(400, "invalid_json", `The body is not JSON: ${(error as Error).message}`);
  }
}
