import { z } from "zod";
import { activations } from "../../nn/mlp.ts";
import { specialTokens, whole } from "../config.ts";

/** The sizes of a GPT-2. */
export const gptConfig = z
  .strictObject({
    family: z.literal("gpt"),
    vocabulary: whole(),
    /** The longest sequence: there is one learned vector per position. */
    context: whole(),
    layers: whole(),
    width: whole(),
    heads: whole(),
    mlpWidth: whole(),
    activation: z.enum(activations).default("gelu_tanh"),
    /** Probabilities in training: of the embeddings' sum, the attention weights, and what a block adds. */
    dropout: z
      .strictObject({ embedding: z.number(), attention: z.number(), residual: z.number() })
      .default({ embedding: 0, attention: 0, residual: 0 }),
    epsilon: z.number().default(1e-5),
    tieEmbeddings: z.boolean().default(true),
    tokens: specialTokens,
  })
  .refine((c) => c.width % c.heads === 0, {
    error: (issue) => {
      const c = issue.input as { width: number; heads: number };
      return `the width ${c.width} does not divide into ${c.heads} heads`;
    },
  });
export type GPTConfig = z.output<typeof gptConfig>;
