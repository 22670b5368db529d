import { performance } from "node:perf_hooks";
import { createInterface, type Interface } from "node:readline";
import { z } from "zod";
import { encodeConversation, type GeneratingHost, type ReplyRequest } from "../../generate/index.ts";
import { InputError } from "../../tensor/errors.ts";
import { type CommandResult, defineCommand } from "../command.ts";
import {
  backendOption,
  installBackend,
  openHost,
  safeText,
  samplingOf,
  samplingOptions,
  weightsFor,
  weightsOption,
} from "../generation.ts";

interface Turn {
  role: "system" | "user" | "assistant";
  name?: string;
  content: string;
}

const options = z.object({
  model: z.string().describe("a Hugging Face folder: model and tokenizer").meta({ value: "DIR", short: "m" }),
  system: z.string().optional().describe("what the model is told before the conversation").meta({ value: "TEXT" }),
  name: z.string().optional().describe("who answers, such as JULIET"),
  me: z.string().optional().describe("who you are, such as ROMEO").meta({ value: "NAME" }),
  ...samplingOptions,
  weights: weightsOption,
  backend: backendOption,
});

export const chat = defineCommand({
  name: "chat",
  summary: "talk to a model in the terminal",
  description:
    "Talk to a model that was tuned for chat. Ctrl-C stops a reply; between replies it ends the chat. Lines that come through a pipe are " +
    "answered one by one.",
  options,
  examples: [
    ["howdah chat --model DIR", "a conversation; /help lists what else one can say"],
    ["howdah chat --model DIR --name JULIET --me ROMEO", "two characters"],
    ["echo 'Who are you?' | howdah chat --model DIR --temperature 0", "one answer, in a pipe"],
  ],
  async run(o, { stdout, warn, signal }) {
    const backend = installBackend(o.backend, warn);
    const host = await openHost(o.model, { slots: 1, weights: weightsFor(o.weights, backend) });
    try {
      const result = await converse(host, {
        input: process.stdin,
        output: stdout,
        signal,
        request: samplingOf(o),
        seed: o.seed,
        system: o.system,
        name: o.name,
        me: o.me,
      });
      return { ...result, backend, model: o.model };
    } finally {
      await host.close();
    }
  },
});

export interface ChatOptions {
  readonly input: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly output: NodeJS.WritableStream & { readonly isTTY?: boolean };
  readonly signal: AbortSignal;
  readonly request: Omit<ReplyRequest, "prompt" | "seed">;
  /** Of the first reply; the next ones count on. */
  readonly seed: number | undefined;
  readonly system: string | undefined;
  readonly name: string | undefined;
  readonly me: string | undefined;
}

const help = `/help          this list
/clear         forget the conversation
/system TEXT   what the model is told before the conversation; without a text, nothing
/name NAME     who answers; without a name, nobody in particular
/me NAME       who you are
/quit          end (also Ctrl-D)
Ctrl-C stops a reply; between replies it ends the chat.`;

/** A conversation from one stream to another. @returns what there is to say at the end */
export async function converse(host: GeneratingHost, o: ChatOptions): Promise<CommandResult> {
  o.signal.throwIfAborted();
  // A model that cannot chat says so before a person has typed anything.
  encodeConversation(host.tokenizer, [{ role: "user", content: "." }]);
  const terminal = o.input.isTTY === true && o.output.isTTY === true;
  const say = (text: string) => void o.output.write(text);
  const lines = new Lines(o.input, o.output, terminal);
  const total = { replies: 0, tokens: 0, seconds: 0 };
  let system = o.system;
  let { name, me } = o;
  let turns: Turn[] = [];
  /** The reply that is being written, to be stopped. */
  let replying: AbortController | undefined;
  lines.onInterrupt(() => {
    if (replying) replying.abort(stopped);
    else lines.close();
  });
  const leave = () => {
    replying?.abort(o.signal.reason);
    lines.close();
  };
  o.signal.addEventListener("abort", leave, { once: true });

  const reply = async (said: string): Promise<void> => {
    const user: Turn = { role: "user", content: said, ...(me === undefined ? {} : { name: me }) };
    const opening: Turn = { role: "assistant", content: "", ...(name === undefined ? {} : { name }) };
    const all = [...turns, user];
    const instruction: Turn[] = system === undefined ? [] : [{ role: "system", content: system }];
    const fitted = fitContext(host, instruction, all, opening, o.request.maxTokens);
    if (fitted.dropped > 0 && terminal) say(dim(`(the first ${fitted.dropped} turns no longer fit the context)\n`));
    replying = new AbortController();
    const began = performance.now();
    let text = "";
    try {
      if (name !== undefined && terminal) say(`${bold(name)}: `);
      const seed = o.seed === undefined ? {} : { seed: o.seed + total.replies };
      for await (const chunk of host.generate({ ...o.request, ...fitted.request, ...seed }, replying.signal)) {
        text += chunk.text;
        total.tokens += chunk.tokens.length;
        say(safeText(chunk.text, o.output));
      }
    } catch (error) {
      if (error !== stopped && !o.signal.aborted) throw error;
      if (terminal) say(dim(" (stopped)"));
    } finally {
      replying = undefined;
      total.seconds += (performance.now() - began) / 1000;
    }
    say(text.endsWith("\n") ? "" : "\n");
    total.replies++;
    turns = [...all, { ...opening, content: text }];
  };

  const command = (line: string): boolean => {
    const [word = "", ...rest] = line.split(/\s+/);
    const value = rest.join(" ").trim();
    const optional = value === "" ? undefined : value;
    switch (word) {
      case "/help":
        say(`${help}\n`);
        return true;
      case "/clear":
        turns = [];
        return true;
      case "/system":
        system = optional;
        return true;
      case "/name":
        name = optional;
        return true;
      case "/me":
        me = optional;
        return true;
      case "/quit":
      case "/exit":
        return false;
      default:
        say(`There is no ${word}. /help lists what there is; begin with a space to say it to the model.\n`);
        return true;
    }
  };

  if (terminal) say(dim(`Talking to ${host.id}. /help lists what else you can say.\n`));
  try {
    for (;;) {
      const line = await lines.next(me === undefined ? "> " : `${me}> `);
      if (line === undefined || o.signal.aborted) {
        if (terminal) say("\n"); // the cursor stands behind the prompt
        break;
      }
      if (line.startsWith("/")) {
        if (!command(line.trim())) break;
        continue;
      }
      if (line.trim() === "") continue;
      try {
        await reply(line.trim());
      } catch (error) {
        // What a person said may be too long; the conversation goes on without it.
        if (!(error instanceof InputError)) throw error;
        say(`${error.message}\n`);
        if (!terminal) throw error;
      }
    }
  } finally {
    o.signal.removeEventListener("abort", leave);
    lines.close();
  }
  o.signal.throwIfAborted();
  return { ...total, tokens_per_second: total.seconds > 0 ? total.tokens / total.seconds : null };
}

const stopped = new Error("The person stopped the reply.");
const bold = (text: string) => `\u001b[1m${text}\u001b[0m`;
const dim = (text: string) => `\u001b[2m${text}\u001b[0m`;

/** The conversation as token ids, its oldest turns left out where it has outgrown the context. */
function fitContext(
  host: GeneratingHost,
  system: readonly Turn[],
  turns: readonly Turn[],
  opening: Turn,
  maxTokens: number,
): { request: { prompt: number[]; maxTokens: number }; dropped: number } {
  // The reply gets what was asked for, but never so much that half of the context is lost to it.
  const reserve = Math.min(maxTokens, Math.floor(host.contextLength / 2));
  for (let dropped = 0; dropped < turns.length; dropped++) {
    // A conversation does not begin with an answer.
    if (turns[dropped]!.role === "assistant") continue;
    const prompt = host.encodeChat([...system, ...turns.slice(dropped), opening]);
    const room = host.contextLength - prompt.length;
    if (room < reserve) continue;
    return { request: { prompt, maxTokens: Math.min(maxTokens, room) }, dropped };
  }
  throw new InputError(
    `This is too long for the model, whose context is ${host.contextLength} tokens, the reply included. Say it in fewer words.`,
  );
}

/** Lines a person types, with editing and history on a terminal; lines of a pipe elsewhere. */
class Lines {
  readonly #interface: Interface;
  readonly #terminal: boolean;
  readonly #ready: string[] = [];
  #wanted: ((line: string | undefined) => void) | undefined;
  #closed = false;

  constructor(input: NodeJS.ReadableStream, output: NodeJS.WritableStream, terminal: boolean) {
    this.#terminal = terminal;
    this.#interface = createInterface(terminal ? { input, output, terminal } : { input, terminal: false });
    this.#interface.on("line", (line) => {
      const wanted = this.#wanted;
      this.#wanted = undefined;
      if (wanted) wanted(line);
      else this.#ready.push(line);
    });
    this.#interface.once("close", () => {
      this.#closed = true;
      this.#wanted?.(undefined);
    });
  }

  /** Ctrl-C on a terminal, which the interface reads as a key. */
  onInterrupt(listener: () => void): void {
    this.#interface.on("SIGINT", listener);
  }

  /** The next line; undefined at the end. */
  next(prompt: string): Promise<string | undefined> {
    const line = this.#ready.shift();
    if (line !== undefined) return Promise.resolve(line);
    if (this.#closed) return Promise.resolve(undefined);
    if (this.#terminal) {
      this.#interface.setPrompt(prompt);
      this.#interface.prompt();
    }
    return new Promise((resolve) => {
      this.#wanted = resolve;
    });
  }

  close(): void {
    this.#interface.close();
  }
}
