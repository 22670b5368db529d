import { InputError } from "../tensor/errors.ts";

export interface Schedule {
  readonly kind: "cosine" | "wsd" | "linear" | "constant";
  /** Steps of linear warm-up; a number below 1 is a fraction of all steps. */
  readonly warmup: number;
  /** Fraction of all steps over which `wsd` falls. */
  readonly decay: number;
  /** What is left at the end, as a fraction of the peak. */
  readonly final: number;
}

/**
 * The learning rate of a step as a fraction of its peak. `cosine`: Loshchilov & Hutter 2017; `wsd`, warm-up, stable, decay: Hu et al. 2024.
 * @param step counted from 0
 */
export function scheduleAt(s: Schedule, step: number, steps: number): number {
  if (steps < 1) throw new InputError(`A schedule needs at least one step, got ${steps}.`);
  const warm = s.warmup < 1 ? Math.round(s.warmup * steps) : Math.min(s.warmup, steps);
  if (step < warm) return (step + 1) / (warm + 1);
  const fall = (progress: number, shape: (x: number) => number) =>
    s.final + (1 - s.final) * shape(Math.min(Math.max(progress, 0), 1));
  const progress = (step - warm) / Math.max(steps - warm, 1);
  switch (s.kind) {
    case "constant":
      return 1;
    case "linear":
      return fall(progress, (x) => 1 - x);
    case "cosine":
      return fall(progress, (x) => 0.5 * (1 + Math.cos(Math.PI * x)));
    case "wsd": {
      const span = Math.max(Math.round(s.decay * steps), 1);
      return fall((step - (steps - span)) / span, (x) => 1 - x);
    }
  }
}
