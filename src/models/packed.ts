import { SelfAttention } from "../nn/attention.ts";
import type { Embedding } from "../nn/embedding.ts";
import type { Linear } from "../nn/linear.ts";
import { MLP, SwiGLU } from "../nn/mlp.ts";
import {
  type PackedEmbedding,
  type PackedLinear,
  packEmbedding,
  packLinear,
  packSwiGLU,
  releasePackers,
} from "../nn/quantized.ts";
import type { WeightFormat } from "../tensor/ops/quantized.ts";
import { GPT, GPTBlock } from "./gpt/model.ts";
import { Llama, LlamaBlock } from "./llama/model.ts";
import type { LanguageModel } from "./model.ts";

/** How weights are kept while a model is read: as loaded, or packed. */
export const weightChoices = ["f32", "bf16", "int8", "int4"] as const;
export type WeightChoice = (typeof weightChoices)[number];

export interface PackOptions {
  readonly format: WeightFormat;
  /** Of the token table and the head; default `format`, int8 beside int4: their errors cost most and reach every token. */
  readonly head?: WeightFormat;
}

/**
 * The model with its matrices packed: a half, a quarter or an eighth of the memory that is read for each token. Norms, biases and positions
 * stay f32. The model given is used up: what was packed is disposed.
 */
export function packModel(model: LanguageModel, options: PackOptions): LanguageModel {
  const { format, head = format === "int4" ? "int8" : format } = options;
  // One matrix at a time is disposed, so that both forms of the whole model are never in memory.
  const linear = (l: Linear | PackedLinear, f = format): PackedLinear => {
    if (!("weight" in l)) return l;
    const packed = packLinear(l, f);
    l.weight.dispose();
    return packed;
  };
  const table = (e: Embedding | PackedEmbedding): PackedEmbedding => {
    if (!("weight" in e)) return e;
    const packed = packEmbedding(e, head);
    e.weight.dispose();
    return packed;
  };
  const attention = (a: SelfAttention) =>
    new SelfAttention(linear(a.qkv), linear(a.out), { heads: a.heads, groups: a.groups, dropout: a.dropout });
  const gated = (m: SwiGLU) => {
    const packed = packSwiGLU(m, format);
    if (!packed) return new SwiGLU(linear(m.gate), linear(m.up), linear(m.down));
    for (const l of [m.gate, m.up, m.down]) if ("weight" in l) l.weight.dispose();
    return packed;
  };
  try {
    if (model instanceof Llama) {
      const h = model.h.map(
        (b) => new LlamaBlock(b.norm1, attention(b.attention), b.norm2, b.mlp instanceof SwiGLU ? gated(b.mlp) : b.mlp),
      );
      const lm = model.head && linear(model.head, head);
      return new Llama(model.config, { tokens: table(model.tokens), h, norm: model.norm, head: lm });
    }
    const gpt = model as GPT;
    const h = gpt.h.map((b) => {
      const mlp = new MLP(linear(b.mlp.up), linear(b.mlp.down), b.mlp.activation);
      return new GPTBlock(b.norm1, attention(b.attention), b.norm2, mlp, b.dropout);
    });
    const lm = gpt.head && linear(gpt.head, head);
    return new GPT(gpt.config, { tokens: table(gpt.tokens), positions: gpt.positions, h, norm: gpt.norm, head: lm });
  } finally {
    releasePackers();
  }
}
