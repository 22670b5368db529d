import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type JobOptions, type JobResult, runJob } from "../../src/pipeline/index.ts";
import { loadRecipe } from "../../src/recipe/index.ts";
import { writeResolved } from "../../src/recipe/load.ts";
import { type Event, Run } from "../../src/runs/index.ts";

const SPEAKERS = ["ANNE", "BERTRAM", "CLAUDIO", "DORCAS"];
const WORDS = "my lord the king is come and I shall go to see him with a merry heart but you must stay".split(" ");

/** A play of a few scenes in which four people say random words: enough for a tokenizer, pairs and a judge's own scenes. */
export function smallPlay(speeches = 900): string {
  let seed = 7;
  const draw = (n: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * n);
  };
  const lines: string[] = [];
  for (let i = 0; i < speeches; i++) {
    const line = Array.from({ length: 4 + draw(6) }, () => WORDS[draw(WORDS.length)]!).join(" ");
    lines.push(`${SPEAKERS[draw(SPEAKERS.length)]}:\n${line[0]!.toUpperCase()}${line.slice(1)}.\n`);
  }
  return lines.join("\n");
}

export interface TinyOptions {
  /** Lines under `stages:`; default all five kinds. */
  readonly stages?: readonly string[];
  /** More top-level lines. */
  readonly more?: readonly string[];
  readonly model?: string;
  readonly text?: string;
}

export const tinyStages = [
  "pretrain: { steps: 12, batch_tokens: 512, log_every: 1, evaluate_every: 6, sample_every: 6, checkpoint_every: 0.005s }",
  "sft: { pairs: dialogue, steps: 6, batch: 4, log_every: 1, evaluate_every: 3, checkpoint_every: 0.005s }",
  "reward: { examples: 48, reply_tokens: 8, batch: 8, log_every: 1, checkpoint_every: 0.005s }",
  "ppo: { steps: 3, reply_tokens: 8, batch: 8, checkpoint_every: 0.005s }",
  "report: { prompts: 24, samples: 2 }",
] as const;

/** A folder with a small text and a recipe of a tiny model; `remove` takes it away. */
export function tinyJob({
  stages = tinyStages,
  more = [],
  model = "layers: 1, width: 32, context: 64",
  text = smallPlay(),
}: TinyOptions = {}) {
  const folder = mkdtempSync(join(tmpdir(), "howdah-job-"));
  writeFileSync(join(folder, "play.txt"), text);
  const recipe = join(folder, "tiny.yaml");
  writeFileSync(
    recipe,
    [
      "name: tiny",
      "data: { text: play.txt, holdout: 20% }",
      "tokenizer: { vocabulary: 300 }",
      `model: { family: gpt, ${model} }`,
      ...more,
      "stages:",
      ...stages.map((stage) => `  - ${stage}`),
      "",
    ].join("\n"),
  );
  const runs = join(folder, "runs");
  return { folder, recipe, runs, run: join(runs, "tiny"), remove: () => rmSync(folder, { recursive: true }) };
}

/** Runs a recipe in this process. @returns the result and every event */
export async function runTiny(
  { recipe, runs }: { readonly recipe: string; readonly runs: string },
  options: JobOptions & { readonly resume?: boolean; readonly onEvent?: (event: Event) => void } = {},
): Promise<{ result: JobResult; events: Event[] }> {
  const loaded = loadRecipe(recipe, []);
  const { resume = false, onEvent, ...rest } = options;
  const run = await Run.open(runs, loaded.recipe.name, { recipe: writeResolved(loaded.recipe), resume });
  const events: Event[] = [];
  run.events.add((event) => {
    events.push(event);
    onEvent?.(event);
  });
  try {
    return { result: await runJob(run, loaded, rest), events };
  } finally {
    run.close();
  }
}
