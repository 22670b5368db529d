import { z } from "zod";
import { ApiError } from "../errors.ts";
import type { ChatTurn, ModelHost, ReplyRequest } from "../host.ts";
import type { ServeLimits } from "../limits.ts";

/** A parameter that we cannot honour: its neutral values pass, anything else is refused rather than ignored. */
function neutral(values: readonly unknown[], why: string) {
  return z
    .unknown()
    .refine((value) => value === undefined || value === null || values.some((v) => same(v, value)), { error: why })
    .optional();
}

function same(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Accepted and without effect on the text: they describe the caller, not the request. */
const described = {
  user: z.string().nullish(),
  metadata: z.record(z.string(), z.unknown()).nullish(),
  service_tier: z.string().nullish(),
  safety_identifier: z.string().nullish(),
  prompt_cache_key: z.string().nullish(),
  store: neutral([false], "replies are not stored; leave `store` out"),
};

const sampling = {
  model: z.string(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  n: z.number().int().min(1).nullish(),
  seed: z.number().int().nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(4)]).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({ include_usage: z.boolean().nullish(), include_obfuscation: z.unknown().optional() })
    .nullish(),
  // Extensions, named as vLLM and Hugging Face name them.
  top_k: z.number().int().min(0).nullish(),
  min_p: z.number().min(0).lt(1).nullish(),
  repetition_penalty: z.number().gt(0).max(10).nullish(),
  // Not done yet.
  presence_penalty: neutral([0], "`presence_penalty` is not supported; use `repetition_penalty`"),
  frequency_penalty: neutral([0], "`frequency_penalty` is not supported; use `repetition_penalty`"),
  logit_bias: neutral([{}], "`logit_bias` is not supported"),
  ...described,
};

export const completionBody = z.strictObject({
  ...sampling,
  prompt: z.union([
    z.string(),
    z.array(z.string()).min(1),
    z.array(z.number().int().min(0)).min(1),
    z.array(z.array(z.number().int().min(0)).min(1)).min(1),
  ]),
  max_tokens: z.number().int().min(1).nullish(),
  echo: neutral([false], "`echo` is not supported"),
  suffix: neutral([""], "`suffix` is not supported"),
  best_of: neutral([1], "`best_of` is not supported; ask for `n` and choose"),
  logprobs: neutral([], "`logprobs` is not supported"),
});

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });
const message = z.strictObject({
  role: z.enum(["system", "developer", "user", "assistant"]),
  name: z.string().min(1).max(64).nullish(),
  content: z.union([z.string(), z.array(textPart)]).nullish(),
  refusal: neutral([], "`refusal` is not supported"),
});

export const chatBody = z.strictObject({
  ...sampling,
  messages: z.array(message).min(1),
  max_tokens: z.number().int().min(1).nullish(),
  max_completion_tokens: z.number().int().min(1).nullish(),
  /** As in OpenAI's Responses API: "auto" leaves out the oldest messages of a conversation that outgrew the context. */
  truncation: z.enum(["auto", "disabled"]).nullish(),
  logprobs: neutral([false], "`logprobs` is not supported"),
  top_logprobs: neutral([0], "`top_logprobs` is not supported"),
  tools: neutral([[]], "`tools` are not supported"),
  tool_choice: neutral(["none", "auto"], "`tools` are not supported"),
  functions: neutral([[]], "`functions` are not supported"),
  function_call: neutral(["none", "auto"], "`functions` are not supported"),
  parallel_tool_calls: neutral([true, false], "`tools` are not supported"),
  response_format: neutral([{ type: "text" }], 'only `response_format: {type: "text"}` is supported'),
  modalities: neutral([["text"]], "only text is supported"),
});

export type CompletionBody = z.output<typeof completionBody>;
export type ChatBody = z.output<typeof chatBody>;

/** What both endpoints make of a body: the prompts as token ids, and how to sample each of `choices` continuations. */
export interface Job {
  readonly host: ModelHost;
  /** One or, for /v1/completions only, several. */
  readonly prompts: readonly (readonly number[])[];
  /** Continuations of each prompt. */
  readonly n: number;
  readonly sampling: Omit<ReplyRequest, "prompt" | "seed">;
  readonly seed: number | undefined;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Oldest messages left out by `truncation: "auto"`. */
  readonly dropped: number;
}

/** @throws ApiError 400 that names the first parameter at fault */
export function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(body, { reportInput: true });
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const path = issue?.path
    .map((part, i) => (typeof part === "number" ? `[${part}]` : `${i > 0 ? "." : ""}${String(part)}`))
    .join("");
  if (issue?.code === "unrecognized_keys") {
    const key = issue.keys[0] ?? "";
    throw new ApiError(400, "unknown_parameter", `Unknown parameter: '${path ? `${path}.` : ""}${key}'.`, {
      param: key,
    });
  }
  const given = JSON.stringify(issue?.input);
  const value = given === undefined || given.length > 80 ? "" : ` (given: ${given})`;
  const text = path ? `'${path}': ${issue?.message}${value}` : `The body: ${issue?.message}`;
  throw new ApiError(400, issue?.code === "custom" ? "unsupported_parameter" : "invalid_value", text, {
    param: path || null,
  });
}

export function completionJob(body: CompletionBody, host: ModelHost, limits: ServeLimits): Job {
  const prompts = promptList(body.prompt).map((prompt) => (typeof prompt === "string" ? host.encode(prompt) : prompt));
  const maxTokens = body.max_tokens ?? 16; // the default of OpenAI's endpoint
  checkMaxTokens(maxTokens, "max_tokens", limits);
  for (const prompt of prompts) {
    if (prompt.length === 0) throw new ApiError(400, "invalid_value", "The prompt is empty.", { param: "prompt" });
    checkContext(prompt.length, maxTokens, "prompt", host, limits);
  }
  return job(body, host, prompts, maxTokens, 0, limits);
}

export function chatJob(body: ChatBody, host: ModelHost, limits: ServeLimits): Job {
  const all = body.messages.map(chatMessage);
  const asked = body.max_completion_tokens ?? body.max_tokens ?? undefined;
  if (asked !== undefined) {
    checkMaxTokens(asked, body.max_completion_tokens == null ? "max_tokens" : "max_completion_tokens", limits);
  }
  let messages = all;
  let prompt = host.encodeChat(messages);
  if (body.truncation === "auto") {
    // A reply gets what was asked for, but never so much that half of the context is lost to it.
    const reserve = Math.min(asked ?? limits.maxTokens, Math.floor(host.contextLength / 2));
    const room = Math.min(limits.promptTokens, host.contextLength - reserve);
    while (prompt.length > room) {
      const shorter = withoutOldest(messages);
      if (shorter === undefined) break;
      messages = shorter;
      prompt = host.encodeChat(messages);
    }
  }
  const room = host.contextLength - prompt.length;
  const wanted = asked ?? Math.min(limits.maxTokens, Math.max(room, 1));
  const maxTokens = body.truncation === "auto" ? Math.max(1, Math.min(wanted, room)) : wanted;
  checkContext(prompt.length, maxTokens, "messages", host, limits);
  return job(body, host, [prompt], maxTokens, all.length - messages.length, limits);
}

function promptList(prompt: CompletionBody["prompt"]): (string | number[])[] {
  if (typeof prompt === "string") return [prompt];
  return typeof prompt[0] === "number" ? [prompt as number[]] : (prompt as string[] | number[][]);
}

function chatMessage({ role, name, content }: ChatBody["messages"][number]): ChatTurn {
  const text = typeof content === "string" ? content : (content ?? []).map((part) => part.text).join("");
  return { role: role === "developer" ? "system" : role, content: text, ...(name == null ? {} : { name }) };
}

/** Without the oldest message that is neither an instruction nor the last word; undefined where there is none. */
function withoutOldest(messages: readonly ChatTurn[]): ChatTurn[] | undefined {
  const lastUser = messages.findLastIndex((message) => message.role === "user");
  const oldest = messages.findIndex((message, i) => message.role !== "system" && i < lastUser);
  return oldest < 0 ? undefined : messages.filter((_, i) => i !== oldest);
}

function checkMaxTokens(maxTokens: number, param: string, limits: ServeLimits): void {
  if (maxTokens <= limits.maxTokens) return;
  throw new ApiError(
    400,
    "invalid_value",
    `'${param}' is ${maxTokens}; this server allows at most ${limits.maxTokens}.`,
    { param },
  );
}

function checkContext(prompt: number, maxTokens: number, param: string, host: ModelHost, limits: ServeLimits): void {
  if (prompt > limits.promptTokens) {
    const text = `The prompt has ${prompt} tokens; this server allows at most ${limits.promptTokens}.`;
    throw new ApiError(400, "context_length_exceeded", text, { param });
  }
  if (prompt + maxTokens > host.contextLength) {
    const text = `${host.id} has a context of ${host.contextLength} tokens; the request needs ${prompt + maxTokens} (${prompt} in the ${param}, ${maxTokens} for the reply). Shorten one of them.`;
    throw new ApiError(400, "context_length_exceeded", text, { param });
  }
}

function job(
  body: CompletionBody | ChatBody,
  host: ModelHost,
  prompts: readonly (readonly number[])[],
  maxTokens: number,
  dropped: number,
  limits: ServeLimits,
): Job {
  const n = body.n ?? 1;
  const most = Math.min(limits.choices, limits.concurrent);
  if (n * prompts.length > most) {
    const text = `The request asks for ${n * prompts.length} continuations; this server gives at most ${most} at once.`;
    throw new ApiError(400, "invalid_value", text, { param: "n" });
  }
  const stop = typeof body.stop === "string" ? [body.stop] : (body.stop ?? []);
  return {
    host,
    prompts,
    n,
    seed: body.seed ?? undefined,
    stream: body.stream ?? false,
    includeUsage: body.stream_options?.include_usage ?? false,
    dropped,
    sampling: {
      maxTokens,
      temperature: body.temperature ?? 1,
      // Values that switch a filter off are left out, so that a host has one way to see it.
      ...(body.top_k ? { topK: body.top_k } : {}),
      ...(body.top_p != null && body.top_p < 1 ? { topP: body.top_p } : {}),
      ...(body.min_p ? { minP: body.min_p } : {}),
      ...(body.repetition_penalty != null && body.repetition_penalty !== 1
        ? { repetitionPenalty: body.repetition_penalty }
        : {}),
      ...(stop.length > 0 ? { stop } : {}),
    },
  };
}
