import type { ChatTurn } from "../../../src/serve/api.ts";

/** The vote's number on the server; "sent" until the server has answered. */
export type Ballot = number | "sent";

/** One model's answer to one message. */
export interface Reply {
  readonly id: string;
  readonly model: string;
  /** Who was asked to answer. */
  readonly name: string;
  readonly text: string;
  readonly state: "waiting" | "writing" | "done" | "stopped" | "failed";
  readonly finish?: "stop" | "length";
  readonly error?: string;
  readonly tokens?: number;
  readonly seconds?: number;
  /** Oldest messages that did not fit. */
  readonly dropped?: number;
  /** What was sent, and how it was sampled: what a vote on this reply is about. */
  readonly prompt: readonly ChatTurn[];
  readonly sampling: Sampling;
  readonly thumb?: { readonly value: 1 | -1; readonly vote: Ballot };
}

/** A message and its reply, or its two replies side by side. */
export interface Turn {
  readonly id: string;
  readonly name: string;
  readonly content: string;
  readonly replies: readonly Reply[];
  /** The better one of two, and the vote that says so. */
  readonly preferred?: { readonly index: number; readonly vote: Ballot };
}

export interface Sampling {
  readonly temperature: number;
  readonly topP: number;
  /** 0 is off. */
  readonly topK: number;
  readonly maxTokens: number;
  /** null: another one each time. */
  readonly seed: number | null;
}

export const defaultSampling: Sampling = { temperature: 0.8, topP: 0.95, topK: 0, maxTokens: 160, seed: null };

export const isOpen = (reply: Reply) => reply.state === "waiting" || reply.state === "writing";

/** The reply that the conversation goes on from: the better one, or the first that says something. */
export function followed(turn: Turn): Reply | undefined {
  const preferred = turn.preferred === undefined ? undefined : turn.replies[turn.preferred.index];
  return preferred ?? turn.replies.find((reply) => reply.text !== "") ?? turn.replies[0];
}

/**
 * What is sent for a reply to `content`: the turns before, the message, and, where a name is to answer, an empty message of
 * that name for the model to go on with.
 */
export function messagesFor(before: readonly Turn[], name: string, content: string, answerName: string): ChatTurn[] {
  const messages: ChatTurn[] = [];
  for (const turn of before) {
    messages.push(message("user", turn.name, turn.content));
    const reply = followed(turn);
    if (reply !== undefined && reply.text !== "") messages.push(message("assistant", reply.name, reply.text));
  }
  messages.push(message("user", name, content));
  if (answerName !== "") messages.push(message("assistant", answerName, ""));
  return messages;
}

function message(role: string, name: string, content: string): ChatTurn {
  return name === "" ? { role, content } : { role, name, content };
}

/** The body of /v1/chat/completions. */
export function requestBody(model: string, messages: readonly ChatTurn[], sampling: Sampling): object {
  return {
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    truncation: "auto",
    temperature: sampling.temperature,
    top_p: sampling.topP,
    max_tokens: sampling.maxTokens,
    ...(sampling.topK > 0 ? { top_k: sampling.topK } : {}),
    ...(sampling.seed === null ? {} : { seed: sampling.seed }),
  };
}

/**
 * Conversations from storage: replies that were being written when the page was left are stopped, votes
 * whose answer did not come are forgotten, broken turns are dropped.
 */
export function revive(stored: unknown): Turn[] {
  if (!Array.isArray(stored)) return [];
  return stored.filter(isTurn).map(({ preferred, ...turn }) => ({
    ...turn,
    ...(preferred === undefined || preferred.vote === "sent" ? {} : { preferred }),
    replies: turn.replies.map(({ thumb, ...reply }) => ({
      ...reply,
      ...(thumb === undefined || thumb.vote === "sent" ? {} : { thumb }),
      ...(isOpen(reply) ? { state: "stopped" as const } : {}),
    })),
  }));
}

function isTurn(value: unknown): value is Turn {
  const turn = value as Partial<Turn> | null;
  const fine = (reply: Partial<Reply> | null) =>
    typeof reply?.text === "string" &&
    typeof reply.model === "string" &&
    Array.isArray(reply.prompt) &&
    typeof reply.sampling === "object";
  return (
    typeof turn?.id === "string" &&
    typeof turn.content === "string" &&
    Array.isArray(turn.replies) &&
    turn.replies.every(fine)
  );
}
