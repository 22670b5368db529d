import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { performance } from "node:perf_hooks";
import { z } from "zod";
import { Registry } from "../../generate/registry.ts";
import { createServer } from "../../serve/index.ts";
import { InputError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import { backendOption, cacheOptions, installBackend, openHost, weightsFor, weightsOption } from "../generation.ts";
import { aborted } from "../interrupt.ts";
import { formatSeconds } from "../text.ts";

const options = z.object({
  model: z
    .array(z.string())
    .default([])
    .describe(
      "a Hugging Face folder: model and tokenizer; NAME=DIR gives it another name than the folder's; without any, only runs and data are shown",
    )
    .meta({ value: "DIR", short: "m" }),
  host: z
    .string()
    .default("127.0.0.1")
    .describe("the address to listen on; any other than this machine's own needs a key"),
  port: z.number().int().min(0).max(65535).default(8642).describe("0 is any free one").meta({ short: "p" }),
  apiKey: z
    .string()
    .optional()
    .describe("what clients must send as a bearer token; HOWDAH_API_KEY if not given")
    .meta({ value: "KEY" }),
  allowHost: z
    .array(z.string())
    .default([])
    .describe("another name under which clients reach this server, such as a proxy's")
    .meta({ value: "NAME" }),
  slots: z.number().int().min(1).max(256).default(8).describe("replies that are written at the same time, per model"),
  ...cacheOptions,
  maxTokens: z.number().int().min(1).default(1024).describe("most tokens of a reply that clients may ask for"),
  runs: z.string().default("runs").describe("the folder of the runs, which the pages show").meta({ value: "DIR" }),
  data: z
    .string()
    .default("data")
    .describe("the folder of the corpora that data build made, which the pages show")
    .meta({ value: "DIR" }),
  weights: weightsOption,
  backend: backendOption,
});

export const serve = defineCommand({
  name: "serve",
  summary: "offer models to programs and people: OpenAI's API, and pages for chat",
  description:
    "Serve models over OpenAI's HTTP API and the Studio's pages, on this machine unless told otherwise. SIGTERM or Ctrl-C ends it after the " +
    "replies under way. DATABASE_URL names a PostgreSQL for people's votes; without it they are kept in the folder of the runs.",
  options,
  examples: [
    ["howdah serve --model runs/shakespeare/model", "one model; the address is printed"],
    ["howdah serve --model base=DIR1 --model tuned=DIR2 --port 8000", "two models, to compare them side by side"],
    ["howdah serve --data data", "no model: the pages of runs and of what data build made"],
    ["howdah serve --model DIR --host 0.0.0.0 --api-key SECRET", "for other machines, with a key"],
  ],
  async run(o, { print, warn, signal, environment }) {
    const places = o.model.map(namedFolder);
    const twice = places.find(({ id }, i) => places.findIndex((other) => other.id === id) !== i);
    if (twice) throw new InputError(`Two models are named ${twice.id}. Give one another name: --model NAME=DIR.`);
    const began = performance.now();
    const backend = installBackend(o.backend, warn);
    const weights = weightsFor(o.weights, backend);
    const registry = new Registry();
    const apiKey = o.apiKey ?? (environment.HOWDAH_API_KEY || undefined);
    const database = environment.DATABASE_URL;
    try {
      for (const { id, folder } of places) {
        const host = await openHost(folder, { ...o, id, weights });
        registry.add(host);
        // Compiling a program holds this thread up for a moment: better now than in the middle of somebody's reply.
        if (backend === "native") await host.engine.warm();
        signal.throwIfAborted();
      }
      const server = await createServer({
        models: registry,
        runsDir: resolve(o.runs),
        dataDir: resolve(o.data),
        host: o.host,
        port: o.port,
        allowedHosts: o.allowHost,
        limits: { concurrent: o.slots, choices: Math.min(8, o.slots), maxTokens: o.maxTokens },
        ...(apiKey === undefined ? {} : { apiKey }),
        ...(database ? { databaseUrl: database } : {}),
      });
      const served = performance.now();
      try {
        print(
          `${places.map(({ id }) => id).join(", ") || "no model"} on the ${backend} backend${places.length > 0 ? `, weights in ${weights}` : ""}, ready after ${formatSeconds((served - began) / 1000)}`,
        );
        print(`Pages: ${server.url}   API: ${server.url}/v1   (Ctrl-C ends)`);
        await aborted(signal);
      } finally {
        await server.close();
      }
      return {
        url: server.url,
        models: places.map(({ id }) => id),
        backend,
        seconds: (performance.now() - served) / 1000,
      };
    } finally {
      await registry.close();
    }
  },
});

/** `NAME=DIR`, or a folder that is called what it is called. */
function namedFolder(given: string): { id: string; folder: string } {
  const at = given.indexOf("=");
  if (at <= 0 || existsSync(given)) return { id: basename(resolve(given)), folder: given };
  return { id: given.slice(0, at), folder: given.slice(at + 1) };
}
