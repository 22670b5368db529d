import { existsSync } from "node:fs";
import { join } from "node:path";
import { byteLength, RandomWindows, type StepWindows } from "../data/index.ts";
import { holdOut, readText, type SourceText } from "../data/text.ts";
import { encodeAll, type TokenSource, tokensOf } from "../data/token-file.ts";
import { activeBackend } from "../engine/runtime.ts";
import { loadConfig } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import type { Recipe } from "../recipe/index.ts";
import { writeFolderAtomic } from "../runs/atomic.ts";
import type { NewEvent } from "../runs/events.ts";
import type { Run } from "../runs/run.ts";
import { InputError } from "../tensor/errors.ts";
import { jit } from "../tensor/jit.ts";
import { randomKey, splitKey } from "../tensor/ops/random.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import type { Tokenizer } from "../tokenizers/index.ts";
import { CHAT_SPECIAL_TOKENS, CHAT_TOKENIZER_CONFIG, loadTokenizer, trainTokenizer } from "../tokenizers/index.ts";
import { openCorpus } from "./corpus.ts";

/** A model that a stage ended with (or has so far), for whoever wants to talk to it. */
export interface ModelNews {
  readonly stage: string;
  readonly folder: string;
}

/** What every stage works with: the run, its recipe, the text, the tokenizer. */
export interface Workshop {
  readonly run: Run;
  readonly recipe: Recipe;
  readonly documents: { readonly train: readonly SourceText[]; readonly heldOut: readonly SourceText[] };
  readonly tokenizer: Tokenizer;
  readonly tokens: {
    readonly train: TokenSource;
    readonly heldOut: TokenSource;
    readonly heldOutBytes: number;
    /** Batches to learn from: of a text at random places, of a corpus every window once an epoch. */
    windows(rows: number, length: number): StepWindows;
  };
  readonly emit: (event: NewEvent) => void;
  readonly signal: AbortSignal | undefined;
  readonly onModel: (news: ModelNews) => void;
  /** Closes what is open on disk. */
  [Symbol.dispose](): void;
}

/** What a text or a corpus gives to learn from. */
export type Material = Pick<Workshop, "documents" | "tokenizer" | "tokens"> & { close(): void };

/** Reads the text and encodes it. @throws InputError when either part of the text is shorter than a window */
export async function openWorkshop(
  run: Run,
  recipe: Recipe,
  options: { signal?: AbortSignal | undefined; onModel?: ((news: ModelNews) => void) | undefined } = {},
): Promise<Workshop> {
  const { corpus, text } = recipe.data;
  const { close, ...material } =
    corpus === undefined ? await openText(run, recipe, text!) : await openCorpus(run, recipe, corpus);
  await checkVocabularies(run, recipe, material.tokenizer);
  const need = recipe.model.context + 1;
  for (const [what, source] of [
    ["training", material.tokens.train],
    ["held-out", material.tokens.heldOut],
  ] as const)
    if (source.length < need)
      throw new InputError(
        `${corpus ?? text}: the ${what} part has ${source.length} tokens, fewer than one window of ${need}. Add text, or set model.context lower.`,
      );
  return {
    run,
    recipe,
    ...material,
    emit: (event) => run.events.emit(event),
    signal: options.signal,
    onModel: options.onModel ?? (() => {}),
    [Symbol.dispose]: close,
  };
}

async function openText(run: Run, recipe: Recipe, text: string): Promise<Material> {
  const { train, heldOut } = holdOut(await readText(text, { minimumBytes: 4096 }), recipe.data.holdout);
  const tokenizer = await tokenizerOf(run, recipe, train);
  const source = tokensOf(await encodeAll(tokenizer, train));
  return {
    documents: { train, heldOut },
    tokenizer,
    tokens: {
      train: source,
      heldOut: tokensOf(await encodeAll(tokenizer, heldOut)),
      heldOutBytes: byteLength(heldOut),
      windows: (rows, length) => new RandomWindows(source, { rows, length, seed: recipe.seed }),
    },
    close: () => {},
  };
}

/** The run's own tokenizer: kept from an earlier sitting, taken from where the recipe says, or trained on the training part. */
async function tokenizerOf(run: Run, recipe: Recipe, train: readonly SourceText[]): Promise<Tokenizer> {
  const folder = join(run.path, "tokenizer");
  if (existsSync(folder)) return await loadTokenizer(folder);
  const { kind, vocabulary, min_frequency, from } = recipe.tokenizer;
  const tokenizer = from
    ? await loadTokenizer(from)
    : await trainTokenizer(
        train.map((d) => d.text),
        {
          kind,
          vocabulary,
          minFrequency: min_frequency,
          specialTokens: [...CHAT_SPECIAL_TOKENS],
          config: CHAT_TOKENIZER_CONFIG,
        },
      );
  // All at once: half a tokenizer would be another one.
  await writeFolderAtomic(folder, (path) => tokenizer.save(path));
  return tokenizer;
}

/** @throws InputError if a model of an earlier sitting was trained with another vocabulary: its token ids would mean something else */
async function checkVocabularies(run: Run, recipe: Recipe, tokenizer: Tokenizer): Promise<void> {
  for (const { name } of recipe.stages) {
    const folder = run.modelFolder(name);
    if (!existsSync(join(folder, "config.json"))) continue;
    const { vocabulary } = await loadConfig(folder);
    if (vocabulary !== tokenizer.vocabularySize)
      throw new InputError(
        `The tokenizer in ${join(run.path, "tokenizer")} has ${tokenizer.vocabularySize} tokens, but the model in ${folder} was trained with ${vocabulary}. Put the run's own tokenizer back (${folder} has a copy), or start a new run.`,
      );
  }
}

/** Name of the model a stage continues from: the last stage before it that ends with a language model. */
export function folderOfStage(workshop: Workshop, kinds: readonly string[], before: number): string {
  for (let i = before - 1; i >= 0; i--) {
    const stage = workshop.recipe.stages[i]!;
    if (kinds.includes(stage.kind)) return workshop.run.modelFolder(stage.name);
  }
  throw new InputError(`This stage needs one of ${kinds.join(", ")} before it in the recipe's stages.`);
}

/** Milliseconds between two progress events. */
const PROGRESS_EVERY = 250;

/** Reports progress of work that is not a training loop, with rate and time left; a call may be made for every item. */
export function progressOf({ emit }: Workshop, stage: string, unit: string): (done: number, total: number) => void {
  const begun = performance.now();
  let last = Number.NEGATIVE_INFINITY;
  return (done, total) => {
    const now = performance.now();
    if (now - last < PROGRESS_EVERY && done < total) return;
    last = now;
    const rate = done / Math.max((now - begun) / 1000, 1e-9);
    emit({ type: "progress", stage, done, total, unit, rate, secondsLeft: (total - done) / rate });
  };
}

/** Random keys of a stage: one for what it begins with, one for its steps. */
export function stageKeys({ recipe }: Pick<Workshop, "recipe">, salt: number): Record<"init" | "key", Tensor<"i32">> {
  const split = jit((root: Tensor<"i32">) => {
    const [init, key] = splitKey(root, 2);
    return { init: init!, key: key! };
  });
  const root = randomKey(recipe.seed * 1000 + salt);
  const keys = split(root);
  split.release();
  dispose(root);
  return keys;
}

/** Bytes the process has used at most, by the operating system's account. */
export function peakMemoryBytes(): number {
  return process.resourceUsage().maxRSS * 1024;
}

export function backendName(): string {
  return activeBackend()?.name ?? "none";
}

/** Saves a model as a Hugging Face folder with its tokenizer and says so. */
export async function publish(
  workshop: Workshop,
  stage: string,
  model: LanguageModel,
  save: (model: LanguageModel, folder: string) => Promise<void>,
): Promise<void> {
  const folder = await workshop.run.saveModel(stage, async (path) => {
    await save(model, path);
    await workshop.tokenizer.save(path);
  });
  workshop.onModel({ stage, folder });
}
