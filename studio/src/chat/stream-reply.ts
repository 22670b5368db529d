import { eventData, RequestError, sendJson } from "../server.ts";

/** The parts of a chat completion chunk, or of an error within the stream, that are looked at. */
interface Chunk {
  choices?: { delta?: { content?: string }; finish_reason?: "stop" | "length" | null }[];
  usage?: { completion_tokens: number } | null;
  dropped_messages?: number;
  error?: { message: string };
}

export interface Progressed {
  text?: string;
  finish?: "stop" | "length";
  tokens?: number;
  dropped?: number;
}

/** Asks for a reply and hands on each piece as it comes. @throws RequestError */
export async function streamReply(
  body: object,
  onPart: (part: Progressed) => void,
  signal: AbortSignal,
): Promise<void> {
  const response = await sendJson("POST", "/v1/chat/completions", body, signal);
  for await (const data of eventData(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error !== undefined) throw new RequestError(500, chunk.error.message);
    const choice = chunk.choices?.[0];
    const part: Progressed = {};
    if (choice?.delta?.content) part.text = choice.delta.content;
    if (choice?.finish_reason) part.finish = choice.finish_reason;
    if (chunk.usage) part.tokens = chunk.usage.completion_tokens;
    if (chunk.dropped_messages) part.dropped = chunk.dropped_messages;
    onPart(part);
  }
  if (!signal.aborted) throw new RequestError(0, "The connection broke before the reply was complete.");
}
