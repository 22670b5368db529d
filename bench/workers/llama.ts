// A llama read from a Hugging Face folder, for one listener: reading a prompt, or writing a reply.
import { Generator } from "../../src/generate/index.ts";
import { loadModel, type WeightChoice } from "../../src/models/index.ts";
import type { PageType } from "../../src/tensor/ops/paged.ts";
import type { Prepare } from "../worker.ts";

export interface LlamaParameters {
  readonly folder: string;
  readonly weights: WeightChoice;
  readonly cache: PageType;
  readonly prompt: readonly number[];
  /** Tokens of the reply; 1: the prompt alone is measured. */
  readonly reply: number;
}

export const prepare: Prepare<LlamaParameters> = async ({ parameters }) => {
  const { folder, weights, cache, prompt, reply } = parameters;
  const { model } = await loadModel(folder, { weights });
  const capacity = Math.min(prompt.length + reply, model.config.context);
  // As the server does.
  const generator = new Generator({ slots: 1, capacity, cache, precision: weights === "f32" ? "f32" : "auto" });
  return {
    about: `${weights} weights, ${cache} cache`,
    async step() {
      const [written] = await generator.run(model, [prompt], {
        maxTokens: reply,
        temperature: 0,
        seed: 1,
        measure: false,
      });
      return { output: written!.tokens.at(-1) };
    },
    close: () => generator.dispose(),
  };
};
