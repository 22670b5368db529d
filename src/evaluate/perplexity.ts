import type { Decoder } from "../generate/decoder.ts";
import type { LanguageModel } from "../models/model.ts";
import { InputError } from "../tensor/errors.ts";

export interface TextLoss {
  /** Predicted tokens: all but the first. */
  readonly tokens: number;
  /** Of all of them together: minus the natural logarithms of the probabilities that the model gave them. */
  readonly nats: number;
}

/**
 * How well a model predicts a text: each token once, by what stands before it, at least half a context of it where there is that much. The text is
 * read as a server reads prompts, so that weights, activations and the cache are rounded as they are when they are used.
 * @param decoder with the cache under test; reads `ahead` + 1 tokens at a time, in slot 0, which is emptied
 */
export async function textLoss(
  model: LanguageModel,
  decoder: Decoder,
  ids: readonly number[],
  onProgress?: (tokens: number) => void,
): Promise<TextLoss> {
  if (ids.length < 2) throw new InputError(`A text of ${ids.length} tokens predicts nothing: it must have at least 2.`);
  const context = Math.min(decoder.capacityFor(model), ids.length - 1);
  const last = ids.length - 1;
  const most = decoder.ahead + 1;
  let [nats, done] = [0, 0];
  while (done < last) {
    const start = done === 0 ? 0 : Math.min(Math.max(done - (context >> 1), 0), last - context);
    const window = ids.slice(start, start + context);
    decoder.begin(model, 0, window, context);
    try {
      for (let from = 0; from < window.length; from += most) {
        const piece = window.slice(from, from + most);
        const wanted = Math.min(piece.length, start + from + piece.length - done);
        const pieces = [{ slot: 0, ids: piece, wanted: Math.max(wanted, 1) }];
        await decoder.prepareStep(model, pieces);
        const [rows] = await decoder.step(model, pieces);
        if (wanted <= 0) continue;
        rows!.forEach((logits, i) => {
          nats -= logProbability(logits, ids[done + i + 1]!);
        });
        done += wanted;
        onProgress?.(done);
      }
    } finally {
      decoder.clear(0);
    }
  }
  return { tokens: done, nats };
}

/** The mean loss, as the number of tokens among which the model might as well choose by lot. */
export function perplexity({ nats, tokens }: TextLoss): number {
  return Math.exp(nats / tokens);
}

/** Of softmax(logits). */
function logProbability(logits: Float32Array, id: number): number {
  let most = Number.NEGATIVE_INFINITY;
  for (const x of logits) if (x > most) most = x;
  let sum = 0;
  for (const x of logits) sum += Math.exp(x - most);
  return logits[id]! - most - Math.log(sum);
}
