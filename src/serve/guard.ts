import { createHash, timingSafeEqual } from "node:crypto";
import { hostname as machineName, networkInterfaces } from "node:os";
import { InputError } from "../tensor/errors.ts";
import { ApiError } from "./errors.ts";

/** Is this address or name this machine only? */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, "").toLowerCase();
  return name === "localhost" || name === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name);
}

/**
 * Who may talk to the server.
 *
 * A page on another site can make a browser send requests to 127.0.0.1, and by re-binding its own DNS name to 127.0.0.1 it
 * can even read the answers. Three checks stop that: the Host header must be one of our own names (a re-bound name is not),
 * an Origin header must be the page that we served, and a browser's Sec-Fetch-Site must not say that another site asks.
 * Programs outside a browser send no Origin and are stopped only by the key, where one is set.
 */
export class Guard {
  readonly #names: ReadonlySet<string> | undefined;
  readonly #key: Buffer | undefined;

  /**
   * @param host the address that is listened on
   * @param apiKey needed for any address but loopback
   * @param allowedHosts more names under which clients reach the server (behind a proxy, in a local network's DNS)
   * @throws InputError for a non-loopback address without a key
   */
  constructor(host: string, apiKey: string | undefined, allowedHosts: readonly string[] = []) {
    if (apiKey !== undefined && apiKey.length < 8) {
      throw new InputError(`The API key has ${apiKey.length} characters; give at least 8.`);
    }
    if (!isLoopback(host) && apiKey === undefined) {
      throw new InputError(
        `Listening on ${host} lets other machines in, so it needs a key: set an API key, or listen on 127.0.0.1 (the default).`,
      );
    }
    const names = new Set(["localhost", "127.0.0.1", "[::1]", ...allowedHosts.map((name) => name.toLowerCase())]);
    if (!isLoopback(host)) {
      names.add(bracketed(host));
      names.add(machineName().toLowerCase());
      for (const addresses of Object.values(networkInterfaces())) {
        for (const { address } of addresses ?? []) names.add(bracketed(address));
      }
    }
    this.#names = names;
    this.#key = apiKey === undefined ? undefined : digest(apiKey);
  }

  /** @throws ApiError 403 for a foreign Host, Origin or site */
  checkOrigin(headers: Headers, isPage: boolean): void {
    const host = headers.get("host") ?? "";
    const here = /^[\w.:[\]-]+$/.test(host) && URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : undefined;
    if (here === undefined || !(this.#names?.has(here.hostname) || isLoopback(here.hostname))) {
      throw new ApiError(403, "foreign_host", `The host name ${JSON.stringify(host)} is not one of this server's.`);
    }
    const origin = headers.get("origin");
    if (origin !== null) {
      const from = URL.canParse(origin) ? new URL(origin) : undefined;
      if (from === undefined || !/^https?:$/.test(from.protocol) || from.host !== here.host) {
        throw new ApiError(403, "foreign_origin", `Pages of ${JSON.stringify(origin)} may not use this server.`);
      }
    }
    // A link from elsewhere may open the Studio's page; nothing but our own page may use the API.
    const site = headers.get("sec-fetch-site");
    if (!isPage && site !== null && site !== "same-origin" && site !== "none") {
      throw new ApiError(403, "foreign_origin", "Pages of other sites may not use this server.");
    }
  }

  /** @throws ApiError 401 unless the key is in `Authorization: Bearer`, where the server has one */
  checkKey(headers: Headers): void {
    if (this.#key === undefined) return;
    const given = /^Bearer +(\S+)\s*$/i.exec(headers.get("authorization") ?? "")?.[1];
    if (given !== undefined && timingSafeEqual(digest(given), this.#key)) return;
    const message =
      given === undefined
        ? "This server needs a key: send it as `Authorization: Bearer KEY`."
        : "The API key is wrong.";
    throw new ApiError(401, "invalid_api_key", message, { headers: { "WWW-Authenticate": "Bearer" } });
  }
}

/** Equal lengths for the comparison in constant time. */
function digest(key: string): Buffer {
  return createHash("sha256").update(key).digest();
}

function bracketed(host: string): string {
  const name = host.toLowerCase();
  return name.includes(":") && !name.startsWith("[") ? `[${name}]` : name;
}
