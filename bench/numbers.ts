/** Uniform numbers in [0, 1), the same everywhere: a 32-bit linear congruential generator (Numerical Recipes, chapter 7.1). */
export function draws(seed = 1): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Numbers with mean 0 and deviation 1, uniform. */
export function noise(count: number, seed = 1): Float32Array<ArrayBuffer> {
  const draw = draws(seed);
  return Float32Array.from({ length: count }, () => (draw() - 0.5) * Math.sqrt(12));
}
