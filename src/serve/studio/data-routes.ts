import { Hono } from "hono";
import { z } from "zod";
import type { Env } from "../body.ts";
import type { CorpusList } from "../data-api.ts";
import { parse } from "../openai/requests.ts";
import type { Corpora } from "./corpora.ts";

const text = z.string().max(1000).optional();
const documentsQuery = z.object({
  q: z.string().max(200).default(""),
  status: z.enum(["kept", "dropped", "duplicate"]).optional(),
  source: text,
  rule: text,
  language: text,
  id: z.string().max(10_000).optional(),
  at: text,
  limit: z.coerce.number().int().min(1).max(100).default(20),
});
const documentQuery = z.object({ at: z.string().max(1000), from: z.coerce.number().int().min(0).default(0) });
const duplicatesQuery = z.object({
  from: z.coerce.number().int().min(0).default(0),
  limit: z.coerce.number().int().min(1).max(100).default(20),
});

/** `/api/data`: the corpora there are, their reports and documents, two of them side by side. Reads only. */
export function dataRoutes(corpora: Corpora): Hono<Env> {
  const app = new Hono<Env>();
  app.get("/", async (c) => {
    const list: CorpusList = { folder: corpora.dir, corpora: await corpora.list() };
    return c.json(list);
  });
  app.get("/:name", async (c) => c.json(await corpora.detail(c.req.param("name"))));
  app.get("/:name/documents", async (c) => {
    const query = parse(documentsQuery, c.req.query());
    return c.json(await corpora.find(c.req.param("name"), query, c.req.raw.signal));
  });
  app.get("/:name/document", async (c) => {
    const { at, from } = parse(documentQuery, c.req.query());
    return c.json(await corpora.document(c.req.param("name"), at, from));
  });
  app.get("/:name/duplicates", async (c) => {
    const { from, limit } = parse(duplicatesQuery, c.req.query());
    return c.json(await corpora.duplicates(c.req.param("name"), from, limit));
  });
  app.get("/:name/compare/:other", async (c) =>
    c.json(await corpora.compare(c.req.param("name"), c.req.param("other"))),
  );
  return app;
}
