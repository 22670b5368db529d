import { Hono } from "hono";
import { z } from "zod";
import type { Change, ModelInfo, ServerInfo } from "../api.ts";
import { type Env, readJson } from "../body.ts";
import { ApiError } from "../errors.ts";
import type { ModelRegistry } from "../host.ts";
import type { ServeLimits } from "../limits.ts";
import { parse } from "../openai/requests.ts";
import { newVote, type VoteStore } from "../records/votes.ts";
import { type EventSink, eventStream } from "../sse.ts";
import { Corpora } from "./corpora.ts";
import { dataRoutes } from "./data-routes.ts";
import { FolderWatch, followEvents, readEvents } from "./event-log.ts";
import { Runs } from "./runs.ts";

export interface StudioOptions {
  readonly models: ModelRegistry;
  readonly runsDir: string;
  readonly dataDir: string;
  readonly votes: VoteStore;
  readonly limits: ServeLimits;
  /** Event streams end when the server begins to drain; the Studio connects again. */
  readonly draining: AbortSignal;
  readonly report: (error: unknown) => void;
}

const offsetQuery = z.object({ offset: z.coerce.number().int().min(0).default(0) });
const listQuery = z.object({
  limit: z.coerce.number().int().min(1).max(500).default(100),
  before: z.coerce.number().int().min(1).optional(),
});

/** `/api`: runs as they happen, the models there are, corpora, people's votes. */
export function studioRoutes({ models, runsDir, dataDir, votes, limits, draining, report }: StudioOptions): Hono<Env> {
  const app = new Hono<Env>();
  const runs = new Runs(runsDir);
  const corpora = new Corpora(dataDir);
  let streams = 0;

  /** An event stream that ends when its client leaves or the server drains. */
  const stream = (write: (sink: EventSink, signal: AbortSignal) => Promise<void>): Response => {
    if (streams >= limits.eventStreams) {
      throw new ApiError(429, "rate_limit_exceeded", `${streams} event streams are open; close a Studio page.`, {
        headers: { "Retry-After": "5" },
      });
    }
    streams++;
    const left = new AbortController();
    return eventStream(
      async (sink) => {
        try {
          await write(sink, AbortSignal.any([left.signal, draining]));
        } catch (error) {
          if (!left.signal.aborted) report(error);
        } finally {
          streams--;
        }
      },
      () => left.abort(),
    );
  };

  app.get("/info", (c) => {
    const info: ServerInfo = { maxTokens: limits.maxTokens, choices: Math.min(limits.choices, limits.concurrent) };
    return c.json(info);
  });

  app.get("/models", (c) => {
    const list = models.list().map(({ id, created, contextLength, description, speakers }): ModelInfo => {
      const more = {
        ...(description === undefined ? {} : { description }),
        ...(speakers === undefined ? {} : { speakers }),
      };
      return { id, created, contextLength, ...more };
    });
    return c.json({ models: list });
  });

  /** Says what has changed; the Studio then loads it again. */
  app.get("/changes", () =>
    stream(async (sink, signal) => {
      let pending = new Set<Change>(["models", "runs", "data"]);
      let wake = () => {};
      const note = (change: Change) => {
        pending.add(change);
        wake();
      };
      const unsubscribe = models.onChange(() => note("models"));
      const seen = { runs: "", data: "" };
      const compare = (change: "runs" | "data", list: unknown) => {
        const now = JSON.stringify(list);
        if (now !== seen[change]) note(change);
        seen[change] = now;
      };
      const lookAtRuns = async () =>
        compare(
          "runs",
          (await runs.list()).map((run) => [run.name, run.status, run.stage]),
        );
      const lookAtData = async () => compare("data", await corpora.list());
      const watches = [
        new FolderWatch(runsDir, () => void lookAtRuns().catch(report)),
        new FolderWatch(dataDir, () => void lookAtData().catch(report)),
      ];
      signal.addEventListener("abort", () => wake(), { once: true });
      try {
        while (!signal.aborted) {
          const changes = pending;
          pending = new Set();
          for (const change of changes) await sink.send(JSON.stringify(change));
          if (pending.size === 0 && !signal.aborted) {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        }
      } finally {
        unsubscribe();
        for (const watch of watches) watch.close();
      }
    }),
  );

  app.get("/runs", async (c) => c.json({ runs: await runs.list() }));
  app.get("/runs/:name", async (c) => c.json(await runs.detail(c.req.param("name"))));
  app.get("/runs/:name/report", async (c) =>
    c.text(await runs.report(c.req.param("name")), 200, { "Content-Type": "text/markdown; charset=utf-8" }),
  );
  app.get("/runs/:name/events", async (c) => {
    const { offset } = parse(offsetQuery, c.req.query());
    return c.json(await readEvents(`${await runs.folder(c.req.param("name"))}/events.jsonl`, offset));
  });
  app.get("/runs/:name/events/stream", async (c) => {
    const { offset } = parse(offsetQuery, c.req.query());
    const folder = await runs.folder(c.req.param("name"));
    return stream((sink, signal) =>
      followEvents(folder, offset, signal, (page) => sink.send(JSON.stringify(page), { id: String(page.next) })),
    );
  });

  app.route("/data", dataRoutes(corpora));

  app.get("/votes", async (c) => {
    const { limit, before } = parse(listQuery, c.req.query());
    return c.json({ votes: await votes.list(limit, before) });
  });
  app.post("/votes", async (c) => c.json(await votes.add(parse(newVote, await readJson(c, limits.bodyBytes))), 201));
  app.delete("/votes/:id{[0-9]{1,15}}", async (c) => {
    if (await votes.remove(Number(c.req.param("id")))) return c.json({ deleted: true });
    throw new ApiError(404, "vote_not_found", `There is no vote ${c.req.param("id")}.`);
  });
  app.get("/votes/export.jsonl", async (c) => {
    const lines: string[] = [];
    for await (const line of votes.preferences()) lines.push(`${JSON.stringify(line)}\n`);
    return c.body(lines.join(""), 200, {
      "Content-Type": "application/jsonl; charset=utf-8",
      "Content-Disposition": 'attachment; filename="preferences.jsonl"',
    });
  });

  return app;
}
