import { basename, resolve } from "node:path";
import { z } from "zod";
import { type BackendChoice, chooseBackend } from "../engine/default.ts";
import { useBackend } from "../engine/index.ts";
import { createModelHost, type GeneratingHost, type ReplyRequest } from "../generate/index.ts";
import { loadModel } from "../models/folder.ts";
import type { LanguageModel } from "../models/model.ts";
import { type WeightChoice, weightChoices } from "../models/packed.ts";
import { InputError } from "../tensor/errors.ts";
import { dispose } from "../tensor/tree.ts";
import { loadTokenizer } from "../tokenizers/load.ts";

/** What the commands that write text have in common. */

export const backendOption = z
  .enum(["auto", "native", "reference"])
  .default("auto")
  .describe("what computes; auto is native where its kernels are built");

export const weightsOption = z
  .enum(weightChoices)
  .optional()
  .describe(
    "how the weights are kept: bf16, int8 and int4 take a half, a quarter and an eighth of the memory and read faster; int8 and int4 are a little less exact. Default bf16, and f32 on the reference backend",
  );

/** The weights that a command keeps: bf16, in which most models are published, unless told otherwise or by the backend that rounds nothing. */
export const weightsFor = (chosen: WeightChoice | undefined, backend: string): WeightChoice =>
  chosen ?? (backend === "native" ? "bf16" : "f32");

/** Options of how replies are sampled. */
export const samplingOptions = {
  maxTokens: z.number().int().min(1).default(256).describe("most tokens of a reply").meta({ short: "n" }),
  temperature: z.number().min(0).default(0.8).describe("0 always takes the most likely token").meta({ short: "t" }),
  topK: z.number().int().min(0).default(0).describe("sample from the K most likely tokens only; 0 is off"),
  topP: z.number().gt(0).max(1).default(1).describe("sample from the likeliest tokens that hold this much probability"),
  minP: z.number().min(0).max(1).default(0).describe("leave out tokens less likely than this part of the likeliest"),
  repetitionPenalty: z.number().gt(0).default(1).describe("above 1: tokens seen already become less likely"),
  seed: z.number().int().optional().describe("the same seed gives the same text; at random if not given"),
  stop: z.array(z.string().min(1)).default([]).describe("end before this text").meta({ value: "TEXT" }),
};

type Sampling = z.output<z.ZodObject<typeof samplingOptions>>;

/** The part of a request that the options decide; filters that are off are left out. */
export function samplingOf(o: Sampling): Omit<ReplyRequest, "prompt" | "seed"> {
  return {
    maxTokens: o.maxTokens,
    temperature: o.temperature,
    ...(o.topK > 0 ? { topK: o.topK } : {}),
    ...(o.topP < 1 ? { topP: o.topP } : {}),
    ...(o.minP > 0 ? { minP: o.minP } : {}),
    ...(o.repetitionPenalty !== 1 ? { repetitionPenalty: o.repetitionPenalty } : {}),
    ...(o.stop.length > 0 ? { stop: o.stop } : {}),
  };
}

/** A seed that can be said and given again. */
export const freshSeed = (): number => Math.floor(Math.random() * 2 ** 32);

/** Makes the wanted backend the one that new tensors use. @returns its name */
export function installBackend(wanted: BackendChoice, warn: (line: string) => void): string {
  const backend = chooseBackend(wanted, warn);
  useBackend(backend);
  return backend.name;
}

/** Options of how many texts at once are read and written. */
export const cacheOptions = {
  cache: z
    .enum(["f32", "bf16", "int8"])
    .optional()
    .describe(
      "what keys and values are rounded to; bf16 takes half the memory, int8 a quarter. Default bf16, and f32 beside weights in f32",
    ),
  cacheTokens: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("tokens that all texts together may hold; replies wait where there is no room. Default: all slots full"),
  prefixes: z.boolean().default(true).describe("texts that begin alike, with one system prompt say, are read once"),
  ngram: z
    .boolean()
    .default(false)
    .describe("guess tokens from what followed the same words earlier in the text, and check several in one step"),
  draft: z
    .string()
    .optional()
    .describe("the folder of a smaller model with the same tokenizer, which guesses tokens to be checked in one step")
    .meta({ value: "DIR" }),
  ahead: z.number().int().min(1).max(16).default(4).describe("most tokens that are guessed ahead"),
  reproducible: z
    .boolean()
    .default(false)
    .describe("the same seed gives the same bits whoever else is served; slower with many at once"),
};

export type CacheOptions = Partial<z.output<z.ZodObject<typeof cacheOptions>>>;

/** Loads a Hugging Face folder, model and tokenizer. Closing the host gives the weights back. */
export async function openHost(
  folder: string,
  options: CacheOptions & {
    readonly id?: string;
    readonly slots?: number;
    readonly description?: string;
    readonly weights?: WeightChoice;
  } = {},
): Promise<GeneratingHost> {
  const { slots, description, cache, cacheTokens, prefixes, ngram, ahead, reproducible, weights = "f32" } = options;
  if (options.draft !== undefined && ngram)
    throw new InputError("--draft and --ngram are two ways to guess tokens ahead. Leave out one of them.");
  const tokens = loadTokenizer(folder);
  // Where both fail, the model's error is the one to read.
  tokens.catch(() => {});
  const { model } = await loadModel(folder, { weights });
  let draft: LanguageModel | undefined;
  try {
    const tokenizer = await tokens;
    if (options.draft !== undefined) draft = (await loadModel(options.draft, { weights })).model;
    return createModelHost({
      id: options.id ?? basename(resolve(folder)),
      model,
      tokenizer,
      ...(slots === undefined ? {} : { slots }),
      ...(description === undefined ? {} : { description }),
      cache: cache === "int8" ? "i8" : (cache ?? (weights === "f32" ? "f32" : "bf16")),
      cacheTokens,
      prefixes,
      lookUp: ngram,
      draft,
      ahead,
      reproducible,
      release: () => dispose([model, draft]),
    });
  } catch (error) {
    dispose([model, draft]);
    throw error;
  }
}

/** What a terminal must not be given raw, line ends and tabs left: sampled text may hold any character. */
export function safeText(text: string, stream: { readonly isTTY?: boolean | undefined }): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  return stream.isTTY === true ? text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "") : text;
}
