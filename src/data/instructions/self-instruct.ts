import { InputError } from "../../tensor/errors.ts";
import { hashBits, shuffled } from "../random.ts";
import { type Example, textOf } from "./example.ts";
import { rougeL, rougeTokens } from "./rouge.ts";

/** A model that answers: an endpoint, or one of ours. */
export interface TextModel {
  readonly name: string;
  complete(
    messages: readonly { readonly role: "system" | "user" | "assistant"; readonly content: string }[],
    options: {
      readonly temperature: number;
      readonly maxTokens: number;
      readonly seed: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<string>;
}

/** Any server that speaks OpenAI's chat API. */
export function endpointModel(options: {
  readonly url: string;
  readonly model: string;
  readonly key?: string | undefined;
}): TextModel {
  const { url, model, key } = options;
  const address = `${url.replace(/\/+$/, "")}/chat/completions`;
  return {
    name: model,
    async complete(messages, { temperature, maxTokens, seed, signal }) {
      for (let attempt = 0; ; attempt++) {
        let response: Response;
        try {
          response = await fetch(address, {
            method: "POST",
            headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
            body: JSON.stringify({ model, messages, temperature, max_tokens: maxTokens, seed }),
            signal: signal ?? null,
          });
        } catch (error) {
          if (signal?.aborted) throw error;
          throw new InputError(
            `${address} does not answer (${(error as Error).message}). Is the server running there?`,
            { cause: error },
          );
        }
        // Too many requests, or a server that is busy: later, a few times.
        if ((response.status === 429 || response.status >= 500) && attempt < 4) {
          await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
          signal?.throwIfAborted();
          continue;
        }
        const body = await response.text();
        if (!response.ok) throw new InputError(`${address} answered ${response.status}: ${body.slice(0, 300)}`);
        const content = (JSON.parse(body) as { choices?: { message?: { content?: unknown } }[] }).choices?.[0]?.message
          ?.content;
        if (typeof content !== "string")
          throw new InputError(`${address} answered without a message: ${body.slice(0, 300)}`);
        return content;
      }
    },
  };
}

export interface SelfInstructOptions {
  readonly model: TextModel;
  /** Tasks to begin with: conversations whose first question and answer are shown. */
  readonly seeds: readonly Example[];
  /** Tasks wanted besides the seeds. */
  readonly count: number;
  readonly seed?: number;
  /** Tasks shown in a prompt, of seeds and of new ones. Default 6 and 2, as in the paper. */
  readonly shownSeeds?: number;
  readonly shownNew?: number;
  /** A new instruction this similar (ROUGE-L) to a known one goes. Default 0.7. */
  readonly maxSimilarity?: number;
  /** A task that its judge gives less goes. Default 4; 0: not judged. */
  readonly minScore?: number;
  readonly maxTokens?: number;
  readonly language?: "en" | "zh";
  readonly signal?: AbortSignal | undefined;
  readonly onTask?: (task: GeneratedTask, report: SelfInstructReport) => void | Promise<void>;
  /** Tasks of an earlier sitting. */
  readonly before?: readonly GeneratedTask[];
}

export interface GeneratedTask {
  readonly instruction: string;
  readonly output: string;
  /** 1 to 5 by the judge, or none. */
  readonly score?: number;
  /** The highest ROUGE-L to a task before. */
  readonly similarity: number;
}

export interface SelfInstructReport {
  readonly asked: number;
  readonly kept: number;
  /** Why the others went. */
  readonly dropped: Readonly<Record<"similar" | "short" | "unfit" | "no_answer" | "low_score" | "no_score", number>>;
}

/** Words of tasks that a language model cannot do: Wang et al. 2023, appendix A. */
const unfit =
  /\b(image|images|picture|graph|graphs|draw|plot|video|audio|map|photo|file|flowchart|music)\b|图片|图像|视频|音频|画一|绘制|照片|文件/iu;

const words = {
  en: {
    ask: (list: string) =>
      `Come up with one new task, different from these. Write only the instruction.\n\n${list}\nTask:`,
    judge: (instruction: string, output: string) =>
      `Rate how well the answer does what the instruction asks, from 1 (useless) to 5 (could not be better). Say only the number.\n\nInstruction: ${instruction}\n\nAnswer: ${output}\n\nRating:`,
    task: "Task",
  },
  zh: {
    ask: (list: string) => `请想出一个与下面不同的新任务，只写出指令本身。\n\n${list}\n任务：`,
    judge: (instruction: string, output: string) =>
      `请为回答完成指令的程度打分，从 1（毫无用处）到 5（无可挑剔），只写数字。\n\n指令：${instruction}\n\n回答：${output}\n\n评分：`,
    task: "任务",
  },
} as const;

/**
 * New instructions and answers from a few, made by a model (Wang et al. 2023, Self-Instruct): the model is shown tasks and asked for one more, what is
 * too similar to a known one by ROUGE-L goes, the model answers it, and (as for Alpaca's later versions) a rating from 1 to 5 decides whether it stays.
 * @throws InputError when there are no seeds, or when the model has given nothing usable for a long time
 */
export async function selfInstruct(
  options: SelfInstructOptions,
): Promise<{ tasks: GeneratedTask[]; report: SelfInstructReport }> {
  const {
    model,
    seeds,
    count,
    seed = 1,
    shownSeeds = 6,
    shownNew = 2,
    maxSimilarity = 0.7,
    minScore = 4,
    maxTokens = 512,
    language = "en",
    signal,
    onTask,
  } = options;
  const known = seeds.flatMap((e) => {
    const question = e.kind === "conversation" ? e.messages.find((m) => m.role === "user") : undefined;
    return question ? [textOf(question)] : [];
  });
  if (known.length === 0)
    throw new InputError("self-instruct: there are no seed tasks. Give conversations with a question of the user.");
  const say = words[language];
  const tasks: GeneratedTask[] = [...(options.before ?? [])];
  const tokenised = [...known, ...tasks.map((t) => t.instruction)].map(rougeTokens);
  const dropped = { similar: 0, short: 0, unfit: 0, no_answer: 0, low_score: 0, no_score: 0 };
  let asked = 0;
  let inARow = 0;
  const report = (): SelfInstructReport => ({ asked, kept: tasks.length, dropped: { ...dropped } });
  const drop = (why: keyof typeof dropped) => {
    dropped[why]++;
    inARow++;
    if (inARow >= 100)
      throw new InputError(
        `self-instruct: the last 100 tasks of ${model.name} were of no use (${Object.entries(dropped)
          .filter(([, n]) => n > 0)
          .map(([w, n]) => `${n} ${w}`)
          .join(", ")}). A stronger model, other seeds or a looser limit may help.`,
      );
  };
  const goal = tasks.length + count;
  while (tasks.length < goal) {
    signal?.throwIfAborted();
    // The same numbers whatever was dropped before: what the draw depends on is how many were asked for.
    const draw = hashBits(seed, asked, tasks.length);
    asked++;
    const pick = (list: readonly string[], n: number, salt: number) =>
      shuffled(list.length, draw, salt)
        .slice(0, n)
        .map((i) => list[i]!);
    const shown = [
      ...pick(known, shownSeeds, 1),
      ...pick(
        tasks.map((t) => t.instruction),
        shownNew,
        2,
      ),
    ];
    const list = shown.map((t, i) => `${say.task} ${i + 1}: ${t}`).join("\n");
    const request = { maxTokens, signal };
    const instruction = cleanInstruction(
      await model.complete([{ role: "user", content: say.ask(list) }], { ...request, temperature: 0.9, seed: draw }),
    );
    const its = rougeTokens(instruction);
    if (its.length < 3 || its.length > 150) {
      drop("short");
      continue;
    }
    if (unfit.test(instruction)) {
      drop("unfit");
      continue;
    }
    const similarity = Math.max(...tokenised.map((t) => rougeL(its, t)));
    if (similarity >= maxSimilarity) {
      drop("similar");
      continue;
    }
    const output = (
      await model.complete([{ role: "user", content: instruction }], { ...request, temperature: 0.7, seed: draw + 1 })
    ).trim();
    if (output === "" || output === instruction) {
      drop("no_answer");
      continue;
    }
    let score: number | undefined;
    if (minScore > 0) {
      const said = await model.complete([{ role: "user", content: say.judge(instruction, output) }], {
        maxTokens: 8,
        signal,
        temperature: 0,
        seed: draw + 2,
      });
      const digit = /[1-5]/.exec(said)?.[0];
      if (digit === undefined) {
        drop("no_score");
        continue;
      }
      score = Number(digit);
      if (score < minScore) {
        drop("low_score");
        continue;
      }
    }
    inARow = 0;
    tokenised.push(its);
    const task = { instruction, output, similarity, ...(score === undefined ? {} : { score }) };
    tasks.push(task);
    await onTask?.(task, report());
  }
  return { tasks: tasks.slice(options.before?.length ?? 0), report: report() };
}

/** The first task of what the model wrote, without its number. */
function cleanInstruction(text: string): string {
  return text
    .trim()
    .replace(/^(?:task|任务)?\s*\d*\s*[:：.、]\s*/iu, "")
    .split(/\n\s*(?:task|任务)\s*\d+\s*[:：]/iu)[0]!
    .trim();
}
