import type { NewEvent } from "../runs/events.ts";
import { HowdahError } from "../tensor/errors.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { dispose, leaves } from "../tensor/tree.ts";

/** Training that went wrong and what is left to go on from. */
export class DivergenceError extends HowdahError {
  constructor(message: string) {
    super("diverged", message);
  }
}

/** Thrown when a stage was asked to stop; everything up to the last whole step is saved. */
export class StoppedError extends HowdahError {
  readonly stage: string;
  readonly step: number;

  constructor(stage: string, step: number) {
    super("stopped", `Stopped in ${stage} after step ${step}; the same command goes on from there.`);
    this.stage = stage;
    this.step = step;
  }
}

export interface LoopOptions {
  readonly stage: string;
  /** Where to begin: 0, or the step of the checkpoint. */
  readonly from: number;
  readonly steps: number;
  readonly unit?: string;
  /** Does step `i` (from 0) and gives its metrics as tensors that may still be on their way, or as numbers. */
  run(i: number): Promise<Record<string, Tensor | number>> | Record<string, Tensor | number>;
  readonly emit: (event: NewEvent) => void;
  readonly signal?: AbortSignal | undefined;
  readonly logEvery?: number;
  readonly evaluateEvery?: number | undefined;
  /** Held-out measurements, named as they should appear, such as `heldout_loss`. */
  evaluate?(): Promise<Record<string, number>>;
  readonly sampleEvery?: number | undefined;
  sample?(step: number): Promise<void>;
  readonly checkpointEvery?: number;
  /** The lowest score among the checkpoints there are. */
  readonly best?: number | undefined;
  /** Saves everything as of `step` finished steps. `score` is the held-out loss at this very step, if it was measured. */
  save(step: number, score: number | undefined): Promise<void>;
  /** The metric that must not explode. Default `loss`. All metrics must stay finite. */
  readonly watch?: string;
  /** The model as it is now, to name the tensor that went wrong. */
  model?(): unknown;
  /** Where the newest checkpoint is, for the message. */
  lastGood?(): string | undefined;
  /** Removes the checkpoint of this step: its weights turned out to be wrong. */
  discard?(step: number): void;
}

/** How far above its best recent value the watched metric may rise before it counts as diverging. */
const EXPLOSION = 10;
/** JavaScript is given a turn at least this often, so that a page being watched stays alive. Milliseconds. */
const PROGRESS_EVERY = 250;

/**
 * The loop of every stage: steps, metrics, progress with rate and time left, held-out measurements, samples, checkpoints by the clock,
 * clean stops, and an end to runs that diverge. Metrics of a step are read while the next one runs.
 * @returns the last held-out measurements
 */
export async function trainLoop(o: LoopOptions): Promise<Record<string, number>> {
  const logEvery = o.logEvery ?? 10;
  const watch = o.watch ?? "loss";
  const started = performance.now();
  let lastSave = started;
  let lastProgress = 0;
  let heldout: Record<string, number> = {};
  let score: number | undefined;
  let best = o.best ?? Number.POSITIVE_INFINITY;
  let smallest = Number.POSITIVE_INFINITY;
  let pending: { step: number; metrics: Record<string, Tensor | number> } | undefined;
  let paused = 0;
  /** The step of the checkpoint that this call saved last. */
  let saved: number | undefined;

  /**
   * @param weights the step whose weights showed that something is wrong. The clock may have saved them before: an update with a learning
   * rate of 1e30 leaves finite weights, and only the next loss tells.
   */
  const fail = (step: number, weights: number, what: string): Promise<DivergenceError> => {
    if (saved === weights) o.discard?.(weights);
    return diverged(o, step, what);
  };
  const settle = async (): Promise<void> => {
    if (!pending) return;
    const { step, metrics } = pending;
    pending = undefined;
    const values: Record<string, number> = {};
    for (const [name, t] of Object.entries(metrics)) {
      if (typeof t === "number") values[name] = t;
      else {
        values[name] = await t.item();
        t.dispose();
      }
    }
    const report = () => o.emit({ type: "metrics", stage: o.stage, step, values });
    const stray = Object.entries(values).find(([, x]) => !Number.isFinite(x));
    const loss = values[watch];
    const exploded = loss !== undefined && loss > smallest + EXPLOSION * Math.max(Math.abs(smallest), 1);
    if (stray || exploded) report();
    if (stray) throw await fail(step, step - 1, `${stray[0]} is ${stray[1]}`);
    if (exploded)
      throw await fail(step, step - 1, `${watch} rose to ${loss.toPrecision(4)} from ${smallest.toPrecision(4)}`);
    if (loss !== undefined) smallest = Math.min(smallest, loss);
    if (step % logEvery === 0 || step === o.steps || step === o.from + 1) report();
  };
  /** Saves, unless the weights are wrong: a loss is known to be finite before the update that follows from it is. */
  const save = async (step: number, measured?: number): Promise<void> => {
    await settle();
    const bad = o.model ? await firstNotFinite(o.model()) : undefined;
    if (bad) throw await fail(step, step, `${bad} is not finite after the update`);
    await o.save(step, measured);
    saved = step;
    lastSave = performance.now();
  };
  const progress = (done: number): void => {
    const now = performance.now();
    if (now - lastProgress < PROGRESS_EVERY && done < o.steps) return;
    lastProgress = now;
    const rate = (done - o.from) / Math.max((now - started - paused) / 1000, 1e-9);
    o.emit({
      type: "progress",
      stage: o.stage,
      done,
      total: o.steps,
      unit: o.unit ?? "steps",
      rate,
      secondsLeft: rate > 0 ? (o.steps - done) / rate : 0,
    });
  };
  const evaluate = async (step: number): Promise<void> => {
    if (!o.evaluate) return;
    const before = performance.now();
    heldout = await o.evaluate();
    paused += performance.now() - before;
    score = heldout.heldout_loss;
    o.emit({ type: "metrics", stage: o.stage, step, values: heldout });
  };

  for (let i = o.from; i < o.steps; i++) {
    if (o.signal?.aborted) {
      await save(i);
      throw new StoppedError(o.stage, i);
    }
    const metrics = await o.run(i);
    await settle().catch((error: unknown) => {
      dispose(metrics);
      throw error;
    });
    pending = { step: i + 1, metrics };
    // What is known already is looked at before the next step builds on it.
    if (Object.values(metrics).every((value) => typeof value === "number")) await settle();
    const done = i + 1;
    progress(done);
    const last = done === o.steps;
    if (last || (o.evaluateEvery && done % o.evaluateEvery === 0)) {
      await settle();
      await evaluate(done);
      // The best so far is kept whatever the clock says: a stage that gets worse in the end gives this one.
      if (!last && score !== undefined && score < best) {
        best = score;
        await save(done, score);
      }
    }
    if (!last && o.sample && o.sampleEvery && done % o.sampleEvery === 0) {
      await settle();
      const before = performance.now();
      // Weights may be wrong after an update whose loss was still right: the samples see it first.
      await o.sample(done).catch(async (error: unknown) => {
        if (!(error instanceof HowdahError && error.code === "not_finite")) throw error;
        throw await fail(done, done, "the logits of its samples are not finite");
      });
      paused += performance.now() - before;
    }
    if (!last && performance.now() - lastSave > (o.checkpointEvery ?? 30) * 1000) {
      await save(done);
    }
  }
  await settle();
  if (o.from >= o.steps) await evaluate(o.steps);
  return heldout;
}

async function diverged(o: LoopOptions, step: number, what: string): Promise<DivergenceError> {
  const where = o.model ? await suspect(o.model()) : "";
  const good = o.lastGood?.();
  const rescue = good ? ` The last good checkpoint is ${good}.` : " There is no checkpoint yet.";
  return new DivergenceError(
    `${o.stage} diverged at step ${step}: ${what}.${where}${rescue} Try a lower learning rate or a longer warm-up.`,
  );
}

/** A sentence that names the tensor to look at: the first that is not finite, else the one with the largest value. */
async function suspect(tree: unknown): Promise<string> {
  const bad = await firstNotFinite(tree);
  if (bad) return ` The first tensor that is not finite is ${bad}.`;
  let [worst, most] = ["", -1];
  for (const { path, tensor } of leaves(tree)) {
    if (tensor.dtype !== "f32") continue;
    const largest = ((await tensor.data()) as Float32Array).reduce((a, x) => Math.max(a, Math.abs(x)), 0);
    if (largest > most) [worst, most] = [path, largest];
  }
  return worst ? ` All weights are finite; the largest, ${most.toPrecision(3)}, is in ${worst}.` : "";
}

/** The path of the first tensor of a tree that holds NaN or infinity. */
export async function firstNotFinite(tree: unknown): Promise<string | undefined> {
  for (const { path, tensor } of leaves(tree)) {
    if (tensor.dtype !== "f32") continue;
    const data = (await tensor.data()) as Float32Array;
    if (data.some((x) => !Number.isFinite(x))) return path;
  }
  return undefined;
}
