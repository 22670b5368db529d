/**
 * What the server needs of a model. A model's side (tokenizer, chat template, continuous batch) implements
 * `ModelHost`; the server does HTTP, limits and queues, and never sees a tensor.
 */

/** One turn of a conversation. `role` says which side of the chat speaks, `name` which person or character. */
export type ChatMessage = {
  role: string;
  name?: string;
  content: string;
};

/** One continuation to sample. The server has checked that `prompt.length + maxTokens` fits the model's context. */
export interface GenerateRequest {
  /** Token ids. */
  prompt: readonly number[];
  maxTokens: number;
  /** 0 is greedy. */
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** Generation ends before the first of these; the stop string itself, and any part of it, is never in a chunk's text. */
  stop?: readonly string[];
  /** The same seed and request give the same text, whatever else is in the batch. */
  seed?: number;
}

/** A piece of a continuation. `finish` is set on the last chunk only. */
export interface GenerateChunk {
  /** Complete characters only: bytes of an unfinished UTF-8 character wait for the next chunk. */
  text: string;
  /** Ids sampled since the last chunk (their number is what `usage` counts). */
  tokens: readonly number[];
  finish?: "stop" | "length";
  /** On the first chunk: tokens of the prompt that had been read before, for another text that begins alike. */
  cached?: number;
}

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
  encodeChat(messages: readonly ChatMessage[]): number[];
  /** Ends, or throws, soon after `signal` is aborted. */
  generate(request: GenerateRequest, signal: AbortSignal): AsyncIterable<GenerateChunk>;
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
