import type { JSX } from "preact";
import type { RunState, StageState } from "../../../src/runs/state.ts";
import { type Text, useWords } from "../language.ts";

const texts: Record<StageState["status"], Text> = {
  waiting: "stageWaiting",
  running: "stageRunning",
  finished: "stageFinished",
  skipped: "stageSkipped",
};

interface Props {
  state: RunState;
  /** The recipe's stages; a run may have more (a tokenizer, a judge). */
  planned: readonly string[];
  selected: string | undefined;
  onSelect: (name: string) => void;
  now: number;
  /** Whether the run's process is alive: a stage of a dead one does not run. */
  running: boolean;
}

/** The stages in their order, each a button that shows its curves and samples. */
export function Stages({ state, planned, selected, onSelect, now, running }: Props): JSX.Element {
  const { t, stage: stageName } = useWords();
  // Before the first event only the recipe knows how many there will be.
  const missing = Math.max(0, (state.count || planned.length) - state.stages.length);
  const names = planned.filter((name) => !state.stages.some((stage) => stage.name === name)).slice(-missing);
  const waiting = Array.from({ length: missing }, (_, i) => names[i - missing + names.length] ?? `…${i}`);
  return (
    <ol class="stages" aria-label={t("stages")}>
      {state.stages.map((stage) => (
        <Stage
          key={stage.name}
          stage={stage}
          now={now}
          running={running}
          selected={stage.name === selected}
          onSelect={onSelect}
        />
      ))}
      {waiting.map((name) => (
        <li key={name} class="stage waiting">
          <span class="stage-face">
            <span class="dot" aria-hidden="true" />
            <span class="stage-text">
              <b>{name.startsWith("…") ? "…" : stageName(name)}</b>
              <small>{t("stageWaiting")}</small>
            </span>
          </span>
        </li>
      ))}
    </ol>
  );
}

function Stage(props: {
  stage: StageState;
  now: number;
  running: boolean;
  selected: boolean;
  onSelect: Props["onSelect"];
}): JSX.Element {
  const { stage, now, running, selected, onSelect } = props;
  const { t, stage: stageName, duration } = useWords();
  const stuck = stage.status === "running" && !running;
  const status = stuck ? "waiting" : stage.status;
  const seconds =
    stage.status === "running"
      ? running && stage.began
        ? Math.max(0, now - stage.began) / 1000
        : undefined
      : stage.seconds;
  return (
    <li class={`stage ${status}`}>
      <button type="button" class="stage-face" aria-pressed={selected} onClick={() => onSelect(stage.name)}>
        <span class="dot" aria-hidden="true" />
        <span class="stage-text">
          <b>{stageName(stage.name)}</b>
          <small>
            <span class="stage-state">{t(stuck ? "statusInterrupted" : texts[stage.status])}</span>
            {seconds !== undefined && <span> · {duration(seconds)}</span>}
          </small>
        </span>
      </button>
    </li>
  );
}
