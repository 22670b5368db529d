import { z } from "zod";
import { activations } from "../../nn/mlp.ts";
import { specialTokens, whole } from "../config.ts";

/** The sizes of a BERT. Devlin et al. 2019. */
export const bertConfig = z
  .strictObject({
    family: z.literal("bert"),
    vocabulary: whole(),
    /** The longest sequence: there is one learned vector per position. */
    context: whole(),
    /** Kinds of token: the first sentence and the second. */
    segments: whole().default(2),
    layers: whole(),
    width: whole(),
    heads: whole(),
    mlpWidth: whole(),
    activation: z.enum(activations).default("gelu"),
    /** Probabilities in training: of the embeddings' sum and what a layer adds, and of the attention weights. */
    dropout: z.strictObject({ hidden: z.number(), attention: z.number() }).default({ hidden: 0, attention: 0 }),
    epsilon: z.number().default(1e-12),
    /** Whether there is a layer that reads the first token as the whole text's vector. */
    pooler: z.boolean().default(true),
    /** Whether there is a head that guesses masked tokens. */
    head: z.boolean().default(false),
    tokens: specialTokens,
  })
  .refine((c) => c.width % c.heads === 0, {
    error: (issue) => {
      const c = issue.input as { width: number; heads: number };
      return `the width ${c.width} does not divide into ${c.heads} heads`;
    },
  });
export type BertConfig = z.output<typeof bertConfig>;

/** The larger of the paper's two is 24 layers of width 1024 with 16 heads. */
export const bertBase: BertConfig = {
  family: "bert",
  vocabulary: 30522,
  context: 512,
  segments: 2,
  layers: 12,
  width: 768,
  heads: 12,
  mlpWidth: 3072,
  activation: "gelu",
  dropout: { hidden: 0.1, attention: 0.1 },
  epsilon: 1e-12,
  pooler: true,
  head: false,
  tokens: { padding: 0 },
};
