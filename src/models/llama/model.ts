import { SelfAttention } from "../../nn/attention.ts";
import type { LayerCache } from "../../nn/cache.ts";
import type { Context } from "../../nn/context.ts";
import { type Embedding, initEmbedding } from "../../nn/embedding.ts";
import { initLinear, Linear } from "../../nn/linear.ts";
import { SwiGLU } from "../../nn/mlp.ts";
import { initRMSNorm, type RMSNorm } from "../../nn/norm.ts";
import type { PackedEmbedding, PackedLinear, PackedSwiGLU } from "../../nn/quantized.ts";
import { type RotaryAngles, rotaryAngles } from "../../nn/rotary.ts";
import { jit } from "../../tensor/jit.ts";
import type { Pages } from "../../tensor/ops/paged.ts";
import { normal, splitKey } from "../../tensor/ops/random.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scope } from "../../tensor/trace.ts";
import { Module } from "../../tensor/tree.ts";
import { checkIds, layerKeys, needKey, throughBlocks, trainable, unembedBy } from "../layers.ts";
import type { HiddenStates, LanguageModel } from "../model.ts";
import type { LlamaConfig } from "./config.ts";

/** One pre-norm block with RMSNorm, rotary attention and a gated feed-forward part. Touvron et al. 2023, section 2.2. */
export class LlamaBlock extends Module {
  readonly norm1: RMSNorm;
  readonly attention: SelfAttention;
  readonly norm2: RMSNorm;
  readonly mlp: SwiGLU | PackedSwiGLU;

  constructor(norm1: RMSNorm, attention: SelfAttention, norm2: RMSNorm, mlp: SwiGLU | PackedSwiGLU) {
    super();
    this.norm1 = norm1;
    this.attention = attention;
    this.norm2 = norm2;
    this.mlp = mlp;
  }

  /** @param x (batch, time, width) */
  forward(
    x: Tensor,
    context: Context & { readonly rotary: RotaryAngles },
    cache?: LayerCache,
  ): [y: Tensor, pages: Pages | undefined] {
    const [attended, next] = scope("attention", () =>
      this.attention.forward(this.norm1.forward(x), { ...context, cache }),
    );
    const h = x.add(attended);
    return [scope("mlp", () => h.add(this.mlp.forward(this.norm2.forward(h)))), next];
  }
}

/** Llama: a decoder with rotary positions. Touvron et al. 2023; grouped queries as in Llama 2; Qwen2's biases as an option. */
export class Llama extends Module implements LanguageModel {
  readonly config: LlamaConfig;
  /** (vocabulary, width) */
  readonly tokens: Embedding | PackedEmbedding;
  readonly h: readonly LlamaBlock[];
  readonly norm: RMSNorm;
  /** (vocabulary, width), unless it is the token embedding. */
  readonly head: Linear | PackedLinear | undefined;

  constructor(
    config: LlamaConfig,
    parts: {
      tokens: Embedding | PackedEmbedding;
      h: readonly LlamaBlock[];
      norm: RMSNorm;
      head?: Linear | PackedLinear | undefined;
    },
  ) {
    super();
    this.config = config;
    this.tokens = parts.tokens;
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
    return scope("Llama", () => {
      const { config } = this;
      const time = checkIds(ids, context, config);
      needKey(context, [config.attentionDropout]);
      const keys = layerKeys(context, this.h.length);
      const x = scope("embedding", () => this.tokens.forward(ids));
      const rotary = scope("rotary", () =>
        rotaryAngles(config.headWidth, config.rotary, context.positions ?? time, x.dtype),
      );
      return throughBlocks(this, x, { ...context, rotary }, keys?.layers);
    });
  }
}

/**
 * Fresh weights: normal with deviation 0.02; the maps into the residual stream 0.02 / sqrt(2 layers), as in GPT-2; biases 0.
 * @param key i32 (2), from `randomKey(seed)`
 */
export function initLlama(config: LlamaConfig, key: Tensor<"i32">): Llama {
  const once = jit((k: Tensor<"i32">) => buildLlama(config, k), { name: "initLlama" });
  const model = once(key);
  once.release();
  return model;
}

/** The weights themselves, traced or not. */
export function buildLlama(config: LlamaConfig, key: Tensor<"i32">): Llama {
  const { vocabulary, layers, width, heads, kvHeads, headWidth, mlpWidth, epsilon } = config;
  const deviation = 0.02;
  const residual = deviation / Math.sqrt(2 * layers);
  const [kTokens, kHead, ...kBlocks] = splitKey(key, 2 + layers) as [Tensor<"i32">, Tensor<"i32">, ...Tensor<"i32">[]];
  const block = (k: Tensor<"i32">): LlamaBlock => {
    const [a, b, c, d, e] = splitKey(k, 5) as [Tensor, Tensor, Tensor, Tensor, Tensor];
    const qkv = initLinear(a, {
      in: width,
      out: (heads + 2 * kvHeads) * headWidth,
      bias: config.attentionBias !== "none",
      deviation,
    });
    const out = initLinear(b, {
      in: heads * headWidth,
      out: width,
      bias: config.attentionBias === "all",
      deviation: residual,
    });
    const bias = config.mlpBias;
    const mlp = new SwiGLU(
      initLinear(c, { in: width, out: mlpWidth, bias, deviation }),
      initLinear(d, { in: width, out: mlpWidth, bias, deviation }),
      initLinear(e, { in: mlpWidth, out: width, bias, deviation: residual }),
    );
    const attention = new SelfAttention(qkv, out, { heads, groups: kvHeads, dropout: config.attentionDropout });
    return new LlamaBlock(initRMSNorm(width, epsilon), attention, initRMSNorm(width, epsilon), mlp);
  };
  return new Llama(config, {
    tokens: initEmbedding(kTokens, vocabulary, width, deviation),
    h: kBlocks.map(block),
    norm: initRMSNorm(width, epsilon),
    ...(config.tieEmbeddings ? {} : { head: new Linear(normal(kHead, [vocabulary, width]).mul(deviation)) }),
  });
}
