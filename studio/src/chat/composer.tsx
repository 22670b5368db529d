import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { useWords } from "../language.ts";
import { Icon } from "../ui/icons.tsx";

interface Props {
  busy: boolean;
  disabled: boolean;
  name: string;
  answerName: string;
  /** Names to offer. */
  speakers: readonly string[];
  onName: (name: string) => void;
  onAnswerName: (name: string) => void;
  onSend: (content: string) => void;
  onStop: () => void;
}

/** Where the message is written. Enter sends, except while an input method composes a character. */
export function Composer(props: Props): JSX.Element {
  const { busy, disabled, name, answerName, speakers, onName, onAnswerName, onSend, onStop } = props;
  const { t } = useWords();
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const ready = !busy && !disabled && text.trim() !== "";

  // As high as its text, up to what the style sheet allows.
  useEffect(() => {
    const element = area.current;
    if (element === null) return;
    element.style.height = "auto";
    // While the page is hidden it measures nothing.
    if (element.scrollHeight > 0) element.style.height = `${element.scrollHeight}px`;
  }, [text]);

  const send = () => {
    if (!ready) return;
    onSend(text.trim());
    setText("");
    area.current?.focus();
  };
  const key = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  };

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div class="names">
        <NameField label={t("youAre")} value={name} placeholder={t("you")} onInput={onName} />
        <Icon name="arrow" />
        <NameField label={t("replyAs")} value={answerName} placeholder={t("anyone")} onInput={onAnswerName} />
        <datalist id="speakers">
          {speakers.map((speaker) => (
            <option key={speaker} value={speaker} />
          ))}
        </datalist>
      </div>
      <div class="write">
        <textarea
          ref={area}
          rows={1}
          value={text}
          disabled={disabled}
          aria-label={t("message")}
          aria-describedby="keys"
          placeholder={t("messageHint")}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={key}
        />
        {busy ? (
          <button type="button" class="primary round" aria-label={t("stop")} title={t("stop")} onClick={onStop}>
            <Icon name="stop" filled />
          </button>
        ) : (
          <button type="submit" class="primary round" aria-label={t("send")} title={t("send")} disabled={!ready}>
            <Icon name="send" />
          </button>
        )}
      </div>
      <p id="keys" class="muted small keys">
        {t("keys")}
      </p>
    </form>
  );
}

function NameField(props: {
  label: string;
  value: string;
  placeholder: string;
  onInput: (name: string) => void;
}): JSX.Element {
  const { label, value, placeholder, onInput } = props;
  return (
    <label class="name">
      <span>{label}</span>
      <input
        list="speakers"
        value={value}
        placeholder={placeholder}
        maxLength={64}
        autocomplete="off"
        spellcheck={false}
        onInput={(event) => onInput(event.currentTarget.value)}
      />
    </label>
  );
}
