import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, extname, isAbsolute, join, resolve } from "node:path";
import { chooseSizes, countText, defaultLearningRate, type ModelSizes, parameterCount } from "./dial.ts";
import { type Path, RecipeError, type RecipeIssue, type Source, show } from "./locate.ts";
import type { RecipeInput } from "./schema.ts";
import type { Stage, StageOf } from "./stages.ts";

/** A recipe with everything decided: no default is left to be filled in later. */
export interface Recipe extends Omit<RecipeInput, "name" | "model"> {
  readonly name: string;
  readonly model: Omit<RecipeInput["model"], keyof ModelSizes | "params"> & ModelSizes;
  readonly stages: readonly Stage[];
}

export interface LoadedRecipe {
  readonly recipe: Recipe;
  /** What was derived rather than written, as short texts for people: "width 256", "4.9M parameters". */
  readonly derived: readonly string[];
}

type Wrong = (path: Path, message: string) => void;

/**
 * Fills in what depends on other choices, checks what only makes sense together, and says what it decided.
 * @throws RecipeError naming every place that does not fit
 */
export function resolveRecipe(given: RecipeInput, stages: readonly Stage[], source: Source): LoadedRecipe {
  const issues: RecipeIssue[] = [];
  const wrong: Wrong = (path, message) => issues.push({ where: source.where(path), path, message });
  const derived: string[] = [];
  const data = resolveData(given, stages, source, derived, wrong);
  const head = { ...given, tokenizer: { ...given.tokenizer, vocabulary: data.vocabulary } };
  const { params, ...model } = head.model;
  const sizes = resolveModel(head, derived, wrong);
  const resolved = stages.map((stage, index) =>
    resolveStage(stage, ["stages", index, stage.kind], sizes, derived, wrong),
  );
  if (issues.length > 0) throw new RecipeError(issues);
  const name = head.name ?? basename(source.file, extname(source.file));
  return { recipe: { ...head, name, data: data.data, model: { ...model, ...sizes }, stages: resolved }, derived };
}

/** Finds the text or the corpus; a corpus brings its vocabulary, and has no text to make pairs of. */
function resolveData(
  { data, tokenizer }: RecipeInput,
  stages: readonly Stage[],
  source: Source,
  derived: string[],
  wrong: Wrong,
): { data: RecipeInput["data"]; vocabulary: number } {
  const key = data.corpus === undefined ? "text" : "corpus";
  const named = data[key];
  if (named === undefined) {
    wrong(["data"], '"data" names nothing to learn from: give it a text, or a corpus that howdah data build made');
    return { data, vocabulary: tokenizer.vocabulary };
  }
  if (data.text !== undefined && data.corpus !== undefined)
    wrong(["data", "corpus"], '"data" has a text and a corpus: give one of them');
  const place = findPath(named, source.file);
  if (place === undefined) {
    const looked = isAbsolute(named) ? "" : ` (looked beside the recipe, above it, and in ${process.cwd()})`;
    const make = key === "corpus" ? "; make it with howdah data build" : "";
    wrong(["data", key], `"data.${key}" is ${show(named)}: there is no such file or folder${looked}${make}`);
    return { data, vocabulary: tokenizer.vocabulary };
  }
  const { reader, readers = 1 } = data;
  if (key === "text") {
    if (reader !== undefined || data.readers !== undefined)
      wrong(["data", "readers"], '"data.readers" share a corpus, and this recipe has a text');
    return { data: { ...data, text: place }, vocabulary: tokenizer.vocabulary };
  }
  if ((reader ?? 0) >= readers)
    wrong(["data", "reader"], `"data.reader" is ${reader} of ${readers}: they are counted from 0`);
  if (tokenizer.from !== undefined)
    wrong(
      ["tokenizer", "from"],
      '"tokenizer.from" is given, but the corpus brings the tokenizer that its tokens were made with',
    );
  const pairs = stages.some((s) => s.kind === "sft" && !["auto", "dialogue", "continuation"].includes(s.pairs));
  stages.forEach((stage, i) => {
    if (stage.kind !== "pretrain" && !pairs)
      wrong(
        ["stages", i, stage.kind],
        `"${stage.name}" needs pairs, and a corpus has no text to make them of: give sft a JSONL file as pairs, or leave ${stage.name} out`,
      );
  });
  const vocabulary = corpusVocabulary(place);
  if (vocabulary === undefined)
    wrong(
      ["data", "corpus"],
      `"data.corpus" is ${show(named)}: there are no token shards in it; make them with howdah data build`,
    );
  else derived.push(`vocabulary ${vocabulary}`);
  return { data: { ...data, corpus: place }, vocabulary: vocabulary ?? tokenizer.vocabulary };
}

/** As the index of a corpus's first shard says. */
function corpusVocabulary(folder: string): number | undefined {
  try {
    const index = JSON.parse(readFileSync(join(folder, "shards", "shard-00000.json"), "utf8")) as {
      vocabulary?: unknown;
    };
    return typeof index.vocabulary === "number" ? index.vocabulary : undefined;
  } catch {
    return undefined;
  }
}

function resolveModel({ model, tokenizer }: RecipeInput, derived: string[], wrong: Wrong): ModelSizes {
  const sizes = chooseSizes(model, tokenizer.vocabulary);
  const { family, width, heads, kv_heads } = sizes;
  for (const key of ["layers", "width", "heads", "context", "mlp_width"] as const) {
    if (model[key] === undefined) derived.push(`${key.replace("_", " ")} ${sizes[key]}`);
  }
  if (family === "llama" && model.kv_heads === undefined) derived.push(`kv heads ${kv_heads}`);
  if (family === "gpt" && model.kv_heads !== undefined && model.kv_heads !== heads) {
    const known = `"model.kv_heads" is ${model.kv_heads}: gpt has as many as heads (${heads})`;
    wrong(["model", "kv_heads"], `${known}; choose family: llama`);
  }
  if (model.params !== undefined && model.layers !== undefined && model.width !== undefined) {
    wrong(["model", "params"], '"model.params" decides layers and width, and both are given: leave one of them out');
  }
  if (width % heads !== 0) {
    wrong(["model", "heads"], `"model.width" is ${width}, which ${heads} heads do not divide`);
  } else if (family === "llama" && (width / heads) % 2 !== 0) {
    wrong(["model", "heads"], `a head of ${width / heads} is odd: rotary positions turn pairs`);
  }
  if (heads % kv_heads !== 0) {
    wrong(["model", "kv_heads"], `"model.kv_heads" is ${kv_heads}, which does not divide ${heads} heads`);
  }
  derived.push(`${countText(parameterCount(sizes, tokenizer.vocabulary))} parameters`);
  return sizes;
}

function resolveStage(stage: Stage, at: Path, { width, context }: ModelSizes, derived: string[], wrong: Wrong): Stage {
  const divides = (parts: number, whole: number, key: string, what: string) => {
    if (whole % parts !== 0) wrong([...at, key], `"${key}" is ${parts}, which does not divide ${what}`);
  };
  /** The stage with its learning rate: the one given, or one that follows from pre-training's by `share`. */
  const rated = <S extends { readonly learning_rate?: number | undefined }>(of: S, share: number) => {
    const learning_rate = of.learning_rate ?? Number((defaultLearningRate(width) * share).toPrecision(2));
    if (of.learning_rate === undefined) derived.push(`${stage.name} learning rate ${learning_rate}`);
    return { ...of, learning_rate };
  };
  switch (stage.kind) {
    case "pretrain": {
      if (stage.minutes !== undefined && stage.steps !== undefined) {
        wrong([...at, "steps"], `"${stage.name}" has minutes and steps: give one of them`);
      }
      const rows = Math.floor(stage.batch_tokens / context);
      if (rows === 0) {
        const short = `less than one sequence of ${context} tokens`;
        wrong([...at, "batch_tokens"], `"batch_tokens" is ${stage.batch_tokens}, ${short}`);
      } else {
        divides(stage.accumulate, rows, "accumulate", `the ${rows} sequences of a step`);
        derived.push(`${stage.name} ${rows} sequences of ${context} tokens a step`);
      }
      const length = stage.minutes === undefined && stage.steps === undefined ? { minutes: 3 } : {};
      return rated({ ...stage, ...length }, 1);
    }
    case "sft":
      divides(stage.accumulate, stage.batch, "accumulate", `a batch of ${stage.batch}`);
      return rated(stage, 1 / 3);
    case "reward":
      divides(stage.accumulate, stage.batch, "accumulate", `a batch of ${stage.batch}`);
      return rated(stage, 1 / 10);
    case "ppo": {
      divides(stage.minibatches, stage.batch, "minibatches", `a batch of ${stage.batch}`);
      const policy = rated(stage, 1 / 30);
      const value_learning_rate = stage.value_learning_rate ?? Number((policy.learning_rate * 3).toPrecision(2));
      return { ...policy, value_learning_rate } satisfies StageOf<"ppo">;
    }
    case "report":
      return stage;
  }
}

/** A path in a recipe is looked for beside the recipe, then in the folder above it, then where the command runs. */
function findPath(path: string, recipeFile: string): string | undefined {
  if (isAbsolute(path)) return existsSync(path) ? path : undefined;
  const beside = dirname(resolve(recipeFile));
  return [beside, dirname(beside), process.cwd()].map((folder) => join(folder, path)).find((full) => existsSync(full));
}
