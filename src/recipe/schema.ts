import { z } from "zod";
import { fraction, nonnegative, positive, size } from "./scalars.ts";

const boolean = () => z.boolean({ error: "expected true or false" });
const path = (such: string) =>
  z.string({ error: `expected a path, such as ${such}` }).min(1, `expected a path, such as ${such}`);

/** A recipe without its stages, as a person writes it. Options that others decide are optional here; resolve.ts fills them in. */
export const recipeSchema = z.strictObject({
  name: z
    .string({ error: "expected a name" })
    .optional()
    .describe("of the run and its folder; the file's name if not given"),
  seed: size(0).default(1).describe("of every random choice: the same seed gives the same run"),
  data: z
    .strictObject({
      text: path("data/tinyshakespeare.txt").optional().describe("a text or Markdown file, or a folder of them"),
      corpus: path("data/web")
        .optional()
        .describe("instead of a text: a folder that howdah data build made, with its tokenizer and token shards"),
      reader: size(0)
        .optional()
        .describe("which of several runs over one corpus this is, from 0; each sees other windows"),
      readers: size().optional().describe("how many such runs there are"),
      holdout: fraction().default(0.1).describe("the part at the end that is never trained on"),
    })
    .describe("what to learn from"),
  tokenizer: z
    .strictObject({
      kind: z
        .enum(["bpe", "sentencepiece", "unigram"], {
          error:
            "expected bpe, sentencepiece or unigram (wordpiece cannot give every text back, so nothing is generated with it)",
        })
        .default("bpe")
        .describe("byte-level BPE, BPE on characters with byte fallback (LLaMA), or Unigram (T5)"),
      vocabulary: size(257).default(1024).describe("tokens, special ones included"),
      min_frequency: size().default(2).describe("pairs seen less often are not merged"),
      from: path("models/base").optional().describe("a folder with a tokenizer.json to use instead of training one"),
    })
    .prefault({})
    .describe("from text to tokens"),
  model: z
    .strictObject({
      family: z.enum(["gpt", "llama"], { error: "expected gpt or llama" }).default("gpt").describe("architecture"),
      params: size(1000).optional().describe("about how many parameters; chooses layers and width"),
      layers: size().optional().describe("blocks; chooses the width if that is not given"),
      width: size().optional().describe("size of the residual stream"),
      heads: size().optional().describe("attention heads"),
      kv_heads: size().optional().describe("heads of keys and values (llama)"),
      context: size(8).optional().describe("longest sequence in tokens"),
      mlp_width: size().optional().describe("inner size of the MLP"),
      dropout: fraction().default(0).describe("of attention, residuals and embeddings"),
      tie_embeddings: boolean().default(true).describe("use the embedding as the output layer"),
      rope_theta: positive("10000").default(10000).describe("base of the rotary frequencies (llama)"),
      norm_epsilon: positive("1e-5").default(1e-5).describe("added under the root of the norms"),
    })
    .prefault({})
    .describe("what is trained"),
  optimizer: z
    .strictObject({
      kind: z
        .enum(["adamw", "muon"], { error: "expected adamw or muon" })
        .default("adamw")
        .describe("muon: for the hidden matrices, AdamW for the rest"),
      beta1: fraction().default(0.9).describe("decay of the first moment"),
      beta2: fraction().default(0.95).describe("decay of the second moment"),
      epsilon: positive("1e-8").default(1e-8).describe("added to the root of the second moment"),
      weight_decay: nonnegative("0.1").default(0.1).describe("decoupled, on matrices only"),
      clip: positive("1").default(1).describe("largest global norm of the gradients"),
      muon_learning_rate: positive("0.02").default(0.02).describe("of the matrices under muon"),
      muon_momentum: fraction().default(0.95).describe("of muon"),
    })
    .prefault({})
    .describe("how it learns"),
  precision: z
    .enum(["auto", "f32", "bf16"], { error: "expected auto, f32 or bf16" })
    .default("auto")
    .describe("of matmul operands; auto is bf16 where the processor multiplies bf16, f32 elsewhere"),
  keep: size().default(2).describe("checkpoints kept of each stage, besides the best"),
});

export type RecipeInput = z.output<typeof recipeSchema>;
