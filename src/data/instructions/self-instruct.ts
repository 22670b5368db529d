import { InputError } from "../../tensor/errors.ts";
import { hashBits, shuffled } from "../random.ts";
import { type Example, textOf } from "./example.ts";
import { rougeL, rougeTokens } from "./rouge.ts";

/** What a model is asked: the turns so far. */
export type Question = readonly { readonly role: "system" | "user" | "assistant"; readonly content: string }[];

/** A model that answers: an endpoint, or one that runs in this process. It is asked several things at the same time. */
export interface TextModel {
  readonly name: string;
  /** Whether a question leaves room for an answer of so many tokens. A model that does not know takes every question. */
  fits?(question: Question, maxTokens: number): boolean;
  complete(
    question: Question,
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
  /**
   * Tasks that are worked on at the same time, so that a model can answer in batches. Default 1. Which tasks come of it depends on this number, and on
   * no timing: the attempt number k knows the tasks of all attempts up to k - parallel.
   */
  readonly parallel?: number;
  readonly signal?: AbortSignal | undefined;
  readonly onTask?: (task: GeneratedTask, report: SelfInstructReport) => void | Promise<void>;
  /** After each attempt, whether it gave a task or not. */
  readonly onAttempt?: (report: SelfInstructReport) => void;
  /** Tasks of an earlier sitting. Where they say their attempts, the result is that of one sitting. */
  readonly before?: readonly GeneratedTask[];
}

export interface GeneratedTask {
  readonly instruction: string;
  readonly output: string;
  /** Which attempt it came of, from 0. */
  readonly attempt?: number;
  /** 1 to 5 by the judge, or none. */
  readonly score?: number;
  /** The highest ROUGE-L to a task before. */
  readonly similarity: number;
}

export interface SelfInstructReport {
  readonly asked: number;
  readonly kept: number;
  /** Why the others went. */
  readonly dropped: Readonly<
    Record<"similar" | "short" | "unfit" | "too_long" | "no_answer" | "low_score" | "no_score", number>
  >;
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
    parallel = 1,
    signal,
    onTask,
    onAttempt,
    before = [],
  } = options;
  const known = seeds.flatMap((e) => {
    const question = e.kind === "conversation" ? e.messages.find((m) => m.role === "user") : undefined;
    return question ? [textOf(question)] : [];
  });
  if (known.length === 0)
    throw new InputError("self-instruct: there are no seed tasks. Give conversations with a question of the user.");
  if (!(Number.isInteger(parallel) && parallel > 0))
    throw new InputError(`self-instruct: ${parallel} tasks at the same time; it must be a whole number above 0.`);
  const say = words[language];
  const tasks: GeneratedTask[] = [...before];
  /** Of the seeds, then of the tasks. */
  const tokenised = [...known, ...tasks.map((t) => t.instruction)].map(rougeTokens);
  const dropped = { similar: 0, short: 0, unfit: 0, too_long: 0, no_answer: 0, low_score: 0, no_score: 0 };
  type Dropped = keyof typeof dropped;
  let asked = 0;
  let inARow = 0;
  const report = (): SelfInstructReport => ({ asked, kept: tasks.length, dropped: { ...dropped } });
  const stop = new AbortController();
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;

  /** The question for a new task, with fewer tasks shown where the model has no room for all. */
  const askFor = (draw: number, tasksThere: number): string => {
    const pick = (list: readonly string[], n: number, salt: number) =>
      shuffled(list.length, draw, salt)
        .slice(0, n)
        .map((i) => list[i]!);
    const there = tasks.slice(0, tasksThere).map((t) => t.instruction);
    const shown = [...pick(known, shownSeeds, 1), ...pick(there, shownNew, 2)];
    for (;;) {
      const question = say.ask(shown.map((t, i) => `${say.task} ${i + 1}: ${t}`).join("\n"));
      if (fits(question, TASK_ROOM)) return question;
      if (shown.length === 1)
        throw new InputError(
          `self-instruct: a question with one task is too long for ${model.name}. Shorter seeds or a model with a longer context may help.`,
        );
      shown.pop();
    }
  };
  const fits = (question: string, room: number) => model.fits?.([{ role: "user", content: question }], room) ?? true;
  const complete = (question: string, temperature: number, most: number, its: number) =>
    model.complete([{ role: "user", content: question }], { temperature, maxTokens: most, seed: its, signal: either });

  /** One task asked for, answered and rated, seeing the first tasks only. */
  const attempt = async (number: number, tasksThere: number): Promise<Dropped | (GeneratedTask & Attempted)> => {
    const draw = hashBits(seed, number, tasksThere);
    const instruction = cleanInstruction(await complete(askFor(draw, tasksThere), 0.9, maxTokens, draw));
    const its = rougeTokens(instruction);
    if (its.length < 3 || its.length > 150) return "short";
    if (unfit.test(instruction)) return "unfit";
    const similarity = closest(its, tokenised.slice(0, known.length + tasksThere));
    if (similarity >= maxSimilarity) return "similar";
    if (!fits(instruction, ANSWER_ROOM)) return "too_long";
    const output = (await complete(instruction, 0.7, maxTokens, draw + 1)).trim();
    if (output === "" || output === instruction) return "no_answer";
    const about = { instruction, output, attempt: number, similarity, its, tasksThere };
    if (minScore === 0) return about;
    const question = say.judge(instruction, output);
    if (!fits(question, RATING_ROOM)) return "too_long";
    const digit = /[1-5]/.exec(await complete(question, 0, RATING_ROOM, draw + 2))?.[0];
    if (digit === undefined) return "no_score";
    return Number(digit) < minScore ? "low_score" : { ...about, score: Number(digit) };
  };

  const goal = tasks.length + count;
  let next = (before.at(-1)?.attempt ?? -1) + 1;
  const underWay: ReturnType<typeof attempt>[] = [];
  const start = () => {
    const number = next++;
    // Tasks of an earlier sitting may be of attempts that this one would not have known.
    const tasksThere = tasks.filter((t) => t.attempt === undefined || t.attempt <= number - parallel).length;
    const one = attempt(number, tasksThere);
    one.catch(() => {}); // it is looked at in its turn
    underWay.push(one);
  };
  try {
    signal?.throwIfAborted();
    if (tasks.length < goal) for (let i = 0; i < parallel; i++) start();
    while (tasks.length < goal) {
      const came = await underWay.shift()!;
      signal?.throwIfAborted();
      asked++;
      const why = typeof came === "string" ? came : accept(came);
      if (why === undefined) {
        inARow = 0;
        await onTask?.(tasks.at(-1)!, report());
      } else {
        dropped[why]++;
        if (++inARow >= 100) throw new InputError(`self-instruct: ${noUse()}`);
      }
      onAttempt?.(report());
      if (tasks.length < goal) start();
    }
  } finally {
    stop.abort();
    await Promise.allSettled(underWay);
  }
  return { tasks: tasks.slice(before.length), report: report() };

  /** Holds a task against those that came while it was made. */
  function accept({ its, tasksThere, ...task }: GeneratedTask & Attempted): Dropped | undefined {
    const similarity = Math.max(task.similarity, closest(its, tokenised.slice(known.length + tasksThere)));
    if (similarity >= maxSimilarity) return "similar";
    tokenised.push(its);
    tasks.push({ ...task, similarity });
    return undefined;
  }
  function noUse(): string {
    const why = Object.entries(dropped).flatMap(([w, n]) => (n > 0 ? [`${n} ${w}`] : []));
    return `the last 100 tasks of ${model.name} were of no use (${why.join(", ")}). A stronger model, other seeds or a looser limit may help.`;
  }
}

/** Tokens that have to be left for a new task, for the beginning of an answer, and for a rating. */
const TASK_ROOM = 64;
const ANSWER_ROOM = 64;
const RATING_ROOM = 8;

interface Attempted {
  readonly its: string[];
  readonly tasksThere: number;
}

/** The highest ROUGE-L to one of the others. */
const closest = (its: readonly string[], others: readonly (readonly string[])[]): number =>
  others.reduce((most, one) => Math.max(most, rougeL(its, one)), 0);

/** The first task of what the model wrote, without its number. */
function cleanInstruction(text: string): string {
  return text
    .trim()
    .replace(/^(?:task|任务)?\s*\d*\s*[:：.、]\s*/iu, "")
    .split(/\n\s*(?:task|任务)\s*\d+\s*[:：]/iu)[0]!
    .trim();
}
