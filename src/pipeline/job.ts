import { join } from "node:path";
import { loadModel, saveModel } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import { parameterCount } from "../models/model.ts";
import type { LoadedRecipe, Recipe, Stage, StageOf } from "../recipe/index.ts";
import { writeResolved } from "../recipe/load.ts";
import type { Event } from "../runs/events.ts";
import { readEvents } from "../runs/log.ts";
import type { Run } from "../runs/run.ts";
import { dispose } from "../tensor/tree.ts";
import { StoppedError } from "../train/loop.ts";
import { makePairs } from "./pairs.ts";
import { ppo } from "./ppo.ts";
import {
  bitsPerByte,
  evaluationStep,
  freshState,
  heldOutWindows,
  meanLoss,
  optimizerOf,
  pretrainParts,
  someHeldOut,
  stepsForMinutes,
  textBatch,
} from "./pretrain.ts";
import { JUDGE, type ReportResult, report, type Summaries, writeReport } from "./report.ts";
import { replies, reward } from "./reward.ts";
import { sft } from "./sft.ts";
import { trainStage } from "./stage.ts";
import { backendName, type ModelNews, openWorkshop, peakMemoryBytes, publish, type Workshop } from "./workshop.ts";

export interface JobOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called when a stage has a model to talk to, also for stages of earlier sittings. */
  readonly onModel?: (news: ModelNews) => void;
}

export interface JobResult {
  readonly seconds: Readonly<Record<string, number>>;
  readonly summaries: Summaries;
  readonly parameters: number;
  readonly peakMemoryBytes: number;
}

type Summary = Record<string, number>;

/**
 * Runs a recipe's stages in order, each from where it stopped; stages that are finished are left alone. Events go to the run's log.
 * @throws StoppedError when the signal is aborted, after saving
 */
export async function runJob(run: Run, loaded: LoadedRecipe, options: JobOptions = {}): Promise<JobResult> {
  const { recipe } = loaded;
  const sitting = Date.now();
  const finished = new Map(run.past.stages.filter((s) => s.status === "finished").map((s) => [s.name, s] as const));
  run.events.emit({ type: "run", status: run.resumed ? "resumed" : "started" });
  const seconds: Record<string, number> = {};
  const summaries: Record<string, Summary> = {};
  let samples: ReportResult["samples"] = [];
  try {
    using workshop = await openWorkshop(run, recipe, options);
    // Whether the text holds pairs is known before hours of pre-training, not after.
    for (const stage of recipe.stages)
      if (stage.kind === "sft" && !finished.has(stage.name)) await makePairs(workshop, stage.pairs);
    for (const [index, stage] of recipe.stages.entries()) {
      const past = finished.get(stage.name);
      if (past) {
        seconds[stage.name] = past.seconds ?? 0;
        summaries[stage.name] = (past.summary ?? {}) as Summary;
        run.checkpoints.remove(stage.name); // the last sitting may have ended just before it did
        if (hasModel(stage)) options.onModel?.({ stage: stage.name, folder: run.modelFolder(stage.name) });
        continue;
      }
      const about = { stage: stage.name, index, count: recipe.stages.length };
      const again = run.past.stages.some((s) => s.name === stage.name && s.status === "running");
      run.events.emit({
        type: "stage",
        ...about,
        status: again ? "resumed" : "started",
        ...(again ? { step: run.checkpoints.latest(stage.kind === "report" ? JUDGE : stage.name)?.step ?? 0 } : {}),
      });
      const begun = performance.now();
      let summary: Summary;
      if (stage.kind === "report") {
        const made = await report(workshop, stage, index);
        samples = made.samples;
        summary = made.summary;
      } else summary = await runStage(workshop, stage, index, loaded);
      const earlier = again ? secondsSpent(readEvents(join(run.path, "events.jsonl")).events, stage.name, sitting) : 0;
      seconds[stage.name] = (performance.now() - begun) / 1000 + earlier;
      summaries[stage.name] = summary;
      if (stage.kind === "report")
        run.writeReport(
          writeReport(recipe.name, await factsOf(workshop, loaded), seconds, byKind(recipe, summaries), samples),
        );
      run.events.emit({ type: "stage", ...about, status: "finished", seconds: seconds[stage.name]!, summary });
      run.checkpoints.remove(stage.name);
      if (stage.kind === "report") run.checkpoints.remove(JUDGE);
    }
    const parameters = await countParameters(workshop);
    run.events.emit({ type: "run", status: "finished" });
    return { seconds, summaries: byKind(recipe, summaries), parameters, peakMemoryBytes: peakMemoryBytes() };
  } catch (error) {
    const stopped = error instanceof StoppedError || options.signal?.aborted;
    run.events.emit({
      type: "run",
      status: stopped ? "stopped" : "failed",
      message: error instanceof Error ? error.message : String(error),
    });
    throw error;
  }
}

/** Seconds that earlier sittings, which began before the time `until`, spent in a stage they did not finish. */
export function secondsSpent(events: readonly Event[], stage: string, until: number): number {
  let total = 0;
  let began: number | undefined;
  let last = 0;
  for (const event of events) {
    if (event.t >= until) break;
    // A new sitting: the one before ended with its last event, however it ended.
    if (event.type === "run" && (event.status === "started" || event.status === "resumed") && began !== undefined) {
      total += last - began;
      began = undefined;
    }
    if (event.type === "stage" && event.stage === stage) began = event.t;
    last = event.t;
  }
  if (began !== undefined) total += last - began;
  return total / 1000;
}

const hasModel = (stage: Stage): boolean => stage.kind === "pretrain" || stage.kind === "sft" || stage.kind === "ppo";

/** Summaries under the kind of their stage: the last stage of a kind speaks for it. */
function byKind(recipe: Recipe, summaries: Readonly<Record<string, Summary>>): Summaries {
  const out: Record<string, Summary> = {};
  for (const stage of recipe.stages) {
    const s = summaries[stage.name];
    if (s) out[stage.kind] = s;
  }
  return out;
}

async function runStage(
  workshop: Workshop,
  stage: Exclude<Stage, { kind: "report" }>,
  index: number,
  loaded: LoadedRecipe,
): Promise<Summary> {
  switch (stage.kind) {
    case "pretrain":
      return pretrain(workshop, stage, index, loaded);
    case "sft":
      return sft(workshop, stage, index);
    case "reward":
      return reward(workshop, stage, index);
    case "ppo":
      return ppo(workshop, stage, index);
  }
}

async function countParameters(workshop: Workshop): Promise<number> {
  const stage = workshop.recipe.stages.find(hasModel);
  if (!stage) return 0;
  const { model } = await loadModel(workshop.run.modelFolder(stage.name));
  const n = parameterCount(model);
  dispose(model);
  return n;
}

async function factsOf(workshop: Workshop, { derived }: LoadedRecipe): Promise<[string, string][]> {
  const { recipe, tokens } = workshop;
  return [
    ["Text", (recipe.data.corpus ?? recipe.data.text ?? "").split("/").slice(-2).join("/")],
    ["Tokens to learn from, held out", `${tokens.train.length}, ${tokens.heldOut.length}`],
    [
      "Model",
      `${recipe.model.family}, ${recipe.model.layers} layers of width ${recipe.model.width}, context ${recipe.model.context}`,
    ],
    ["Parameters", String(await countParameters(workshop))],
    ["Derived", derived.join(", ") || "-"],
    ["Backend", backendName()],
    ["Peak memory", `${(peakMemoryBytes() / 1e6).toFixed(0)} MB`],
  ];
}

/** Evaluation during training looks at this many batches of held-out windows. */
const QUICK_BATCHES = 4;

async function pretrain(
  workshop: Workshop,
  stage: StageOf<"pretrain">,
  index: number,
  loaded: LoadedRecipe,
): Promise<Summary> {
  const { recipe, run, emit, tokenizer } = workshop;
  const optimizer = optimizerOf(workshop);
  const parts = pretrainParts(workshop, stage, optimizer);
  let { steps } = stage;
  if (steps === undefined) {
    steps = await stepsForMinutes(workshop, parts, optimizer, stage.minutes!);
    keepSteps(run, loaded, stage, steps);
    emit({
      type: "log",
      level: "info",
      message: `${stage.name}: ${stage.minutes} minutes are ${steps} steps on this machine.`,
    });
  }
  const total = steps;
  const evaluate = evaluationStep(recipe.precision);
  const quick = someHeldOut(workshop, parts.rows, QUICK_BATCHES);
  const opening = tokenizer.bosId === undefined ? [0] : [tokenizer.bosId];
  const { model } = await trainStage<LanguageModel, ReturnType<typeof textBatch>>(workshop, {
    stage,
    index,
    steps: total,
    fresh: async () => freshState(workshop, optimizer, 11 + index),
    step: parts.step,
    batch: (i) => textBatch(parts.windows.at(i)),
    schedule: { kind: stage.schedule, warmup: stage.warmup, decay: stage.decay, final: stage.final_learning_rate },
    learningRate: stage.learning_rate!,
    muonLearningRate: recipe.optimizer.muon_learning_rate,
    logEvery: stage.log_every,
    evaluateEvery: stage.evaluate_every ?? Math.max(1, Math.ceil(total / 8)),
    evaluate: async (m) => ({ heldout_loss: (await meanLoss(evaluate, m, quick)).loss }),
    sampleEvery: stage.sample_every ?? Math.max(1, Math.ceil(total / 6)),
    sample: async (m, step) => {
      const [ids] = await replies(workshop, m, [opening], { maxTokens: 64, temperature: 0.8, seed: recipe.seed });
      emit({
        type: "sample",
        stage: stage.name,
        step,
        prompt: "",
        text: tokenizer.decode(ids!, { skipSpecialTokens: true }),
      });
    },
    checkpointEvery: stage.checkpoint_every,
    release: () => parts.step.release(),
  });
  const { total: nats, loss } = await meanLoss(evaluate, model, heldOutWindows(workshop, parts.rows));
  evaluate.release();
  const parameters = parameterCount(model);
  await publish(workshop, stage.name, model, saveModel);
  dispose(model);
  return {
    bits_per_byte: bitsPerByte(nats, workshop.tokens.heldOutBytes),
    perplexity: Math.exp(loss),
    heldout_loss: loss,
    parameters,
    steps: total,
    tokens: total * parts.rows * recipe.model.context,
  };
}

/** Writes the number of steps into the run's recipe in place of the minutes. */
function keepSteps(run: Run, loaded: LoadedRecipe, stage: StageOf<"pretrain">, steps: number): void {
  const { minutes: _minutes, ...rest } = stage;
  const stages = loaded.recipe.stages.map((s) => (s === stage ? { ...rest, steps } : s));
  run.writeRecipe(writeResolved({ ...loaded.recipe, stages }));
}
