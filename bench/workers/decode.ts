// Decoding for one listener: a GPT with weights at random continues a short prompt. Memory-bound, many small programs.
import { Generator } from "../../src/generate/index.ts";
import { initGPT } from "../../src/models/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { configOf } from "../step.ts";
import type { Prepare } from "../worker.ts";
import type { GPTWork } from "../works.ts";

export interface DecodeParameters {
  readonly work: GPTWork;
  /** In a step. */
  readonly tokens: number;
}

export const prepare: Prepare<DecodeParameters> = ({ parameters: { work, tokens } }) => {
  const model = initGPT(configOf(work), randomKey(1));
  const generator = new Generator({ slots: 1, capacity: work.context });
  return {
    about: `GPT ${work.layers} x ${work.width}`,
    async step() {
      const [reply] = await generator.run(model, [[1, 2, 3, 4]], { maxTokens: tokens, temperature: 0, seed: 1 });
      return { output: reply!.tokens.at(-1) };
    },
    close: () => generator.dispose(),
  };
};
