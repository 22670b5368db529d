import { SelfAttention } from "../../nn/attention.ts";
import type { LayerCache } from "../../nn/cache.ts";
import type { Context } from "../../nn/context.ts";
import { type Embedding, initEmbedding } from "../../nn/embedding.ts";
import { initLinear, Linear } from "../../nn/linear.ts";
import { MLP } from "../../nn/mlp.ts";
import { initLayerNorm, type LayerNorm } from "../../nn/norm.ts";
import type { PackedEmbedding, PackedLinear } from "../../nn/quantized.ts";
import { jit } from "../../tensor/jit.ts";
import { iota } from "../../tensor/ops/creation.ts";
import type { Pages } from "../../tensor/ops/paged.ts";
import { dropout, normal, splitKey } from "../../tensor/ops/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scope } from "../../tensor/trace.ts";
import { Module } from "../../tensor/tree.ts";
import { checkIds, layerKeys, needKey, throughBlocks, trainable, unembedBy } from "../layers.ts";
import type { HiddenStates, LanguageModel } from "../model.ts";
import type { GPTConfig } from "./config.ts";

/** One pre-norm Transformer block. Radford et al. 2019, section 2.3. */
export class GPTBlock extends Module {
  readonly norm1: LayerNorm;
  readonly attention: SelfAttention;
  readonly norm2: LayerNorm;
  readonly mlp: MLP;
  /** Of what the block adds, in training. */
  readonly dropout: number;

  constructor(norm1: LayerNorm, attention: SelfAttention, norm2: LayerNorm, mlp: MLP, rate: number) {
    super();
    this.norm1 = norm1;
    this.attention = attention;
    this.norm2 = norm2;
    this.mlp = mlp;
    this.dropout = rate;
  }

  /** @param x (batch, time, width) */
  forward(x: Tensor, context: Context, cache?: LayerCache): [y: Tensor, pages: Pages | undefined] {
    const [k1, k2, k3] = context.training && context.key ? splitKey(context.key, 3) : [];
    const drop = (y: Tensor, key: Tensor | undefined) => (key ? dropout(y, key, this.dropout) : y);
    const [attended, next] = scope("attention", () =>
      this.attention.forward(this.norm1.forward(x), { ...context, cache, key: k1 }),
    );
    const h = x.add(drop(attended, k2));
    const y = scope("mlp", () => h.add(drop(this.mlp.forward(this.norm2.forward(h)), k3)));
    return [y, next];
  }
}

/** GPT-2: a decoder with learned positions. Radford et al. 2019. */
export class GPT extends Module implements LanguageModel {
  readonly config: GPTConfig;
  /** (vocabulary, width) */
  readonly tokens: Embedding | PackedEmbedding;
  /** (context, width) */
  readonly positions: Embedding;
  readonly h: readonly GPTBlock[];
  readonly norm: LayerNorm;
  /** (vocabulary, width), unless it is the token embedding. */
  readonly head: Linear | PackedLinear | undefined;

  constructor(
    config: GPTConfig,
    parts: {
      tokens: Embedding | PackedEmbedding;
      positions: Embedding;
      h: readonly GPTBlock[];
      norm: LayerNorm;
      head?: Linear | PackedLinear | undefined;
    },
  ) {
    super();
    this.config = config;
    this.tokens = parts.tokens;
    this.positions = parts.positions;
    this.h = parts.h;
    this.norm = parts.norm;
    this.head = parts.head;
  }

  get unembedding(): Tensor {
    return trainable(this.head ?? this.tokens);
  }

  get isPacked(): boolean {
    return !("weight" in (this.head ?? this.tokens));
  }

  unembed(hidden: Tensor): Tensor {
    return unembedBy(this.head ?? this.tokens, hidden);
  }

  hidden(ids: Tensor<"i32">, context: Context = {}): HiddenStates {
    return scope("GPT", () => {
      const time = checkIds(ids, context, this.config);
      const places = context.positions ?? iota([1, time], 1);
      needKey(context, Object.values(this.config.dropout));
      const keys = layerKeys(context, this.h.length);
      let x = scope("embedding", () => this.tokens.forward(ids).add(this.positions.forward(places)));
      if (keys) x = dropout(x, keys.embedding, this.config.dropout.embedding);
      return throughBlocks(this, x, context, keys?.layers);
    });
  }
}

/**
 * Fresh weights: normal with deviation 0.02, the maps into the residual stream 0.02 / sqrt(2 layers) (Radford et al. 2019, section 2.3), biases 0.
 * @param key i32 (2), from `randomKey(seed)`
 */
export function initGPT(config: GPTConfig, key: Tensor<"i32">): GPT {
  const once = jit((k: Tensor<"i32">) => buildGPT(config, k), { name: "initGPT" });
  const model = once(key);
  once.release();
  return model;
}

/** The weights themselves, traced or not. */
export function buildGPT(config: GPTConfig, key: Tensor<"i32">): GPT {
  const { vocabulary, context, layers, width, heads, mlpWidth, epsilon } = config;
  const deviation = 0.02;
  const residual = deviation / Math.sqrt(2 * layers);
  const [kTokens, kPositions, kHead, ...kBlocks] = splitKey(key, 3 + layers) as [
    Tensor<"i32">,
    Tensor<"i32">,
    Tensor<"i32">,
    ...Tensor<"i32">[],
  ];
  const block = (k: Tensor<"i32">): GPTBlock => {
    const [a, b, c, d] = splitKey(k, 4) as [Tensor, Tensor, Tensor, Tensor];
    const map = (key: Tensor, from: number, to: number, std: number) =>
      initLinear(key, { in: from, out: to, bias: true, deviation: std });
    const attention = new SelfAttention(map(a, width, 3 * width, deviation), map(b, width, width, residual), {
      heads,
      groups: heads,
      dropout: config.dropout.attention,
    });
    const mlp = new MLP(map(c, width, mlpWidth, deviation), map(d, mlpWidth, width, residual), config.activation);
    const norm = () => initLayerNorm(width, epsilon);
    return new GPTBlock(norm(), attention, norm(), mlp, config.dropout.residual);
  };
  return new GPT(config, {
    tokens: initEmbedding(kTokens, vocabulary, width, deviation),
    positions: initEmbedding(kPositions, context, width, deviation),
    h: kBlocks.map(block),
    norm: initLayerNorm(width, epsilon),
    ...(config.tieEmbeddings ? {} : { head: new Linear(normal(kHead, [vocabulary, width]).mul(deviation)) }),
  });
}
