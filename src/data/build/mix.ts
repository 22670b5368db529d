import { InputError } from "../../tensor/errors.ts";
import { shuffled } from "../random.ts";
import type { DataRecipe } from "./recipe.ts";

export interface SourceSize {
  readonly name: string;
  readonly tokens: number;
  readonly weight?: number | undefined;
  readonly epochs?: number | undefined;
}

export interface SourceShare {
  readonly name: string;
  /** Tokens there are, and tokens asked of them. */
  readonly tokens: number;
  readonly asked: number;
  /** asked / tokens. */
  readonly epochs: number;
  /** Of the mixture. */
  readonly share: number;
}

/**
 * How much of each source the mixture takes: by weights, by epochs, or by size ^ (1 / temperature).
 * @throws InputError when a source would be read more often than `max_epochs`, or has no tokens but a weight
 */
export function planMixture(sources: readonly SourceSize[], mix: DataRecipe["mix"]): SourceShare[] {
  const total = sources.reduce((n, s) => n + s.tokens, 0);
  if (total === 0) throw new InputError("mix: no tokens are left of any source.");
  const byWeight = sources.some((s) => s.weight !== undefined);
  const byEpochs = sources.some((s) => s.epochs !== undefined);
  let asked: number[];
  if (byWeight || (!byEpochs && mix.temperature !== 1)) {
    const weights = sources.map((s) => s.weight ?? (s.tokens > 0 ? s.tokens ** (1 / mix.temperature) : 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    for (const s of sources)
      if (s.weight !== undefined && s.tokens === 0)
        throw new InputError(`mix: "${s.name}" has the weight ${s.weight}, but no tokens are left of it.`);
    const most = Math.min(
      ...sources.map((s, i) =>
        weights[i]! > 0 ? (mix.max_epochs * s.tokens * sum) / weights[i]! : Number.POSITIVE_INFINITY,
      ),
    );
    const tokens = mix.tokens ?? (byWeight ? most : Math.min(most, total));
    asked = weights.map((w) => (tokens * w) / sum);
  } else {
    asked = sources.map((s) => s.tokens * (s.epochs ?? 1));
    if (mix.tokens !== undefined) {
      const sum = asked.reduce((a, b) => a + b, 0);
      asked = asked.map((n) => (n * mix.tokens!) / sum);
    }
  }
  // Whole tokens that add up: the largest remainders are rounded up.
  const whole = asked.map(Math.floor);
  const missing = Math.round(asked.reduce((a, b) => a + b, 0)) - whole.reduce((a, b) => a + b, 0);
  const order = asked.map((x, i) => [x - whole[i]!, i] as const).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
  for (const [, i] of order.slice(0, missing)) whole[i]!++;
  const sum = whole.reduce((a, b) => a + b, 0);
  return sources.map((s, i) => {
    const epochs = s.tokens === 0 ? 0 : whole[i]! / s.tokens;
    if (epochs > Math.max(mix.max_epochs, s.epochs ?? 0) + 1e-6)
      throw new InputError(
        `mix: "${s.name}" has ${s.tokens} tokens and would be read ${epochs.toFixed(1)} times for ${whole[i]} tokens; max_epochs is ${mix.max_epochs}. Ask for fewer tokens, give it less weight, or raise max_epochs.`,
      );
    return { name: s.name, tokens: s.tokens, asked: whole[i]!, epochs, share: whole[i]! / sum };
  });
}

/** One document's place in the mixture: which source, which of its documents, and how many of its tokens (fewer at the end of a share). */
export interface Placement {
  readonly source: Uint16Array;
  readonly document: Uint32Array;
  readonly tokens: Uint32Array;
}

/** Documents in the order they are written: each epoch of each source shuffled by the seed, and everything shuffled together. */
export function placeDocuments(
  lengths: readonly Uint32Array[],
  shares: readonly SourceShare[],
  seed: number,
): Placement {
  const source: number[] = [];
  const document: number[] = [];
  const tokens: number[] = [];
  lengths.forEach((of, s) => {
    let left = shares[s]!.asked;
    for (let epoch = 0; left > 0; epoch++) {
      for (const d of shuffled(of.length, seed, s, epoch)) {
        if (left === 0) break;
        const n = Math.min(of[d]!, left);
        if (n === 0) continue;
        source.push(s);
        document.push(d);
        tokens.push(n);
        left -= n;
      }
    }
  });
  const order = shuffled(source.length, seed, lengths.length);
  return {
    source: Uint16Array.from(order, (i) => source[i]!),
    document: Uint32Array.from(order, (i) => document[i]!),
    tokens: Uint32Array.from(order, (i) => tokens[i]!),
  };
}
