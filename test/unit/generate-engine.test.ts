import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import {
  createModelHost,
  type EngineOptions,
  Registry,
  ReplyEngine,
  type ReplyRequest,
} from "../../src/generate/index.ts";
import { gptConfig, initModel, type LanguageModel } from "../../src/models/index.ts";
import type { ModelHost, ModelRegistry } from "../../src/serve/host.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { liveTensors } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { type Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { scriptedLanguageModel } from "../support/scripted-language-model.ts";

const tokenizer: Tokenizer = trainByteLevelBpe(["the the 你好"], {
  vocabulary: 262,
  minFrequency: 1,
  specialTokens: ["<|end|>"],
});
const end = tokenizer.tokenId("<|end|>")!;
const vocabulary = tokenizer.vocabularySize;
const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
const CONTEXT = 96;

/** The whole of a reply. */
async function whole(engine: ReplyEngine, request: ReplyRequest, signal?: AbortSignal) {
  let text = "";
  const tokens: number[] = [];
  const pieces: string[] = [];
  let finish: string | undefined;
  for await (const chunk of engine.reply(request, signal)) {
    text += chunk.text;
    pieces.push(chunk.text);
    tokens.push(...chunk.tokens);
    finish = chunk.finish;
  }
  return { text, tokens, pieces, finish };
}

beforeAll(() => {
  useBackend(new ReferenceBackend());
});

describe("a model that says what it is told", () => {
  checkLeaks();
  let close: (() => Promise<void>)[] = [];
  beforeEach(() => {
    close = [];
  });
  afterEach(async () => {
    for (const one of close) await one();
  });

  /** Says `text` after a prompt of one token, then ends; longer prompts join in further on. */
  function says(text: string, options: Partial<EngineOptions> = {}): ReplyEngine {
    const model = scriptedLanguageModel([...encode(text), end], { vocabulary, context: CONTEXT, end });
    const engine = new ReplyEngine({ model, tokenizer, slots: 3, chunks: [4], ...options });
    close.push(async () => {
      await engine.close();
      dispose(model);
    });
    return engine;
  }
  const prompt = encode("x");
  const greedy = { prompt, temperature: 0, maxTokens: 60 };

  test("the text comes in whole characters, then `stop` with the end token counted", async () => {
    const said = "你好, 🐘👩‍🚀 the end.";
    const reply = await whole(says(said), greedy);
    expect(reply.text).toBe(said);
    expect(reply.pieces.join("|")).not.toContain("\ufffd");
    expect(reply.tokens).toEqual([...encode(said), end]);
    expect(reply.finish).toBe("stop");
  });

  test("`length` after max tokens, and where the context ends", async () => {
    const engine = says("abcdefgh");
    const cut = await whole(engine, { ...greedy, maxTokens: 3 });
    expect(cut).toMatchObject({ text: "abc", finish: "length" });
    const endless = says("the ", { endIds: [] });
    const full = await whole(endless, { ...greedy, prompt: encode("x".repeat(90)), maxTokens: 1000 });
    expect(full.tokens).toHaveLength(CONTEXT - 90);
    expect(full.finish).toBe("length");
  });

  test("a stop string ends the reply before it, and no token is decoded after it", async () => {
    const reply = await whole(says("one two three four"), { ...greedy, stop: ["thr", "absent"] });
    expect(reply).toMatchObject({ text: "one two ", finish: "stop" });
    expect(tokenizer.decode(reply.tokens)).toBe("one two thr");
  });

  test("what only looked like a stop string is given out at the end", async () => {
    const reply = await whole(says("ends in EN"), { ...greedy, stop: ["END"] });
    expect(reply).toMatchObject({ text: "ends in EN", finish: "stop" });
  });

  test("an aborted reply throws the reason and frees its slot at once, for the one that waits", async () => {
    const engine = says("never ", { slots: 1, endIds: [] });
    const first = new AbortController();
    const stream = engine.reply({ ...greedy, maxTokens: 90 }, first.signal);
    await stream.next();
    expect(engine.running).toBe(1);
    const second = whole(engine, { ...greedy, maxTokens: 5 });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(engine.waiting).toBe(1);
    first.abort(new Error("gone"));
    expect(engine.running).toBe(0);
    await expect(stream.next()).rejects.toThrow("gone");
    expect((await second).tokens).toHaveLength(5);
  });

  test("one that waits and is aborted leaves the queue; one that is aborted before it begins never enters", async () => {
    const engine = says("never ", { slots: 1, endIds: [] });
    const running = whole(engine, { ...greedy, maxTokens: 40 });
    const control = new AbortController();
    const waits = whole(engine, greedy, control.signal);
    await new Promise((resolve) => setTimeout(resolve, 1));
    control.abort(new Error("changed my mind"));
    await expect(waits).rejects.toThrow("changed my mind");
    expect(engine.waiting).toBe(0);
    await expect(whole(engine, greedy, AbortSignal.abort(new Error("too late")))).rejects.toThrow("too late");
    expect((await running).tokens).toHaveLength(40);
  });

  test("leaving the loop over the chunks frees the slot", async () => {
    const engine = says("never ", { endIds: [] });
    for await (const chunk of engine.reply({ ...greedy, maxTokens: 90 })) {
      expect(chunk.tokens.length).toBeGreaterThan(0);
      break;
    }
    expect(engine.running).toBe(0);
  });

  test("requests get slots in the order they came in", async () => {
    const engine = says("abcdefgh", { slots: 2 });
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 6 }, async (_, i) => {
        await whole(engine, greedy);
        order.push(i);
      }),
    );
    expect(order).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("a long prompt is read between the tokens of a running reply", async () => {
    const engine = says("never ", { endIds: [], chunks: [4] });
    const events: string[] = [];
    const running = (async () => {
      for await (const { tokens } of engine.reply({ ...greedy, maxTokens: 40 }))
        events.push(...tokens.map(() => "token"));
    })();
    await new Promise((resolve) => setTimeout(resolve, 1));
    // 60 tokens are 15 pieces.
    const long = whole(engine, { ...greedy, prompt: encode("y".repeat(60)), maxTokens: 1 }).then(() =>
      events.push("read"),
    );
    await Promise.all([running, long]);
    expect(events.indexOf("read")).toBeGreaterThanOrEqual(14);
  });

  test("wrong requests are refused with the reason and harm nobody", async () => {
    const engine = says("fine");
    const good = whole(engine, greedy);
    await expect(whole(engine, { ...greedy, prompt: [] })).rejects.toThrow(/empty/);
    await expect(whole(engine, { ...greedy, prompt: [vocabulary] })).rejects.toThrow(/no token of this model/);
    await expect(whole(engine, { ...greedy, prompt: encode("z".repeat(CONTEXT)) })).rejects.toThrow(/no room/);
    await expect(whole(engine, { ...greedy, temperature: -1 })).rejects.toThrow(/temperature/);
    await expect(whole(engine, { ...greedy, maxTokens: 0 })).rejects.toThrow(/max tokens/);
    await expect(whole(engine, { ...greedy, stop: [""] })).rejects.toThrow(/stop/);
    await expect(whole(engine, { ...greedy, seed: 0.5 })).rejects.toThrow(/seed/);
    expect((await good).text).toBe("fine");
  });

  test("the cache is given back after a while without requests, and made again for the next", async () => {
    const engine = says("abc", { idleSeconds: 0.01 });
    // More than a page, which is kept for texts that begin alike.
    await whole(engine, { ...greedy, prompt: encode("x".repeat(70)) });
    expect(engine.cacheBytes).toBeGreaterThan(0);
    await new Promise((resolve) => setTimeout(resolve, 40));
    expect(engine.cacheBytes).toBe(0);
    expect((await whole(engine, greedy)).text).toBe("abc");
  });

  test("a closed engine lets its replies end and takes no more", async () => {
    const engine = says("abcdefgh");
    const last = whole(engine, greedy);
    await new Promise((resolve) => setTimeout(resolve, 1));
    await engine.close();
    expect((await last).text).toBe("abcdefgh");
    await expect(whole(engine, greedy)).rejects.toThrow(/taken away/);
  });

  test("a tokenizer with more tokens than the model is refused", () => {
    const model = scriptedLanguageModel([1], { vocabulary: 10, context: 8 });
    expect(() => new ReplyEngine({ model, tokenizer })).toThrow(/belong together/);
    dispose(model);
  });

  test("a registry replaces a model while it is served: what runs ends with the old one", async () => {
    const registry = new Registry();
    const models: ModelRegistry = registry; // what the server takes
    let changes = 0;
    const stop = models.onChange(() => changes++);
    let released = 0;
    const offer = (text: string) => {
      const model = scriptedLanguageModel([...encode(text), end], { vocabulary, context: CONTEXT, end });
      const release = () => {
        released++;
        dispose(model);
      };
      registry.add(createModelHost({ id: "poet", model, tokenizer, slots: 2, chunks: [4], release }));
    };
    offer("the old one");
    const old: ModelHost = models.get("poet")!;
    const stream = old.generate({ prompt, maxTokens: 60, temperature: 0 }, new AbortController().signal);
    let text = "";
    let replaced = false;
    for await (const chunk of stream) {
      text += chunk.text;
      if (!replaced) offer("new");
      replaced = true;
    }
    expect(text).toBe("the old one");
    const now = models.get("poet")!;
    expect(models.list()).toEqual([now]);
    expect(now.contextLength).toBe(CONTEXT);
    let fresh = "";
    for await (const chunk of now.generate({ prompt, maxTokens: 60, temperature: 0 }, new AbortController().signal))
      fresh += chunk.text;
    expect(fresh).toBe("new");
    expect(changes).toBe(2);
    stop();
    await registry.close();
    expect(released).toBe(2);
    expect(changes).toBe(2);
    expect(models.list()).toEqual([]);
  });
});

describe("a model of random weights", () => {
  let model: LanguageModel;
  let engine: ReplyEngine;
  let before: number;
  beforeAll(() => {
    before = liveTensors();
    const config = gptConfig.parse({
      family: "gpt",
      vocabulary: vocabulary + 10, // padded: rows that are no token's
      context: CONTEXT,
      layers: 2,
      width: 32,
      heads: 2,
      mlpWidth: 64,
    });
    const key = randomKey(3);
    model = initModel(config, key);
    dispose(key);
    engine = new ReplyEngine({ model, tokenizer, slots: 4, chunks: [8] });
  });
  afterAll(async () => {
    await engine.close();
    dispose(model);
    expect(liveTensors(), "tensors alive after the engine was closed").toBe(before);
  });

  const request = (n: number): ReplyRequest => ({
    prompt: encode("abcdefghijklmnop".slice(0, 1 + (n % 13))),
    maxTokens: 20,
    temperature: 1.2,
    topP: 0.98,
    seed: 100 + n,
  });

  test("the same seed gives the same text, alone and in any company; another seed another text", async () => {
    const alone = await whole(engine, request(5));
    const company = await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map((n) => whole(engine, request(n))));
    expect(company[5]).toMatchObject({ text: alone.text, tokens: alone.tokens });
    const other = await whole(engine, { ...request(5), seed: 1 });
    expect(other.tokens).not.toEqual(alone.tokens);
    const { seed: _, ...unseeded } = request(5);
    expect((await whole(engine, unseeded)).tokens).not.toEqual((await whole(engine, unseeded)).tokens);
  });

  test("the text is that of its tokens, those without text left out", async () => {
    const reply = await whole(engine, { ...request(2), temperature: 5, maxTokens: 70, topP: 1 });
    const known = reply.tokens.filter((id) => id < vocabulary);
    expect(known.length).toBeLessThan(reply.tokens.length);
    expect(reply.text).toBe(tokenizer.decode(known, { skipSpecialTokens: true }));
  });

  test("the first chunk of a text that begins like an earlier one says how much of it was known", async () => {
    const prompt = encode("abcdefghij".repeat(8).slice(0, 70));
    const cached: (number | undefined)[] = [];
    for (const end of ["x", "y"])
      for await (const chunk of engine.reply({ prompt: [...prompt, ...encode(end)], maxTokens: 2, temperature: 0 }))
        cached.push(chunk.cached);
    expect(cached.filter((n) => n !== undefined)).toEqual([64]);
    expect(cached.findIndex((n) => n !== undefined)).toBeGreaterThan(0);
    expect(engine.status.prefixTokens.found).toBeGreaterThanOrEqual(64);
  });

  test("an engine that was warmed up compiles nothing for requests, and has no memory of it", async () => {
    const warm = new ReplyEngine({ model, tokenizer, slots: 4, chunks: [8] });
    await warm.warm();
    const { programs } = warm;
    expect(programs).toBeGreaterThan(3);
    const [fresh, known] = [await whole(warm, request(5)), await whole(engine, request(5))];
    expect(fresh.tokens).toEqual(known.tokens);
    expect(warm.programs).toBe(programs);
    expect(warm.status).toMatchObject({ running: 0, pages: { held: 0 }, prefixTokens: { found: 0 } });
    await warm.close();
  });

  test("few programs did all that: prompts in steps of 4 and 8 tokens, replies in steps of 1 and 4", () => {
    expect(engine.programs).toBe(4);
  });
});
