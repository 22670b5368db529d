import type { RewardModel } from "../align/reward.ts";
import { distinct, repetition, winRate } from "../evaluate/text.ts";
import { loadModel } from "../models/folder.ts";
import type { StageOf } from "../recipe/index.ts";
import { jit } from "../tensor/jit.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import { type EncodedPair, makePairs } from "./pairs.ts";
import {
  loadRewardModel,
  preferencePairs,
  replies,
  saveRewardModel,
  shortPrompts,
  trainRewardModel,
} from "./reward.ts";
import { folderOfStage, progressOf, type Workshop } from "./workshop.ts";

/** Name of the judge's samples, checkpoints and model in the run. */
export const JUDGE = "judge";

/** Numbers of the stages so far, by stage name. */
export type Summaries = Readonly<Record<string, Readonly<Record<string, number>>>>;

export interface ReportResult {
  readonly summary: Record<string, number>;
  readonly samples: readonly {
    readonly prompt: string;
    readonly sft: string;
    readonly ppo: string;
    readonly own: string;
  }[];
}

/**
 * Answers held-out prompts with the SFT model and the PPO policy, and lets a judge compare them: a reward model trained on the text's
 * other plays or documents, which neither the policy nor its reward model has seen a pair of.
 */
export async function report(workshop: Workshop, stage: StageOf<"report">, index: number): Promise<ReportResult> {
  const { recipe, tokenizer } = workshop;
  const stages = recipe.stages;
  const sftStage = stages.find((s) => s.kind === "sft");
  const rewardStage = stages.find((s) => s.kind === "reward");
  const ppoStage = stages.find((s) => s.kind === "ppo");
  if (sftStage?.kind !== "sft" || rewardStage?.kind !== "reward" || ppoStage?.kind !== "ppo")
    return { summary: {}, samples: [] };
  const sftFolder = folderOfStage(workshop, ["sft"], index);
  const pairs = await makePairs(workshop, sftStage.pairs);
  const summary: Record<string, number> = {};

  let judge: RewardModel | undefined;
  if (stage.judge) {
    const made = await preferencePairs(
      workshop,
      JUDGE,
      sftFolder,
      pairs.judgeTrain,
      pairs.judgeHeldOut,
      {
        examples: rewardStage.examples,
        promptTokens: rewardStage.prompt_tokens,
        replyTokens: rewardStage.reply_tokens,
        temperature: rewardStage.temperature,
        rejected: rewardStage.rejected,
      },
      progressOf(workshop, stage.name, "samples"),
    );
    // The judge is no stage of the recipe: what its training reports belongs to this one.
    const emit: Workshop["emit"] = (event) =>
      workshop.emit("stage" in event && event.stage === JUDGE ? { ...event, stage: stage.name } : event);
    const trained = await trainRewardModel({ ...workshop, emit }, rewardStage, index, {
      name: JUDGE,
      trunkFolder: folderOfStage(workshop, ["pretrain"], index),
      pairs: made,
      salt: 601,
    });
    judge = trained.model;
    summary.judge_accuracy = trained.accuracy;
    await saveRewardModel(workshop, JUDGE, judge);
  } else judge = await loadRewardModel(folderOfStage(workshop, ["reward"], index));

  const usable = (list: readonly EncodedPair[]) =>
    shortPrompts(list, workshop, { promptTokens: ppoStage.prompt_tokens, replyTokens: ppoStage.reply_tokens });
  const questions = [...usable(pairs.heldOut), ...usable(pairs.judgeHeldOut)].slice(0, stage.prompts);
  const prompts = questions.map((p) => p.prompt);
  const answer = async (folder: string): Promise<number[][]> => {
    const { model } = await loadModel(folder);
    try {
      return await replies(workshop, model, prompts, {
        maxTokens: ppoStage.reply_tokens,
        temperature: ppoStage.temperature,
        seed: recipe.seed + 9001,
      });
    } finally {
      dispose(model);
    }
  };
  const sftReplies = await answer(sftFolder);
  const ppoReplies = await answer(folderOfStage(workshop, ["ppo"], index));
  const sftScores = await scoreAll(judge, prompts, sftReplies, tokenizer.padId ?? 0);
  const ppoScores = await scoreAll(judge, prompts, ppoReplies, tokenizer.padId ?? 0);
  dispose(judge);
  const won = winRate(ppoScores, sftScores);
  Object.assign(summary, {
    win_rate: won.rate,
    win_rate_low: won.low,
    win_rate_high: won.high,
    prompts: won.n,
    distinct2_sft: distinct(sftReplies, 2),
    distinct2_ppo: distinct(ppoReplies, 2),
    distinct2_text: distinct(
      questions.map((q) => q.reply.slice(0, ppoStage.reply_tokens)),
      2,
    ),
    repetition_sft: repetition(sftReplies),
    repetition_ppo: repetition(ppoReplies),
  });
  const text = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecialTokens: true });
  const samples = questions.slice(0, stage.samples).map((q, i) => ({
    prompt: q.conversation.messages
      .slice(0, -1)
      .map((m) => `${m.name ?? m.role}: ${m.content}`)
      .concat(`${q.conversation.messages.at(-1)!.name ?? "reply"}:`)
      .join("\n"),
    own: text(q.reply),
    sft: text(sftReplies[i]!),
    ppo: text(ppoReplies[i]!),
  }));
  return { summary, samples };
}

/** Scores of whole replies, in batches of one shape. */
export async function scoreAll(
  model: RewardModel,
  prompts: readonly (readonly number[])[],
  answers: readonly (readonly number[])[],
  pad: number,
): Promise<Float64Array> {
  const rows = 32;
  const length = Math.max(...prompts.map((p, i) => p.length + answers[i]!.length));
  const score = jit((m: RewardModel, ids: Tensor<"i32">, last: Tensor<"i32">) => m.rewards(ids, last), {
    name: "judge",
  });
  const out = new Float64Array(prompts.length);
  for (let at = 0; at < prompts.length; at += rows) {
    const ids = new Int32Array(rows * length).fill(pad);
    const last = new Int32Array(rows);
    for (let r = 0; r < rows && at + r < prompts.length; r++) {
      const row = [...prompts[at + r]!, ...answers[at + r]!];
      ids.set(row, r * length);
      last[r] = row.length - 1;
    }
    const on = { ids: tensor<"i32">(ids, { dtype: "i32", shape: [rows, length] }), last: tensor<"i32">(last) };
    const result = score(model, on.ids, on.last);
    const values = await result.data();
    for (let r = 0; r < rows && at + r < prompts.length; r++) out[at + r] = values[r]!;
    dispose([on, result]);
  }
  score.release();
  return out;
}

const percent = (x: number | undefined): string => (x === undefined ? "-" : `${(100 * x).toFixed(1)} %`);
const digits = (x: number | undefined, n = 3): string => (x === undefined || !Number.isFinite(x) ? "-" : x.toFixed(n));

/** The report as Markdown. */
export function writeReport(
  name: string,
  facts: readonly (readonly [string, string])[],
  seconds: Readonly<Record<string, number>>,
  s: Summaries,
  samples: ReportResult["samples"],
): string {
  const table = (rows: readonly (readonly string[])[], head: readonly string[]) =>
    [head, head.map(() => "---"), ...rows].map((r) => `| ${r.join(" | ")} |`).join("\n");
  const r = s.report ?? {};
  const measures: [string, string][] = [
    ["Bits per byte on held-out text", digits(s.pretrain?.bits_per_byte)],
    ["Perplexity per token", digits(s.pretrain?.perplexity, 2)],
    ["Reply loss before and after tuning", `${digits(s.sft?.loss_before)} → ${digits(s.sft?.loss_after)}`],
    ["Reward model: accuracy on held-out pairs", percent(s.reward?.accuracy)],
    ["Reward before and after PPO", `${digits(s.ppo?.reward_before)} → ${digits(s.ppo?.reward_after)}`],
    ["KL per reply (nats), target", `${digits(s.ppo?.kl, 2)}, ${digits(s.ppo?.kl_target, 1)}`],
    ["Judge's accuracy on held-out pairs", percent(r.judge_accuracy)],
    [
      "Judge prefers PPO to SFT (95 % interval)",
      `${percent(r.win_rate)} (${percent(r.win_rate_low)} to ${percent(r.win_rate_high)}), ${r.prompts ?? 0} prompts`,
    ],
    [
      "Distinct-2: SFT, PPO, the text",
      [r.distinct2_sft, r.distinct2_ppo, r.distinct2_text].map((x) => digits(x)).join(", "),
    ],
    ["Repetition: SFT, PPO", [r.repetition_sft, r.repetition_ppo].map((x) => digits(x)).join(", ")],
  ];
  const quote = (text: string) =>
    text
      .trim()
      .split("\n")
      .map((line) => `> ${line}`)
      .join("\n");
  return [
    `# ${name}`,
    table(facts, ["What", "Value"]),
    "## Measured",
    table(measures, ["Measure", "Value"]),
    "## Time",
    table(
      Object.entries(seconds).map(([stage, t]) => [stage, `${t.toFixed(1)} s`]),
      ["Stage", "Seconds"],
    ),
    ...(samples.length ? ["## Replies to held-out prompts"] : []),
    ...samples.map((x) =>
      [
        quote(x.prompt),
        `**SFT**\n\n${quote(x.sft)}`,
        `**PPO**\n\n${quote(x.ppo)}`,
        `**The text's own**\n\n${quote(x.own)}`,
      ].join("\n\n"),
    ),
  ]
    .join("\n\n")
    .concat("\n");
}
