import {
  type Document,
  isMap,
  isNode,
  isPair,
  isScalar,
  isSeq,
  type LineCounter,
  parseDocument,
  type YAMLMap,
} from "yaml";
import { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import { nearest } from "./nearest.ts";

/** A path inside a recipe: keys and list positions. */
export type Path = readonly (string | number)[];

export interface RecipeIssue {
  /** `file:line:column`, or the `--set` option that brought the value. */
  readonly where: string;
  readonly path: Path;
  readonly message: string;
}

/** Everything that is wrong with a recipe, a line for each. */
export class RecipeError extends InputError {
  readonly issues: readonly RecipeIssue[];
  constructor(issues: readonly RecipeIssue[]) {
    super(issues.map(({ where, message }) => `${where}: ${message}`).join("\n"));
    this.issues = issues;
  }
}

/** One `--set key=value`. */
export interface Override {
  readonly path: Path;
  readonly text: string;
}

const starts = (path: Path, beginning: Path) => beginning.every((part, i) => String(path[i]) === String(part));

/** A parsed YAML text with overrides, which knows where each value was written. */
export class Source {
  readonly file: string;
  readonly overrides: readonly Override[];
  readonly #document: Document;
  readonly #lines: LineCounter;

  constructor(file: string, document: Document, lines: LineCounter, overrides: readonly Override[]) {
    this.file = file;
    this.#document = document;
    this.#lines = lines;
    this.overrides = overrides;
  }

  /** Where the key of `path` is written, or the nearest thing around it that is. */
  where(path: Path): string {
    const override = this.overrides.findLast((one) => starts(path, one.path) || starts(one.path, path));
    if (override !== undefined && starts(path, override.path)) return `--set ${override.text}`;
    const { line, col } = this.#lines.linePos(this.#offset(path));
    // A value that only an override could have brought, inside a part that the file does not have.
    if (override !== undefined && this.#document.getIn(path) === undefined) return `--set ${override.text}`;
    return `${this.file}:${line}:${col}`;
  }

  #offset(path: Path): number {
    let node: unknown = this.#document.contents;
    let offset = isNode(node) ? (node.range?.[0] ?? 0) : 0;
    for (const part of path) {
      if (isMap(node)) {
        const pair = (node as YAMLMap).items.find(
          (item) => isScalar(item.key) && String(item.key.value) === String(part),
        );
        if (!isPair(pair)) return offset;
        if (isNode(pair.key)) offset = pair.key.range?.[0] ?? offset;
        node = pair.value;
      } else if (isSeq(node)) {
        const item = node.items[Number(part)];
        if (!isNode(item)) return offset;
        offset = item.range?.[0] ?? offset;
        node = item;
      } else return offset;
    }
    return offset;
  }
}

/** @throws RecipeError with line and column if the text is not YAML */
export function parseYaml(file: string, text: string, lines: LineCounter): Document {
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  if (document.errors.length > 0) {
    const issues = document.errors.map((error) => {
      const { line, col } = lines.linePos(error.pos[0]);
      return { where: `${file}:${line}:${col}`, path: [], message: `not valid YAML: ${error.message}` };
    });
    throw new RecipeError(issues);
  }
  return document;
}

/** How a value looks in an error: short, as JSON. */
export function show(value: unknown): string {
  if (value === undefined) return "nothing";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** `model.layers`; inside a stage as `--set` names it, `stages.sft.epochs`. */
const dotted = (path: Path) =>
  (path[0] === "stages" && path.length > 2 ? ["stages", ...path.slice(2)] : path).join(".");

function valueAt(input: unknown, path: Path): unknown {
  let value = input;
  for (const part of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<string | number, unknown>)[part];
  }
  return value;
}

/** Takes the wrappers (default, optional, ...) off a schema. */
function inner(schema: z.core.$ZodType): z.core.$ZodType {
  const { def } = schema._zod;
  if ("innerType" in def) return inner(def.innerType as z.core.$ZodType);
  if ("in" in def) return inner(def.in as z.core.$ZodType);
  return schema;
}

/** The keys an object of the schema may have at `path`. */
export function knownKeys(schema: z.core.$ZodType, path: Path): string[] {
  let at = inner(schema);
  for (const part of path) {
    if (!(at instanceof z.ZodObject)) return [];
    const next = (at.shape as Record<string, z.core.$ZodType | undefined>)[String(part)];
    if (next === undefined) return [];
    at = inner(next);
  }
  return at instanceof z.ZodObject ? Object.keys(at.shape) : [];
}

/**
 * Checks `input` and says what is wrong in sentences with places.
 * @param at where `input` stands inside the recipe
 */
export function check<S extends z.ZodType>(schema: S, input: unknown, source: Source, at: Path, issues: RecipeIssue[]) {
  const result = schema.safeParse(input);
  if (result.success) return result.data as z.output<S>;
  for (const issue of result.error.issues) {
    const path = [...at, ...(issue.path as Path)];
    if (issue.code === "unrecognized_keys") {
      const keys = knownKeys(schema, issue.path as Path);
      for (const key of issue.keys) {
        const full = [...path, key];
        issues.push({ where: source.where(full), path: full, message: unknownKey(full, keys) });
      }
      continue;
    }
    const value = valueAt(input, issue.path as Path);
    const missing = value === undefined ? "is missing" : `is ${show(value)}`;
    const expected =
      issue.code === "invalid_type" && inner(schema) instanceof z.ZodObject && issue.message.startsWith("Invalid")
        ? `expected ${issue.expected === "object" ? "keys and values" : issue.expected}`
        : issue.message;
    const guess =
      issue.code === "invalid_value" && typeof value === "string"
        ? nearest(value, issue.values.map(String))
        : undefined;
    const hint = guess === undefined ? "" : `. Did you mean "${guess}"?`;
    issues.push({ where: source.where(path), path, message: `"${dotted(path)}" ${missing}: ${expected}${hint}` });
  }
  return undefined;
}

export function unknownKey(path: Path, known: readonly string[]): string {
  const key = String(path.at(-1));
  const guess = nearest(key, known);
  const hint = guess === undefined ? `Known here: ${known.join(", ")}.` : `Did you mean "${guess}"?`;
  return `"${dotted(path)}" is not a known key. ${hint}`;
}
