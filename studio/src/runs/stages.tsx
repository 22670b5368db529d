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
  selected: string | undefined;
  onSelect: (name: string) => void;
  now: number;
  /** Whether the run's process is alive: a stage of a dead one does not run. */
  running: boolean;
}

/** The stages in their order, each a button that shows its curves and samples. */
export function Stages({ state, selected, onSelect, now, running }: Props): JSX.Element {
  const { t } = useWords();
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
      {Array.from({ length: Math.max(0, state.count - state.stages.length) }, (_, i) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: stages whose names are not known yet
        <li key={i} class="stage waiting">
          <span class="stage-face">
            <span class="dot" aria-hidden="true" />
            <span class="stage-text">
              <b>…</b>
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
