import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { NewVote, Vote } from "../../../src/serve/api.ts";
import { sendJson } from "../server.ts";
import { load, save } from "../storage.ts";
import {
  type Ballot,
  isOpen,
  messagesFor,
  type Reply,
  requestBody,
  revive,
  type Sampling,
  type Turn,
} from "./conversation.ts";
import { type Progressed, streamReply } from "./stream-reply.ts";

/** Who answers, and how. One or two models. */
export interface Ask {
  readonly models: readonly string[];
  readonly name: string;
  readonly answerName: string;
  readonly sampling: Sampling;
}

export interface Chat {
  readonly turns: readonly Turn[];
  readonly busy: boolean;
  send(content: string, ask: Ask): void;
  /** Another reply of the same model in the last turn. */
  again(turn: Turn, index: number, sampling: Sampling): void;
  stop(): void;
  clear(): void;
  thumb(turn: Turn, index: number, value: 1 | -1): Promise<void>;
  prefer(turn: Turn, index: number): Promise<void>;
}

/** The conversation: kept in this browser, streamed from the server, judged by votes. */
export function useChat(): Chat {
  const [turns, setTurns] = useState<readonly Turn[]>(() => revive(load<unknown>("conversation", [])));
  const running = useRef(new Map<string, AbortController>());

  // Pieces come many times a second; the storage is written once they pause, or half a second later.
  useEffect(() => {
    const timer = setTimeout(
      () => save("conversation", turns),
      turns.some((turn) => turn.replies.some(isOpen)) ? 500 : 0,
    );
    return () => clearTimeout(timer);
  }, [turns]);

  const change = useCallback((replyId: string, to: (reply: Reply) => Reply) => {
    setTurns((old) =>
      old.map((turn) =>
        turn.replies.some((reply) => reply.id === replyId)
          ? { ...turn, replies: turn.replies.map((reply) => (reply.id === replyId ? to(reply) : reply)) }
          : turn,
      ),
    );
  }, []);

  const run = useCallback(
    async (reply: Reply) => {
      const abort = new AbortController();
      running.current.set(reply.id, abort);
      const began = performance.now();
      let first: number | undefined;
      const part = ({ text, ...rest }: Progressed) => {
        if (text !== undefined) first ??= performance.now();
        change(reply.id, (old) => ({
          ...old,
          ...rest,
          ...(text === undefined ? {} : { text: old.text + text, state: "writing" }),
        }));
      };
      try {
        await streamReply(requestBody(reply.model, reply.prompt, reply.sampling), part, abort.signal);
        const seconds = (performance.now() - (first ?? began)) / 1000;
        change(reply.id, (old) => ({ ...old, state: "done", seconds }));
      } catch (error) {
        const stopped = abort.signal.aborted;
        change(reply.id, (old) => ({
          ...old,
          state: stopped ? "stopped" : "failed",
          ...(stopped ? {} : { error: (error as Error).message }),
        }));
      } finally {
        running.current.delete(reply.id);
      }
    },
    [change],
  );

  const stop = useCallback(() => {
    for (const abort of running.current.values()) abort.abort();
  }, []);
  useEffect(() => stop, [stop]);

  const send = (content: string, { models, name, answerName, sampling }: Ask) => {
    const prompt = messagesFor(turns, name, content, answerName);
    const replies = models.map((model, i): Reply => {
      // Two replies of one model with one seed would be the same reply.
      const seed = sampling.seed === null || models.indexOf(model) === i ? sampling.seed : sampling.seed + 1;
      return {
        id: newId(),
        model,
        name: answerName,
        text: "",
        state: "waiting",
        prompt,
        sampling: { ...sampling, seed },
      };
    });
    setTurns([...turns, { id: newId(), name, content, replies }]);
    for (const reply of replies) void run(reply);
  };

  const again = (turn: Turn, index: number, sampling: Sampling) => {
    const old = turn.replies[index];
    if (old === undefined) return;
    // The same seed would give the same reply: count on from the one it had.
    const seed = sampling.seed === null ? null : (old.sampling.seed ?? sampling.seed) + 1;
    const { id: _, name, model, prompt } = old;
    const reply: Reply = {
      id: newId(),
      model,
      name,
      text: "",
      state: "waiting",
      prompt,
      sampling: { ...sampling, seed },
    };
    const { preferred: __, ...rest } = turn;
    const next = { ...rest, replies: turn.replies.map((other, i) => (i === index ? reply : other)) };
    setTurns((all) => all.map((other) => (other.id === turn.id ? next : other)));
    void run(reply);
  };

  const clear = () => {
    stop();
    setTurns([]);
  };

  /** Shown at once, kept when the server says so, undone when it does not. A vote under way cannot be changed. */
  const thumb = async (turn: Turn, index: number, value: 1 | -1) => {
    const reply = turn.replies[index];
    const before = reply?.thumb;
    if (reply === undefined || before?.vote === "sent") return;
    const show = (to: Reply["thumb"]) =>
      change(reply.id, ({ thumb: _, ...rest }) => (to === undefined ? rest : { ...rest, thumb: to }));
    show({ value, vote: "sent" });
    try {
      if (before !== undefined) await takeBack(before.vote);
      if (before?.value === value) return show(undefined);
      const { model, text, prompt, sampling } = reply;
      const settings = { ...sampling };
      show({ value, vote: await cast({ kind: "thumb", prompt: [...prompt], model, reply: text, value, settings }) });
    } catch (error) {
      show(before);
      throw error;
    }
  };

  const prefer = async (turn: Turn, index: number) => {
    const [a, b] = turn.replies;
    const before = turn.preferred;
    if (a === undefined || b === undefined || before?.vote === "sent") return;
    const show = (to: Turn["preferred"]) =>
      setTurns((all) => all.map((other) => (other.id === turn.id ? withPreferred(other, to) : other)));
    show({ index, vote: "sent" });
    try {
      if (before !== undefined) await takeBack(before.vote);
      if (before?.index === index) return show(undefined);
      const [chosen, rejected] = index === 0 ? [a, b] : [b, a];
      const vote = await cast({
        kind: "preference",
        prompt: [...chosen.prompt],
        chosen: { model: chosen.model, reply: chosen.text },
        rejected: { model: rejected.model, reply: rejected.text },
        settings: { ...chosen.sampling },
      });
      show({ index, vote });
    } catch (error) {
      show(before);
      throw error;
    }
  };

  const busy = turns.some((turn) => turn.replies.some(isOpen));
  return { turns, busy, send, again, stop, clear, thumb, prefer };
}

function withPreferred({ preferred: _, ...turn }: Turn, preferred: Turn["preferred"]): Turn {
  return preferred === undefined ? turn : { ...turn, preferred };
}

/** randomUUID is only there on https and loopback; a page reached by another name does without. */
function newId(): string {
  return (
    crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("")
  );
}

async function cast(vote: NewVote): Promise<number> {
  const response = await sendJson("POST", "/api/votes", vote);
  return ((await response.json()) as Vote).id;
}

/** A vote that is gone already (another tab, another database) is as good as taken back. */
async function takeBack(id: Ballot): Promise<void> {
  if (id === "sent") return;
  await sendJson("DELETE", `/api/votes/${id}`).catch((error: { status?: number }) => {
    if (error.status !== 404) throw error;
  });
}
