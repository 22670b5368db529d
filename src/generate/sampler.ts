import type { SamplingParameters } from "../engine/backends/reference/sampler.ts";
import { InputError } from "../tensor/errors.ts";

// The reference backend's kernel of the op `sample_token` chooses here on the JavaScript side too, so that both choose alike.
export { type Sampled, Sampler, type SamplingParameters, uniformAt } from "../engine/backends/reference/sampler.ts";

/** @throws InputError that names the first parameter out of its range */
export function checkSampling(p: SamplingParameters): void {
  const wrong = (name: string, value: number, need: string): never => {
    throw new InputError(`sampling: ${name} is ${value}; it must be ${need}.`);
  };
  if (!(p.temperature >= 0 && p.temperature < Number.POSITIVE_INFINITY))
    wrong("temperature", p.temperature, "0 (greedy) or more");
  if (p.topK !== undefined && !(Number.isInteger(p.topK) && p.topK >= 0))
    wrong("top-k", p.topK, "a whole number, 0 to switch it off");
  if (p.topP !== undefined && !(p.topP > 0 && p.topP <= 1)) wrong("top-p", p.topP, "above 0 and at most 1");
  if (p.minP !== undefined && !(p.minP >= 0 && p.minP <= 1)) wrong("min-p", p.minP, "from 0 to 1");
  const penalty = p.repetitionPenalty;
  if (penalty !== undefined && !(penalty > 0 && penalty < Number.POSITIVE_INFINITY))
    wrong("repetition penalty", penalty, "above 0");
}
