import { Argument, Option } from "commander";
import { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import type { Command } from "./command.ts";

/** What an option looks like on the command line, read off its zod schema. */
interface Shape {
  readonly key: string;
  /** The schema without its wrappers. */
  readonly kind: "boolean" | "number" | "text";
  readonly many: boolean;
  readonly optional: boolean;
  readonly fallback: unknown;
  readonly choices: readonly string[] | undefined;
  readonly description: string;
  readonly value: string;
  readonly short: string | undefined;
}

const dashed = (key: string) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function shapeOf(key: string, schema: z.core.$ZodType): Shape {
  let at = schema;
  let optional = false;
  let fallback: unknown;
  let many = false;
  let meta: Record<string, unknown> = {};
  for (;;) {
    meta = { ...(z.globalRegistry.get(at) ?? {}), ...meta };
    const { def } = at._zod;
    if (def.type === "default" || def.type === "prefault") {
      optional = true;
      fallback = (def as z.core.$ZodDefaultDef).defaultValue;
    }
    if (def.type === "optional") optional = true;
    if (def.type === "array") {
      many = true;
      at = (def as z.core.$ZodArrayDef).element;
    } else if ("innerType" in def) at = def.innerType as z.core.$ZodType;
    else if (def.type === "pipe") at = (def as z.core.$ZodPipeDef).in;
    else break;
  }
  const { type } = at._zod.def;
  const kind = type === "boolean" ? "boolean" : type === "number" ? "number" : "text";
  const choices = at instanceof z.ZodEnum ? at.options.map(String) : undefined;
  const value = typeof meta.value === "string" ? meta.value : kind === "number" ? "N" : dashed(key).toUpperCase();
  return {
    key,
    kind,
    many,
    optional,
    fallback,
    choices,
    description: typeof meta.description === "string" ? meta.description : "",
    value,
    short: typeof meta.short === "string" ? meta.short : undefined,
  };
}

export function shapesOf(command: Command): { options: Shape[]; positional: Shape[] } {
  const shapes = Object.entries(command.options.shape).map(([key, schema]) => shapeOf(key, schema));
  const names = command.positional ?? [];
  return {
    options: shapes.filter(({ key }) => !names.includes(key)),
    positional: names.map((name) => shapes.find(({ key }) => key === name)!),
  };
}

function describe({ description, fallback, choices, many }: Shape): string {
  const notes: string[] = [];
  if (choices !== undefined) notes.push(`one of ${choices.join(", ")}`);
  if (many) notes.push("can be given several times");
  if (fallback !== undefined && fallback !== false && !(Array.isArray(fallback) && fallback.length === 0)) {
    if (fallback !== true) notes.push(`default ${typeof fallback === "string" ? fallback : JSON.stringify(fallback)}`);
  }
  return notes.length === 0 ? description : `${description} (${notes.join("; ")})`;
}

const collect = (value: string, before: string[] | undefined) => [...(before ?? []), value];

export function commanderOption(shape: Shape): Option {
  const long = dashed(shape.key);
  const short = shape.short === undefined ? "" : `-${shape.short}, `;
  if (shape.kind === "boolean") {
    const flag = shape.fallback === true ? `--no-${long}` : `--${long}`;
    return new Option(`${short}${flag}`, describe(shape));
  }
  const option = new Option(`${short}--${long} <${shape.value}>`, describe(shape));
  return shape.many ? option.argParser(collect) : option;
}

export function commanderArgument(shape: Shape): Argument {
  const name = `${dashed(shape.key)}${shape.many ? "..." : ""}`;
  return new Argument(shape.optional ? `[${name}]` : `<${name}>`, describe(shape));
}

/** How an option is named in an error. */
function label(shape: Shape | undefined, key: string, positional: boolean): string {
  return positional ? dashed(shape?.key ?? key) : `--${dashed(key)}`;
}

/** Turns the texts of the command line into what the schema takes: numbers for numbers. */
function convert(shape: Shape, value: unknown): unknown {
  const one = (text: unknown) => (shape.kind === "number" && typeof text === "string" ? toNumber(text) : text);
  return Array.isArray(value) ? value.map(one) : one(value);
}

const toNumber = (text: string) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));

const kinds: Record<string, string> = {
  number: "a number",
  int: "a whole number",
  string: "a text",
  boolean: "yes or no",
};

function explain(issue: z.core.$ZodIssue): string {
  if (issue.code === "invalid_type") return `expected ${kinds[issue.expected] ?? issue.expected}`;
  if (issue.code === "invalid_value") return `expected one of ${issue.values.join(", ")}`;
  if (issue.code === "too_small") return `expected ${issue.inclusive ? "at least" : "more than"} ${issue.minimum}`;
  if (issue.code === "too_big") return `expected ${issue.inclusive ? "at most" : "less than"} ${issue.maximum}`;
  return issue.message;
}

/**
 * Checks what commander has read.
 * @throws InputError naming every option that is wrong, its value, and what was expected
 */
export function parseOptions(command: Command, given: Record<string, unknown>, args: readonly unknown[]): never {
  const { options, positional } = shapesOf(command);
  const input: Record<string, unknown> = {};
  for (const shape of options) {
    // A flag that is on unless refused is read as its key with true; leave defaults to the schema.
    const value = given[shape.key];
    if (value !== undefined) input[shape.key] = convert(shape, value);
  }
  for (const [i, shape] of positional.entries()) {
    const value = args[i];
    if (value !== undefined && !(Array.isArray(value) && value.length === 0)) input[shape.key] = convert(shape, value);
  }
  const result = command.options.safeParse(input);
  if (result.success) return result.data as never;
  const lines = result.error.issues.map((issue) => {
    const key = String(issue.path[0]);
    const isPositional = positional.some((shape) => shape.key === key);
    const shape = [...options, ...positional].find((one) => one.key === key);
    const value = key in input ? JSON.stringify(input[key]) : "missing";
    return `${label(shape, key, isPositional)} is ${value}: ${explain(issue)}.`;
  });
  throw new InputError(lines.join("\n"));
}
