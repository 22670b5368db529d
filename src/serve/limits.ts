/** What one client may ask and how much the server takes at once. Each limit is refused with an error that names it. */
export interface ServeLimits {
  /** Largest request body, in bytes. */
  bodyBytes: number;
  /** Longest prompt in tokens; a model's own context limits it further. */
  promptTokens: number;
  /** Most tokens one continuation may have, and the default of a chat reply where the context has room for it. */
  maxTokens: number;
  /** Most continuations one request may ask for (`n` times the number of prompts). At most `concurrent`. */
  choices: number;
  /** Seconds from a request's arrival, waiting included, to its last token. */
  requestSeconds: number;
  /** Continuations that are generated at the same time. */
  concurrent: number;
  /** Requests that wait for a slot; one more is answered 429. */
  queue: number;
  /** Event streams (Studio tabs) open at the same time. */
  eventStreams: number;
  /** Seconds that `close` lets running requests go on. */
  drainSeconds: number;
}

export const defaultLimits: ServeLimits = {
  bodyBytes: 1 << 20,
  promptTokens: 32_768,
  maxTokens: 1024,
  choices: 8,
  requestSeconds: 120,
  concurrent: 8,
  queue: 32,
  eventStreams: 64,
  drainSeconds: 10,
};
