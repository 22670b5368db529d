import type { JSX } from "preact";
import { useWords } from "../language.ts";
import { request } from "../server.ts";
import { IconButton } from "../ui/controls.tsx";
import { Icon } from "../ui/icons.tsx";
import { defaultSampling, type Sampling } from "./conversation.ts";

interface Props {
  sampling: Sampling;
  /** What the server and the model allow. */
  mostTokens: number;
  onChange: (sampling: Sampling) => void;
  onClose: () => void;
}

/** How replies are sampled. */
export function Settings({ sampling, mostTokens, onChange, onClose }: Props): JSX.Element {
  const { t, number } = useWords();
  const put = (part: Partial<Sampling>) => onChange({ ...sampling, ...part });
  return (
    <aside
      class="settings"
      aria-label={t("settings")}
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
      }}
    >
      <header>
        <h2>{t("settings")}</h2>
        <IconButton icon="close" label={t("close")} onClick={onClose} />
      </header>
      <Slider
        label={t("temperature")}
        hint={t("temperatureHint")}
        value={sampling.temperature}
        shown={number(sampling.temperature)}
        max={2}
        step={0.05}
        onInput={(temperature) => put({ temperature })}
      />
      <Slider
        label={t("topP")}
        value={sampling.topP}
        shown={sampling.topP === 1 ? t("off") : number(sampling.topP)}
        min={0.05}
        max={1}
        step={0.05}
        onInput={(topP) => put({ topP })}
      />
      <Slider
        label={t("topK")}
        value={sampling.topK}
        shown={sampling.topK === 0 ? t("off") : number(sampling.topK)}
        max={200}
        step={5}
        onInput={(topK) => put({ topK })}
      />
      <Slider
        label={t("maxTokens")}
        value={Math.min(sampling.maxTokens, mostTokens)}
        shown={number(Math.min(sampling.maxTokens, mostTokens))}
        min={1}
        max={mostTokens}
        step={1}
        onInput={(maxTokens) => put({ maxTokens })}
      />
      <label class="field">
        <span>{t("seed")}</span>
        <input
          type="number"
          min={0}
          max={2 ** 31 - 1}
          step={1}
          value={sampling.seed ?? ""}
          onInput={(event) => {
            const { value, valueAsNumber } = event.currentTarget;
            put({ seed: value === "" || !Number.isInteger(valueAsNumber) ? null : valueAsNumber });
          }}
        />
        <small>{t("seedHint")}</small>
      </label>
      <div class="settings-end">
        <button type="button" class="button" onClick={() => onChange(defaultSampling)}>
          {t("reset")}
        </button>
        <button type="button" class="button" onClick={() => void downloadVotes()}>
          <Icon name="download" />
          {t("exportVotes")}
        </button>
      </div>
    </aside>
  );
}

interface SliderProps {
  label: string;
  hint?: string;
  value: number;
  shown: string;
  min?: number;
  max: number;
  step: number;
  onInput: (value: number) => void;
}

function Slider({ label, hint, value, shown, min = 0, max, step, onInput }: SliderProps): JSX.Element {
  return (
    <label class="field">
      <span>
        {label}
        <output>{shown}</output>
      </span>
      <input
        type="range"
        aria-label={label}
        min={min}
        max={max}
        step={step}
        value={value}
        aria-valuetext={shown}
        onInput={(event) => onInput(event.currentTarget.valueAsNumber)}
      />
      {hint && <small>{hint}</small>}
    </label>
  );
}

/** Fetched rather than linked to: a link cannot carry the key. */
async function downloadVotes(): Promise<void> {
  const response = await request("/api/votes/export.jsonl");
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = "preferences.jsonl";
  link.click();
  URL.revokeObjectURL(url);
}
