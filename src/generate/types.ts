/** What is said between a model's side and whoever talks to it: the server, the terminal, an evaluation. No tensors. */

/** One turn of a conversation. `role` says which side of the chat speaks, `name` which person or character. */
export type ChatTurn = {
  role: string;
  name?: string;
  content: string;
};

/** One continuation to sample. */
export interface ReplyRequest {
  /** Token ids. With `maxTokens` they must fit the context. */
  prompt: readonly number[];
  maxTokens: number;
  /** 0 is greedy. */
  temperature: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  /** The reply ends before the first of these. */
  stop?: readonly string[];
  /** The same seed and request give the same text, whatever else is in the batch. At random if not given. */
  seed?: number;
}

/** A piece of a continuation. `finish` is set on the last one only. */
export interface ReplyChunk {
  /** Complete characters, and never a part of a stop string. */
  text: string;
  /** Ids sampled since the last chunk. */
  tokens: readonly number[];
  finish?: "stop" | "length";
  /** On the first chunk: tokens of the prompt that had been read before, for another text that begins alike. */
  cached?: number;
}
