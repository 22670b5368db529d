import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createServer, type Server } from "../../src/serve/index.ts";
import { ScriptedRegistry, scriptedModel, until } from "../support/scripted-model.ts";

// The official client is the judge: it is used as its documentation says, with nothing but another base URL.
describe("the official openai client", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-openai-"));
  const bard = scriptedModel("bard", ["To be, or not to be. That is it.", "Words, words, words. 詞🐘"]);
  const slow = scriptedModel("slow", ["x".repeat(1000)], { delayMs: 20 });
  const broken = scriptedModel("broken", ["abcdef"], { failAfter: 3 });
  const tiny = scriptedModel("tiny", ["ok"], { contextLength: 64 });
  const faults: unknown[] = [];
  let server: Server;
  let client: OpenAI;

  beforeAll(async () => {
    server = await createServer({
      models: new ScriptedRegistry(bard, slow, broken, tiny),
      runsDir: folder,
      apiKey: "a-long-key",
      limits: { requestSeconds: 2 },
      report: (error) => faults.push(error),
    });
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "a-long-key", maxRetries: 0 });
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  const hello = [{ role: "user", content: "Hello" }] as const;

  test("lists models and retrieves one by its id", async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    expect(ids).toEqual(["bard", "slow", "broken", "tiny"]);
    expect(await client.models.retrieve("bard")).toMatchObject({ id: "bard", object: "model", created: 1_700_000_000 });
  });

  test("gets a chat completion with usage that counts the tokens of prompt and reply", async () => {
    const reply = await client.chat.completions.create({ model: "bard", messages: [...hello] });
    expect(reply.object).toBe("chat.completion");
    expect(reply.choices).toMatchObject([
      { index: 0, message: { role: "assistant", content: "To be, or not to be. That is it." }, finish_reason: "stop" },
    ]);
    expect(reply.usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 33, total_tokens: 45 }); // 32 characters and the end
  });

  test("streams the same text that it gets at once, with usage last when asked", async () => {
    const stream = await client.chat.completions.create({
      model: "bard",
      messages: [...hello],
      seed: 1,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    const finishes = [];
    let usage: unknown;
    for await (const chunk of stream) {
      expect(chunk.object).toBe("chat.completion.chunk");
      text += chunk.choices[0]?.delta.content ?? "";
      if (chunk.choices[0]?.finish_reason) finishes.push(chunk.choices[0].finish_reason);
      usage = chunk.usage ?? usage;
    }
    expect(text).toBe("Words, words, words. 詞🐘");
    expect(finishes).toEqual(["stop"]);
    expect(usage).toMatchObject({ prompt_tokens: 12, completion_tokens: 24, total_tokens: 36 });
  });

  test("its stream helper assembles the message and sees every event", async () => {
    const runner = client.chat.completions.stream({ model: "bard", messages: [...hello], n: 2, seed: 0 });
    const final = await runner.finalChatCompletion();
    expect(final.choices.map((choice) => choice.message.content)).toEqual([
      "To be, or not to be. That is it.",
      "Words, words, words. 詞🐘",
    ]);
  });

  test("gets text completions of several prompts, as text or as tokens", async () => {
    const reply = await client.completions.create({ model: "bard", prompt: ["a", "bc"], max_tokens: 5, n: 2, seed: 0 });
    expect(reply.object).toBe("text_completion");
    expect(reply.choices.map((choice) => [choice.index, choice.text, choice.finish_reason])).toEqual([
      [0, "To be", "length"],
      [1, "Words", "length"],
      [2, "To be", "length"],
      [3, "Words", "length"],
    ]);
    expect(reply.usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 20, total_tokens: 23 });
    await client.completions.create({ model: "bard", prompt: [7, 8, 9] });
    expect(bard.seen.requests.at(-1)).toMatchObject({ prompt: [7, 8, 9], maxTokens: 16, temperature: 1 });
    const stream = await client.completions.create({ model: "bard", prompt: "a", max_tokens: 5, stream: true });
    let text = "";
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
    expect(text).toBe("To be");
  });

  test("stop strings end the reply and are not part of it", async () => {
    const reply = await client.chat.completions.create({ model: "bard", messages: [...hello], stop: [" or", "not"] });
    expect(reply.choices[0]?.message.content).toBe("To be,");
    expect(reply.choices[0]?.finish_reason).toBe("stop");
  });

  test("sampling parameters reach the model, and filters that are off do not", async () => {
    const extensions = { top_k: 40, min_p: 0.05, repetition_penalty: 1.2 };
    const common = { model: "bard", messages: [...hello] };
    await client.chat.completions.create({ ...common, temperature: 0.5, top_p: 0.9, max_tokens: 3, ...extensions });
    expect(bard.seen.requests.at(-1)).toEqual({
      prompt: bard.encode("user: Hello\n"),
      maxTokens: 3,
      temperature: 0.5,
      topK: 40,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.2,
    });
    await client.chat.completions.create({ ...common, top_p: 1, temperature: 0, max_completion_tokens: 4 });
    expect(bard.seen.requests.at(-1)).toEqual({ prompt: bard.encode("user: Hello\n"), maxTokens: 4, temperature: 0 });
  });

  test("names of speakers reach the template, and a last assistant message says who answers", async () => {
    await client.chat.completions.create({
      model: "bard",
      messages: [
        { role: "developer", content: "Speak." },
        {
          role: "user",
          name: "ROMEO",
          content: [
            { type: "text", text: "Call me " },
            { type: "text", text: "but love" },
          ],
        },
        { role: "assistant", name: "JULIET", content: "" },
      ],
    });
    expect(bard.seen.chats.at(-1)).toEqual([
      { role: "system", content: "Speak." },
      { role: "user", name: "ROMEO", content: "Call me but love" },
      { role: "assistant", name: "JULIET", content: "" },
    ]);
  });

  test("its error classes fit: key, model, parameter, context", async () => {
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong-key", maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
    const create = (body: object) =>
      client.chat.completions.create({ model: "bard", messages: [...hello], stream: false, ...body });
    const cases: [object, unknown, object][] = [
      [{ model: "gpt-9" }, OpenAI.NotFoundError, { status: 404, code: "model_not_found", param: "model" }],
      [{ temperature: 3 }, OpenAI.BadRequestError, { code: "invalid_value", param: "temperature" }],
      [{ temprature: 1 }, OpenAI.BadRequestError, { code: "unknown_parameter", param: "temprature" }],
      [{ logprobs: true }, OpenAI.BadRequestError, { code: "unsupported_parameter", param: "logprobs" }],
      [{ tools: [{ type: "function" }] }, OpenAI.BadRequestError, { code: "unsupported_parameter", param: "tools" }],
      [{ messages: [] }, OpenAI.BadRequestError, { code: "invalid_value", param: "messages" }],
      [{ messages: [{ role: "king", content: "" }] }, OpenAI.BadRequestError, { param: "messages[0].role" }],
      [{ max_tokens: 100_000 }, OpenAI.BadRequestError, { code: "invalid_value", param: "max_tokens" }],
      [{ n: 100 }, OpenAI.BadRequestError, { code: "invalid_value", param: "n" }],
      [
        { model: "tiny", max_tokens: 64 },
        OpenAI.BadRequestError,
        { code: "context_length_exceeded", param: "messages" },
      ],
      [
        { messages: [{ role: "user", name: "Nobody", content: "" }] },
        OpenAI.BadRequestError,
        { code: "invalid_value" },
      ],
    ];
    for (const [body, type, fields] of cases) {
      const error: unknown = await create(body).then(
        () => "no error",
        (error: unknown) => error,
      );
      expect(error, JSON.stringify(body)).toBeInstanceOf(type);
      expect(error).toMatchObject(fields);
    }
    expect(faults).toEqual([]); // none of these is the server's fault
  });

  test("neutral values of unsupported parameters pass", async () => {
    await client.chat.completions.create({
      model: "bard",
      messages: [...hello],
      logprobs: false,
      tools: [],
      frequency_penalty: 0,
      presence_penalty: null,
      response_format: { type: "text" },
      user: "someone",
    });
  });

  test("a conversation that outgrew the context loses its oldest messages when truncation is auto", async () => {
    const turns = Array.from(
      { length: 6 },
      (_, i) => ({ role: i % 2 ? "assistant" : "user", content: `turn ${i}` }) as const,
    );
    const messages = [{ role: "system", content: "S" } as const, ...turns.slice(0, 5)];
    const extension = { truncation: "auto" };
    await client.chat.completions.create({ model: "tiny", messages, max_tokens: 20, ...extension });
    const sent = tiny.seen.chats.at(-1) ?? [];
    expect(sent[0]).toEqual({ role: "system", content: "S" });
    expect(sent.at(-1)).toEqual({ role: "user", content: "turn 4" });
    expect(sent.length).toBeLessThan(messages.length);
    const request = tiny.seen.requests.at(-1);
    expect((request?.prompt.length ?? 0) + (request?.maxTokens ?? 0)).toBeLessThanOrEqual(64);
  });

  test("a fault of the model is a 500 without its message, before or during a stream", async () => {
    await expect(client.chat.completions.create({ model: "broken", messages: [...hello] })).rejects.toSatisfy(
      (error) => error instanceof OpenAI.InternalServerError && !error.message.includes("secret"),
    );
    const stream = await client.chat.completions.create({ model: "broken", messages: [...hello], stream: true });
    let text = "";
    const read = async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    };
    await expect(read()).rejects.toThrow(OpenAI.APIError);
    expect(text).toBe("abc");
    expect(faults).toHaveLength(2);
  });

  test("a reply that takes too long ends with an error, not with silence", async () => {
    await expect(client.chat.completions.create({ model: "slow", messages: [...hello] })).rejects.toMatchObject({
      status: 504,
      code: "timeout",
    });
    expect(slow.seen.running).toBe(0);
  });

  test("a client that stops reading a stream, or drops its request, frees its slot", async () => {
    const stream = await client.chat.completions.create({ model: "slow", messages: [...hello], stream: true });
    for await (const _ of stream) break;
    await until(() => slow.seen.running === 0, 1000);
    const abort = new AbortController();
    const dropped = client.chat.completions.create({ model: "slow", messages: [...hello] }, { signal: abort.signal });
    const outcome = dropped.catch((error: unknown) => error);
    await until(() => slow.seen.running === 1);
    abort.abort();
    expect(await outcome).toBeInstanceOf(OpenAI.APIUserAbortError);
    await until(() => slow.seen.running === 0, 1000);
    const health = await (await fetch(`${server.url}/health`)).json();
    expect(health).toMatchObject({ status: "ok", running: 0, waiting: 0 });
  });
});
