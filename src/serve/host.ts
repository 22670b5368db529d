/**
 * What the server needs of a model. A model's side (tokenizer, chat template, continuous batch) implements
 * `ModelHost`; the server does HTTP, limits and queues, and never sees a tensor.
 */

import type { ChatTurn, ReplyChunk, ReplyRequest } from "../generate/types.ts";

export type { ChatTurn, ReplyChunk, ReplyRequest };

export interface ModelHost {
  readonly id: string;
  /** Seconds since 1970, as OpenAI's model list has it. */
  readonly created: number;
  /** Prompt and continuation together, in tokens. */
  readonly contextLength: number;
  readonly description?: string;
  /** Names that the model knows speakers by (a play's characters), for the Studio to offer; most talkative first. */
  readonly speakers?: readonly string[];
  /** Text as it is: no chat template. */
  encode(text: string): number[];
  /**
   * The chat template applied, ready for the reply. A last message with role "assistant" is the reply's beginning: it is
   * continued, not closed, and its `name` says who answers (its content may be empty). Otherwise a new reply is opened.
   */
  encodeChat(messages: readonly ChatTurn[]): number[];
  /** Ends, or throws, soon after `signal` is aborted. */
  generate(request: ReplyRequest, signal: AbortSignal): AsyncIterable<ReplyChunk>;
  /** What it does and holds now, for /health: numbers by name. */
  readonly status?: object;
}

/** The models there are now. They may appear while the server runs: a training job adds one with each stage. */
export interface ModelRegistry {
  /** In the order in which they came: the Studio talks to the last unless another is chosen. */
  list(): readonly ModelHost[];
  get(id: string): ModelHost | undefined;
  /** Calls `listener` after each change; the result stops that. */
  onChange(listener: () => void): () => void;
}
