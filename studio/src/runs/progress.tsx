import type { JSX } from "preact";
import type { ProgressEvent as Progressed } from "../../../src/runs/events.ts";
import { useWords } from "../language.ts";

export function Progress({ progress }: { progress: Progressed }): JSX.Element {
  const { t, number, duration, stage, unit: unitName } = useWords();
  const { done, total, rate, secondsLeft } = progress;
  const unit = unitName(progress.unit);
  const share = total > 0 ? Math.min(1, done / total) : 0;
  return (
    <section class="progress" aria-label={t("progress")}>
      <progress value={share} max={1} aria-label={stage(progress.stage)} />
      <p>
        <b>{Math.floor(share * 100)}%</b>
        <span>
          {number(done)} / {number(total)} {unit}
        </span>
        {Number.isFinite(rate) && <span>{t("perSecond", { rate: number(rate), unit })}</span>}
        {Number.isFinite(secondsLeft) && <span>{t("timeLeft", { time: duration(secondsLeft) })}</span>}
      </p>
    </section>
  );
}
