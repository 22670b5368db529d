import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { SampleEvent } from "../../../src/runs/events.ts";
import { useWords } from "../language.ts";

/** The model's own words as it learns: one step at a time on a slider, the newest unless an older one is looked at. */
export function Samples({ samples }: { samples: readonly SampleEvent[] }): JSX.Element {
  const { t, number } = useWords();
  const [picked, pick] = useState<number>();
  const steps = [...new Set(samples.map((sample) => sample.step))].sort((a, b) => a - b);
  if (steps.length === 0) return <p class="muted">{t("noSamples")}</p>;
  const place = picked === undefined ? -1 : steps.indexOf(picked);
  const at = place < 0 ? steps.length - 1 : place;
  const step = steps[at] ?? 0;
  const label = t("step", { step: number(step) });
  return (
    <section class="samples">
      <div class="slider">
        <span>{label}</span>
        {steps.length > 1 && (
          <input
            type="range"
            aria-label={t("samples")}
            min={0}
            max={steps.length - 1}
            value={at}
            aria-valuetext={label}
            onInput={(event) => {
              const next = Number(event.currentTarget.value);
              // At the end it follows the training again.
              pick(next === steps.length - 1 ? undefined : steps[next]);
            }}
          />
        )}
      </div>
      {samples
        .filter((sample) => sample.step === step)
        .map((sample) => (
          <blockquote key={sample.prompt} class="sample">
            <span class="sample-prompt">{sample.prompt}</span>
            {sample.text}
          </blockquote>
        ))}
    </section>
  );
}
