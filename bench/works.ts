/** A GPT whose training step is measured: AdamW with decay on matrices, clipping at 1, no dropout, tied embeddings. */
export interface GPTWork {
  readonly name: string;
  readonly layers: number;
  readonly width: number;
  readonly heads: number;
  readonly context: number;
  readonly batch: number;
  readonly vocabulary: number;
}

/**
 * The first two are the Shakespeare models of nanoGPT's `train_shakespeare_char`, for a CPU and for a GPU; then GPT-2 small, with short
 * and with full contexts.
 */
export const gptWorks: readonly GPTWork[] = [
  { name: "gpt-0.8M", layers: 4, width: 128, heads: 4, context: 64, batch: 12, vocabulary: 65 },
  { name: "gpt-10.7M", layers: 6, width: 384, heads: 6, context: 256, batch: 64, vocabulary: 65 },
  { name: "gpt2-124M", layers: 12, width: 768, heads: 12, context: 256, batch: 4, vocabulary: 50257 },
  { name: "gpt2-124M-2x1024", layers: 12, width: 768, heads: 12, context: 1024, batch: 2, vocabulary: 50257 },
];

/** What both sides train with. `decay` pulls on tensors of two or more axes. */
export const training = {
  rate: 1e-3,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  decay: 0.1,
  clip: 1,
  normEpsilon: 1e-5,
} as const;

/** How many different batches a run goes through, again and again. */
export const BATCHES = 4;

/**
 * Token ids with a little structure, so that the loss falls: (BATCHES, 2, batch, context), ids first and then what follows each. The same
 * numbers for both sides; from a 32-bit linear congruential generator (Numerical Recipes, chapter 7.1).
 */
export function batches(work: GPTWork): Int32Array<ArrayBuffer> {
  const { batch, context, vocabulary } = work;
  const out = new Int32Array(BATCHES * 2 * batch * context);
  let state = 1;
  const draw = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let b = 0; b < BATCHES; b++)
    for (let row = 0; row < batch; row++) {
      let token = Math.floor(draw() * vocabulary);
      for (let t = 0; t < context; t++) {
        // Half of the tokens follow from the one before.
        const next = draw() < 0.5 ? (token * 7 + 3) % vocabulary : Math.floor(draw() ** 2 * vocabulary);
        out[((b * 2 + 0) * batch + row) * context + t] = token;
        out[((b * 2 + 1) * batch + row) * context + t] = next;
        token = next;
      }
    }
  return out;
}
