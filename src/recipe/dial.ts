import type { RecipeInput } from "./schema.ts";

/** The sizes of a language model, all decided. */
export interface ModelSizes {
  readonly family: "gpt" | "llama";
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly kv_heads: number;
  readonly context: number;
  readonly mlp_width: number;
  readonly tie_embeddings: boolean;
}

/**
 * Parameters of a model with these sizes, tied embeddings counted once.
 * `gpt`: biases everywhere, learned positions, as GPT-2. `llama`: no biases, RMSNorm, a gated MLP.
 */
export function parameterCount(model: ModelSizes, vocabulary: number): number {
  const { family, layers, width, heads, kv_heads, context, mlp_width, tie_embeddings } = model;
  const head = tie_embeddings ? 0 : vocabulary * width;
  if (family === "gpt") {
    const attention = 4 * width * width + 4 * width;
    const mlp = 2 * width * mlp_width + mlp_width + width;
    return vocabulary * width + context * width + layers * (attention + mlp + 4 * width) + 2 * width + head;
  }
  const kv = (width / heads) * kv_heads;
  const attention = 2 * width * width + 2 * width * kv;
  return vocabulary * width + layers * (attention + 3 * width * mlp_width + 2 * width) + width + head;
}

/** Widths that kernels and head sizes like: multiples of 64, finer for small models. */
const grain = (width: number) => (width >= 256 ? 64 : width >= 64 ? 32 : 16);

/** Heads of 64 in models of width 256 and more, of 32 below (of 16 in the smallest); fewer if the width does not divide. */
function headsFor(width: number): number {
  const size = width >= 256 ? 64 : width >= 64 ? 32 : 16;
  return width % size === 0 ? width / size : 1;
}

/** Width per layer of good shapes: 64, as in the GPT-2 and nanoGPT families. */
const aspect = 64;

/** LLaMA's gated MLP is 8/3 of the width, so that it has as many parameters as an ungated one of 4; rounded up to 64. */
const gatedWidth = (width: number) => Math.ceil((8 * width) / 3 / 64) * 64;

/**
 * Decides every size that the recipe leaves open: from `params`, from `layers` alone, or from nothing (5M parameters).
 * @param vocabulary counts towards `params`
 */
export function chooseSizes(model: RecipeInput["model"], vocabulary: number): ModelSizes {
  const { family, tie_embeddings } = model;
  const complete = (layers: number, width: number): ModelSizes => {
    const heads = model.heads ?? headsFor(width);
    return {
      family,
      layers,
      width,
      heads,
      kv_heads: family === "gpt" ? heads : (model.kv_heads ?? heads),
      context: model.context ?? (width < 512 ? 256 : 1024),
      mlp_width: model.mlp_width ?? (family === "gpt" ? 4 * width : gatedWidth(width)),
      tie_embeddings,
    };
  };
  if (model.layers !== undefined && model.width !== undefined) return complete(model.layers, model.width);
  if (model.params === undefined && model.layers !== undefined) return complete(model.layers, model.layers * aspect);

  const target = model.params ?? 5e6;
  let best: ModelSizes | undefined;
  let least = Number.POSITIVE_INFINITY;
  const depths = model.layers === undefined ? Array.from({ length: 96 }, (_, i) => i + 1) : [model.layers];
  for (const layers of depths) {
    const widths = model.width === undefined ? candidateWidths(layers, target) : [model.width];
    for (const width of widths) {
      const sizes = complete(layers, width);
      if (sizes.width % sizes.heads !== 0) continue;
      // Half as many parameters is as wrong as twice as many; a shape twice as slim as the usual weighs a fifth of that.
      const size = Math.abs(Math.log2(parameterCount(sizes, vocabulary) / target));
      const shape = Math.abs(Math.log2(width / layers / aspect));
      if (size + 0.2 * shape < least) {
        least = size + 0.2 * shape;
        best = sizes;
      }
    }
  }
  return best!;
}

/** Widths around the one that the blocks alone would have, on the grid. */
function candidateWidths(layers: number, target: number): number[] {
  const rough = Math.sqrt(target / (12 * layers));
  const found: number[] = [];
  for (let width = 16; width <= 2 * rough + 64; width += grain(width)) if (width >= rough / 8) found.push(width);
  return found;
}

/**
 * A peak learning rate for AdamW by width, through what is published for small GPTs: 1e-3 at width 384 and 6e-4 at
 * 768 (nanoGPT, GPT-2); between and around them a power law.
 */
export function defaultLearningRate(width: number): number {
  const exponent = Math.log(6e-4 / 1e-3) / Math.log(768 / 384);
  const rate = Math.min(3e-3, 1e-3 * (width / 384) ** exponent);
  return Number(rate.toPrecision(2));
}

/** 823, 4.9k, 10.7M, 1.3B. */
export function countText(count: number): string {
  for (const [unit, letter] of [
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const) {
    if (count >= unit) return `${(count / unit).toFixed(1)}${letter}`;
  }
  return String(count);
}
