import { z } from "zod";
import { duration, fraction, nonnegative, positive, size, stepsOrFraction } from "./scalars.ts";

/**
 * The stages a recipe can name, each with all its options. Where a default depends on the model or on other options it
 * is left out here and filled in by resolve.ts.
 */

const learningRate = positive("1e-3")
  .optional()
  .describe("peak learning rate; chosen by the model's width if not given");

const schedule = {
  learning_rate: learningRate,
  schedule: z
    .enum(["cosine", "wsd", "linear", "constant"], { error: "expected one of cosine, wsd, linear, constant" })
    .default("cosine")
    .describe("how the learning rate falls; wsd is warm-up, stable, decay"),
  warmup: stepsOrFraction().default(0.02).describe("steps, or fraction of the stage, of linear warm-up"),
  decay: fraction().default(0.2).describe("fraction of the stage over which wsd decays"),
  final_learning_rate: fraction().default(0.1).describe("the last learning rate as a fraction of the peak"),
};

const rhythm = {
  log_every: size().default(10).describe("steps between two reports of the loss"),
  evaluate_every: size().optional().describe("steps between two measurements on held-out data"),
  checkpoint_every: duration().default(30).describe("time between two checkpoints"),
};

const batch = size().default(16).describe("sequences in one step");
const accumulate = size().default(1).describe("parts into which a step's batch is split, to save memory");
const epochs = positive("1").default(1).describe("passes over the data");

export const stageSchemas = {
  pretrain: z.strictObject({
    minutes: positive("3").optional().describe("how long to train; turned into steps by the first run and kept"),
    steps: size().optional().describe("how many steps to train, instead of minutes"),
    batch_tokens: size().default(8192).describe("tokens in one step"),
    accumulate,
    ...schedule,
    ...rhythm,
    sample_every: size().optional().describe("steps between two samples of text"),
  }),
  sft: z.strictObject({
    pairs: z
      .string({ error: "expected dialogue, continuation, auto, or a JSONL file" })
      .default("auto")
      .describe(
        "dialogue (turns of a play), continuation (of a paragraph), auto (what the text holds), or a JSONL file",
      ),
    epochs,
    steps: size().optional().describe("stop after this many steps"),
    batch,
    accumulate,
    ...schedule,
    ...rhythm,
  }),
  reward: z.strictObject({
    chosen: z.literal("reply", { error: "expected reply" }).default("reply").describe("the text's own reply"),
    rejected: z
      .enum(["sample", "shuffled"], { error: "expected sample or shuffled" })
      .default("sample")
      .describe("sample (of the SFT model) or shuffled (the reply to another prompt)"),
    pairs: z.string().optional().describe("a JSONL file of {prompt, chosen, rejected}, instead of chosen and rejected"),
    examples: size().default(1024).describe("pairs to make"),
    prompt_tokens: size().default(96).describe("longest prompt in tokens; pairs with longer ones are left out"),
    reply_tokens: size().default(48).describe("longest reply in tokens"),
    temperature: positive("1").default(1.3).describe("of the sampled replies; above 1 they are told apart more easily"),
    epochs,
    batch,
    accumulate,
    ...schedule,
    ...rhythm,
  }),
  ppo: z.strictObject({
    steps: size().default(60).describe("rounds of rollouts and updates"),
    batch: size().default(32).describe("prompts in one round"),
    minibatches: size().default(2).describe("parts into which a round is split for updates"),
    epochs: size().default(2).describe("passes over a round"),
    prompt_tokens: size().default(96).describe("longest prompt in tokens; longer ones are left out"),
    reply_tokens: size().default(48).describe("longest reply in tokens"),
    temperature: positive("1").default(1).describe("of the rollouts"),
    learning_rate: positive("1e-5").optional().describe("of the policy; a thirtieth of pre-training's if not given"),
    value_learning_rate: positive("1e-4").optional().describe("of the critic; three times the policy's if not given"),
    kl_target: positive("6")
      .default(6)
      .describe("nats per reply between policy and reference that the controller aims at"),
    kl_coefficient: nonnegative("0.05").default(0.05).describe("first weight of the per-token KL penalty"),
    gamma: fraction().default(1).describe("discount"),
    lambda: fraction().default(0.95).describe("of generalised advantage estimation"),
    clip: positive("0.2").default(0.2).describe("of the probability ratio"),
    value_clip: positive("0.2").default(0.2).describe("of the value's change"),
    whiten: z
      .boolean({ error: "expected true or false" })
      .default(true)
      .describe("advantages to mean 0 and deviation 1"),
    checkpoint_every: rhythm.checkpoint_every,
    log_every: size().default(1).describe("rounds between two reports"),
  }),
  report: z.strictObject({
    prompts: size().default(200).describe("held-out prompts that are answered and judged"),
    judge: z
      .boolean({ error: "expected true or false" })
      .default(true)
      .describe("judge by a reward model trained on other parts"),
    samples: size(0).default(6).describe("replies shown"),
  }),
} as const;

export type StageKind = keyof typeof stageSchemas;
export const stageKinds = Object.keys(stageSchemas) as StageKind[];

/** A stage with every option: its kind, its name (unique in the recipe), and the options of that kind. */
export type StageOf<K extends StageKind> = { readonly kind: K; readonly name: string } & Readonly<
  z.output<(typeof stageSchemas)[K]>
>;
export type Stage = { [K in StageKind]: StageOf<K> }[StageKind];
