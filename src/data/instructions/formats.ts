import type { Example, Message, Part, Tool, ToolCall } from "./example.ts";

export type Row = Readonly<Record<string, unknown>>;

export const instructionFormats = [
  "alpaca",
  "sharegpt",
  "openai",
  "natural-instructions",
  "preference",
  "hh",
  "pairwise",
  "ranking",
  "label",
] as const;
export type InstructionFormat = (typeof instructionFormats)[number];

/** Thrown for a row that does not hold what its format says; turned into an error with file and line where it was read. */
export class RowError extends Error {}

const isObject = (x: unknown): x is Row => typeof x === "object" && x !== null && !Array.isArray(x);
const shown = (x: unknown) => (JSON.stringify(x) ?? "nothing").slice(0, 60);

function text(row: Row, key: string, optional = false): string {
  const value = row[key];
  if (typeof value === "string") return value;
  if (optional && (value === undefined || value === null)) return "";
  throw new RowError(`"${key}" is ${shown(value)}; a text is expected`);
}

/** Which format a row is in, by its keys; undefined if none fits. */
export function detectFormat(row: Row): InstructionFormat | undefined {
  const has = (...keys: string[]) => keys.every((k) => row[k] !== undefined);
  if (has("Definition", "Instances")) return "natural-instructions";
  if (has("chosen", "rejected"))
    return typeof row.chosen === "string" && /\n\nHuman:/.test(row.chosen) ? "hh" : "preference";
  if (has("instruction", "output_1", "output_2", "preference")) return "pairwise";
  if (
    (has("responses") || has("replies") || has("completions")) &&
    (has("scores") || has("ranks") || has("prompt") || has("instruction"))
  )
    return "ranking";
  if ((has("messages") || has("prompt", "completion")) && typeof row.label === "boolean") return "label";
  if (has("messages")) return "openai";
  if (has("conversations")) return "sharegpt";
  if (has("instruction") && (has("output") || has("instances"))) return "alpaca";
  if (has("prompt") && (has("response") || has("completion"))) return "alpaca";
  return undefined;
}

/** The examples a row holds. @throws RowError saying what is wrong */
export function readRow(row: Row, format: InstructionFormat, place: string): Example[] {
  const tools = row.tools === undefined || row.tools === null ? undefined : readTools(row.tools);
  const about = { place, ...(tools && tools.length > 0 ? { tools } : {}) };
  switch (format) {
    case "alpaca":
      return readAlpaca(row).map((messages) => ({ kind: "conversation", messages, ...about }));
    case "sharegpt":
      return [{ kind: "conversation", messages: withSystem(row, shareGpt(row.conversations)), ...about }];
    case "openai":
      return [{ kind: "conversation", messages: openAi(row.messages, "messages"), ...about }];
    case "natural-instructions":
      return readNatural(row).map((messages) => ({ kind: "conversation", messages, ...about }));
    case "preference": {
      const context = row.conversations === undefined ? promptOf(row) : withSystem(row, shareGpt(row.conversations));
      const [chosen, rejected] = (["chosen", "rejected"] as const).map((key) => replyOf(row[key], key));
      // TRL's lists repeat the prompt in front of both replies.
      const [shared, a, b] = context.length > 0 ? [context, chosen!, rejected!] : splitCommon(chosen!, rejected!);
      return [
        {
          kind: "preference",
          prompt: shared,
          chosen: withoutPrompt(a, shared),
          rejected: withoutPrompt(b, shared),
          ...about,
        },
      ];
    }
    case "hh": {
      const [chosen, rejected] = [transcript(text(row, "chosen")), transcript(text(row, "rejected"))];
      const [prompt, a, b] = splitCommon(chosen, rejected);
      return [{ kind: "preference", prompt, chosen: a, rejected: b, ...about }];
    }
    case "pairwise": {
      const preference = Number(row.preference);
      if (![1, 2].includes(Math.round(preference)))
        throw new RowError(`"preference" is ${shown(row.preference)}; 1 (the first output) or 2 is expected`);
      const user = joined(text(row, "instruction"), text(row, "input", true));
      const outputs = [text(row, "output_1"), text(row, "output_2")].map((content): Message[] => [
        { role: "assistant", content },
      ]);
      const [chosen, rejected] = preference < 1.5 ? outputs : [...outputs].reverse();
      return [
        {
          kind: "preference",
          prompt: [{ role: "user", content: user }],
          chosen: chosen!,
          rejected: rejected!,
          ...about,
        },
      ];
    }
    case "ranking":
      return [readRanking(row, about)];
    case "label": {
      const all =
        row.messages === undefined
          ? [...promptOf(row), ...replyOf(row.completion, "completion")]
          : openAi(row.messages, "messages");
      return [{ kind: "label", prompt: all.slice(0, -1), reply: all.slice(-1), good: row.label === true, ...about }];
    }
  }
}

const joined = (instruction: string, input: string) =>
  input.trim() === "" ? instruction : `${instruction}\n\n${input}`;

function readAlpaca(row: Row): Message[][] {
  const messages: Message[] = [];
  const system = text(row, "system", true);
  if (system !== "") messages.push({ role: "system", content: system });
  const history = row.history ?? [];
  if (!Array.isArray(history)) throw new RowError(`"history" is ${shown(history)}; a list of pairs is expected`);
  for (const [i, turn] of history.entries()) {
    if (!Array.isArray(turn) || turn.length !== 2 || turn.some((t) => typeof t !== "string"))
      throw new RowError(`"history" ${i + 1} is ${shown(turn)}; a pair of texts is expected`);
    messages.push({ role: "user", content: turn[0] as string }, { role: "assistant", content: turn[1] as string });
  }
  const instruction = row.instruction === undefined ? text(row, "prompt") : text(row, "instruction");
  const outcome = (input: string, output: string): Message[] => [
    ...messages,
    { role: "user", content: joined(instruction, input) },
    { role: "assistant", content: output },
  ];
  // Self-instruct's seed tasks have several instances.
  if (Array.isArray(row.instances))
    return row.instances.map((instance: unknown) => {
      if (!isObject(instance))
        throw new RowError(`"instances" holds ${shown(instance)}; {"input", "output"} is expected`);
      return outcome(text(instance, "input", true), text(instance, "output"));
    });
  const key = ["output", "response", "completion"].find((k) => row[k] !== undefined) ?? "output";
  return [outcome(text(row, "input", true), text(row, key))];
}

/** Wang et al. 2022 (Super-NaturalInstructions): a definition, and instances of it with one or several right outputs, of which the first is taken. */
function readNatural(row: Row): Message[][] {
  const definition = Array.isArray(row.Definition) ? row.Definition.join("\n") : row.Definition;
  if (typeof definition !== "string") throw new RowError(`"Definition" is ${shown(definition)}; a text is expected`);
  if (!Array.isArray(row.Instances)) throw new RowError(`"Instances" is ${shown(row.Instances)}; a list is expected`);
  return row.Instances.map((instance: unknown, i) => {
    if (!isObject(instance))
      throw new RowError(`"Instances" ${i + 1} is ${shown(instance)}; {"input", "output"} is expected`);
    const output = Array.isArray(instance.output) ? instance.output[0] : instance.output;
    if (typeof output !== "string")
      throw new RowError(`"Instances" ${i + 1} has the output ${shown(instance.output)}; a text is expected`);
    return [
      { role: "user", content: joined(definition, text(instance, "input")) },
      { role: "assistant", content: output },
    ];
  });
}

const shareGptRoles: Readonly<Record<string, Message["role"]>> = {
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  bot: "assistant",
  assistant: "assistant",
  system: "system",
  function_call: "assistant",
  observation: "tool",
  tool: "tool",
  function_response: "tool",
};

function shareGpt(list: unknown): Message[] {
  if (!Array.isArray(list)) throw new RowError(`"conversations" is ${shown(list)}; a list is expected`);
  return list.map((turn: unknown, i) => shareGptMessage(turn, `"conversations" ${i + 1}`));
}

function shareGptMessage(turn: unknown, place: string): Message {
  if (!isObject(turn) || typeof turn.from !== "string")
    throw new RowError(`${place} is ${shown(turn)}; {"from", "value"} is expected`);
  const role = shareGptRoles[turn.from];
  if (role === undefined)
    throw new RowError(`${place} is from ${shown(turn.from)}; known are ${Object.keys(shareGptRoles).join(", ")}`);
  if (typeof turn.value !== "string")
    throw new RowError(`${place} has the value ${shown(turn.value)}; a text is expected`);
  if (turn.from === "function_call") return { role, content: "", toolCalls: readCalls(turn.value, place) };
  return { role, content: turn.value };
}

function parseJson(value: string, place: string): unknown {
  try {
    return JSON.parse(value);
  } catch {
    throw new RowError(`${place} is not JSON: ${shown(value)}`);
  }
}

function readCalls(value: unknown, place: string): ToolCall[] {
  const parsed = typeof value === "string" ? parseJson(value, place) : value;
  return (Array.isArray(parsed) ? parsed : [parsed]).map((call: unknown): ToolCall => {
    const inner = isObject(call) && isObject(call.function) ? call.function : call;
    if (!isObject(inner) || typeof inner.name !== "string")
      throw new RowError(`${place} calls ${shown(call)}; {"name", "arguments"} is expected`);
    const given = inner.arguments ?? {};
    return {
      ...(isObject(call) && typeof call.id === "string" ? { id: call.id } : {}),
      name: inner.name,
      arguments: typeof given === "string" ? parseJson(given, `${place}: the arguments of ${inner.name}`) : given,
    };
  });
}

function readTools(value: unknown): Tool[] {
  const list = typeof value === "string" ? (value.trim() === "" ? [] : parseJson(value, '"tools"')) : value;
  if (!Array.isArray(list)) throw new RowError(`"tools" is ${shown(list)}; a list is expected`);
  return list.map((tool: unknown): Tool => {
    const inner = isObject(tool) && isObject(tool.function) ? tool.function : tool;
    if (!isObject(inner) || typeof inner.name !== "string")
      throw new RowError(`"tools" holds ${shown(tool)}; {"name", ...} is expected`);
    return {
      name: inner.name,
      ...(typeof inner.description === "string" ? { description: inner.description } : {}),
      ...(inner.parameters === undefined ? {} : { parameters: inner.parameters }),
    };
  });
}

const withSystem = (row: Row, messages: Message[]): Message[] =>
  typeof row.system === "string" && row.system !== "" && messages[0]?.role !== "system"
    ? [{ role: "system", content: row.system }, ...messages]
    : messages;

const openAiRoles: Readonly<Record<string, Message["role"]>> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
  tool: "tool",
  function: "tool",
};

function openAi(list: unknown, key: string): Message[] {
  if (!Array.isArray(list)) throw new RowError(`"${key}" is ${shown(list)}; a list of messages is expected`);
  return list.map((m: unknown, i): Message => {
    const place = `"${key}" ${i + 1}`;
    if (!isObject(m) || typeof m.role !== "string")
      throw new RowError(`${place} is ${shown(m)}; {"role", "content"} is expected`);
    const role = openAiRoles[m.role];
    if (role === undefined)
      throw new RowError(`${place} has the role ${shown(m.role)}; known are ${Object.keys(openAiRoles).join(", ")}`);
    const calls = m.tool_calls ?? (m.function_call ? [m.function_call] : undefined);
    return {
      role,
      content: readContent(m.content, place, calls !== undefined && calls !== null),
      ...(calls ? { toolCalls: readCalls(calls, place) } : {}),
      ...(typeof m.tool_call_id === "string" ? { toolCallId: m.tool_call_id } : {}),
      ...(typeof m.name === "string" ? { name: m.name } : {}),
    };
  });
}

function readContent(content: unknown, place: string, mayBeMissing: boolean): Message["content"] {
  if (typeof content === "string") return content;
  if ((content === null || content === undefined) && mayBeMissing) return "";
  if (!Array.isArray(content))
    throw new RowError(`${place} has the content ${shown(content)}; a text or a list of parts is expected`);
  return content.map((part: unknown): Part => {
    if (isObject(part) && part.type === "text" && typeof part.text === "string")
      return { type: "text", text: part.text };
    const url =
      isObject(part) && part.type === "image_url"
        ? isObject(part.image_url)
          ? part.image_url.url
          : part.image_url
        : undefined;
    if (typeof url === "string") return { type: "image", url };
    throw new RowError(`${place} has the part ${shown(part)}; text and image_url are known`);
  });
}

function promptOf(row: Row): Message[] {
  const prompt = row.prompt ?? row.question ?? row.instruction;
  if (prompt === undefined) return [];
  if (typeof prompt === "string")
    return withSystem(row, [{ role: "user", content: joined(prompt, text(row, "input", true)) }]);
  return openAi(prompt, "prompt");
}

function replyOf(value: unknown, key: string): Message[] {
  if (typeof value === "string") return [{ role: "assistant", content: value }];
  if (isObject(value) && "from" in value) return [shareGptMessage(value, `"${key}"`)];
  if (isObject(value)) return openAi([value], key);
  if (Array.isArray(value) && isObject(value[0]) && "from" in value[0])
    return value.map((turn, i) => shareGptMessage(turn, `"${key}" ${i + 1}`));
  return openAi(value, key);
}

const same = (a: Message, b: Message) => JSON.stringify(a) === JSON.stringify(b);

/** What two transcripts begin with alike (at least one message stays on each side), and the rest of each. */
function splitCommon(a: readonly Message[], b: readonly Message[]): [prompt: Message[], Message[], Message[]] {
  let n = 0;
  while (n < Math.min(a.length, b.length) - 1 && same(a[n]!, b[n]!)) n++;
  return [a.slice(0, n), a.slice(n), b.slice(n)];
}

const withoutPrompt = (reply: readonly Message[], prompt: readonly Message[]): Message[] =>
  reply.length > prompt.length && prompt.every((m, i) => same(m, reply[i]!)) ? reply.slice(prompt.length) : [...reply];

/** Bai et al. 2022 (HH-RLHF): "\n\nHuman: ...\n\nAssistant: ...". */
function transcript(value: string): Message[] {
  const turns = value.split(/\n\n(Human|Assistant):/);
  const out: Message[] = [];
  for (let i = 1; i < turns.length; i += 2)
    out.push({ role: turns[i] === "Human" ? "user" : "assistant", content: turns[i + 1]!.trim() });
  if (out.length === 0) throw new RowError("there is no turn that begins with Human: or Assistant:");
  return out;
}

function readRanking(row: Row, about: { place: string }): Example {
  const list = row.responses ?? row.replies ?? row.completions;
  if (!Array.isArray(list) || list.length < 2)
    throw new RowError(`the replies are ${shown(list)}; a list of two or more is expected`);
  const numbers = (key: string): number[] | undefined => {
    const value = row[key];
    if (value === undefined) return undefined;
    if (
      !Array.isArray(value) ||
      value.length !== list.length ||
      value.some((x) => typeof x !== "number" || !Number.isFinite(x))
    )
      throw new RowError(`"${key}" is ${shown(value)}; ${list.length} numbers are expected, one for each reply`);
    return value as number[];
  };
  // Ranks count from the best; without either, the list itself is in order.
  const scores = numbers("scores") ?? numbers("ranks")?.map((r) => -r) ?? list.map((_, i) => -i);
  const replies = list
    .map((reply: unknown, i) => {
      const inner =
        isObject(reply) && typeof reply.text === "string"
          ? reply.text
          : isObject(reply) && typeof reply.response === "string"
            ? reply.response
            : reply;
      const score = isObject(reply) && typeof reply.score === "number" ? reply.score : scores[i]!;
      return { messages: replyOf(inner, `reply ${i + 1}`), score };
    })
    .sort((a, b) => b.score - a.score);
  return { kind: "ranking", prompt: promptOf(row), replies, ...about };
}
