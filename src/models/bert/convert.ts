import { z } from "zod";
import type { Activation } from "../../nn/mlp.ts";
import { InputError } from "../../tensor/errors.ts";
import { hubTokens, parseConfig, tokensFromHub, tokensToHub, whole } from "../config.ts";
import type { Mapped, Mapping } from "../mapping.ts";
import { type BertConfig, bertConfig } from "./config.ts";

/** What a BERT `config.json` may say that matters here; the defaults are Hugging Face's. */
const hubConfig = z.looseObject({
  vocab_size: whole().default(30522),
  max_position_embeddings: whole().default(512),
  type_vocab_size: whole().default(2),
  num_hidden_layers: whole().default(12),
  hidden_size: whole().default(768),
  num_attention_heads: whole().default(12),
  intermediate_size: whole().default(3072),
  hidden_act: z.string().default("gelu"),
  hidden_dropout_prob: z.number().default(0.1),
  attention_probs_dropout_prob: z.number().default(0.1),
  layer_norm_eps: z.number().default(1e-12),
  position_embedding_type: z.string().nullish(),
  is_decoder: z.boolean().default(false),
  add_cross_attention: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(true),
  ...hubTokens,
});

const activationNames: Readonly<Record<string, Activation>> = {
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
  relu: "relu",
  silu: "silu",
};

/** Which of the optional parts a checkpoint holds. */
export interface BertParts {
  readonly pooler: boolean;
  readonly head: boolean;
}

/** A BERT `config.json` as ours. @throws InputError for variants that are not supported, naming the key */
export function bertFromHub(json: unknown, where: string, parts: BertParts): BertConfig {
  const c = parseConfig(hubConfig, json, where);
  const refuse = (key: keyof typeof c, why: string) => new InputError(`${where}: ${key} is ${String(c[key])}: ${why}.`);
  if ((c.position_embedding_type ?? "absolute") !== "absolute")
    throw refuse("position_embedding_type", "only absolute positions are supported");
  if (c.is_decoder) throw refuse("is_decoder", "only the encoder is supported");
  if (c.add_cross_attention) throw refuse("add_cross_attention", "cross-attention is not supported");
  if (parts.head && !c.tie_word_embeddings)
    throw refuse("tie_word_embeddings", "only a head tied to the embedding is supported");
  const activation = activationNames[c.hidden_act];
  if (!activation) throw refuse("hidden_act", `supported are ${Object.keys(activationNames).join(", ")}`);
  return parseConfig(
    bertConfig,
    {
      family: "bert",
      vocabulary: c.vocab_size,
      context: c.max_position_embeddings,
      segments: c.type_vocab_size,
      layers: c.num_hidden_layers,
      width: c.hidden_size,
      heads: c.num_attention_heads,
      mlpWidth: c.intermediate_size,
      activation,
      dropout: { hidden: c.hidden_dropout_prob, attention: c.attention_probs_dropout_prob },
      epsilon: c.layer_norm_eps,
      ...parts,
      tokens: tokensFromHub(c),
    } satisfies z.input<typeof bertConfig>,
    where,
  );
}

/** The Hugging Face class whose weights are exactly these. */
const architecture = (c: BertConfig) => (c.head ? (c.pooler ? "BertForPreTraining" : "BertForMaskedLM") : "BertModel");

export function bertToHub(c: BertConfig): Record<string, unknown> {
  const { padding, ...rest } = c.tokens;
  const special = Object.entries(tokensToHub({ ...rest, ...(padding === undefined ? {} : { padding }) }));
  return {
    model_type: "bert",
    architectures: [architecture(c)],
    vocab_size: c.vocabulary,
    max_position_embeddings: c.context,
    type_vocab_size: c.segments,
    num_hidden_layers: c.layers,
    hidden_size: c.width,
    num_attention_heads: c.heads,
    intermediate_size: c.mlpWidth,
    hidden_act: Object.keys(activationNames).find((key) => activationNames[key] === c.activation),
    hidden_dropout_prob: c.dropout.hidden,
    attention_probs_dropout_prob: c.dropout.attention,
    layer_norm_eps: c.epsilon,
    initializer_range: 0.02,
    position_embedding_type: "absolute",
    tie_word_embeddings: true,
    ...Object.fromEntries(special.filter(([, value]) => value !== null)),
  };
}

export function bertMapping(c: BertConfig): Mapping {
  const map = new Map<string, Mapped>();
  const same = (path: string, name: string) => map.set(path, { parts: [{ name }] });
  const norm = (path: string, name: string) => {
    same(`${path}.scale`, `${name}.weight`);
    same(`${path}.bias`, `${name}.bias`);
  };
  const map1 = (path: string, name: string) => {
    same(`${path}.weight`, `${name}.weight`);
    same(`${path}.bias`, `${name}.bias`);
  };
  same("tokens.weight", "bert.embeddings.word_embeddings.weight");
  same("positions.weight", "bert.embeddings.position_embeddings.weight");
  same("segments.weight", "bert.embeddings.token_type_embeddings.weight");
  norm("norm", "bert.embeddings.LayerNorm");
  for (let i = 0; i < c.layers; i++) {
    const [ours, theirs] = [`h.${i}`, `bert.encoder.layer.${i}`];
    for (const kind of ["weight", "bias"])
      map.set(`${ours}.attention.qkv.${kind}`, {
        parts: ["query", "key", "value"].map((part) => ({
          name: `${theirs}.attention.self.${part}.${kind}`,
          rows: c.width,
        })),
      });
    map1(`${ours}.attention.out`, `${theirs}.attention.output.dense`);
    norm(`${ours}.norm1`, `${theirs}.attention.output.LayerNorm`);
    map1(`${ours}.mlp.up`, `${theirs}.intermediate.dense`);
    map1(`${ours}.mlp.down`, `${theirs}.output.dense`);
    norm(`${ours}.norm2`, `${theirs}.output.LayerNorm`);
  }
  if (c.pooler) map1("pooler", "bert.pooler.dense");
  if (c.head) {
    map1("head.transform", "cls.predictions.transform.dense");
    norm("head.norm", "cls.predictions.transform.LayerNorm");
    same("head.bias", "cls.predictions.bias");
  }
  return map;
}

/** Position numbers that old versions stored, copies of tied tensors, and the head that tells whether one sentence follows the other. */
export function bertIgnores(name: string): boolean {
  return /(^|\.)position_ids$|^cls\.predictions\.decoder\.(weight|bias)$|^cls\.seq_relationship\./.test(name);
}

/** How a checkpoint names what the mapping names: bare without `bert.` in front, and old ones call a norm's parameters gamma and beta. */
export function bertRenaming(names: ReadonlySet<string>): (name: string) => string {
  const bare = ![...names].some((n) => n.startsWith("bert."));
  return (name) => {
    const plain = bare ? name.replace(/^bert\./, "") : name;
    if (names.has(plain)) return plain;
    const old = plain.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta");
    return names.has(old) ? old : plain;
  };
}

export function bertPartsOf(names: ReadonlySet<string>): BertParts {
  const has = (part: string) => [...names].some((n) => n.replace(/^bert\./, "").startsWith(part));
  return { pooler: has("pooler.dense."), head: has("cls.predictions.transform.") };
}
