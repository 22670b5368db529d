import { z } from "zod";
import { specialTokens, whole } from "../config.ts";

const rotaryScaling = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("linear"), factor: z.number().positive() }),
  z.strictObject({
    kind: z.literal("llama3"),
    factor: z.number().positive(),
    lowFrequencyFactor: z.number().positive(),
    highFrequencyFactor: z.number().positive(),
    originalContext: whole(),
  }),
]);

/** The sizes of a Llama, and of its kin that differ in biases alone. */
export const llamaConfig = z
  .strictObject({
    family: z.literal("llama"),
    vocabulary: whole(),
    /** The longest sequence it was made for. */
    context: whole(),
    layers: whole(),
    width: whole(),
    heads: whole(),
    /** Heads of keys and values; each serves heads / kvHeads queries. */
    kvHeads: whole(),
    /** Of one head; even. */
    headWidth: whole(),
    mlpWidth: whole(),
    rotary: z
      .strictObject({ theta: z.number().positive(), scaling: rotaryScaling.optional() })
      .default({ theta: 10000 }),
    epsilon: z.number().default(1e-6),
    /** `qkv`: on queries, keys and values (Qwen2); `all`: on the output as well. */
    attentionBias: z.enum(["none", "qkv", "all"]).default("none"),
    mlpBias: z.boolean().default(false),
    /** Of the attention weights, in training. */
    attentionDropout: z.number().default(0),
    tieEmbeddings: z.boolean().default(false),
    tokens: specialTokens,
  })
  .superRefine((c, context) => {
    const wrong = (message: string) => context.addIssue({ code: "custom", message });
    if (c.heads % c.kvHeads !== 0) wrong(`${c.heads} heads cannot be shared by ${c.kvHeads} heads of keys and values`);
    if (c.headWidth % 2 !== 0) wrong(`a head's width must be even for rotary positions, not ${c.headWidth}`);
  });
export type LlamaConfig = z.output<typeof llamaConfig>;
