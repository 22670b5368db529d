/** One reply as PPO sees it: a number per token. */
export interface TokenRewards {
  /** What the environment paid after each token. */
  readonly rewards: Float64Array;
  /** The critic's value before each token is written. */
  readonly values: Float64Array;
}

/**
 * Generalised advantage estimation: A_t = sum over l of (gamma lambda)^l delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t, the value
 * after the last token being 0. Schulman et al. 2016, equation 16.
 * @returns advantages, and returns A_t + V_t that the critic is trained towards
 */
export function generalizedAdvantages(
  { rewards, values }: TokenRewards,
  gamma: number,
  lambda: number,
): { advantages: Float64Array; returns: Float64Array } {
  const n = rewards.length;
  const advantages = new Float64Array(n);
  const returns = new Float64Array(n);
  let running = 0;
  for (let t = n - 1; t >= 0; t--) {
    const next = t + 1 < n ? values[t + 1]! : 0;
    running = rewards[t]! + gamma * next - values[t]! + gamma * lambda * running;
    advantages[t] = running;
    returns[t] = running + values[t]!;
  }
  return { advantages, returns };
}

/** Shifts and scales all numbers together to mean 0 and deviation 1. */
export function whiten(lists: readonly Float64Array[]): Float64Array[] {
  let n = 0;
  let sum = 0;
  for (const list of lists)
    for (const x of list) {
      n++;
      sum += x;
    }
  const mean = n ? sum / n : 0;
  let squares = 0;
  for (const list of lists) for (const x of list) squares += (x - mean) ** 2;
  const deviation = Math.sqrt(squares / Math.max(n - 1, 1));
  return lists.map((list) => list.map((x) => (x - mean) / (deviation + 1e-8)));
}

/**
 * The coefficient of the KL penalty, steered so that the divergence per reply stays near its target. Ziegler et al. 2019, section 2.2.
 */
export class AdaptiveKl {
  coefficient: number;
  readonly #target: number;
  readonly #horizon: number;

  /** @param horizon replies after which an error of 100 % would have changed the coefficient by its own size */
  constructor(coefficient: number, target: number, horizon: number) {
    this.coefficient = coefficient;
    this.#target = target;
    this.#horizon = horizon;
  }

  /** @param kl mean over replies of log policy - log reference, summed over tokens */
  update(kl: number, replies: number): void {
    const error = Math.min(Math.max(kl / this.#target - 1, -0.2), 0.2);
    this.coefficient *= 1 + (error * replies) / this.#horizon;
  }
}

export interface Spread {
  readonly mean: number;
  /** Population variance. */
  readonly variance: number;
}

export function spread(list: ArrayLike<number>): Spread {
  const n = Math.max(list.length, 1);
  let mean = 0;
  for (let i = 0; i < list.length; i++) mean += list[i]! / n;
  let variance = 0;
  for (let i = 0; i < list.length; i++) variance += (list[i]! - mean) ** 2 / n;
  return { mean, variance };
}
