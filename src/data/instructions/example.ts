/** Something an assistant may ask to be done: a name, and its arguments as JSON. */
export interface ToolCall {
  readonly id?: string;
  readonly name: string;
  readonly arguments: unknown;
}

/** A part of a message: text now; pictures are named, and read by whoever trains on them. */
export type Part = { readonly type: "text"; readonly text: string } | { readonly type: "image"; readonly url: string };

export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string | readonly Part[];
  readonly toolCalls?: readonly ToolCall[];
  /** Of a tool's message: which call it answers. */
  readonly toolCallId?: string;
  readonly name?: string;
}

/** A tool as OpenAI's API describes it: the parameters are a JSON Schema. */
export interface Tool {
  readonly name: string;
  readonly description?: string;
  readonly parameters?: unknown;
}

interface About {
  /** The file and line it is from. */
  readonly place: string;
  readonly tools?: readonly Tool[];
  /** Other fields of its row. */
  readonly extra?: Readonly<Record<string, unknown>>;
}

/** The one schema for what a model is tuned and aligned with. */
export type Example = About &
  (
    | { readonly kind: "conversation"; readonly messages: readonly Message[] }
    | {
        readonly kind: "preference";
        readonly prompt: readonly Message[];
        readonly chosen: readonly Message[];
        readonly rejected: readonly Message[];
      }
    /** A reply that is good or bad, without another beside it (Ethayarajh et al. 2024, KTO). */
    | {
        readonly kind: "label";
        readonly prompt: readonly Message[];
        readonly reply: readonly Message[];
        readonly good: boolean;
      }
    /** Several replies, best first; equal scores are ties. */
    | {
        readonly kind: "ranking";
        readonly prompt: readonly Message[];
        readonly replies: readonly { readonly messages: readonly Message[]; readonly score: number }[];
      }
  );

export const textOf = (m: Message): string =>
  typeof m.content === "string" ? m.content : m.content.flatMap((p) => (p.type === "text" ? [p.text] : [])).join("\n");

/**
 * What is wrong with a conversation, or nothing: it begins with a system message or the user, users and assistants take turns, a tool speaks only after it was
 * called, messages say something, and the last is the assistant's.
 * @param reply the messages are a reply to something that came before
 */
export function flaw(messages: readonly Message[], reply = false): string | undefined {
  if (messages.length === 0) return "there is no message";
  let before: Message | undefined;
  for (const [i, m] of messages.entries()) {
    const place = `message ${i + 1} (${m.role})`;
    if (m.role === "system" && i > 0) return `${place} stands in the middle; a system message comes first`;
    if (textOf(m).trim() === "" && !m.toolCalls?.length && (typeof m.content === "string" || m.content.length === 0))
      return `${place} is empty`;
    const last = before?.role ?? (reply ? "user" : "system");
    if (m.role === "user" && last === "user" && i > 0) return `${place} follows another message of the user`;
    if (m.role === "assistant" && last === "assistant" && !before?.toolCalls?.length)
      return `${place} follows another message of the assistant`;
    if (m.role === "assistant" && i === 0 && !reply) return `${place} is the first: nobody asked anything`;
    if (m.role === "tool" && !(before?.toolCalls?.length || before?.role === "tool")) return `${place} answers no call`;
    before = m;
  }
  if (before?.role !== "assistant") return `the last message is the ${before?.role}'s; it must be the assistant's`;
  return undefined;
}

/** Rankings as pairs: every reply against every one with a lower score (Ouyang et al. 2022, section 3.5). */
export function pairsOf(example: Example): Extract<Example, { kind: "preference" }>[] {
  if (example.kind === "preference") return [example];
  if (example.kind !== "ranking") return [];
  const { prompt, replies, place } = example;
  return replies.flatMap((better) =>
    replies
      .filter((worse) => worse.score < better.score)
      .map((worse) => ({
        kind: "preference" as const,
        prompt,
        chosen: better.messages,
        rejected: worse.messages,
        place,
      })),
  );
}
