import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createAdaptorServer } from "@hono/node-server";
import { Hono } from "hono";
import { HowdahError } from "../tensor/errors.ts";
import type { Env } from "./body.ts";
import { ApiError, toApiError } from "./errors.ts";
import { Gate } from "./gate.ts";
import { Guard } from "./guard.ts";
import type { ModelRegistry } from "./host.ts";
import { defaultLimits, type ServeLimits } from "./limits.ts";
import { openAiRoutes } from "./openai/routes.ts";
import { VoteStore } from "./records/votes.ts";
import { Pages } from "./studio/pages.ts";
import { studioRoutes } from "./studio/routes.ts";

export interface ServerOptions {
  readonly models: ModelRegistry;
  /** The folder that holds one folder for each run. Need not exist yet. */
  readonly runsDir: string;
  /** The folder that holds one folder for each corpus. `data` beside `runsDir` unless given; need not exist. */
  readonly dataDir?: string;
  /** 127.0.0.1 unless given; another address needs `apiKey`. */
  readonly host?: string;
  /** 0 takes any free port. */
  readonly port?: number;
  readonly apiKey?: string;
  /** More names under which clients reach this server: a proxy's, say. */
  readonly allowedHosts?: readonly string[];
  readonly limits?: Partial<ServeLimits>;
  /** PostgreSQL for people's votes; without it an embedded PGlite in `votesDir`. */
  readonly databaseUrl?: string;
  /** `<runsDir>/studio.pglite` unless given. */
  readonly votesDir?: string;
  /** The built Studio; `studio/dist` of this package unless given. */
  readonly studioDir?: string;
  /** Faults of the server that a client only sees as status 500. Standard error unless given. */
  readonly report?: (error: unknown) => void;
}

export interface Server {
  readonly url: string;
  /**
   * Drains: takes no new request, lets the running ones finish for at most `limits.drainSeconds`, ends the rest with
   * status 503, closes the database. May be called again; each call resolves when all is closed.
   */
  close(): Promise<void>;
}

/**
 * The OpenAI-compatible API under /v1, the Studio's under /api, the Studio itself, and /health, in one process.
 * @throws InputError for a host that needs a key or a wrong key; HowdahError "port_in_use" or "listen"
 */
export async function createServer(options: ServerOptions): Promise<Server> {
  const host = options.host ?? "127.0.0.1";
  const limits: ServeLimits = { ...defaultLimits, ...options.limits };
  const report = options.report ?? ((error: unknown) => console.error("howdah serve:", error));
  const guard = new Guard(host, options.apiKey, options.allowedHosts);
  const gate = new Gate(limits.concurrent, limits.queue);
  const votes = new VoteStore(options.databaseUrl, options.votesDir ?? `${options.runsDir}/studio.pglite`);
  const pages = new Pages(options.studioDir);
  /** Aborted when draining begins, and when it has lasted long enough. */
  const draining = new AbortController();
  const closed = new AbortController();

  const app = new Hono<Env>();
  app.use(async (c, next) => {
    const isPage = !/^\/(v1|api)(\/|$)/.test(c.req.path);
    guard.checkOrigin(c.req.raw.headers, isPage);
    if (draining.signal.aborted) {
      throw new ApiError(503, "draining", "The server is shutting down.", {
        headers: { Connection: "close", "Retry-After": "5" },
      });
    }
    if (!isPage) guard.checkKey(c.req.raw.headers);
    await next();
    c.res.headers.set("X-Content-Type-Options", "nosniff");
    c.res.headers.set("Referrer-Policy", "no-referrer");
    c.res.headers.set("Cross-Origin-Resource-Policy", "same-origin");
  });
  // How late timers fire: what of the event loop's time was not free. Since the last look.
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  app.get("/health", (c) => {
    const models = options.models.list();
    const ms = (ns: number) => Math.round(ns / 1e4) / 100;
    const eventLoop = { medianMs: ms(delay.percentile(50)), p99Ms: ms(delay.percentile(99)), maxMs: ms(delay.max) };
    delay.reset();
    return c.json({
      status: "ok",
      models: models.length,
      running: gate.running,
      waiting: gate.waiting,
      eventLoop,
      engines: Object.fromEntries(models.flatMap(({ id, status }) => (status ? [[id, status]] : []))),
    });
  });
  app.route("/v1", openAiRoutes({ models: options.models, limits, gate, closed: closed.signal, report }));
  const { models, runsDir } = options;
  const dataDir = options.dataDir ?? join(runsDir, "..", "data");
  app.route("/api", studioRoutes({ models, runsDir, dataDir, votes, limits, draining: draining.signal, report }));
  app.all("/v1/*", (c) => notFound(c.req.method, c.req.path));
  app.all("/api/*", (c) => notFound(c.req.method, c.req.path));
  app.get("*", (c) => pages.answer(c.req.path, c.req.header("if-none-match")));
  app.notFound((c) => notFound(c.req.method, c.req.path));
  app.onError((error, c) => {
    const failure = toApiError(error);
    if (failure.status === 500 && failure.code !== "client_closed_request") report(error);
    return c.json(failure.body(), failure.status, failure.headers);
  });

  const server = createAdaptorServer({
    fetch: app.fetch,
    overrideGlobalObjects: false,
    serverOptions: { headersTimeout: 10_000, requestTimeout: 30_000, maxHeaderSize: 16_384 },
  }) as import("node:http").Server;
  server.maxConnections = 512;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = error.code === "EADDRINUSE";
      const message = taken
        ? `Port ${options.port} on ${host} is in use: stop what listens there, or choose another port.`
        : `Cannot listen on ${host} port ${options.port ?? 0}: ${error.message}`;
      reject(new HowdahError(taken ? "port_in_use" : "listen", message, { cause: error }));
    });
    server.listen(options.port ?? 0, host.replace(/^\[|\]$/g, ""), resolve);
  });

  const { address, port, family } = server.address() as AddressInfo;
  const wildcard = address === "0.0.0.0" || address === "::";
  const shown = wildcard || host === "localhost" ? "localhost" : family === "IPv6" ? `[${address}]` : address;

  let closing: Promise<void> | undefined;
  const close = async () => {
    draining.abort();
    const gone = new Promise<void>((resolve) => server.close(() => resolve()));
    const late = setTimeout(() => {
      closed.abort(new ApiError(503, "draining", "The server is shutting down; the reply was cut off."));
    }, limits.drainSeconds * 1000);
    await gate.idle();
    clearTimeout(late);
    // Answers that are being written leave; connections that wait for a next request would not end by themselves.
    const sweep = setInterval(() => server.closeIdleConnections(), 50);
    const force = setTimeout(() => server.closeAllConnections(), 2000);
    await gone;
    clearInterval(sweep);
    clearTimeout(force);
    delay.disable();
    await votes.close();
  };
  return {
    url: `http://${shown}:${port}`,
    close: () => {
      closing ??= close();
      return closing;
    },
  };
}

function notFound(method: string, path: string): never {
  throw new ApiError(404, "not_found", `Nothing answers ${method} ${path} here.`);
}

/**
 * Drains the server on SIGTERM or SIGINT, then calls `done` (which may exit). A second signal does not wait.
 * @returns takes the handlers off again
 */
export function drainOnSignals(server: Server, done: (signal: NodeJS.Signals) => void): () => void {
  let asked = false;
  const handle = (signal: NodeJS.Signals) => {
    if (asked) done(signal);
    asked = true;
    void server.close().finally(() => done(signal));
  };
  process.on("SIGTERM", handle);
  process.on("SIGINT", handle);
  return () => {
    process.off("SIGTERM", handle);
    process.off("SIGINT", handle);
  };
}
