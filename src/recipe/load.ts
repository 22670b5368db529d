import { readFileSync } from "node:fs";
import { LineCounter, parse as parseValue, stringify } from "yaml";
import type { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import {
  check,
  type Override,
  type Path,
  parseYaml,
  RecipeError,
  type RecipeIssue,
  Source,
  show,
  unknownKey,
} from "./locate.ts";
import { nearest } from "./nearest.ts";
import { type LoadedRecipe, type Recipe, resolveRecipe } from "./resolve.ts";
import { recipeSchema } from "./schema.ts";
import { type Stage, type StageKind, stageKinds, stageSchemas } from "./stages.ts";

/** `a.b=1`: the value is YAML, so `minutes=1`, `text=my file.txt` and `clip=null` mean what they look like. */
export function parseOverride(text: string): Override & { readonly value: unknown } {
  const equals = text.indexOf("=");
  const keys = equals < 0 ? "" : text.slice(0, equals).trim();
  if (keys === "" || keys.split(".").some((key) => key === "" || key === "__proto__")) {
    throw new InputError(`--set ${text}: expected key=value, such as model.layers=4 or stages.pretrain.minutes=1.`);
  }
  let value: unknown;
  try {
    value = parseValue(text.slice(equals + 1));
  } catch {
    value = text.slice(equals + 1); // not YAML: taken as it stands
  }
  return { path: keys.split("."), text, value };
}

/** Reads and resolves a recipe file. @throws RecipeError naming every wrong line; InputError if there is no such file */
export function loadRecipe(file: string, overrides: readonly string[] = []): LoadedRecipe {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new InputError(`The recipe ${file} cannot be read: ${error instanceof Error ? error.message : error}.`, {
      cause: error,
    });
  }
  return parseRecipe(file, text, overrides);
}

/** Resolves the text of a recipe; `file` names it in errors, and paths in it are looked for beside it first. */
export function parseRecipe(file: string, text: string, overrides: readonly string[] = []): LoadedRecipe {
  const lines = new LineCounter();
  const document = parseYaml(file, text, lines);
  const input: unknown = document.toJS() ?? {};
  const parsed = overrides.map(parseOverride);
  const issues: RecipeIssue[] = [];
  const placed: Override[] = [];
  for (const override of parsed) {
    const path = place(input, override, issues);
    if (path !== undefined) placed.push({ path, text: override.text });
  }
  const source = new Source(file, document, lines, placed);
  if (typeof input !== "object" || input === null || Array.isArray(input)) {
    throw new RecipeError([
      { where: source.where([]), path: [], message: `expected keys and values, not ${show(input)}` },
    ]);
  }
  const { stages: written, ...rest } = input as Record<string, unknown>;
  const head = check(recipeSchema, rest, source, [], issues);
  // Unknown keys at the top may be meant for "stages", which the schema of the head does not have.
  const stages = readStages(written, source, issues);
  if (head === undefined || issues.length > 0) throw new RecipeError(mentionStages(issues));
  return resolveRecipe(head, stages, source);
}

function mentionStages(issues: readonly RecipeIssue[]): RecipeIssue[] {
  return issues.map((issue) => {
    const key = issue.path.length === 1 ? String(issue.path[0]) : "";
    if (!issue.message.includes("not a known key") || key === "") return issue;
    return { ...issue, message: unknownKey(issue.path, [...Object.keys(recipeSchema.shape), "stages"]) };
  });
}

/** Puts an override's value into the input, in place. A stage is named by its kind, its name or its position. */
function place(input: unknown, override: Override & { value: unknown }, issues: RecipeIssue[]): Path | undefined {
  const where = `--set ${override.text}`;
  let at = input as Record<string | number, unknown>;
  const path: (string | number)[] = [];
  const keys = [...override.path];
  if (keys[0] === "stages" && keys.length > 1 && Array.isArray(at.stages)) {
    const stages = at.stages as unknown[];
    const wanted = String(keys[1]);
    const names = stageNames(stages);
    const index = /^\d+$/.test(wanted) ? Number(wanted) : names.indexOf(wanted);
    const stage = stages[index];
    if (stage === undefined) {
      const guess = nearest(wanted, names);
      const hint = guess === undefined ? `There are: ${names.join(", ")}.` : `Did you mean "${guess}"?`;
      issues.push({ where, path: override.path, message: `the recipe has no stage "${wanted}". ${hint}` });
      return undefined;
    }
    const kind = typeof stage === "string" ? stage : (Object.keys(stage as object)[0] ?? "");
    const options = typeof stage === "string" ? {} : ((stage as Record<string, unknown>)[kind] ?? {});
    stages[index] = { [kind]: options };
    if (keys.length === 2) {
      issues.push({
        where,
        path: override.path,
        message: `name an option of the stage, such as stages.${wanted}.steps=10.`,
      });
      return undefined;
    }
    at = options as Record<string, unknown>;
    path.push("stages", index, kind);
    keys.splice(0, 2);
  }
  for (const key of keys.slice(0, -1)) {
    const next = Object.hasOwn(at, key) ? (at[key] ?? {}) : {};
    if (typeof next !== "object") {
      issues.push({
        where,
        path: override.path,
        message: `"${[...path, key].join(".")}" is ${show(next)}, which has no keys.`,
      });
      return undefined;
    }
    at[key] = next;
    at = next as Record<string, unknown>;
    path.push(key);
  }
  const last = keys.at(-1)!;
  at[last] = override.value;
  return [...path, last];
}

/** Names of written stages: the name given, else the kind, with -2, -3 ... where a kind comes again. */
function stageNames(stages: readonly unknown[]): string[] {
  const seen = new Map<string, number>();
  return stages.map((stage) => {
    const kind = typeof stage === "object" && stage !== null ? (Object.keys(stage)[0] ?? "") : String(stage);
    const options = typeof stage === "object" && stage !== null ? (stage as Record<string, unknown>)[kind] : undefined;
    if (typeof options === "object" && options !== null && "name" in options) return String(options.name);
    const before = seen.get(kind) ?? 0;
    seen.set(kind, before + 1);
    return before === 0 ? kind : `${kind}-${before + 1}`;
  });
}

function readStages(written: unknown, source: Source, issues: RecipeIssue[]): Stage[] {
  if (!Array.isArray(written) || written.length === 0) {
    const message = `"stages" ${written === undefined ? "is missing" : `is ${show(written)}`}: expected a list of stages, of ${stageKinds.join(", ")}`;
    issues.push({ where: source.where(["stages"]), path: ["stages"], message });
    return [];
  }
  const names = stageNames(written);
  const stages: Stage[] = [];
  for (const [index, item] of written.entries()) {
    const at = ["stages", index];
    const keys = typeof item === "string" ? [item] : typeof item === "object" && item !== null ? Object.keys(item) : [];
    if (keys.length !== 1) {
      const message = `a stage is its kind (report) or its kind with options (sft: { epochs: 1 }), not ${show(item)}`;
      issues.push({ where: source.where(at), path: at, message });
      continue;
    }
    const kind = keys[0]!;
    if (!(kind in stageSchemas)) {
      const guess = nearest(kind, stageKinds);
      const hint = guess === undefined ? `Known: ${stageKinds.join(", ")}.` : `Did you mean "${guess}"?`;
      issues.push({
        where: source.where([...at, kind]),
        path: [...at, kind],
        message: `"${kind}" is not a known stage. ${hint}`,
      });
      continue;
    }
    const stage = readStage(
      kind as StageKind,
      typeof item === "string" ? {} : item[kind],
      names[index]!,
      source,
      [...at, kind],
      issues,
    );
    if (stage === undefined) continue;
    if (stages.some(({ name }) => name === stage.name)) {
      const message = `two stages are named "${stage.name}": give one of them another name`;
      issues.push({ where: source.where([...at, kind]), path: at, message });
    }
    stages.push(stage);
  }
  return stages;
}

function readStage<K extends StageKind>(
  kind: K,
  written: unknown,
  name: string,
  source: Source,
  at: Path,
  issues: RecipeIssue[],
): Stage | undefined {
  const { name: given, ...options } = (typeof written === "object" && written !== null ? written : {}) as Record<
    string,
    unknown
  >;
  if (given !== undefined && !/^[\w-]+$/.test(String(given))) {
    const message = `"name" is ${show(given)}: a stage's name has letters, digits, - and _ only`;
    issues.push({ where: source.where([...at, "name"]), path: [...at, "name"], message });
  }
  const schema: z.ZodType = stageSchemas[kind];
  const parsed = check(schema, written === null || typeof written === "object" ? options : written, source, at, issues);
  return parsed === undefined ? undefined : ({ kind, name, ...(parsed as object) } as Stage);
}

/** The resolved recipe as YAML, every default written; reading it gives the same recipe. */
export function writeResolved(recipe: Recipe): string {
  const stages = recipe.stages.map(({ kind, name, ...options }) => ({
    [kind]: name === kind ? options : { name, ...options },
  }));
  return stringify({ ...recipe, stages }, { lineWidth: 0 });
}

/** What two recipes disagree about: dotted keys with both values, such as `model.width: 256, 384`. */
export function differences(a: unknown, b: unknown, path: Path = []): string[] {
  if (typeof a === "object" && a !== null && typeof b === "object" && b !== null) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].flatMap((key) =>
      differences((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key], [...path, key]),
    );
  }
  return Object.is(a, b) ? [] : [`${path.join(".")}: ${show(a)}, ${show(b)}`];
}
