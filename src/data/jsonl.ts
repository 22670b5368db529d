import { readFile } from "node:fs/promises";
import { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import type { ChatMessage } from "../tokenizers/chat-template.ts";
import type { Conversation } from "./dialogue.ts";
import { decodeText } from "./text.ts";

/** Two replies to the same conversation, one of them preferred. */
export interface Preference {
  readonly prompt: readonly ChatMessage[];
  readonly chosen: string;
  readonly rejected: string;
}

const message = z.looseObject({ role: z.string().min(1), content: z.string(), name: z.string().optional() });
const endsWithReply = z
  .array(message)
  .min(1)
  .refine((messages) => messages.at(-1)?.role === "assistant", "the last message must be the assistant's");
/** A string stands for one message. */
const prompt = z.union([z.string().transform((content) => [{ role: "user", content }]), z.array(message).min(1)]);
/** A reply is a string, or a list whose last message is the assistant's (as TRL writes conversational preferences). */
const reply = z.union([z.string(), endsWithReply.transform((messages) => messages.at(-1)!.content)]);

const conversation = z.union([
  z.object({ messages: endsWithReply }),
  z
    .object({ prompt, response: z.string() })
    .transform(({ prompt, response }) => ({ messages: [...prompt, { role: "assistant", content: response }] })),
]);
const preference = z.object({ prompt, chosen: reply, rejected: reply });

/**
 * Conversations, one JSON object a line: {"messages": [{"role", "content", "name"?}, ...]} ending with the assistant's, or
 * {"prompt", "response"}. Other keys are ignored; empty lines too.
 * @throws InputError naming the file, the line and the key
 */
export async function readConversations(path: string): Promise<Conversation[]> {
  return readLines(path, conversation, '{"messages": [...]} or {"prompt": ..., "response": ...}', (line) =>
    "messages" in line ? z.object({ messages: endsWithReply }) : z.object({ prompt, response: z.string() }),
  ) as Promise<Conversation[]>;
}

/**
 * Preferences, one JSON object a line: {"prompt", "chosen", "rejected"}. The prompt is a string or a list of messages, the replies
 * are strings or lists that end with the assistant's.
 * @throws InputError naming the file, the line and the key
 */
export async function readPreferences(path: string): Promise<Preference[]> {
  return readLines(path, preference, '{"prompt": ..., "chosen": ..., "rejected": ...}', () => preference) as Promise<
    Preference[]
  >;
}

/** @param closest the schema to explain a line's error with */
async function readLines<T>(
  path: string,
  schema: z.ZodType<T>,
  form: string,
  closest: (line: object) => z.ZodType,
): Promise<T[]> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new InputError(`${path}: ${error.code === "ENOENT" ? "there is no such file" : error.message}.`, {
      cause: error,
    });
  });
  const examples: T[] = [];
  for (const [i, line] of decodeText(bytes, path).split("\n").entries()) {
    if (line.trim() === "") continue;
    const place = `${path}:${i + 1}`;
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch (error) {
      throw new InputError(`${place}: not JSON (${(error as Error).message}). Expected one object a line: ${form}.`, {
        cause: error,
      });
    }
    const result = schema.safeParse(json);
    if (result.success) {
      examples.push(result.data);
      continue;
    }
    throw new InputError(`${place}: ${explain(json, closest)}. Expected ${form}.`);
  }
  if (examples.length === 0) throw new InputError(`${path}: no examples. Expected one object a line: ${form}.`);
  return examples;
}

function explain(json: unknown, closest: (line: object) => z.ZodType): string {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return "not an object";
  const issue = closest(json).safeParse(json).error?.issues[0];
  if (issue === undefined) return "not of a known form";
  // Of a union, the branch that got furthest says what is wrong.
  if (issue.code === "invalid_union") {
    const deepest = issue.errors.flat().sort((a, b) => b.path.length - a.path.length)[0];
    if (deepest !== undefined && deepest.path.length > 0) {
      return `${[...issue.path, ...deepest.path].join(".")}: ${deepest.message}`;
    }
  }
  return `${issue.path.join(".")}: ${issue.message}`;
}
