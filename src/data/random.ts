/** The finaliser of MurmurHash3 (Appleby 2011): every input bit reaches every output bit. */
function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** 32 bits that depend on nothing but the numbers given (whole, up to 2^53 in size). */
export function hashBits(...numbers: readonly number[]): number {
  let h = 0x9e3779b9;
  for (const n of numbers) {
    h = mix(Math.imul(h, 5) + 0x52dce729 + (n >>> 0));
    h = mix(h ^ Math.floor(n / 0x1_0000_0000));
  }
  return h >>> 0;
}

/** A number in [0, 1) with 53 random bits, a pure function of what is given: the place of a batch is known without those before. */
export function uniform(...numbers: readonly number[]): number {
  const high = hashBits(...numbers, 0) >>> 5; // 27 bits
  const low = hashBits(...numbers, 1) >>> 6; // 26 bits
  return (high * 0x400_0000 + low) / 0x20_0000_0000_0000;
}

/** 0 .. count - 1 in an order that depends on the seeds only (Fisher and Yates; Durstenfeld 1964). */
export function shuffled(count: number, ...seeds: readonly number[]): number[] {
  const order = Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(uniform(...seeds, i) * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
