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
 * Does the curve go up and down so much that its course is hard to see? Then its way is many times its height.
 * A falling loss without noise has 1, a warm-up with a decay 2.
 */
export function isNoisy(points: readonly Point[]): boolean {
  const values = points.map(([, value]) => value).filter(Number.isFinite);
  if (values.length < 40) return false;
  let way = 0;
  for (let i = 1; i < values.length; i++) way += Math.abs((values[i] ?? 0) - (values[i - 1] ?? 0));
  const height = values.reduce((a, b) => Math.max(a, b)) - values.reduce((a, b) => Math.min(a, b));
  return way > 4 * height;
}

/**
 * The mean of each point and its neighbours, equally many to both sides (at the ends, as many as there are), so that the
 * smooth line does not lag behind the curve as an exponential mean would. Values that are not finite are passed over.
 */
export function smooth(points: readonly Point[]): (number | null)[] {
  const reach = Math.max(2, Math.round(points.length / 50));
  return points.map((_, i) => {
    const side = Math.min(reach, i, points.length - 1 - i);
    const near = points.slice(i - side, i + side + 1).flatMap(([, value]) => (Number.isFinite(value) ? [value] : []));
    return near.length === 0 ? null : near.reduce((sum, value) => sum + value, 0) / near.length;
  });
}
