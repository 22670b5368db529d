import type { ComponentChildren, JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { ModelInfo } from "../../../src/serve/api.ts";
import { useWords } from "../language.ts";
import { useLive } from "../live.ts";
import { load, save } from "../storage.ts";
import { Empty, IconButton } from "../ui/controls.tsx";
import { Composer } from "./composer.tsx";
import { defaultSampling, type Sampling, type Turn } from "./conversation.ts";
import { Settings } from "./settings.tsx";
import { TurnView } from "./turn.tsx";
import { useChat } from "./use-chat.ts";

/** What a person has chosen; kept in this browser. A model that was not chosen is the newest there is. */
interface Choices {
  readonly model: string | undefined;
  readonly second: string | undefined;
  readonly compare: boolean;
  readonly name: string;
  readonly answerName: string;
  readonly sampling: Sampling;
}

const defaults: Choices = {
  model: undefined,
  second: undefined,
  compare: false,
  name: "",
  answerName: "",
  sampling: defaultSampling,
};

const suggestions = ["suggestion1", "suggestion2", "suggestion3"] as const;

/** @param model the one that a link asks for */
export function ChatPage({ model: linked }: { model: string | undefined }): JSX.Element {
  const { t } = useWords();
  const { models, info } = useLive();
  const [choices, setChoices] = useState<Choices>(() => {
    const kept = load<Partial<Choices>>("choices", {});
    return { ...defaults, ...kept, sampling: { ...defaultSampling, ...kept.sampling } };
  });
  const [showSettings, setShowSettings] = useState(false);
  const [fault, setFault] = useState<string>();
  const chat = useChat();
  const news = useNewModel(models);

  const put = (part: Partial<Choices>) => setChoices((old) => ({ ...old, ...part }));
  useEffect(() => save("choices", choices), [choices]);
  useEffect(() => {
    if (linked !== undefined) put({ model: linked });
  }, [linked]);

  // Esc stops the replies, wherever the focus is.
  const { stop, busy } = chat;
  useEffect(() => {
    if (!busy) return;
    const key = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !event.isComposing) stop();
    };
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, [busy, stop]);

  const newest = models?.at(-1);
  const first = models?.find((model) => model.id === choices.model) ?? newest;
  const second =
    models?.find((model) => model.id === choices.second) ?? models?.findLast((model) => model !== first) ?? first;
  const asked = [first, ...(choices.compare ? [second] : [])].filter((model) => model !== undefined);
  const mostTokens = Math.max(
    1,
    Math.min(info?.maxTokens ?? 1024, ...asked.map((model) => Math.floor(model.contextLength / 2))),
  );
  const sampling = { ...choices.sampling, maxTokens: Math.min(choices.sampling.maxTokens, mostTokens) };
  const speakers = [...new Set(asked.flatMap((model) => model.speakers ?? []))];

  const send = (content: string) =>
    chat.send(content, {
      models: asked.map((model) => model.id),
      name: choices.name.trim(),
      answerName: choices.answerName.trim(),
      sampling,
    });
  /** A vote that fails is said, not swallowed. */
  const vote = (cast: Promise<void>) => {
    setFault(undefined);
    cast.catch((error: Error) => setFault(t("voteFailed", { message: error.message })));
  };

  return (
    <div class={showSettings ? "chat with-settings" : "chat"}>
      <div class="chat-column">
        <div class="chat-bar">
          {first && (
            <ModelSelect label={t("model")} models={models ?? []} value={first} onChange={(id) => put({ model: id })} />
          )}
          {choices.compare && second && (
            <ModelSelect
              label={t("secondModel")}
              models={models ?? []}
              value={second}
              onChange={(id) => put({ second: id })}
            />
          )}
          <div class="tools">
            <IconButton
              icon="columns"
              label={t("compare")}
              pressed={choices.compare}
              onClick={() => put({ compare: !choices.compare })}
            />
            <IconButton
              icon="sliders"
              label={t("settings")}
              pressed={showSettings}
              onClick={() => setShowSettings(!showSettings)}
            />
            <ClearButton empty={chat.turns.length === 0} onClear={chat.clear} />
          </div>
        </div>
        {news && first && news !== first.id && (
          <p class="banner news" role="status">
            {t("newModel", { model: news })}
            <button type="button" class="button" onClick={() => put({ model: news })}>
              {t("useIt")}
            </button>
          </p>
        )}
        <Scroller turns={chat.turns}>
          {first === undefined ? (
            <Empty title={t(models === undefined ? "loading" : "noModel")}>
              {models !== undefined && (
                <>
                  <p>{t("noModelHint")}</p>
                  <a class="button" href="#/runs">
                    {t("seeTraining")}
                  </a>
                </>
              )}
            </Empty>
          ) : (
            chat.turns.length === 0 && (
              <Empty title={t("startTitle")}>
                <p>{t("startHint")}</p>
                <div class="suggestions">
                  {suggestions.map((text) => (
                    <button key={text} type="button" class="button" onClick={() => send(t(text))}>
                      {t(text)}
                    </button>
                  ))}
                </div>
              </Empty>
            )
          )}
          {chat.turns.map((turn, i) => (
            <TurnView
              key={turn.id}
              turn={turn}
              last={i === chat.turns.length - 1}
              onAgain={(index) => chat.again(turn, index, sampling)}
              onThumb={(index, value) => vote(chat.thumb(turn, index, value))}
              onPrefer={(index) => vote(chat.prefer(turn, index))}
            />
          ))}
          {fault && (
            <p class="note failed" role="alert">
              {fault}
            </p>
          )}
        </Scroller>
        <Composer
          busy={busy}
          disabled={first === undefined}
          name={choices.name}
          answerName={choices.answerName}
          speakers={speakers}
          onName={(name) => put({ name })}
          onAnswerName={(answerName) => put({ answerName })}
          onSend={send}
          onStop={stop}
        />
      </div>
      {showSettings && (
        <Settings
          sampling={sampling}
          mostTokens={mostTokens}
          onChange={(next) => put({ sampling: next })}
          onClose={() => setShowSettings(false)}
        />
      )}
    </div>
  );
}

function ModelSelect(props: {
  label: string;
  models: readonly ModelInfo[];
  value: ModelInfo;
  onChange: (id: string) => void;
}): JSX.Element {
  const { label, models, value, onChange } = props;
  return (
    <select
      class="model-select"
      aria-label={label}
      title={value.description}
      value={value.id}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      {models.map(({ id, description }) => (
        <option key={id} value={id}>
          {description ? `${id} · ${description}` : id}
        </option>
      ))}
    </select>
  );
}

/** Asks once more, in place, before it forgets the conversation. */
function ClearButton({ empty, onClear }: { empty: boolean; onClear: () => void }): JSX.Element {
  const { t } = useWords();
  const [sure, setSure] = useState(false);
  useEffect(() => {
    if (!sure) return;
    const timer = setTimeout(() => setSure(false), 3000);
    return () => clearTimeout(timer);
  }, [sure]);
  const click = () => {
    if (sure) onClear();
    setSure(!sure);
  };
  return (
    <IconButton icon="trash" label={t("clear")} disabled={empty} onClick={click} class={sure ? "sure" : ""}>
      {sure ? t("clearSure") : undefined}
    </IconButton>
  );
}

/** Keeps the newest words in sight, unless its reader has scrolled up. */
function Scroller({ turns, children }: { turns: readonly Turn[]; children: ComponentChildren }): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const atEnd = useRef(true);
  const count = useRef(turns.length);
  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    if (turns.length !== count.current) atEnd.current = true;
    count.current = turns.length;
    if (atEnd.current) element.scrollTop = element.scrollHeight;
  }, [turns]);
  const scrolled = () => {
    const element = box.current;
    if (element !== null) atEnd.current = element.scrollHeight - element.scrollTop - element.clientHeight < 48;
  };
  return (
    <div class="scroller" ref={box} onScroll={scrolled}>
      <div class="conversation" aria-live="polite">
        {children}
      </div>
    </div>
  );
}

/** The id of a model that has appeared since the page was opened. */
function useNewModel(models: readonly ModelInfo[] | undefined): string | undefined {
  const known = useRef<Set<string> | undefined>(undefined);
  const [news, setNews] = useState<string>();
  useEffect(() => {
    if (models === undefined) return;
    const fresh = known.current && models.findLast((model) => !known.current?.has(model.id));
    if (fresh) setNews(fresh.id);
    known.current = new Set(models.map((model) => model.id));
  }, [models]);
  return news;
}
