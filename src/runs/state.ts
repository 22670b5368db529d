import type { Event, MetricsEvent, ProgressEvent, SampleEvent } from "./events.ts";

export type StageStatus = "waiting" | "running" | "finished" | "skipped";

export interface StageState {
  readonly name: string;
  status: StageStatus;
  /** Seconds over all sittings, known when the stage is finished. */
  seconds: number | undefined;
  /** When this sitting of the stage began, in milliseconds since 1970. */
  began: number | undefined;
  progress: ProgressEvent | undefined;
  summary: Record<string, unknown> | undefined;
  /** Values by step; of several events for one step and name the last counts. */
  readonly metrics: Map<number, Record<string, number>>;
  readonly samples: SampleEvent[];
}

/** What the events of a run add up to. */
export interface RunState {
  status: "empty" | "running" | "finished" | "stopped" | "failed";
  message: string | undefined;
  /** First and last event, in milliseconds since 1970. */
  began: number | undefined;
  updated: number | undefined;
  /** Number of stages, known from the first stage's event. */
  count: number;
  /** In the order of the run; an entry that was not reached yet may be missing. */
  stages: StageState[];
}

export function newRunState(stages: readonly string[] = []): RunState {
  return {
    status: "empty",
    message: undefined,
    began: undefined,
    updated: undefined,
    count: stages.length,
    stages: stages.map(newStage),
  };
}

function newStage(name: string): StageState {
  return {
    name,
    status: "waiting",
    seconds: undefined,
    began: undefined,
    progress: undefined,
    summary: undefined,
    metrics: new Map(),
    samples: [],
  };
}

/**
 * Takes one event into the state, in place. This is the one reading of `events.jsonl`: a stage that resumes from the
 * checkpoint of step S supersedes what it had reported for later steps, and of two reports for a step the last counts.
 */
export function applyEvent(state: RunState, event: Event): RunState {
  state.began ??= event.t;
  state.updated = event.t;
  switch (event.type) {
    case "run":
      state.status = event.status === "started" || event.status === "resumed" ? "running" : event.status;
      state.message = event.message;
      break;
    case "stage": {
      const stage = stageOf(state, event.stage, event.index);
      state.count = event.count;
      if (event.status === "started" || event.status === "resumed") {
        stage.status = "running";
        stage.began = event.t;
        stage.progress = undefined;
        supersede(stage, event.status === "resumed" ? (event.step ?? Number.POSITIVE_INFINITY) : -1);
      } else {
        stage.status = event.status;
        stage.seconds = event.seconds ?? stage.seconds;
        stage.summary = event.summary ?? stage.summary;
      }
      break;
    }
    case "progress":
      stageOf(state, event.stage).progress = event;
      break;
    case "metrics":
      keepMetrics(stageOf(state, event.stage), event);
      break;
    case "sample": {
      const { samples } = stageOf(state, event.stage);
      const same = samples.findIndex((old) => old.step === event.step && old.prompt === event.prompt);
      if (same >= 0) samples[same] = event;
      else samples.push(event);
      break;
    }
    case "log":
      break;
  }
  return state;
}

export function runStateOf(events: Iterable<Event>): RunState {
  const state = newRunState();
  for (const event of events) applyEvent(state, event);
  return state;
}

function stageOf(state: RunState, name: string, index?: number): StageState {
  const found = state.stages.find((stage) => stage.name === name);
  if (found !== undefined) return found;
  const stage = newStage(name);
  if (index === undefined || index >= state.stages.length) state.stages.push(stage);
  else state.stages.splice(index, 0, stage);
  return stage;
}

function keepMetrics(stage: StageState, { step, values }: MetricsEvent): void {
  stage.metrics.set(step, { ...stage.metrics.get(step), ...values });
}

function supersede(stage: StageState, step: number): void {
  for (const reported of [...stage.metrics.keys()]) if (reported > step) stage.metrics.delete(reported);
  const kept = stage.samples.filter((sample) => sample.step <= step);
  stage.samples.splice(0, stage.samples.length, ...kept);
}

/** One metric of a stage as (step, value) pairs in the order of steps. */
export function series(stage: StageState, name: string): [step: number, value: number][] {
  const points: [number, number][] = [];
  for (const [step, values] of stage.metrics) {
    const value = values[name];
    if (value !== undefined) points.push([step, value]);
  }
  return points.sort(([a], [b]) => a - b);
}

/** The last value of a metric of a stage. */
export function latest(stage: StageState, name: string): number | undefined {
  return series(stage, name).at(-1)?.[1];
}
