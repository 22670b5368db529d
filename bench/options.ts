import { parseArgs } from "node:util";
import { InputError } from "../src/tensor/errors.ts";
import { chooseWorks, type GPTWork, gptWorks } from "./works.ts";

export const usage = `npm run bench -- gpt [options]        a training step beside PyTorch, in one interleaved run
npm run bench -- profile WORK [options]   where our training step spends its time, by kind of op
npm run bench -- compare A B          two results files

  --works A,B        which works (${gptWorks.map((w) => w.name).join(", ")}; default all)
  --rounds N         turns of each side (default 5)
  --seconds S        length of a turn (default 3)
  --no-compile       without torch.compile
  --precision P      of our matmuls: auto (default), f32 or bf16
  --steps N          steps to profile (default 5)

HOWDAH_PYTHON names the Python that has PyTorch (bench/peers/requirements.txt); HOWDAH_THREADS the threads of both sides (default 2).`;

export type BenchOptions =
  | {
      readonly command: "gpt";
      readonly works: readonly GPTWork[];
      readonly rounds: number;
      readonly seconds: number;
      readonly compile: boolean;
      readonly precision: "auto" | "f32" | "bf16";
    }
  | {
      readonly command: "profile";
      readonly work: GPTWork;
      readonly precision: "auto" | "f32" | "bf16";
      readonly steps: number;
    }
  | { readonly command: "compare"; readonly before: string; readonly after: string }
  | { readonly command: "help" };

function positive(name: string, text: string, whole: boolean): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value) || (whole && !Number.isInteger(value)))
    throw new InputError(`--${name} must be a positive ${whole ? "whole " : ""}number, got ${JSON.stringify(text)}.`);
  return value;
}

function precisionOf(text: string): "auto" | "f32" | "bf16" {
  if (text === "auto" || text === "f32" || text === "bf16") return text;
  throw new InputError(`--precision must be auto, f32 or bf16, got ${JSON.stringify(text)}.`);
}

/** @throws InputError for anything that is not in `usage` */
export function parseOptions(args: readonly string[]): BenchOptions {
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(args);
  } catch (error) {
    throw new InputError(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
  }
  const { values: v, positionals } = parsed;
  const [command, ...rest] = positionals;
  if (v.help || command === undefined) return { command: "help" };
  const count = (n: number) => {
    if (rest.length !== n) throw new InputError(`${command} takes ${n} arguments, got ${rest.length}.\n\n${usage}`);
  };
  switch (command) {
    case "gpt":
      count(0);
      return {
        command,
        works: v.works === undefined ? gptWorks : chooseWorks(v.works.split(",")),
        rounds: positive("rounds", v.rounds, true),
        seconds: positive("seconds", v.seconds, false),
        compile: !v["no-compile"],
        precision: precisionOf(v.precision),
      };
    case "profile":
      count(1);
      return {
        command,
        work: chooseWorks(rest)[0]!,
        precision: precisionOf(v.precision),
        steps: positive("steps", v.steps, true),
      };
    case "compare":
      count(2);
      return { command, before: rest[0]!, after: rest[1]! };
    default:
      throw new InputError(`There is no benchmark ${JSON.stringify(command)}.\n\n${usage}`);
  }
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      works: { type: "string" },
      rounds: { type: "string", default: "5" },
      seconds: { type: "string", default: "3" },
      "no-compile": { type: "boolean", default: false },
      precision: { type: "string", default: "auto" },
      steps: { type: "string", default: "5" },
      help: { type: "boolean", default: false },
    },
  });
}
