import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { useWords } from "../language.ts";
import { IconButton } from "../ui/controls.tsx";
import { isOpen, type Reply, type Turn } from "./conversation.ts";

interface Actions {
  onAgain: (index: number) => void;
  onThumb: (index: number, value: 1 | -1) => void;
  onPrefer: (index: number) => void;
}

/** A message and what was answered. Only the last turn's replies can be asked for again: the others have been built upon. */
export function TurnView({ turn, last, ...actions }: { turn: Turn; last: boolean } & Actions): JSX.Element {
  const { t } = useWords();
  const two = turn.replies.length > 1;
  const open = turn.replies.some(isOpen);
  return (
    <section class="turn">
      <div class="said">
        <span class="speaker">{turn.name || t("you")}</span>
        <p>{turn.content}</p>
      </div>
      <div class={two ? "replies two" : "replies"}>
        {turn.replies.map((reply, index) => (
          <ReplyView
            key={reply.id}
            reply={reply}
            preferred={turn.preferred?.index === index}
            canPrefer={two && !open && turn.replies.every((one) => one.text !== "")}
            canAgain={last && !open}
            onAgain={() => actions.onAgain(index)}
            onThumb={(value) => actions.onThumb(index, value)}
            onPrefer={() => actions.onPrefer(index)}
          />
        ))}
      </div>
    </section>
  );
}

interface ReplyProps {
  reply: Reply;
  preferred: boolean;
  canPrefer: boolean;
  canAgain: boolean;
  onAgain: () => void;
  onThumb: (value: 1 | -1) => void;
  onPrefer: () => void;
}

function ReplyView({ reply, preferred, canPrefer, canAgain, onAgain, onThumb, onPrefer }: ReplyProps): JSX.Element {
  const { t, number } = useWords();
  const open = isOpen(reply);
  const judged = !open && reply.text !== "";
  const rate = reply.tokens !== undefined && reply.seconds ? reply.tokens / reply.seconds : undefined;
  return (
    <article class={`reply ${reply.state}${preferred ? " preferred" : ""}`} aria-busy={open}>
      <header>
        {reply.name && <span class="speaker">{reply.name}</span>}
        <span class="model">{reply.model}</span>
      </header>
      <div class="reply-text">
        {reply.text}
        {open && <span class="caret" role="img" aria-label={t(reply.state === "waiting" ? "waiting" : "writing")} />}
        {!open && reply.text === "" && reply.state !== "failed" && <span class="muted">{t("emptyReply")}</span>}
      </div>
      {reply.error && (
        <p class="note failed" role="alert">
          {t("failed", { message: reply.error })}
        </p>
      )}
      {reply.dropped !== undefined && <p class="muted small">{t("dropped", { count: reply.dropped })}</p>}
      {!open && (
        <footer>
          {judged && (
            <>
              <IconButton
                icon="up"
                label={t("thumbUp")}
                pressed={reply.thumb?.value === 1}
                onClick={() => onThumb(1)}
              />
              <IconButton
                icon="down"
                label={t("thumbDown")}
                pressed={reply.thumb?.value === -1}
                onClick={() => onThumb(-1)}
              />
              <Copy text={reply.text} />
            </>
          )}
          {canAgain && <IconButton icon="redo" label={t("regenerate")} onClick={onAgain} />}
          <span class="muted small">
            {reply.state === "stopped" ? t("stopped") : reply.finish === "length" ? t("cutOff") : ""}
            {rate !== undefined && (
              <span class="speed">
                {t("speed", { tokens: number(reply.tokens ?? 0), rate: number(Math.round(rate)) })}
              </span>
            )}
          </span>
          {canPrefer && (
            <button type="button" class="prefer" aria-pressed={preferred} onClick={onPrefer}>
              {t(preferred ? "best" : "better")}
            </button>
          )}
        </footer>
      )}
    </article>
  );
}

function Copy({ text }: { text: string }): JSX.Element {
  const { t } = useWords();
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), 1500);
    return () => clearTimeout(timer);
  }, [copied]);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } catch {
      // Not allowed here (no https, no permission): the text can still be selected.
    }
  };
  return (
    <IconButton icon={copied ? "check" : "copy"} label={t(copied ? "copied" : "copy")} onClick={() => void copy()} />
  );
}
