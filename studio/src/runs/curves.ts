import { type StageState, series } from "../../../src/runs/state.ts";

export type Point = readonly [step: number, value: number];

/** What one small chart shows: a metric, and the same metric on held-out data where there is one. */
export interface Curve {
  readonly name: string;
  readonly points: readonly Point[];
  readonly heldOut: readonly Point[] | undefined;
}

/** `eval_loss`, `heldout_loss`, `validation/loss`, `loss_heldout` ... are `loss` on held-out data. */
const prefix = /^(?:eval|evaluation|held_?out|holdout|val|valid|validation|test)[_/.-](.+)$/;
const suffix = /^(.+)[_/.-](?:eval|evaluation|held_?out|holdout|val|valid|validation|test)$/;

/** What a person looks at first, in this order; the rest follows by name. */
const first = [
  "loss",
  "bits_per_byte",
  "perplexity",
  "objective/scores",
  "reward",
  "score",
  "objective/rlhf_reward",
  "objective/kl",
  "kl",
  "accuracy",
  "margin",
  "objective/entropy",
  "entropy",
];

/** The curves of a stage, held-out ones laid over their own. */
export function curvesOf(stage: StageState): Curve[] {
  const names = new Set<string>();
  for (const values of stage.metrics.values()) for (const name of Object.keys(values)) names.add(name);
  const heldOutOf = new Map<string, string>();
  for (const name of names) {
    // Only over a curve that is there: PPO's `val/ratio` belongs to the value function, not to validation.
    const base = prefix.exec(name)?.[1] ?? suffix.exec(name)?.[1];
    if (base !== undefined && names.has(base)) heldOutOf.set(base, name);
  }
  const over = new Set(heldOutOf.values());
  const rank = (name: string) => (first.indexOf(name) + first.length + 1) % (first.length + 1);
  return [...names]
    .filter((name) => !over.has(name))
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))
    .map((name) => {
      const heldOut = heldOutOf.get(name);
      return {
        name,
        points: thin(series(stage, name)),
        heldOut: heldOut === undefined ? undefined : series(stage, heldOut),
      };
    });
}

/** At most this many points are drawn; a chart is some 600 pixels wide. */
const most = 1200;

/** Means of neighbours, so that a long run draws as fast as a short one. A bucket that holds NaN is NaN: it must be seen. */
export function thin(points: readonly Point[], limit = most): readonly Point[] {
  if (points.length <= limit) return points;
  const size = Math.ceil(points.length / limit);
  const out: Point[] = [];
  for (let i = 0; i < points.length; i += size) {
    const bucket = points.slice(i, i + size);
    const mean = bucket.reduce((sum, [, value]) => sum + value, 0) / bucket.length;
    out.push([bucket.at(-1)?.[0] ?? 0, mean]);
  }
  return out;
}

/**
 * Exponential mean with a half-life of a thirtieth of the curve, corrected for its start (as Adam corrects its moments), to
 * lay over a noisy curve. Values that are not finite are passed over.
 */
export function smooth(points: readonly Point[]): (number | null)[] {
  const keep = 0.5 ** (30 / Math.max(points.length, 30));
  let sum = 0;
  let weight = 0;
  return points.map(([, value]) => {
    if (!Number.isFinite(value)) return null;
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return sum / weight;
  });
}
