import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { z } from "zod";
import { instructionFormats } from "../../data/instructions/formats.ts";
import type { Example, GeneratedTask, SelfInstructReport } from "../../data/instructions/index.ts";
import { writeFileAtomic } from "../../runs/atomic.ts";
import { InputError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import { backendOption, cacheOptions, weightsOption } from "../generation.ts";
import { Interrupted } from "../interrupt.ts";
import { formatSeconds, truncate } from "../text.ts";
import { openTextModel } from "../text-model.ts";

/** Where `howdah serve` listens. */
const LOCAL_SERVER = "http://127.0.0.1:8642/v1";

export const dataConvert = defineCommand({
  name: "data convert",
  summary: "instruction and preference files to one form",
  description:
    "Reads conversations and preferences (Alpaca, ShareGPT, OpenAI messages, natural-instructions, prompt/chosen/rejected, HH-RLHF, pairwise annotations, rankings) " +
    "and writes JSONL that the sft and reward stages read: {messages} or {prompt, chosen, rejected}. Every row that is wrong is named with its line.",
  options: z.object({
    files: z.array(z.string().min(1)).min(1).describe("JSON or JSONL files, also .gz"),
    out: z
      .string()
      .optional()
      .describe("the JSONL file to write; without it, only checked")
      .meta({ value: "FILE", short: "o" }),
    format: z.enum(instructionFormats).optional().describe("the rows' form; found by their keys if not given"),
    skipWrong: z.boolean().default(false).describe("leave rows out that are wrong, instead of stopping at the first"),
  }),
  positional: ["files"],
  examples: [
    ["howdah data convert alpaca.json -o sft.jsonl", "conversations for the sft stage"],
    ["howdah data convert hh/test.jsonl.gz --skip-wrong -o pairs.jsonl", "preferences for the reward stage"],
  ],
  async run({ files, out, format, skipWrong }, { print, warn }) {
    const { instructions } = await import("../../data/index.ts");
    const kinds: Record<string, number> = {};
    const lines: string[] = [];
    let rows = 0;
    let wrong = 0;
    for (const file of files) {
      const read = await instructions.readInstructions(file, {
        wrong: skipWrong ? "skip" : "error",
        ...(format === undefined ? {} : { format }),
      });
      rows += read.rows;
      wrong += read.flaws.length;
      for (const { place, reason } of read.flaws.slice(0, 10)) warn(`${place}: ${reason}`);
      if (read.flaws.length > 10) warn(`${file}: and ${read.flaws.length - 10} more`);
      for (const example of read.examples) {
        kinds[example.kind] = (kinds[example.kind] ?? 0) + 1;
        for (const line of linesOf(example)) lines.push(JSON.stringify(line));
      }
    }
    if (out !== undefined) writeFileAtomic(out, `${lines.join("\n")}\n`);
    const counted = Object.entries(kinds).map(([kind, n]) => `${n} ${kind}${n === 1 ? "" : "s"}`);
    print(
      `${counted.join(", ")} from ${rows} rows${wrong > 0 ? `, ${wrong} wrong` : ""}${out === undefined ? "" : `: ${lines.length} lines in ${out}`}`,
    );
    return { rows, wrong, kinds, lines: lines.length, ...(out === undefined ? {} : { out }) };

    function linesOf(example: Example): object[] {
      const plain = (list: Parameters<typeof instructions.flaw>[0]) =>
        list.map((m) => ({
          role: m.role,
          content: instructions.textOf(m),
          ...(m.toolCalls
            ? {
                tool_calls: m.toolCalls.map((c) => ({
                  type: "function",
                  ...(c.id ? { id: c.id } : {}),
                  function: { name: c.name, arguments: c.arguments },
                })),
              }
            : {}),
          ...(m.toolCallId === undefined ? {} : { tool_call_id: m.toolCallId }),
          ...(m.name === undefined ? {} : { name: m.name }),
        }));
      const tools = example.tools && { tools: example.tools.map((t) => ({ type: "function", function: t })) };
      if (example.kind === "conversation") return [{ messages: plain(example.messages), ...tools }];
      if (example.kind === "label")
        return [{ prompt: plain(example.prompt), completion: plain(example.reply), label: example.good }];
      return instructions
        .pairsOf(example)
        .map((p) => ({ prompt: plain(p.prompt), chosen: plain(p.chosen), rejected: plain(p.rejected) }));
    }
  },
});

export const dataSelfInstruct = defineCommand({
  name: "data self-instruct",
  summary: "new instructions and answers, made by a model from a few",
  description:
    "Shows a model some tasks and asks for new ones (Self-Instruct, Wang et al. 2023): what is too similar to a known task goes, the model answers the rest and rates the " +
    "answers from 1 to 5. The model is a folder, which then runs in this process, or its name at any server that speaks OpenAI's chat API. Stopped, it goes on with the file it wrote.",
  options: z.object({
    seeds: z.string().describe("tasks to begin with, in any form that `data convert` reads").meta({ value: "FILE" }),
    out: z.string().describe("the JSONL file to write").meta({ value: "FILE", short: "o" }),
    model: z
      .string()
      .describe("a Hugging Face folder of a chat model, or a model's name at --url")
      .meta({ value: "DIR", short: "m" }),
    url: z
      .string()
      .optional()
      .describe(`a server's address, up to /v1; where --model is no folder, ${LOCAL_SERVER} if not given`),
    keyVariable: z
      .string()
      .default("OPENAI_API_KEY")
      .describe("the environment variable that holds the server's key")
      .meta({ value: "NAME" }),
    count: z.number().int().min(1).default(100).describe("new tasks wanted"),
    maxSimilarity: z.number().min(0).max(1).default(0.7).describe("ROUGE-L from which on a task is too similar"),
    minScore: z.number().int().min(0).max(5).default(4).describe("the least rating that stays; 0 does not rate"),
    language: z.enum(["en", "zh"]).default("en").describe("of the tasks"),
    seed: z.number().int().min(0).default(1).describe("for another choice of tasks that are shown"),
    parallel: z
      .number()
      .int()
      .min(1)
      .max(256)
      .default(8)
      .describe("tasks in work at the same time; with a folder they are one batch"),
    weights: weightsOption,
    backend: backendOption,
    reproducible: cacheOptions.reproducible,
  }),
  positional: ["seeds"],
  examples: [
    ["howdah data self-instruct seeds.jsonl -m DIR -o tasks.jsonl --count 50", "with a model in this process"],
    ["howdah data self-instruct seeds.jsonl -m ppo -o tasks.jsonl", "with a model that `howdah serve` runs"],
  ],
  async run(o, { print, warn, signal, stdout, environment }) {
    const { seeds, out, count, maxSimilarity, minScore, language, seed, parallel } = o;
    const { instructions } = await import("../../data/index.ts");
    const { examples } = await instructions.readInstructions(seeds);
    const before = existsSync(out) ? readBefore(out) : [];
    if (before.length > 0) print(`going on after ${before.length} tasks in ${out}`);
    const local = o.url === undefined && existsSync(o.model);
    const here = local ? await openTextModel(o.model, { ...o, slots: parallel }, warn) : undefined;
    const url = o.url ?? LOCAL_SERVER;
    const model = here ?? instructions.endpointModel({ url, model: o.model, key: environment[o.keyVariable] });
    const start = performance.now();
    let made = 0;
    let latest: SelfInstructReport | undefined;
    let told = 0;
    const tell = () => {
      const seconds = (performance.now() - start) / 1000;
      const each = seconds / Math.max(1, made);
      const left = made === 0 ? "" : `, ${formatSeconds((count - before.length - made) * each)} left`;
      const speed = here && seconds > 1 ? `, ${(here.tokens / seconds).toFixed(0)} tokens/s` : "";
      const line = `${before.length + made}/${count} tasks of ${latest?.asked ?? 0} asked for${speed}${left}`;
      if (!stdout.isTTY) print(line);
      else if (performance.now() - told > 100) {
        told = performance.now();
        stdout.write(`\r\u001b[2K${truncate(line, Math.max(40, stdout.columns ?? 80) - 1)}`);
      }
    };
    // Between two tasks, the tokens show that it works.
    const ticking = stdout.isTTY ? setInterval(tell, 500) : undefined;
    const clear = () => {
      clearInterval(ticking);
      if (stdout.isTTY) stdout.write("\r\u001b[2K");
    };
    try {
      const { report } = await instructions.selfInstruct({
        model,
        seeds: examples,
        count: Math.max(0, count - before.length),
        before,
        maxSimilarity,
        minScore,
        language,
        seed,
        parallel,
        signal,
        onTask: (task, report) => {
          made++;
          latest = report;
          appendFileSync(out, lineOf(task));
          tell();
        },
        onAttempt: (report) => {
          latest = report;
        },
      });
      clear();
      const seconds = (performance.now() - start) / 1000;
      const why = Object.entries(report.dropped).flatMap(([w, n]) => (n > 0 ? [`${n} ${w}`] : []));
      print(
        `${before.length + made} tasks in ${out}, ${formatSeconds(seconds)}; dropped: ${why.length > 0 ? why.join(", ") : "none"}`,
      );
      const speed = here ? { tokens: here.tokens, tokens_per_second: here.tokens / seconds } : {};
      return { out, tasks: before.length + made, ...report, model: o.model, seconds, ...speed };
    } catch (error) {
      clear();
      if (signal.aborted)
        throw new Interrupted(`Stopped after ${made} new tasks. Run the same command again to go on.`, {
          out,
          tasks: before.length + made,
        });
      throw error;
    } finally {
      await here?.close();
    }
  },
});

function lineOf({ instruction, output, ...extra }: GeneratedTask): string {
  const messages = [
    { role: "user", content: instruction },
    { role: "assistant", content: output },
  ];
  return `${JSON.stringify({ messages, self_instruct: extra })}\n`;
}

/** The tasks of an earlier sitting. A line that a kill cut off is taken out of the file. */
function readBefore(path: string): GeneratedTask[] {
  const lines = readFileSync(path, "utf8").split("\n");
  const tasks: GeneratedTask[] = [];
  for (const [i, line] of lines.entries()) {
    if (line.trim() === "") continue;
    try {
      const { messages, self_instruct: about } = JSON.parse(line) as {
        messages: { content: string }[];
        self_instruct?: Omit<GeneratedTask, "instruction" | "output">;
      };
      tasks.push({ similarity: 0, ...about, instruction: messages[0]!.content, output: messages[1]!.content });
    } catch {
      if (i === lines.length - 1) {
        lines[i] = "";
        break;
      }
      throw new InputError(
        `${path}:${i + 1}: this line was not written by self-instruct. Choose another file for --out.`,
      );
    }
  }
  const whole = lines.join("\n");
  writeFileAtomic(path, whole === "" || whole.endsWith("\n") ? whole : `${whole}\n`);
  return tasks;
}
