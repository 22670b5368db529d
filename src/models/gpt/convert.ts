import { z } from "zod";
import type { Activation } from "../../nn/mlp.ts";
import { InputError } from "../../tensor/errors.ts";
import { hubTokens, parseConfig, tokensFromHub, tokensToHub, whole } from "../config.ts";
import type { Mapped, Mapping } from "../mapping.ts";
import { type GPTConfig, gptConfig } from "./config.ts";

/** What a GPT-2 `config.json` may say that matters here; the defaults are Hugging Face's. */
const hubConfig = z.looseObject({
  vocab_size: whole().default(50257),
  n_positions: whole().default(1024),
  n_embd: whole().default(768),
  n_layer: whole().default(12),
  n_head: whole().default(12),
  n_inner: whole().nullish(),
  activation_function: z.string().default("gelu_new"),
  resid_pdrop: z.number().default(0.1),
  embd_pdrop: z.number().default(0.1),
  attn_pdrop: z.number().default(0.1),
  layer_norm_epsilon: z.number().default(1e-5),
  tie_word_embeddings: z.boolean().default(true),
  scale_attn_weights: z.boolean().default(true),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
  add_cross_attention: z.boolean().default(false),
  ...hubTokens,
});

const activationNames: Readonly<Record<string, Activation>> = {
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_fast: "gelu_tanh",
  gelu: "gelu",
  relu: "relu",
  silu: "silu",
  swish: "silu",
};

/** A GPT-2 `config.json` as ours. @throws InputError for variants that are not supported, naming the key */
export function gptFromHub(json: unknown, where: string): GPTConfig {
  const c = parseConfig(hubConfig, json, where);
  const refuse = (key: keyof typeof c, why: string) => new InputError(`${where}: ${key} is ${String(c[key])}: ${why}.`);
  if (!c.scale_attn_weights) throw refuse("scale_attn_weights", "only scaled attention is supported");
  if (c.scale_attn_by_inverse_layer_idx)
    throw refuse("scale_attn_by_inverse_layer_idx", "attention scaled by layer is not supported");
  if (c.add_cross_attention) throw refuse("add_cross_attention", "cross-attention is not supported");
  const activation = activationNames[c.activation_function];
  if (!activation) throw refuse("activation_function", `supported are ${Object.keys(activationNames).join(", ")}`);
  return parseConfig(
    gptConfig,
    {
      family: "gpt",
      vocabulary: c.vocab_size,
      context: c.n_positions,
      layers: c.n_layer,
      width: c.n_embd,
      heads: c.n_head,
      mlpWidth: c.n_inner ?? 4 * c.n_embd,
      activation,
      dropout: { embedding: c.embd_pdrop, attention: c.attn_pdrop, residual: c.resid_pdrop },
      epsilon: c.layer_norm_epsilon,
      tieEmbeddings: c.tie_word_embeddings,
      tokens: tokensFromHub(c),
    } satisfies z.input<typeof gptConfig>,
    where,
  );
}

export function gptToHub(c: GPTConfig): Record<string, unknown> {
  const name = Object.keys(activationNames).find((key) => activationNames[key] === c.activation);
  return {
    model_type: "gpt2",
    architectures: ["GPT2LMHeadModel"],
    vocab_size: c.vocabulary,
    n_positions: c.context,
    n_ctx: c.context,
    n_embd: c.width,
    n_layer: c.layers,
    n_head: c.heads,
    n_inner: c.mlpWidth === 4 * c.width ? null : c.mlpWidth,
    activation_function: name,
    resid_pdrop: c.dropout.residual,
    embd_pdrop: c.dropout.embedding,
    attn_pdrop: c.dropout.attention,
    layer_norm_epsilon: c.epsilon,
    initializer_range: 0.02,
    tie_word_embeddings: c.tieEmbeddings,
    ...tokensToHub(c.tokens),
  };
}

export function gptMapping(c: GPTConfig): Mapping {
  const map = new Map<string, Mapped>();
  const same = (path: string, name: string) => map.set(path, { parts: [{ name }] });
  const norm = (path: string, name: string) => {
    same(`${path}.scale`, `${name}.weight`);
    same(`${path}.bias`, `${name}.bias`);
  };
  const conv1d = (path: string, name: string) => {
    map.set(`${path}.weight`, { parts: [{ name: `${name}.weight` }], transposed: true });
    same(`${path}.bias`, `${name}.bias`);
  };
  same("tokens.weight", "transformer.wte.weight");
  same("positions.weight", "transformer.wpe.weight");
  for (let i = 0; i < c.layers; i++) {
    const [ours, theirs] = [`h.${i}`, `transformer.h.${i}`];
    norm(`${ours}.norm1`, `${theirs}.ln_1`);
    conv1d(`${ours}.attention.qkv`, `${theirs}.attn.c_attn`);
    conv1d(`${ours}.attention.out`, `${theirs}.attn.c_proj`);
    norm(`${ours}.norm2`, `${theirs}.ln_2`);
    conv1d(`${ours}.mlp.up`, `${theirs}.mlp.c_fc`);
    conv1d(`${ours}.mlp.down`, `${theirs}.mlp.c_proj`);
  }
  norm("norm", "transformer.ln_f");
  if (!c.tieEmbeddings) same("head.weight", "lm_head.weight");
  return map;
}

/** Causal masks that old versions stored, and the head where it is the embedding. */
export function gptIgnores(c: GPTConfig, name: string): boolean {
  return /(^|\.)attn\.(masked_)?bias$/.test(name) || (c.tieEmbeddings && name === "lm_head.weight");
}
