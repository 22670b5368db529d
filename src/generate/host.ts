import type { LanguageModel } from "../models/model.ts";
import { encodeChat } from "../tokenizers/chat-template.ts";
import type { Tokenizer } from "../tokenizers/types.ts";
import { type EngineOptions, type EngineStatus, ReplyEngine } from "./engine.ts";
import type { ChatTurn, ReplyChunk, ReplyRequest } from "./types.ts";

export interface HostOptions extends EngineOptions {
  readonly id: string;
  /** Seconds since 1970; default now. */
  readonly created?: number;
  readonly description?: string;
  /** Names that the model knows speakers by, most talkative first. */
  readonly speakers?: readonly string[];
  /** Called once when the host was closed and nobody uses the model any more; dispose the weights here if nobody else does. */
  readonly release?: (() => void) | undefined;
}

/** A model that the server can offer (its `ModelHost`), with its end. */
export interface GeneratingHost {
  readonly id: string;
  readonly created: number;
  readonly contextLength: number;
  readonly description?: string;
  readonly speakers?: readonly string[];
  readonly model: LanguageModel;
  readonly tokenizer: Tokenizer;
  readonly engine: ReplyEngine;
  readonly status: EngineStatus;
  encode(text: string): number[];
  encodeChat(messages: readonly ChatTurn[]): number[];
  generate(request: ReplyRequest, signal: AbortSignal): AsyncIterable<ReplyChunk>;
  close(): Promise<void>;
}

/**
 * A model with its tokenizer, ready to be talked to by many at once.
 * @throws InputError when tokenizer and model do not belong together
 */
export function createModelHost(options: HostOptions): GeneratingHost {
  const { id, description, speakers, model, tokenizer } = options;
  const engine = new ReplyEngine(options);
  let closing: Promise<void> | undefined;
  return {
    id,
    created: options.created ?? Math.floor(Date.now() / 1000),
    contextLength: engine.capacity,
    ...(description === undefined ? {} : { description }),
    ...(speakers === undefined ? {} : { speakers }),
    model,
    tokenizer,
    engine,
    get status() {
      return engine.status;
    },
    encode: (text) => tokenizer.encode(text),
    encodeChat: (messages) => encodeConversation(tokenizer, messages),
    generate: (request, signal) => engine.reply(request, signal),
    close: () => {
      closing ??= engine.close().then(() => options.release?.());
      return closing;
    },
  };
}

/**
 * Ids of a conversation, ready for the reply. A last turn of the assistant's is the beginning of its reply: it stays open, and its `name` says
 * who speaks. What people write never counts as a special token.
 * @throws InputError when the tokenizer has no chat template, or its template refuses the messages
 */
export function encodeConversation(tokenizer: Tokenizer, messages: readonly ChatTurn[]): number[] {
  const last = messages.at(-1);
  const opening = last?.role === "assistant" ? last : undefined;
  const turns = (opening ? messages.slice(0, -1) : messages).map((message) => ({ ...message }));
  const { ids } = encodeChat(tokenizer, turns, {
    addGenerationPrompt: true,
    ...(opening?.name === undefined ? {} : { assistantName: opening.name }),
  });
  if (!opening || opening.content === "") return ids;
  return [...ids, ...tokenizer.encode(opening.content, { addSpecialTokens: false })];
}
