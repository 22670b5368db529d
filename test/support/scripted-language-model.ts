import type { GPTConfig } from "../../src/models/gpt/config.ts";
import { gptConfig, type HiddenStates, type LanguageModel } from "../../src/models/index.ts";
import type { Context } from "../../src/nn/context.ts";
import { iota } from "../../src/tensor/ops/creation.ts";
import { take } from "../../src/tensor/ops/indexing.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { Module } from "../../src/tensor/tree.ts";

/**
 * A language model that says what it is told: its logits at position i are 10 for the i-th token of a script and 0 elsewhere, whatever came
 * before. It stands where a test is about the batch, the text or the server, and not about the model.
 */
export class ScriptedLanguageModel extends Module implements LanguageModel {
  readonly config: GPTConfig;
  /** (context, vocabulary): the hidden states are the logits. */
  readonly script: Tensor;
  /** (vocabulary, vocabulary): the identity. */
  readonly unembedding: Tensor;

  constructor(config: GPTConfig, script: Tensor, unembedding: Tensor) {
    super();
    this.config = config;
    this.script = script;
    this.unembedding = unembedding;
  }

  hidden(ids: Tensor<"i32">, context: Context = {}): HiddenStates {
    const [batch, time] = ids.shape as [number, number];
    const positions = context.positions ?? iota([1, time], 1);
    const hidden = take(this.script, positions.broadcastTo([batch, time]));
    return context.cache ? { hidden, cache: context.cache } : { hidden };
  }
}

/**
 * @param script the token that follows position i; repeated to the end of the context
 * @param end the config's end token
 */
export function scriptedLanguageModel(
  script: readonly number[],
  sizes: { readonly vocabulary: number; readonly context: number; readonly end?: number },
): ScriptedLanguageModel {
  const { vocabulary, context, end } = sizes;
  const logits = new Float32Array(context * vocabulary);
  for (let i = 0; i < context; i++) logits[i * vocabulary + script[i % script.length]!] = 10;
  const identity = new Float32Array(vocabulary * vocabulary);
  for (let i = 0; i < vocabulary; i++) identity[i * vocabulary + i] = 1;
  const config = gptConfig.parse({
    family: "gpt",
    vocabulary,
    context,
    layers: 1,
    width: 1,
    heads: 1,
    mlpWidth: 1,
    tokens: end === undefined ? {} : { end: [end] },
  });
  return new ScriptedLanguageModel(
    config,
    tensor(logits, { shape: [context, vocabulary] }),
    tensor(identity, { shape: [vocabulary, vocabulary] }),
  );
}
