import { join } from "node:path";
import { loadTree, saveTree } from "../checkpoint/index.ts";
import type { Stage } from "../recipe/index.ts";
import type { Jitted } from "../tensor/jit.ts";
import { scalar } from "../tensor/ops/creation.ts";
import { dispose } from "../tensor/tree.ts";
import { trainLoop } from "../train/loop.ts";
import type { LearningRates } from "../train/optimizer.ts";
import { type Schedule, scheduleAt } from "../train/schedule.ts";
import type { StepResult, TrainState } from "../train/step.ts";
import type { Workshop } from "./workshop.ts";

const STATE = "state.safetensors";

export interface StageRun<M, B> {
  readonly stage: Stage;
  readonly index: number;
  readonly steps: number;
  /** State to begin with when there is no checkpoint. */
  fresh(): Promise<TrainState<M>>;
  readonly step: Pick<Jitted<[TrainState<M>, B, LearningRates], StepResult<M>>, "prepare"> &
    ((state: TrainState<M>, batch: B, rates: LearningRates) => StepResult<M>);
  /** The batch of step `i`: a pure function of it, so that resuming is exact. Disposed after use. */
  batch(i: number): B;
  readonly schedule: Schedule;
  readonly learningRate: number;
  readonly muonLearningRate?: number;
  readonly logEvery: number;
  readonly evaluateEvery?: number | undefined;
  evaluate?(model: M): Promise<Record<string, number>>;
  readonly sampleEvery?: number | undefined;
  sample?(model: M, step: number): Promise<void>;
  readonly checkpointEvery: number;
  /** Frees what was compiled for the stage. */
  release?(): void;
}

/** The state of the stage's newest checkpoint, or a fresh one. */
async function begin<M, B>(
  { run }: Workshop,
  { stage, fresh }: StageRun<M, B>,
): Promise<{ state: TrainState<M>; from: number }> {
  const state = await fresh();
  const newest = run.checkpoints.latest(stage.name);
  if (!newest) return { state, from: 0 };
  try {
    return { state: (await loadTree(join(newest.path, STATE), state)).tree, from: newest.step };
  } finally {
    dispose(state);
  }
}

/** Trains one stage from its newest checkpoint or afresh. @returns the model (the caller owns it) and the last held-out measurements */
export async function trainStage<M, B>(
  workshop: Workshop,
  o: StageRun<M, B>,
): Promise<{ model: M; heldout: Record<string, number> }> {
  const { run, emit, signal, recipe } = workshop;
  const { name } = o.stage;
  const begun = await begin(workshop, o);
  const { from } = begun;
  let { state } = begun;
  try {
    let heldout = await trainLoop({
      stage: name,
      from,
      steps: o.steps,
      emit,
      signal,
      logEvery: o.logEvery,
      evaluateEvery: o.evaluateEvery,
      sampleEvery: o.sampleEvery,
      checkpointEvery: o.checkpointEvery,
      run: async (i) => {
        const factor = scheduleAt(o.schedule, i, o.steps);
        const rates = {
          adamw: scalar(o.learningRate * factor),
          muon: scalar((o.muonLearningRate ?? o.learningRate) * factor),
        };
        const batch = o.batch(i);
        await o.step.prepare(state, batch, rates);
        const result = o.step(state, batch, rates);
        state = result.state;
        dispose([batch, rates]);
        return { ...result.metrics, learning_rate: o.learningRate * factor };
      },
      ...(o.evaluate ? { evaluate: () => o.evaluate!(state.model) } : {}),
      ...(o.sample ? { sample: (step) => o.sample!(state.model, step) } : {}),
      save: async (step, score) => {
        await run.checkpoints.save(
          {
            stage: name,
            stageIndex: o.index,
            step,
            keep: recipe.keep,
            ...(score === undefined ? {} : { score }),
          },
          (folder) => saveTree(join(folder, STATE), state, { step }),
        );
      },
      model: () => state.model,
      lastGood: () => run.checkpoints.latest(name)?.path,
      discard: (step) => run.checkpoints.remove(name, step - 1),
      best: run.checkpoints.best(name)?.score,
    });
    const best = run.checkpoints.best(name);
    if (best?.score !== undefined && best.score < (heldout.heldout_loss ?? Number.NEGATIVE_INFINITY)) {
      const { tree } = await loadTree(join(best.path, STATE), state);
      dispose(state);
      state = tree;
      heldout = { ...heldout, heldout_loss: best.score };
      emit({
        type: "log",
        level: "info",
        message: `${name}: the model of step ${best.step} is kept, whose held-out loss ${best.score.toFixed(4)} was the lowest.`,
      });
    }
    dispose([state.optimizer, state.key]);
    return { model: state.model, heldout };
  } catch (error) {
    dispose(state);
    throw error;
  } finally {
    o.release?.();
  }
}
