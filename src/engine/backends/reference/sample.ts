import { HowdahError } from "../../../tensor/errors.ts";
import { sampleSettings } from "../../../tensor/ops/sample.ts";
import type { Call, Kernels } from "./kernel.ts";
import { Sampler, uniformAt } from "./sampler.ts";

const word = new DataView(new ArrayBuffer(8));
function double(low: number, high: number): number {
  word.setInt32(0, high);
  word.setInt32(4, low);
  return word.getFloat64(0);
}

/** The next token of each row, see the op. */
function sampleToken({ inputs, outputs }: Call): void {
  const [logits, token, position, settings, history] = inputs;
  const [next, place, measures, kept] = outputs;
  const [rows, classes] = logits!.shape as [number, number];
  const sampler = new Sampler(classes);
  if (history) kept!.data.set(history.data);
  for (let row = 0; row < rows; row++) {
    const at = position!.data[row]!;
    measures!.data.fill(Number.NaN, 2 * row, 2 * row + 2);
    next!.data[row] = -1;
    place!.data[row] = at;
    const read = token!.data[row]!;
    if (read < 0) continue;
    place!.data[row] = at + 1;
    const s = settings!.data.subarray(row * sampleSettings.words, (row + 1) * sampleSettings.words);
    const f64 = (i: number) => double(s[i]!, s[i + 1]!);
    const seed = (s[sampleSettings.seed]! >>> 0) + (s[sampleSettings.seed + 1]! >>> 0) * 2 ** 32;
    const uniform = uniformAt(seed, s[sampleSettings.stream]!, at + 1 - s[sampleSettings.start]!);
    let seen: number[] = [];
    if (history) {
      const longest = history.shape[1]!;
      const mine = kept!.data.subarray(row * longest, (row + 1) * longest);
      if (at >= 0 && at < longest) mine[at] = read;
      seen = Array.from(mine.subarray(0, Math.min(at + 1, longest)));
    }
    const measure = s[sampleSettings.measure] === 1;
    try {
      const chosen = sampler.sample(
        Float32Array.from(logits!.data.subarray(row * classes, (row + 1) * classes)),
        {
          temperature: f64(sampleSettings.temperature),
          topK: s[sampleSettings.topK]!,
          topP: f64(sampleSettings.topP),
          minP: f64(sampleSettings.minP),
          repetitionPenalty: f64(sampleSettings.penalty),
        },
        seen,
        uniform,
        measure,
      );
      next!.data[row] = chosen.token;
      measures!.data.set([chosen.logProbability, chosen.entropy], 2 * row);
    } catch (error) {
      if (!(error instanceof HowdahError && error.code === "not_finite")) throw error;
    }
  }
}

export const sampleKernels: Kernels = { sample_token: sampleToken };
