import { randomUUID } from "node:crypto";
import { type Context, Hono } from "hono";
import { type Env, readJson } from "../body.ts";
import { ApiError, toApiError } from "../errors.ts";
import type { Gate } from "../gate.ts";
import type { ModelHost, ModelRegistry } from "../host.ts";
import type { ServeLimits } from "../limits.ts";
import { eventStream } from "../sse.ts";
import { chatBody, chatJob, completionBody, completionJob, type Job, parse } from "./requests.ts";
import { type Choice, runJob, type Usage } from "./run.ts";

export interface OpenAiOptions {
  readonly models: ModelRegistry;
  readonly limits: ServeLimits;
  readonly gate: Gate;
  /** Aborted when draining has lasted long enough. */
  readonly closed: AbortSignal;
  readonly report: (error: unknown) => void;
}

/** How one endpoint words its answers; everything else is the same for both. */
interface Format {
  readonly idPrefix: string;
  readonly object: string;
  readonly chunkObject: string;
  choice(index: number, choice: Choice): object;
  /** What a choice's stream begins with, before any text. */
  opening: object | undefined;
  delta(text: string): object;
  /** The fields of a finished choice's last chunk. */
  closing: object;
}

const completionFormat: Format = {
  idPrefix: "cmpl-",
  object: "text_completion",
  chunkObject: "text_completion",
  choice: (index, { text, finish }) => ({ index, text, logprobs: null, finish_reason: finish }),
  opening: undefined,
  delta: (text) => ({ text }),
  closing: { text: "" },
};

const chatFormat: Format = {
  idPrefix: "chatcmpl-",
  object: "chat.completion",
  chunkObject: "chat.completion.chunk",
  choice: (index, { text, finish }) => ({
    index,
    message: { role: "assistant", content: text, refusal: null },
    logprobs: null,
    finish_reason: finish,
  }),
  opening: { delta: { role: "assistant", content: "", refusal: null } },
  delta: (text) => ({ delta: { content: text } }),
  closing: { delta: {} },
};

/** `/v1`: models, completions and chat completions as OpenAI's API reference describes them. */
export function openAiRoutes(options: OpenAiOptions): Hono<Env> {
  // A schema compiles itself when it is first used, which takes 5 ms: better now than in somebody's request.
  completionBody.safeParse({});
  chatBody.safeParse({});
  const { models, limits } = options;
  const app = new Hono<Env>();

  app.get("/models", (c) => c.json({ object: "list", data: models.list().map(modelObject) }));
  app.get("/models/:id{.+}", (c) => c.json(modelObject(find(models, c.req.param("id")))));

  app.post("/completions", async (c) => {
    const body = parse(completionBody, await readJson(c, limits.bodyBytes));
    return answer(c, completionJob(body, find(models, body.model), limits), completionFormat, options);
  });

  app.post("/chat/completions", async (c) => {
    const body = parse(chatBody, await readJson(c, limits.bodyBytes));
    return answer(c, chatJob(body, find(models, body.model), limits), chatFormat, options);
  });

  return app;
}

function modelObject(host: ModelHost) {
  return { id: host.id, object: "model", created: host.created, owned_by: "howdah" };
}

function find(models: ModelRegistry, id: string): ModelHost {
  const host = models.get(id);
  if (host !== undefined) return host;
  const known = models.list().map((model) => model.id);
  const there = known.length === 0 ? "No model is there yet." : `There are: ${known.join(", ")}.`;
  throw new ApiError(404, "model_not_found", `The model ${JSON.stringify(id)} does not exist. ${there}`, {
    param: "model",
  });
}

async function answer(c: Context<Env>, job: Job, format: Format, options: OpenAiOptions): Promise<Response> {
  const { limits, gate, closed, report } = options;
  // Everything that ends a request early is one signal, which the model sees: the client left, its time is up, we close.
  const over = new AbortController();
  const stop = (reason: unknown) => over.abort(reason);
  const outgoing = c.env.outgoing;
  const left = () => stop(new ApiError(500, "client_closed_request", "The client went away."));
  const closing = () => stop(closed.reason);
  outgoing.once("close", left);
  closed.addEventListener("abort", closing, { once: true });
  const timer = setTimeout(() => {
    stop(new ApiError(504, "timeout", `The reply took longer than this server's ${limits.requestSeconds} s.`));
  }, limits.requestSeconds * 1000);
  const finish = () => {
    clearTimeout(timer);
    outgoing.off("close", left);
    closed.removeEventListener("abort", closing);
  };

  const head = { id: `${format.idPrefix}${randomUUID().replaceAll("-", "")}`, created: Math.floor(Date.now() / 1000) };
  const common = { ...head, model: job.host.id };
  const extra = job.dropped > 0 ? { dropped_messages: job.dropped } : {};
  let streams = false; // then the stream's end, not this function's, is the request's
  try {
    if (closed.aborted) throw closed.reason;
    const release = await gate.enter(job.prompts.length * job.n, over.signal);
    if (!job.stream) {
      try {
        const { choices, usage } = await runJob(job, over.signal, () => {});
        return c.json({
          ...common,
          object: format.object,
          choices: choices.map((choice, i) => format.choice(i, choice)),
          usage,
          ...extra,
        });
      } finally {
        release();
      }
    }
    streams = true;
    return eventStream(async (sink) => {
      const put = (choices: object[], more: object = {}) =>
        sink.send(
          JSON.stringify({
            ...common,
            object: format.chunkObject,
            choices,
            ...(job.includeUsage ? { usage: null } : {}),
            ...more,
          }),
        );
      try {
        const opened = new Set<number>();
        const open = async (index: number) => {
          if (format.opening === undefined || opened.has(index)) return;
          opened.add(index);
          await put([{ index, ...format.opening, logprobs: null, finish_reason: null }], extra);
        };
        const { usage } = await runJob(job, over.signal, async (index, chunk) => {
          await open(index);
          if (chunk.text !== "") {
            await put([{ index, ...format.delta(chunk.text), logprobs: null, finish_reason: null }]);
          }
          if (chunk.finish !== undefined) {
            await put([{ index, ...format.closing, logprobs: null, finish_reason: chunk.finish }]);
          }
        });
        if (job.includeUsage) await put([], { usage: usage satisfies Usage });
        await sink.send("[DONE]");
      } catch (error) {
        // The status is sent already: the client libraries read an error from the stream itself.
        const failure = toApiError(error);
        if (failure.status === 500 && failure.code !== "client_closed_request") report(error);
        await sink.send(JSON.stringify(failure.body()));
      } finally {
        release();
        finish();
      }
    }, left);
  } finally {
    if (!streams) finish();
  }
}
