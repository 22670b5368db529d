import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, test } from "vitest";
import {
  type Example,
  endpointModel,
  flaw,
  type GeneratedTask,
  pairsOf,
  parseInstructions,
  rougeL,
  selfInstruct,
} from "../../src/data/instructions/index.ts";

const one = (row: unknown): Example => parseInstructions(JSON.stringify(row), "x.jsonl").examples[0]!;
const roles = (list: readonly { role: string }[]) => list.map((m) => m.role).join(" ");

describe("formats", () => {
  test("Alpaca: instruction, input, history and system", () => {
    const e = one({ system: "Be brief.", history: [["Hi", "Hello"]], instruction: "Add", input: "1 2", output: "3" });
    expect(e).toMatchObject({ kind: "conversation", place: "x.jsonl:1" });
    expect(e.kind === "conversation" && e.messages.map((m) => m.content)).toEqual([
      "Be brief.",
      "Hi",
      "Hello",
      "Add\n\n1 2",
      "3",
    ]);
  });
  test("ShareGPT with tools: calls are read, and what they give comes from the tool", () => {
    const e = one({
      conversations: [
        { from: "human", value: "Weather?" },
        { from: "function_call", value: '{"name": "weather", "arguments": {"city": "Oslo"}}' },
        { from: "observation", value: "rain" },
        { from: "gpt", value: "It rains." },
      ],
      tools: '[{"name": "weather", "description": "Looks outside.", "parameters": {"type": "object"}}]',
    });
    if (e.kind !== "conversation") throw new Error(e.kind);
    expect(roles(e.messages)).toBe("user assistant tool assistant");
    expect(e.messages[1]!.toolCalls).toEqual([{ name: "weather", arguments: { city: "Oslo" } }]);
    expect(e.tools?.[0]).toEqual({ name: "weather", description: "Looks outside.", parameters: { type: "object" } });
  });
  test("OpenAI: calls with arguments as text, parts, pictures", () => {
    const e = one({
      messages: [
        { role: "developer", content: "S" },
        {
          role: "user",
          content: [
            { type: "text", text: "What is it?" },
            { type: "image_url", image_url: { url: "cat.png" } },
          ],
        },
        {
          role: "assistant",
          content: null,
          tool_calls: [{ id: "c1", type: "function", function: { name: "look", arguments: '{"x":1}' } }],
        },
        { role: "tool", tool_call_id: "c1", content: "a cat" },
        { role: "assistant", content: "A cat." },
      ],
    });
    if (e.kind !== "conversation") throw new Error(e.kind);
    expect(roles(e.messages)).toBe("system user assistant tool assistant");
    expect(e.messages[1]!.content).toEqual([
      { type: "text", text: "What is it?" },
      { type: "image", url: "cat.png" },
    ]);
    expect(e.messages[2]!.toolCalls).toEqual([{ id: "c1", name: "look", arguments: { x: 1 } }]);
  });
  test("natural-instructions: a conversation an instance, over several lines", () => {
    const task = JSON.stringify(
      {
        Definition: ["Say the opposite."],
        Instances: [
          { input: "hot", output: ["cold"] },
          { input: "up", output: ["down", "below"] },
        ],
      },
      undefined,
      2,
    );
    const { examples } = parseInstructions(task, "task.json");
    expect(examples.map((e) => e.kind === "conversation" && e.messages.map((m) => m.content))).toEqual([
      ["Say the opposite.\n\nhot", "cold"],
      ["Say the opposite.\n\nup", "down"],
    ]);
  });
  test.each([
    ["texts", { prompt: "Q", chosen: "good", rejected: "bad" }],
    [
      "messages",
      {
        prompt: [{ role: "user", content: "Q" }],
        chosen: [{ role: "assistant", content: "good" }],
        rejected: [{ role: "assistant", content: "bad" }],
      },
    ],
    [
      "TRL's, with the prompt in both",
      {
        chosen: [
          { role: "user", content: "Q" },
          { role: "assistant", content: "good" },
        ],
        rejected: [
          { role: "user", content: "Q" },
          { role: "assistant", content: "bad" },
        ],
      },
    ],
    [
      "ShareGPT's",
      {
        conversations: [{ from: "human", value: "Q" }],
        chosen: { from: "gpt", value: "good" },
        rejected: { from: "gpt", value: "bad" },
      },
    ],
    ["HH-RLHF transcripts", { chosen: "\n\nHuman: Q\n\nAssistant: good", rejected: "\n\nHuman: Q\n\nAssistant: bad" }],
    ["pairwise annotations", { instruction: "Q", output_1: "bad", output_2: "good", preference: 2 }],
  ])("preferences as %s are one thing", (_what, row) => {
    expect(one(row)).toMatchObject({
      kind: "preference",
      prompt: [{ role: "user", content: "Q" }],
      chosen: [{ role: "assistant", content: "good" }],
      rejected: [{ role: "assistant", content: "bad" }],
    });
  });
  test("rankings by order, ranks or scores become all pairs without ties", () => {
    for (const row of [
      { prompt: "Q", responses: ["a", "b", "c"] },
      { prompt: "Q", responses: ["c", "a", "b"], ranks: [3, 1, 2] },
      {
        prompt: "Q",
        responses: [
          { text: "b", score: 5 },
          { text: "a", score: 9 },
          { text: "c", score: 1 },
        ],
      },
    ]) {
      const pairs = pairsOf(one(row)).map((p) => `${p.chosen[0]!.content}>${p.rejected[0]!.content}`);
      expect(pairs).toEqual(["a>b", "a>c", "b>c"]);
    }
    expect(pairsOf(one({ prompt: "Q", responses: ["a", "b"], scores: [1, 1] }))).toEqual([]);
  });
  test("labels", () => {
    expect(one({ prompt: "Q", completion: "A", label: false })).toMatchObject({
      kind: "label",
      good: false,
      reply: [{ content: "A" }],
    });
  });
});

describe("what is wrong is named with file, line and field", () => {
  test.each([
    [
      '{"instruction": "a", "output": "b"}\n{"instruction": 5, "output": "b"}',
      /x:2: "instruction" is 5; a text is expected/,
    ],
    [
      '[\n {"instruction": "a", "output": "b"},\n {"instruction": "a"\n "output": "b"}\n]',
      /x:3: the element that begins here is not JSON/,
    ],
    ['[\n {"instruction": "a", "output": "b"},\n {"instr', /x:3: the list that begins in line 3 is not closed/],
    ['{"prompt": "a", "response": "b"}\nnot json', /x:2: this line is not JSON/],
    ['{"quux": 1, "b": 2}', /x:1: the keys quux, b belong to no format known here/],
    ['{"messages": [{"role": "robot", "content": "x"}]}', /x:1: "messages" 1 has the role "robot"/],
    ['{"messages": [{"role": "user", "content": "x"}]}', /x:1: the last message is the user's/],
    [
      '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]}',
      /message 2 \(assistant\) is empty/,
    ],
    ['{"prompt": "q", "chosen": "a", "rejected": "a"}', /the chosen and the rejected reply are the same/],
    ['{"prompt": "q", "responses": ["a", "b"], "scores": [1]}', /"scores" is \[1\]; 2 numbers are expected/],
    ["", /x: the file is empty/],
  ])("%s", (text, message) => {
    expect(() => parseInstructions(text, "x")).toThrow(message);
  });
  test("wrong rows can be left out, and are counted", () => {
    const { examples, flaws, rows } = parseInstructions(
      '{"prompt":"a","response":"b"}\n{"prompt":"a","response":""}\n[1]\n',
      "x",
      { wrong: "skip" },
    );
    expect([examples.length, flaws.map((f) => f.place), rows]).toEqual([1, ["x:2", "x:3"], 3]);
  });
  test("a conversation takes turns", () => {
    const m = (role: "system" | "user" | "assistant" | "tool", content = "x") => ({ role, content });
    expect(flaw([m("system"), m("user"), m("assistant")])).toBeUndefined();
    expect(flaw([m("user"), m("user"), m("assistant")])).toMatch(/message 2 \(user\) follows/);
    expect(flaw([m("user"), m("tool"), m("assistant")])).toMatch(/answers no call/);
    expect(flaw([m("assistant")])).toMatch(/nobody asked/);
    expect(flaw([m("assistant")], true)).toBeUndefined();
  });
});

test("ROUGE-L is the F1 of the longest common subsequence", () => {
  expect(rougeL("the cat sat on the mat", "the cat sat on the mat")).toBe(1);
  // 5 of 6 and 7 words in common order.
  expect(rougeL("the cat sat on the mat", "the big cat lay on the mat")).toBeCloseTo(10 / 13, 10);
  expect(rougeL("abc", "def")).toBe(0);
  expect(rougeL("今天天气", "今天天气好")).toBeCloseTo(8 / 9, 10);
});

describe("self-instruct", () => {
  const seeds = ["Name three rivers of Asia.", "Explain why the sky is blue.", "Write a poem about rain."].map((q) =>
    one({ prompt: q, response: "An answer." }),
  );
  const topics = "glass copper salt bees tides maps clocks wool bread ships roots bells".split(" ");
  test("similar, unfit, short, unanswered and badly rated tasks go; the rest stays, through an OpenAI-compatible server", async () => {
    let n = 0;
    const ideas = [
      "Name three rivers of Asia!",
      "Draw a picture of a horse in a field.",
      "Hm.",
      ...topics.map(
        (t, i) => `Task 4: Describe how ${t} was used in century ${i} by people of ${topics[(i * 5 + 3) % 12]}.`,
      ),
    ];
    const server = createServer((request, response) => {
      let body = "";
      request.on("data", (d) => {
        body += d;
      });
      request.on("end", () => {
        const text = (JSON.parse(body) as { messages: { content: string }[] }).messages[0]!.content;
        if (n === 0 && !request.headers["x-again"]) {
          // The first call is refused once: it is tried again.
          n = -1;
          response.writeHead(429).end("busy");
          return;
        }
        if (n < 0) n = 0;
        const reply = text.startsWith("Come up")
          ? ideas[n++ % ideas.length]!
          : text.startsWith("Rate")
            ? text.includes("how salt")
              ? "2"
              : "Rating: 5"
            : text.includes("how bees")
              ? ""
              : "It was used widely.";
        response
          .writeHead(200, { "content-type": "application/json" })
          .end(JSON.stringify({ choices: [{ message: { content: reply } }] }));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const model = endpointModel({
        url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/`,
        model: "m",
      });
      const { tasks, report } = await selfInstruct({ model, seeds, count: 4, maxSimilarity: 0.8 });
      expect(tasks).toHaveLength(4);
      expect(report.dropped).toMatchObject({ similar: 1, unfit: 1, short: 1, low_score: 1, no_answer: 1 });
      expect(tasks.every((t) => t.score === 5 && t.similarity < 0.8 && t.instruction.startsWith("Describe"))).toBe(
        true,
      );
    } finally {
      server.close();
    }
  });
  test("tasks in work at the same time give the same, whenever answers come, and going on gives what one sitting gives", async () => {
    /** Answers after a while that no test controls; what it says depends on the question and the seed alone. */
    const slow = (most = { asked: 0, now: 0, highest: 0 }) => ({
      name: "slow",
      most,
      fits: (question: readonly { content: string }[]) => question[0]!.content.length < 600,
      async complete(
        question: readonly { content: string }[],
        { seed, signal }: { seed: number; signal?: AbortSignal | undefined },
      ) {
        most.highest = Math.max(most.highest, ++most.now);
        await new Promise((resolve) => setTimeout(resolve, (++most.asked * 7) % 5));
        most.now--;
        signal?.throwIfAborted();
        const text = question[0]!.content;
        expect(text.length).toBeLessThan(600);
        if (text.startsWith("Rate")) return String(3 + (seed % 3));
        const pick = (i: number) => topics[(seed >>> (4 * i)) % topics.length]!;
        return text.startsWith("Come up")
          ? `Task: Tell how ${pick(0)} and ${pick(1)} and ${pick(2)} go with ${pick(3)}.`
          : `An answer that is number ${seed}.`;
      },
    });
    const make = (count: number, parallel: number, before: readonly GeneratedTask[] = []) => {
      const model = slow();
      return selfInstruct({ model, seeds, count, parallel, before, maxSimilarity: 0.9 }).then((r) => ({
        ...r,
        most: model.most,
      }));
    };
    const all = await make(12, 4);
    expect(all.tasks).toHaveLength(12);
    expect(all.most.highest).toBe(4);
    expect(all.report.dropped.low_score).toBeGreaterThan(0);
    expect((await make(12, 4)).tasks).toEqual(all.tasks);
    const first = await make(5, 4);
    expect([...first.tasks, ...(await make(7, 4, first.tasks)).tasks]).toEqual(all.tasks);
    // One after the other is another choice of what is shown, made with the same rules.
    expect((await make(3, 1)).most.highest).toBe(1);
    const stop = new AbortController();
    const stopped = selfInstruct({
      model: slow(),
      seeds,
      count: 9,
      parallel: 4,
      signal: stop.signal,
      onTask: () => stop.abort(),
    });
    await expect(stopped).rejects.toThrow(/aborted/);
  });
  test("a model that only repeats itself ends with an error that says so, and no server is said so", async () => {
    const model = { name: "parrot", complete: async () => "Name three rivers of Asia." };
    await expect(selfInstruct({ model, seeds, count: 1 })).rejects.toThrow(
      /the last 100 tasks of parrot were of no use \(100 similar\)/,
    );
    const nobody = endpointModel({ url: "http://127.0.0.1:9", model: "m" });
    await expect(selfInstruct({ model: nobody, seeds, count: 1 })).rejects.toThrow(/does not answer/);
  });
});
