import { existsSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { LineCounter, stringify } from "yaml";
import { z } from "zod";
import { check, parseYaml, RecipeError, type RecipeIssue, Source, show, unknownKey } from "../../recipe/locate.ts";
import { parseFraction, parseSize } from "../../recipe/scalars.ts";
import { InputError } from "../../tensor/errors.ts";

/** "10M" or 10000000. */
const size = z.union([z.number(), z.string()]).transform((value, context) => {
  const n = typeof value === "number" ? value : parseSize(value);
  if (n !== undefined && Number.isInteger(n) && n > 0) return n;
  context.addIssue({ code: "custom", message: "expected a whole number above 0, such as 5000000 or 5M" });
  return z.NEVER;
});
/** "10%" or 0.1. */
const share = z.union([z.number(), z.string()]).transform((value, context) => {
  const n = typeof value === "number" ? value : parseFraction(value);
  if (n !== undefined && n >= 0 && n < 1) return n;
  context.addIssue({ code: "custom", message: "expected a share below 1, such as 1% or 0.01" });
  return z.NEVER;
});
const paths = z.union([
  z
    .string()
    .min(1)
    .transform((p) => [p]),
  z.array(z.string().min(1)).min(1),
]);
const above0 = z.number().positive();

/** What each filter of `clean` may be told. */
export const filterSchemas = {
  repair: z.strictObject({
    form: z.enum(["NFC", "NFKC", "none"]).default("NFC"),
    mojibake: z.boolean().default(true),
    entities: z.boolean().default(true),
  }),
  pii: z.strictObject({
    kinds: z
      .array(z.enum(["email", "phone", "ip", "id_number", "card_number"]))
      .min(1)
      .default(["email", "id_number", "card_number", "ip", "phone"]),
  }),
  language: z.strictObject({
    languages: z.array(z.string().min(2)).min(1).default(["en"]),
    min_confidence: z.number().min(0).max(1).default(0.65),
  }),
  gopher_quality: z.strictObject({
    min_words: z.number().int().min(0).default(50),
    max_words: z.number().int().positive().default(100_000),
    min_stop_words: z.number().int().min(0).default(2),
    stop_words: z.array(z.string()).default(["the", "be", "to", "of", "and", "that", "have", "with"]),
    min_letter_words: z.number().min(0).max(1).default(0.8),
  }),
  gopher_repetition: z.strictObject({}),
  c4: z.strictObject({
    min_sentences: z.number().int().min(0).default(5),
    min_words_per_line: z.number().int().min(0).default(3),
    terminal_punctuation: z.boolean().default(true),
    curly_brackets: z.boolean().default(true),
  }),
  c4_paragraphs: z.strictObject({
    lines: z.number().int().positive().default(3),
    length: z.number().int().positive().default(200),
  }),
  fineweb: z.strictObject({
    min_ended_lines: z.number().min(0).max(1).default(0.12),
    max_short_lines: z.number().min(0).max(1).default(0.67),
    max_duplicate_characters: z.number().min(0).max(1).default(0.01),
    max_lines_per_word: above0.default(0.3),
  }),
  chinese: z.strictObject({
    min_characters: z.number().int().min(0).default(200),
    min_han: z.number().min(0).max(1).default(0.3),
    min_mean_line: z.number().min(0).default(10),
  }),
  word_list: z.strictObject({
    file: z.string().min(1),
    language: z.string().default("en"),
    most: z.number().int().min(0).default(0),
  }),
  quality: z.strictObject({
    /** Known-good texts that the classifier learns to tell from the source's. */
    good: paths,
    sample: size.default(2000),
    alpha: above0.default(9),
  }),
  perplexity: z.strictObject({
    good: paths,
    order: z.number().int().min(1).max(6).default(3),
    min: z.number().min(0).default(0),
    max: above0.default(1000),
    sample: size.default(2000),
  }),
} as const;
export type FilterName = keyof typeof filterSchemas;
export type FilterStep = { [K in FilterName]: { readonly name: K } & z.output<(typeof filterSchemas)[K]> }[FilterName];

const sourceSchema = z.strictObject({
  name: z.string().regex(/^[\w.-]+$/, "a source's name has letters, digits, dots, - and _ only"),
  paths,
  /** Share of the mixture, in proportion to the other sources' weights. */
  weight: above0.optional(),
  /** How often every document is seen. */
  epochs: above0.optional(),
  licence: z.string().optional(),
  language: z.string().optional(),
  text_field: z.string().optional(),
  keep: z.array(z.string()).default([]),
  limit: size.optional(),
  clean: z.array(z.unknown()).optional(),
});

const recipeSchema = z.strictObject({
  name: z.string().regex(/^[\w.-]+$/, "a name has letters, digits, dots, - and _ only"),
  out: z.string().min(1).optional(),
  seed: z.number().int().min(0).default(1),
  sources: z.array(sourceSchema).min(1),
  clean: z.array(z.unknown()).default([]),
  dedup: z
    .strictObject({
      exact: z.boolean().default(true),
      near: z
        .union([
          z.boolean(),
          z.strictObject({
            threshold: z.number().gt(0).lt(1).default(0.75),
            ngram: z.number().int().min(1).default(5),
            permutations: z.number().int().min(1).max(1024).default(112),
            verify: z.boolean().default(true),
          }),
        ])
        .default(true),
      passages: z.enum(["lines", "paragraphs", "none"]).default("none"),
      /** Bytes of a passage that stands in the corpus twice; none: not looked for. */
      substrings: z.number().int().min(20).optional(),
      memory: size.default(256 * 2 ** 20),
    })
    .default({ exact: true, near: true, passages: "none", memory: 256 * 2 ** 20 }),
  decontaminate: z
    .strictObject({
      evaluations: z
        .array(
          z.strictObject({
            name: z.string().min(1),
            paths,
            /** Fields that are put together; without them, the text that a reader finds. */
            fields: z.array(z.string().min(1)).min(1).optional(),
          }),
        )
        .min(1),
      ngram: z.number().int().min(2).default(13),
      /** Drop the document, or cut the overlap and what is around it out. */
      mode: z.enum(["document", "cut"]).default("document"),
    })
    .optional(),
  tokenizer: z
    .union([
      z.strictObject({ path: z.string().min(1) }),
      z.strictObject({
        vocabulary: z.number().int().min(257).default(8192),
        /** Bytes of text that it is learnt from, taken evenly. */
        sample: size.default(100_000_000),
      }),
    ])
    .default({ vocabulary: 8192, sample: 100_000_000 }),
  mix: z
    .strictObject({
      /** Of all sources together; default what weights and epochs give without reading anything more than `max_epochs` times. */
      tokens: size.optional(),
      /** Shares in proportion to size ^ (1 / temperature), where no weights are given. Devlin 2018; Xue et al. 2021. */
      temperature: z.number().min(1).default(1),
      max_epochs: above0.default(4),
      holdout: share.default(0.01),
    })
    .default({ temperature: 1, max_epochs: 4, holdout: 0.01 }),
  shards: z.strictObject({ tokens: size.default(16_000_000) }).default({ tokens: 16_000_000 }),
  report: z
    .strictObject({ samples: z.number().int().min(0).default(5), topics: z.number().int().min(0).max(100).default(8) })
    .default({ samples: 5, topics: 8 }),
});

type Head = z.output<typeof recipeSchema>;
export type DataSource = Omit<Head["sources"][number], "clean"> & { readonly clean: readonly FilterStep[] };
export interface NearStep {
  readonly threshold: number;
  readonly ngram: number;
  readonly permutations: number;
  readonly verify: boolean;
}
/** A recipe for a corpus, every default in place and every path as it can be opened. */
export type DataRecipe = Omit<Head, "sources" | "clean" | "dedup" | "out"> & {
  readonly out: string;
  readonly sources: readonly DataSource[];
  readonly dedup: Omit<Head["dedup"], "near"> & { readonly near: NearStep | false };
};

/** Reads a recipe file. @throws RecipeError naming every wrong line; InputError if there is no such file */
export function loadDataRecipe(file: string): DataRecipe {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new InputError(`The recipe ${file} cannot be read: ${error instanceof Error ? error.message : error}.`, {
      cause: error,
    });
  }
  return parseDataRecipe(file, text);
}

/** Resolves the text of a recipe. Paths are looked for beside the recipe first, then in the current folder. */
export function parseDataRecipe(file: string, text: string): DataRecipe {
  const lines = new LineCounter();
  const document = parseYaml(file, text, lines);
  const source = new Source(file, document, lines, []);
  const input: unknown = document.toJS() ?? {};
  const issues: RecipeIssue[] = [];
  if (typeof input !== "object" || input === null || Array.isArray(input))
    throw new RecipeError([
      { where: source.where([]), path: [], message: `expected keys and values, not ${show(input)}` },
    ]);
  const head = check(recipeSchema, input, source, [], issues);
  if (head === undefined) throw new RecipeError(issues);
  const base = readSteps(head.clean, ["clean"], source, issues);
  const find = (path: string) => locate(file, path);
  const sources = head.sources.map((s, i): DataSource => {
    const steps = s.clean === undefined ? base : readSteps(s.clean, ["sources", i, "clean"], source, issues);
    return { ...s, paths: s.paths.map(find), clean: steps.map((step) => withPaths(step, find)) };
  });
  const names = sources.map((s) => s.name);
  names.forEach((name, i) => {
    if (names.indexOf(name) !== i) {
      const at = ["sources", i, "name"];
      issues.push({
        where: source.where(at),
        path: at,
        message: `two sources are named "${name}": give one of them another name`,
      });
    }
  });
  const weighted = sources.filter((s) => s.weight !== undefined).length;
  if (weighted > 0 && weighted < sources.length) {
    const i = sources.findIndex((s) => s.weight === undefined);
    const at = ["sources", i];
    issues.push({
      where: source.where(at),
      path: at,
      message: `"${names[i]}" has no weight, but other sources have: give every source one, or none`,
    });
  }
  sources.forEach((s, i) => {
    if (s.weight === undefined || s.epochs === undefined) return;
    const at = ["sources", i, "epochs"];
    issues.push({
      where: source.where(at),
      path: at,
      message: `"${s.name}" has a weight and epochs: each decides how much is read, so give one of them`,
    });
  });
  if (issues.length > 0) throw new RecipeError(issues);
  const near =
    head.dedup.near === true ? { threshold: 0.75, ngram: 5, permutations: 112, verify: true } : head.dedup.near;
  const { clean: _, out, ...rest } = head;
  return {
    ...rest,
    out: out === undefined ? join("data", head.name) : out,
    sources,
    dedup: { ...head.dedup, near },
    tokenizer: "path" in head.tokenizer ? { path: find(head.tokenizer.path) } : head.tokenizer,
    ...(head.decontaminate === undefined
      ? {}
      : {
          decontaminate: {
            ...head.decontaminate,
            evaluations: head.decontaminate.evaluations.map((e) => ({ ...e, paths: e.paths.map(find) })),
          },
        }),
  };
}

function withPaths(step: FilterStep, find: (path: string) => string): FilterStep {
  if (step.name === "word_list") return { ...step, file: find(step.file) };
  if (step.name === "quality" || step.name === "perplexity") return { ...step, good: step.good.map(find) };
  return step;
}

function locate(recipe: string, path: string): string {
  if (isAbsolute(path) || /^[a-z][a-z0-9+.-]*:\/\//i.test(path)) return path;
  const beside = join(dirname(recipe), path);
  const folder = beside.replace(/[*?[{].*$/, "");
  return existsSync(folder) && folder !== `${dirname(recipe)}/` ? beside : path;
}

function readSteps(
  list: readonly unknown[],
  at: readonly (string | number)[],
  source: Source,
  issues: RecipeIssue[],
): FilterStep[] {
  const out: FilterStep[] = [];
  list.forEach((item, i) => {
    const keys = typeof item === "string" ? [item] : typeof item === "object" && item !== null ? Object.keys(item) : [];
    const path = [...at, i];
    if (keys.length !== 1) {
      const message = `a filter is its name (repair) or its name with options (c4: { min_sentences: 3 }), not ${show(item)}`;
      issues.push({ where: source.where(path), path, message });
      return;
    }
    const name = keys[0]!;
    const full = [...path, name];
    if (!Object.hasOwn(filterSchemas, name)) {
      const message = unknownKey(full, Object.keys(filterSchemas)).replace(
        "is not a known key",
        "is not a known filter",
      );
      issues.push({ where: source.where(full), path: full, message });
      return;
    }
    const schema: z.ZodType = filterSchemas[name as FilterName];
    const options = typeof item === "string" ? {} : ((item as Record<string, unknown>)[name] ?? {});
    const parsed = check(schema, options, source, full, issues);
    if (parsed !== undefined) out.push({ name, ...(parsed as object) } as FilterStep);
  });
  return out;
}

/** The resolved recipe as YAML, every default written. */
export function writeDataRecipe(recipe: DataRecipe): string {
  const steps = (list: readonly FilterStep[]) => list.map(({ name, ...options }) => ({ [name]: options }));
  const absolute = (path: string) => (/^[a-z][a-z0-9+.-]*:\/\//i.test(path) ? path : resolve(path));
  return stringify(
    {
      ...recipe,
      sources: recipe.sources.map((s) => ({ ...s, paths: s.paths.map(absolute), clean: steps(s.clean) })),
    },
    { lineWidth: 0 },
  );
}
