import { z } from "zod";
import type { RotaryScaling } from "../../nn/rotary.ts";
import { InputError } from "../../tensor/errors.ts";
import { hubTokens, parseConfig, tokensFromHub, tokensToHub, whole } from "../config.ts";
import type { Mapped, Mapping } from "../mapping.ts";
import { type LlamaConfig, llamaConfig } from "./config.ts";

const rope = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: z.number().optional(),
  partial_rotary_factor: z.number().optional(),
  factor: z.number().optional(),
  low_freq_factor: z.number().optional(),
  high_freq_factor: z.number().optional(),
  original_max_position_embeddings: whole().optional(),
});
type Rope = z.output<typeof rope>;

/** The kinds of `config.json` that are this architecture. */
export const llamaModelTypes = ["llama", "mistral", "qwen2"] as const;

/** What a `config.json` may say that matters here; the defaults are those of Hugging Face's Llama. */
const hubConfig = z.looseObject({
  model_type: z.enum(llamaModelTypes),
  vocab_size: whole().default(32000),
  max_position_embeddings: whole().default(2048),
  hidden_size: whole().default(4096),
  intermediate_size: whole().default(11008),
  num_hidden_layers: whole().default(32),
  num_attention_heads: whole().default(32),
  num_key_value_heads: whole().nullish(),
  head_dim: whole().nullish(),
  hidden_act: z.string().default("silu"),
  rms_norm_eps: z.number().default(1e-6),
  rope_theta: z.number().nullish(),
  /** Before and since transformers 5. */
  rope_scaling: rope.nullish(),
  rope_parameters: rope.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  attention_dropout: z.number().nullish(),
  sliding_window: whole().nullish(),
  use_sliding_window: z.boolean().optional(),
  ...hubTokens,
});

function scalingFromHub(r: Rope, context: number, where: string): RotaryScaling | undefined {
  const kind = r.rope_type ?? r.type ?? "default";
  const need = (key: "factor" | "low_freq_factor" | "high_freq_factor"): number => {
    const value = r[key];
    if (value === undefined) throw new InputError(`${where}: rotary positions of kind ${kind} need ${key}.`);
    return value;
  };
  switch (kind) {
    case "default":
      return undefined;
    case "linear":
      return { kind: "linear", factor: need("factor") };
    case "llama3":
      return {
        kind: "llama3",
        factor: need("factor"),
        lowFrequencyFactor: need("low_freq_factor"),
        highFrequencyFactor: need("high_freq_factor"),
        originalContext: r.original_max_position_embeddings ?? context,
      };
    default:
      throw new InputError(
        `${where}: rotary positions of kind "${kind}" are not supported; default, linear, llama3 are.`,
      );
  }
}

/** A Llama, Mistral or Qwen2 `config.json` as ours. @throws InputError for variants that are not supported, naming the key */
export function llamaFromHub(json: unknown, where: string): LlamaConfig {
  const c = parseConfig(hubConfig, json, where);
  if (c.hidden_act !== "silu" && c.hidden_act !== "swish")
    throw new InputError(`${where}: hidden_act is ${c.hidden_act}; only silu is supported.`);
  const windowed = c.model_type === "qwen2" ? c.use_sliding_window === true : c.model_type === "mistral";
  if (windowed && c.sliding_window && c.sliding_window < c.max_position_embeddings)
    throw new InputError(
      `${where}: sliding_window is ${c.sliding_window} of ${c.max_position_embeddings} positions; sliding windows are not supported.`,
    );
  const rotary = c.rope_scaling ?? c.rope_parameters ?? {};
  if (rotary.partial_rotary_factor !== undefined && rotary.partial_rotary_factor !== 1)
    throw new InputError(`${where}: partial_rotary_factor is ${rotary.partial_rotary_factor}; only 1 is supported.`);
  const scaling = scalingFromHub(rotary, c.max_position_embeddings, where);
  const qwen = c.model_type === "qwen2";
  return parseConfig(
    llamaConfig,
    {
      family: "llama",
      vocabulary: c.vocab_size,
      context: c.max_position_embeddings,
      layers: c.num_hidden_layers,
      width: c.hidden_size,
      heads: c.num_attention_heads,
      kvHeads: c.num_key_value_heads ?? c.num_attention_heads,
      headWidth: (qwen ? undefined : c.head_dim) ?? c.hidden_size / c.num_attention_heads,
      mlpWidth: c.intermediate_size,
      rotary: { theta: rotary.rope_theta ?? c.rope_theta ?? 10000, ...(scaling ? { scaling } : {}) },
      epsilon: c.rms_norm_eps,
      attentionBias: qwen ? "qkv" : c.attention_bias ? "all" : "none",
      mlpBias: c.mlp_bias,
      attentionDropout: c.attention_dropout ?? 0,
      tieEmbeddings: c.tie_word_embeddings,
      tokens: tokensFromHub(c),
    } satisfies z.input<typeof llamaConfig>,
    where,
  );
}

function scalingToHub(scaling: RotaryScaling | undefined): Record<string, unknown> | null {
  if (!scaling) return null;
  if (scaling.kind === "linear") return { rope_type: "linear", factor: scaling.factor };
  return {
    rope_type: "llama3",
    factor: scaling.factor,
    low_freq_factor: scaling.lowFrequencyFactor,
    high_freq_factor: scaling.highFrequencyFactor,
    original_max_position_embeddings: scaling.originalContext,
  };
}

/** @throws InputError where Hugging Face has no such model */
export function llamaToHub(c: LlamaConfig): Record<string, unknown> {
  const qwen = c.attentionBias === "qkv";
  if (qwen && (c.mlpBias || c.headWidth * c.heads !== c.width))
    throw new InputError(
      'config.json: with attentionBias "qkv" a model is saved as Qwen2, which has no MLP biases and heads of width / heads.',
    );
  const scaling = scalingToHub(c.rotary.scaling);
  return {
    model_type: qwen ? "qwen2" : "llama",
    architectures: [qwen ? "Qwen2ForCausalLM" : "LlamaForCausalLM"],
    vocab_size: c.vocabulary,
    max_position_embeddings: c.context,
    hidden_size: c.width,
    intermediate_size: c.mlpWidth,
    num_hidden_layers: c.layers,
    num_attention_heads: c.heads,
    num_key_value_heads: c.kvHeads,
    ...(qwen ? { use_sliding_window: false } : { head_dim: c.headWidth, mlp_bias: c.mlpBias }),
    ...(qwen ? {} : { attention_bias: c.attentionBias === "all" }),
    hidden_act: "silu",
    rms_norm_eps: c.epsilon,
    // Readers before transformers 5 know the first two, later ones the third.
    rope_theta: c.rotary.theta,
    rope_scaling: scaling,
    rope_parameters: { rope_type: "default", ...scaling, rope_theta: c.rotary.theta },
    attention_dropout: c.attentionDropout,
    initializer_range: 0.02,
    tie_word_embeddings: c.tieEmbeddings,
    ...tokensToHub(c.tokens),
  };
}

export function llamaMapping(c: LlamaConfig): Mapping {
  const map = new Map<string, Mapped>();
  const same = (path: string, name: string) => map.set(path, { parts: [{ name }] });
  const linear = (path: string, name: string, bias: boolean) => {
    same(`${path}.weight`, `${name}.weight`);
    if (bias) same(`${path}.bias`, `${name}.bias`);
  };
  const joint = (path: string, name: string, kind: "weight" | "bias") => {
    const part = (which: string, heads: number) => ({
      name: `${name}.${which}_proj.${kind}`,
      rows: heads * c.headWidth,
    });
    map.set(`${path}.${kind}`, { parts: [part("q", c.heads), part("k", c.kvHeads), part("v", c.kvHeads)] });
  };
  same("tokens.weight", "model.embed_tokens.weight");
  for (let i = 0; i < c.layers; i++) {
    const [ours, theirs] = [`h.${i}`, `model.layers.${i}`];
    same(`${ours}.norm1.scale`, `${theirs}.input_layernorm.weight`);
    joint(`${ours}.attention.qkv`, `${theirs}.self_attn`, "weight");
    if (c.attentionBias !== "none") joint(`${ours}.attention.qkv`, `${theirs}.self_attn`, "bias");
    linear(`${ours}.attention.out`, `${theirs}.self_attn.o_proj`, c.attentionBias === "all");
    same(`${ours}.norm2.scale`, `${theirs}.post_attention_layernorm.weight`);
    linear(`${ours}.mlp.gate`, `${theirs}.mlp.gate_proj`, c.mlpBias);
    linear(`${ours}.mlp.up`, `${theirs}.mlp.up_proj`, c.mlpBias);
    linear(`${ours}.mlp.down`, `${theirs}.mlp.down_proj`, c.mlpBias);
  }
  same("norm.scale", "model.norm.weight");
  if (!c.tieEmbeddings) same("head.weight", "lm_head.weight");
  return map;
}

/** Frequencies that old versions stored, and the head where it is the embedding. */
export function llamaIgnores(c: LlamaConfig, name: string): boolean {
  return name.endsWith("rotary_emb.inv_freq") || (c.tieEmbeddings && name === "lm_head.weight");
}
