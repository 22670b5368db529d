import type { Call, Kernels } from "./kernel.ts";

/** Low and high 32 bits of the product of two unsigned 32-bit numbers. */
function multiplyWide(a: number, b: number): [low: number, high: number] {
  const [al, ah] = [a & 0xffff, a >>> 16];
  const [bl, bh] = [b & 0xffff, b >>> 16];
  const middle = ah * bl + ((al * bl) >>> 16);
  const cross = al * bh + (middle & 0xffff);
  return [Math.imul(a, b) >>> 0, (ah * bh + Math.floor(middle / 65536) + Math.floor(cross / 65536)) >>> 0];
}

export type Words = [number, number, number, number];

/** Philox4x32-10: ten rounds over a 128-bit counter with a 64-bit key. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [a, b, c, d] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [low0, high0] = multiplyWide(0xd2511f53, a);
    const [low1, high1] = multiplyWide(0xcd9e8d57, c);
    [a, b, c, d] = [(high1 ^ b ^ k0) >>> 0, low1, (high0 ^ d ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [a, b, c, d];
}

/** Element 4 i + j is word j of the block whose counter is i. */
function randomBits({ inputs: [key], outputs: [y] }: Call): void {
  const words = [key!.data[0]! >>> 0, key!.data[1]! >>> 0] as const;
  const to = y!.data;
  for (let i = 0; i * 4 < to.length; i++) {
    const block = philox([i >>> 0, Math.floor(i / 4294967296), 0, 0], words);
    for (let j = 0; j < 4 && 4 * i + j < to.length; j++) to[4 * i + j] = block[j]!;
  }
}

export const randomKernels: Kernels = { random_bits: randomBits };
