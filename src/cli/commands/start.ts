import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { parsePlay, readText } from "../../data/index.ts";
import { createModelHost } from "../../generate/host.ts";
import { Registry } from "../../generate/registry.ts";
import { loadModel } from "../../models/folder.ts";
import type { ModelNews } from "../../pipeline/index.ts";
import { createServer, type Server } from "../../serve/index.ts";
import { HowdahError, InputError } from "../../tensor/errors.ts";
import { dispose } from "../../tensor/tree.ts";
import { loadTokenizer } from "../../tokenizers/index.ts";
import { type CommandResult, defineCommand } from "../command.ts";
import { aborted } from "../interrupt.ts";
import { driveJob, type OpenedJob, openJob } from "../job.ts";

const options = z.object({
  recipe: z.string().optional().describe("another recipe; default recipes/shakespeare.yaml").meta({ value: "FILE" }),
  text: z
    .string()
    .optional()
    .describe("a text or Markdown file, or a folder of them, instead of the recipe's text")
    .meta({ value: "FOLDER" }),
  set: z
    .array(z.string())
    .default([])
    .describe("change a value of the recipe, such as model.layers=4")
    .meta({ value: "KEY=VALUE" }),
  runs: z.string().default("runs").describe("the folder of the runs").meta({ value: "DIR" }),
  serve: z.boolean().default(true).describe("end with the report; no pages, no chat"),
  port: z
    .number()
    .int()
    .min(0)
    .max(65535)
    .default(8642)
    .describe("of the pages, on this machine only; 0 is any free one"),
});

/** Names of stages that a person talks to. */
const titles: Readonly<Record<string, { readonly id: string; readonly description: string }>> = {
  pretrain: { id: "base", description: "continues text" },
  sft: { id: "sft", description: "tuned to reply" },
  ppo: { id: "ppo", description: "tuned, then rewarded" },
};
/** Names offered as people to talk to. */
const MOST_SPEAKERS = 24;

export const start = defineCommand({
  name: "start",
  summary: "the main job: from a text to a chat, with pages that show it",
  description:
    "Train a tokenizer, a language model, a dialogue model, a reward model and a policy on a text, write the report, and open a page " +
    "where one can watch the training and talk to the models. Ctrl-C stops; the same command goes on where it stopped.",
  options,
  examples: [
    ["howdah start", "chat with Shakespeare's characters"],
    ["howdah start --text notes/", "the same on your own text"],
    ["howdah start --no-serve", "end with the report"],
  ],
  async run(o, context) {
    const { print, signal, environment } = context;
    const job = await openJob({
      recipe: o.recipe ?? bundledRecipe(),
      set: overrides(o.text, o.set),
      runs: o.runs,
      resume: true,
    });
    try {
      if (!o.serve) return await driveJob(job, context);
      const registry = new Registry();
      const server = await listen(registry, o.runs, o.port, environment, print);
      print(`Watch and chat: ${server.url}`);
      try {
        const speakers = await speakersOf(job);
        const offers: Promise<void>[] = [];
        const result = await driveJob(job, context, (news) => offers.push(offer(registry, news, speakers)));
        await Promise.all(offers);
        print(`The report is ${result.report}. Chat: ${server.url} (Ctrl-C ends)`);
        await aborted(signal);
        return { ...result, url: server.url } satisfies CommandResult;
      } finally {
        await server.close();
        await registry.close();
      }
    } finally {
      job.run.close();
    }
  },
});

/** The recipe that comes with the package. */
function bundledRecipe(): string {
  return fileURLToPath(new URL("../../../recipes/shakespeare.yaml", import.meta.url));
}

/** What a person's own text changes in the recipe: the text, the run's name, and where pairs come from. */
function overrides(text: string | undefined, set: readonly string[]): string[] {
  if (text === undefined) return [...set];
  const path = resolve(text);
  if (!existsSync(path)) throw new InputError(`--text ${text}: there is no such file or folder.`);
  const name =
    basename(path)
      .replace(/\.[^.]+$/, "")
      .replace(/[^\p{L}\p{N}_.-]+/gu, "-")
      .replace(/^[-.]+/, "") || "text";
  return [`data.text=${JSON.stringify(path)}`, `name=${JSON.stringify(name)}`, "stages.sft.pairs=auto", ...set];
}

async function listen(
  registry: Registry,
  runsDir: string,
  port: number,
  environment: NodeJS.ProcessEnv,
  print: (line: string) => void,
): Promise<Server> {
  const database = environment.DATABASE_URL;
  const at = (p: number) =>
    createServer({
      models: registry,
      runsDir: resolve(runsDir),
      dataDir: resolve("data"),
      port: p,
      ...(database ? { databaseUrl: database } : {}),
    });
  try {
    return await at(port);
  } catch (error) {
    if (!(error instanceof HowdahError) || error.code !== "port_in_use") throw error;
    print(`Port ${port} is taken; another one is used.`);
    return await at(0);
  }
}

/** Who speaks most in the text, for the chat page to offer. */
async function speakersOf({ loaded }: OpenedJob): Promise<string[]> {
  const counts = new Map<string, number>();
  for (const { text } of await readText(loaded.recipe.data.text ?? ""))
    for (const { speaker } of parsePlay(text)) counts.set(speaker, (counts.get(speaker) ?? 0) + 1);
  return [...counts]
    .filter(([, n]) => n >= 8)
    .sort((a, b) => b[1] - a[1])
    .slice(0, MOST_SPEAKERS)
    .map(([name]) => name);
}

async function offer(registry: Registry, { stage, folder }: ModelNews, speakers: readonly string[]): Promise<void> {
  const [{ model }, tokenizer] = await Promise.all([loadModel(folder), loadTokenizer(join(folder))]);
  registry.add(
    createModelHost({
      ...(titles[stage] ?? { id: stage, description: `after ${stage}` }),
      model,
      tokenizer,
      speakers,
      release: () => dispose(model),
    }),
  );
}
