import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Event } from "../../src/runs/events.ts";
import { stringify } from "../../src/runs/json.ts";

const began = Date.UTC(2026, 0, 5, 9, 0, 0);

/**
 * The events of a run that has finished pre-training and fine-tuning and is in the middle of PPO: curves with noise, held-out
 * values, samples, a NaN, a log. Always the same.
 */
export function sampleEvents(now = began + 260_000): Event[] {
  const events: Event[] = [];
  let seed = 1;
  const noise = () => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed / 2_147_483_647 - 0.5;
  };
  const begin = now - 260_000;
  const at = (seconds: number) => begin + seconds * 1000;
  const count = 6;
  const stage = (
    name: string,
    index: number,
    from: number,
    to: number | undefined,
    summary?: Record<string, unknown>,
  ) => {
    events.push({ t: at(from), type: "stage", stage: name, index, count, status: "started" });
    return () => {
      if (to === undefined) return;
      const end = {
        t: at(to),
        type: "stage",
        stage: name,
        index,
        count,
        status: "finished",
        seconds: to - from,
      } as const;
      events.push(summary === undefined ? end : { ...end, summary });
    };
  };

  events.push({ t: at(0), type: "run", status: "started" });
  events.push({ t: at(0), type: "log", level: "info", message: "1,115,394 bytes of text, the last 10 % held out" });
  stage("tokenizer", 0, 0, 0.6, { vocabulary: 1024, bytes_per_token: 2.61 })();

  const endPretrain = stage("pretrain", 1, 0.6, 178, {
    bits_per_byte: 2.184,
    loss: 3.95,
    parameters: 5_012_736,
    steps: 600,
  });
  for (let step = 1; step <= 600; step += 2) {
    const loss = 3.6 + 3.4 * Math.exp(-step / 90) + 0.14 * noise();
    const values: Record<string, number> = {
      loss,
      learning_rate: 1e-3 * Math.min(1, step / 60) * 0.5 * (1 + Math.cos((Math.PI * step) / 600)),
      gradient_norm: step === 7 ? Number.NaN : 0.6 + 2 * Math.exp(-step / 40) + 0.2 * noise(),
      tokens_per_second: 41_000 + 2500 * noise(),
    };
    if (step % 50 === 1) values.heldout_loss = 3.72 + 3.3 * Math.exp(-step / 90);
    events.push({ t: at(0.6 + 0.29 * step), type: "metrics", stage: "pretrain", step, values });
  }
  const learned = [
    "e th s,aonr\n tei",
    "And the shall of the and the king",
    "What news, my lord? The duke is come to speak.",
  ];
  for (const [i, text] of learned.entries()) {
    events.push({ t: at(60 * i), type: "sample", stage: "pretrain", step: 200 * (i + 1), prompt: "ROMEO:\n", text });
  }
  endPretrain();

  const endTune = stage("sft", 2, 178, 205, { loss_before: 4.31, loss_after: 3.12 });
  for (let step = 1; step <= 80; step++) {
    const values: Record<string, number> = { loss: 3.1 + 1.1 * Math.exp(-step / 20) + 0.1 * noise() };
    if (step % 20 === 0) values.heldout_loss = 3.2 + 1.05 * Math.exp(-step / 20);
    events.push({ t: at(178 + step / 3), type: "metrics", stage: "sft", step, values });
  }
  endTune();

  const endReward = stage("reward", 3, 205, 226, { accuracy: 0.812, margin: 1.34 });
  for (let step = 5; step <= 60; step += 5) {
    const values = { loss: 0.7 - 0.004 * step, accuracy: 0.5 + 0.005 * step, margin: 0.022 * step };
    events.push({ t: at(205 + step / 3), type: "metrics", stage: "reward", step, values });
  }
  endReward();

  stage("ppo", 4, 226, undefined);
  for (let step = 1; step <= 24; step++) {
    const values = {
      "objective/scores": 0.1 + 0.055 * step + 0.3 * noise(),
      "objective/kl": 5.6 * (1 - Math.exp(-step / 8)) + 0.4 * noise(),
      "objective/entropy": 92 - 0.6 * step + 2 * noise(),
      "policy/approxkl_avg": 0.004 + 0.001 * noise(),
      "val/ratio": 1 + 0.01 * noise(),
    };
    events.push({ t: at(226 + 1.4 * step), type: "metrics", stage: "ppo", step, values });
  }
  const prompt = "ROMEO:\nWhat light is this that in yon window breaks?\n\nJULIET:\n";
  const text = "It is the lark, my lord, and not the moon;\nthe day is near, and thou must hence full soon.";
  events.push({ t: at(250), type: "sample", stage: "ppo", step: 20, prompt, text });
  events.push({
    t: at(252),
    type: "log",
    level: "warn",
    message: "KL 6.2 is above its target of 6: the penalty grows to 0.11",
  });
  events.push({
    t: now,
    type: "progress",
    stage: "ppo",
    done: 24,
    total: 60,
    unit: "steps",
    rate: 0.71,
    secondsLeft: 50.7,
  });
  return events;
}

export const sampleReport = `# Shakespeare: report

The policy after PPO wins **61 %** of its replies against the one before (95 % interval *55 % to 67 %*), by a judge that
was trained on other plays.

## Measurements

| Stage | Measure | Before | After |
|:------|:--------|-------:|------:|
| pretrain | bits per byte, held out | 8.01 | 2.18 |
| sft | loss on replies | 4.31 | 3.12 |
| ppo | reward | 0.08 | 1.41 |

1. Read the text.
2. Train on it:
   - nine tenths for training,
   - one tenth **held out**.

> So long as men can breathe or eyes can see.

\`\`\`
npm start -- --text FOLDER
\`\`\`

<script>window.hacked = true</script> and [a link](javascript:alert(1)) stay words; [the source](https://example.org/text) is one.
`;

export const sampleRecipe =
  "name: shakespeare\nseed: 1\ndata:\n  text: data/tinyshakespeare.txt\nmodel:\n  family: gpt\n  layers: 6\n  width: 256\nstages:\n  - pretrain:\n      minutes: 3\n  - sft: {}\n  - reward: {}\n  - ppo:\n      steps: 60\n  - report\n";

export const lines = (events: readonly Event[]): string => events.map((event) => `${stringify(event)}\n`).join("");

/** Writes a run's folder. */
export function writeRun(
  runsDir: string,
  name: string,
  events: readonly Event[],
  files: Record<string, string> = {},
): string {
  const folder = join(runsDir, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "events.jsonl"), lines(events));
  for (const [file, text] of Object.entries({ "recipe.yaml": sampleRecipe, ...files }))
    writeFileSync(join(folder, file), text);
  return folder;
}
