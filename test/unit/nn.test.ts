import { beforeAll, describe, expect, test } from "vitest";
import { lower, useBackend } from "../../src/engine/index.ts";
import { emptyCache, gptConfig, initModel, type LanguageModel, llamaConfig, logits } from "../../src/models/index.ts";
import { type Cache, makeCache, placesIn, rotaryAngles, rotaryFrequencies } from "../../src/nn/index.ts";
import { jit, traceCall } from "../../src/tensor/jit.ts";
import { zeros } from "../../src/tensor/ops/creation.ts";
import { rotary } from "../../src/tensor/ops/nn.ts";
import { pageWrite } from "../../src/tensor/ops/paged.ts";
import { normal, randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, tensors } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";
import { once } from "../helpers/once.ts";

const backend = backends.at(-1)!;
beforeAll(() => void useBackend(backend));
checkLeaks();

const i32 = (shape: number[], values: number[]) => tensor(Int32Array.from(values), { shape }) as Tensor<"i32">;

describe("rotary positions", () => {
  test("turn by 1 radian per position first, and ever slower", () => {
    const f = rotaryFrequencies(8, { theta: 10000 });
    expect(Array.from(f)).toEqual([1, 0.1, 0.01, 0.001].map((x) => expect.closeTo(x, 12)));
  });

  test("stretched linearly, all turn slower alike", () => {
    const f = rotaryFrequencies(4, { theta: 100, scaling: { kind: "linear", factor: 4 } });
    expect(Array.from(f)).toEqual([0.25, 0.025].map((x) => expect.closeTo(x, 12)));
  });

  test("stretched as Llama 3, fast ones stay, slow ones are divided, those between lie between", () => {
    const theta = 500000;
    const scaling = {
      kind: "llama3",
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalContext: 8192,
    } as const;
    const plain = rotaryFrequencies(128, { theta });
    const scaled = rotaryFrequencies(128, { theta, scaling });
    let between = 0;
    plain.forEach((f, i) => {
      const turns = (8192 * f) / (2 * Math.PI);
      if (turns >= 4) expect(scaled[i]).toBeCloseTo(f, 12);
      else if (turns <= 1) expect(scaled[i]).toBeCloseTo(f / 8, 12);
      else {
        between++;
        expect(scaled[i]).toBeLessThan(f);
        expect(scaled[i]).toBeGreaterThan(f / 8);
      }
    });
    expect(between).toBeGreaterThan(0);
  });

  test("make the product of a query and a key depend on their distance alone", async () => {
    const product = jit((q: Tensor, k: Tensor, at: Tensor<"i32">) => {
      const turn = (x: Tensor, p: Tensor) => {
        const { cosine, sine } = rotaryAngles(8, { theta: 100 }, p);
        return rotary(x, cosine, sine);
      };
      return turn(q, at.slice(1, 0, 1))
        .mul(turn(k, at.slice(1, 1, 2)))
        .sum(-1);
    });
    const [q, k] = [once(() => normal(randomKey(1), [1, 1, 1, 8])), once(() => normal(randomKey(2), [1, 1, 1, 8]))];
    const results = [];
    for (const pair of [
      [3, 1],
      [12, 10],
      [5, 1],
    ]) {
      const at = i32([1, 2], pair);
      const out = product(q, k, at);
      results.push(await out.item());
      dispose([at, out]);
    }
    expect(results[1]).toBeCloseTo(results[0]!, 5);
    expect(Math.abs(results[2]! - results[0]!)).toBeGreaterThan(1e-2);
    dispose([q, k]);
    product.release();
  });
});

describe("the key and value cache", () => {
  test("takes tokens at their slot and position; padding and places beyond its capacity are left out", async () => {
    // Two sequences of one page each; the second one's pages come first.
    const write = jit((k: Tensor, v: Tensor, x: Tensor, table: Tensor<"i32">, p: Tensor<"i32">, r: Tensor<"i32">) =>
      pageWrite({ k, v }, x, x, placesIn(table, [2, 3], { positions: p, rows: r, first: undefined, end: undefined })),
    );
    const parts = [
      zeros([2, 1, 1, 16]),
      zeros([2, 1, 16, 1]),
      tensor([[[1]], [[2]], [[3]], [[4]], [[5]], [[6]]]),
      i32([2, 1], [1, 0]),
      i32([2, 3], [0, 1, 16, 2, -1, 0]),
      i32([2], [1, 0]),
    ] as const;
    const out = write(...parts);
    const rows = [
      [1, 2, ...new Array(14).fill(0)],
      [6, 0, 4, ...new Array(13).fill(0)],
    ].flat();
    expect(await out.k.numbers()).toEqual(rows);
    expect(await out.v.numbers()).toEqual(rows);
    dispose([[...parts], out]);
    write.release();
  });

  test("refuses a batch larger than its slots, and masks beside it", () => {
    const { table, layers } = makeCache({ layers: 1, slots: 2, capacity: 3, groups: 1, width: 1 });
    const none = { positions: undefined, rows: undefined, first: undefined, end: undefined };
    expect(() => placesIn(table, [3, 1], none)).toThrow(/a batch of 3 does not fit the 2 slots/);
    expect(() => placesIn(table, [1, 1], { ...none, end: table })).toThrow(/leave out context.first and context.end/);
    dispose([table, [...layers]]);
  });

  const sizes = { vocabulary: 20, context: 16, layers: 2, width: 16 };
  test.each([
    gptConfig.parse({ family: "gpt", ...sizes, heads: 2, mlpWidth: 32 }),
    llamaConfig.parse({ family: "llama", ...sizes, heads: 4, kvHeads: 2, headWidth: 4, mlpWidth: 24 }),
  ])("is written in place when it is donated: $family", (config) => {
    const model = once(() => initModel(config, randomKey(1)));
    const args = [model, emptyCache(config, 2, 8), zeros([2, 1], "i32"), zeros([2, 1], "i32")] satisfies [
      LanguageModel,
      Cache,
      Tensor<"i32">,
      Tensor<"i32">,
    ];
    const { graph } = traceCall((m: LanguageModel, cache: Cache, ids: Tensor<"i32">, positions: Tensor<"i32">) => {
      const out = m.hidden(ids, { cache, positions });
      return [logits(m, out.hidden), out.cache];
    }, args);
    const donated = args.flatMap((arg, i) => tensors(arg).map(() => i === 1));
    const program = lower(graph, backend, { matmul: "f32", optimize: true, donated });
    expect(program.aliases.length).toBe(5); // keys and values of two layers, and the table
    expect(program.instructions.filter((i) => i.op === "copy")).toEqual([]);
    dispose([...args]);
  });
});
