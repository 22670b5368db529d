import type { TextModel } from "../data/instructions/index.ts";
import type { BackendChoice } from "../engine/default.ts";
import type { WeightChoice } from "../models/packed.ts";
import { type CacheOptions, installBackend, openHost, weightsFor } from "./generation.ts";

/** A model that answers in this process. */
export interface LocalTextModel extends TextModel {
  /** Written so far. */
  readonly tokens: number;
  close(): Promise<void>;
}

/**
 * Loads a Hugging Face folder for whoever asks a model many things: what is asked at the same time is one continuous batch of `slots`.
 * @throws InputError when the folder cannot be loaded or its tokenizer has no chat template
 */
export async function openTextModel(
  folder: string,
  options: Pick<CacheOptions, "reproducible"> & {
    readonly slots: number;
    readonly weights?: WeightChoice | undefined;
    readonly backend: BackendChoice;
  },
  warn: (line: string) => void,
): Promise<LocalTextModel> {
  const { slots, reproducible = false } = options;
  const weights = weightsFor(options.weights, installBackend(options.backend, warn));
  const host = await openHost(folder, { slots, weights, reproducible });
  let tokens = 0;
  try {
    // A model that cannot chat says so now.
    host.encodeChat([{ role: "user", content: "." }]);
  } catch (error) {
    await host.close();
    throw error;
  }
  return {
    name: folder,
    get tokens() {
      return tokens;
    },
    fits: (question, maxTokens) => host.encodeChat(question).length + maxTokens <= host.contextLength,
    async complete(question, { signal = new AbortController().signal, ...sampling }) {
      let text = "";
      for await (const chunk of host.generate({ prompt: host.encodeChat(question), ...sampling }, signal)) {
        text += chunk.text;
        tokens += chunk.tokens.length;
      }
      return text;
    },
    close: () => host.close(),
  };
}
