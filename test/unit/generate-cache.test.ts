import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import { Decoder, type DecoderOptions } from "../../src/generate/decoder.ts";
import { PagePool } from "../../src/generate/pages.ts";
import { initModel, type LanguageModel, llamaConfig } from "../../src/models/index.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

describe("pages", () => {
  const text = Array.from({ length: 20 }, (_, i) => i);

  test("are given out from the lowest on, and again when they are free", () => {
    const pool = new PagePool(3, 4);
    expect([pool.take(), pool.take()]).toEqual([0, 1]);
    pool.release(0);
    expect(pool.available).toBe(2);
    expect([pool.take(), pool.take()]).toEqual([0, 2]);
    expect(() => pool.take()).toThrow(/all 3 pages are held/);
  });

  test("are found by all that leads up to them, and by nothing else", () => {
    const pool = new PagePool(8, 4);
    const [a, b] = [pool.take(), pool.take()];
    const first = pool.remember(a, undefined, text, 0);
    pool.remember(b, first, text, 4);
    expect(pool.find(text, 12).map(({ page }) => page)).toEqual([a, b]);
    expect(pool.find(text, 7).map(({ page }) => page)).toEqual([a]);
    // The second page's tokens after another first page.
    expect(pool.find([9, 9, 9, 9, 4, 5, 6, 7], 8)).toEqual([]);
    expect(pool.tokens).toEqual({ asked: 48, found: 12 });
  });

  test("that nobody holds are kept until others are needed: the one not used for longest goes first", () => {
    const pool = new PagePool(3, 4);
    const pages = [pool.take(), pool.take()];
    const other = text.map((x) => x + 100);
    pool.remember(pages[0]!, undefined, text, 0);
    pool.remember(pages[1]!, undefined, other, 0);
    for (const page of pages) pool.release(page);
    expect(pool.counts).toEqual({ total: 3, held: 0, kept: 2 });
    pool.find(text, 4); // used again, and given back
    pool.release(pages[0]!);
    expect([pool.take(), pool.take()]).toEqual([2, pages[1]]);
    expect(pool.find(other, 4)).toEqual([]);
    expect(pool.find(text, 4)).toHaveLength(1);
  });

  test("of two texts that are the same, both keep their own and one is found", () => {
    const pool = new PagePool(4, 4);
    const [a, b] = [pool.take(), pool.take()];
    const one = pool.remember(a, undefined, text, 0);
    expect(pool.remember(b, undefined, text, 0)).toBe(one);
    pool.release(b);
    expect(pool.counts).toEqual({ total: 4, held: 1, kept: 0 });
  });

  test("of another model are found no more", () => {
    const pool = new PagePool(2, 4);
    const a = pool.take();
    pool.remember(a, undefined, text, 0);
    pool.release(a);
    pool.forgetAll();
    expect(pool.find(text, 8)).toEqual([]);
    expect(pool.counts).toEqual({ total: 2, held: 0, kept: 0 });
  });
});

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  const vocabulary = 50;
  let model: LanguageModel;
  beforeAll(() => {
    useBackend(backend);
    const config = { layers: 2, width: 32, heads: 4, kvHeads: 2, headWidth: 8, mlpWidth: 48 };
    const key = randomKey(5);
    model = initModel(llamaConfig.parse({ family: "llama", vocabulary, context: 512, ...config }), key);
    dispose(key);
  });
  afterAll(() => dispose(model));
  checkLeaks();

  const textOf = (length: number, seed: number) =>
    Array.from({ length }, (_, i) => (i * i * 7 + i * 3 + seed * 11) % vocabulary);
  const start = (options: Partial<DecoderOptions> = {}) =>
    new Decoder({ slots: 3, capacity: 300, chunks: [16, 64], ...options });

  /** Reads a text in pieces of at most `chunk`. @returns the logits after its last token */
  async function read(decoder: Decoder, slot: number, text: readonly number[], chunk = 64): Promise<Float32Array> {
    let at = decoder.begin(model, slot, text, text.length + 8);
    for (;;) {
      const ids = text.slice(at, at + chunk);
      at += ids.length;
      const rows = await decoder.step(model, [{ slot, ids }]);
      decoder.settle(slot);
      if (at === text.length) return rows[0]![0]!;
    }
  }

  test("a text whose beginning was read for another has the same bits as when it is read anew", async () => {
    using shared = start({ prefixes: true });
    using alone = start();
    const [one, two] = [textOf(200, 1), [...textOf(150, 1), ...textOf(50, 2)]];
    await read(shared, 0, one);
    expect(shared.pages).toEqual({ total: 15, held: 4, kept: 0 });
    const after = await read(shared, 1, two);
    // 128 of the 150 tokens are whole pages.
    expect(shared.prefixTokens).toEqual({ asked: 400, found: 128 });
    expect(shared.pages.held).toBe(6);
    expect(after).toEqual(await read(alone, 1, two));
    // The first text is not disturbed, and can be taken up again after it ended.
    shared.clear(0);
    expect(shared.pages).toEqual({ total: 15, held: 4, kept: 1 });
    expect(await read(shared, 0, one)).toEqual(await read(alone, 0, one));
    for (const slot of [0, 1]) shared.clear(slot);
    expect(shared.pages).toMatchObject({ held: 0 });
    expect(shared.pages.kept).toBeGreaterThan(0);
  });

  test("how a text is cut into pieces, and what is read beside it, changes no bit of its logits", async () => {
    using decoder = start();
    const text = textOf(90, 3);
    const whole = await read(decoder, 0, text);
    const pieces = await read(decoder, 1, text, 13);
    expect(pieces).toEqual(whole);
    decoder.clear(1);
    decoder.begin(model, 1, text, 100);
    decoder.begin(model, 2, text, 100);
    await decoder.step(model, [
      { slot: 1, ids: text.slice(0, 40), wanted: 0 },
      { slot: 2, ids: text.slice(0, 7), wanted: 0 },
    ]);
    const rows = await decoder.step(model, [
      { slot: 2, ids: text.slice(7, 9) },
      { slot: 1, ids: text.slice(40), wanted: 2 },
    ]);
    expect(rows[1]![1]).toEqual(whole);
    expect(rows[1]).toHaveLength(2);
  });

  test("tokens that are taken back leave no trace", async () => {
    using decoder = start();
    const text = textOf(70, 4);
    const whole = await read(decoder, 0, text);
    await read(decoder, 1, text.slice(0, 60));
    await decoder.step(model, [{ slot: 1, ids: [1, 2, 3, 4, 5, 6] }]);
    decoder.rewind(1, 60);
    expect(decoder.lengthOf(1)).toBe(60);
    const rows = await decoder.step(model, [{ slot: 1, ids: text.slice(60) }]);
    expect(rows[0]![0]).toEqual(whole);
  });

  test.each([
    ["bf16", 2e-2],
    ["i8", 2e-2],
  ] as const)("keys and values in %s change the distribution by less than %f", async (cache, bound) => {
    using exact = start();
    using rounded = start({ cache });
    const text = textOf(120, 5);
    const softmax = (x: Float32Array) => {
      const e = x.map((v) => Math.exp(v - Math.max(...x)));
      const total = e.reduce((a, b) => a + b, 0);
      return e.map((v) => v / total);
    };
    const [p, q] = [softmax(await read(exact, 0, text)), softmax(await read(rounded, 0, text))];
    const distance = p.reduce((sum, x, i) => sum + Math.abs(x - q[i]!), 0) / 2;
    expect(distance).toBeGreaterThan(0);
    expect(distance).toBeLessThan(bound);
    // The memory that a page takes.
    const part = { bf16: 1 / 2, i8: (8 + 4) / 32 }[cache];
    expect(rounded.cacheBytes / exact.cacheBytes).toBeCloseTo(part, 6);
  });

  test("a text that finds no pages is told so, and pages that are promised are not given away", async () => {
    using decoder = start({ cacheTokens: 5 * 64 });
    expect(decoder.hasRoomFor(model, 300)).toBe(true);
    decoder.begin(model, 0, textOf(10, 1), 200);
    expect(decoder.hasRoomFor(model, 64)).toBe(true);
    expect(decoder.hasRoomFor(model, 65)).toBe(false);
    expect(() => decoder.begin(model, 1, textOf(10, 1), 65)).toThrow(/needs 2 pages, and 1 are left/);
    decoder.clear(0);
    expect(decoder.hasRoomFor(model, 300)).toBe(true);
  });
});
