import { beforeAll, describe, expect, test } from "vitest";
import {
  initRewardModel,
  type PolicyBatch,
  pairLoss,
  policyLoss,
  RewardModel,
  replyLogProbabilities,
  ValueHead,
  valueLoss,
} from "../../src/align/index.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, type LanguageModel, tokenLogProbabilities } from "../../src/models/index.ts";
import { valueAndGrad } from "../../src/tensor/grad.ts";
import { jit } from "../../src/tensor/jit.ts";
import { scalar } from "../../src/tensor/ops/creation.ts";
import { randomKey } from "../../src/tensor/ops/random.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, leaves } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const config = gptConfig.parse({
  ...{ family: "gpt", vocabulary: 13, context: 8, layers: 1, width: 16, heads: 2, mlpWidth: 32 },
});
const i32 = (rows: readonly (readonly number[])[]) =>
  tensor(Int32Array.from(rows.flat()), { shape: [rows.length, rows[0]!.length] }) as Tensor<"i32">;
const f32 = (rows: readonly (readonly number[])[]) => tensor(rows.flat(), { shape: [rows.length, rows[0]!.length] });

const ids = [
  [1, 5, 9, 2, 7, 0],
  [3, 3, 8, 4, 0, 0],
];
const targets = [
  [-1, 9, 2, 7, -1, -1],
  [-1, -1, 4, -1, -1, -1],
];
const counted = targets.flat().flatMap((t, i) => (t < 0 ? [] : [i]));

function modelOf(seed: number): LanguageModel {
  const key = randomKey(seed);
  const model = initModel(config, key);
  dispose(key);
  return model;
}

describe.each(backends.map((b) => [b.name, b] as const))("%s", (_name, backend) => {
  beforeAll(() => useBackend(backend));
  checkLeaks();

  /** Loss, metrics and the gradient's largest value of one policy batch whose old log-probabilities are now's minus `shift`. */
  async function policy(shift: readonly (readonly number[])[], advantages: readonly (readonly number[])[]) {
    const model = modelOf(1);
    const on = { ids: i32(ids), targets: i32(targets) };
    const log = jit((m: LanguageModel, b: typeof on) => replyLogProbabilities(m, b.ids, b.targets, 1));
    const now = log(model, on);
    const old = (await now.numbers()).map((x, i) => x - shift.flat()[i]!);
    const batch: PolicyBatch = {
      ...on,
      old: tensor(old, { shape: [2, 6] }),
      advantages: f32(advantages),
      count: scalar(counted.length),
    };
    const run = jit((m: LanguageModel, b: PolicyBatch) => {
      const [loss, g, metrics] = valueAndGrad(m, (x) => policyLoss(x, b, { clip: 0.2, temperature: 1 }));
      const largest = leaves(g)
        .map((l) => l.tensor.abs().max())
        .reduce((a, b2) => a.maximum(b2));
      return { loss, largest, ...metrics };
    });
    const out = run(model, batch);
    const numbers: Record<string, number> = {};
    for (const [name, t] of Object.entries(out)) numbers[name] = await t.item();
    dispose([model, on, now, batch.old, batch.advantages, batch.count, out]);
    log.release();
    run.release();
    return numbers;
  }
  const zero = ids.map((row) => row.map(() => 0));
  const at = (values: readonly number[]) => {
    const flat = new Array<number>(12).fill(0);
    counted.forEach((i, k) => {
      flat[i] = values[k]!;
    });
    return [flat.slice(0, 6), flat.slice(6)];
  };

  test("before the first update the ratio is 1, nothing is clipped, and the loss is minus the mean advantage", async () => {
    const got = await policy(zero, at([1, -2, 3, 0.5]));
    expect(got["val/ratio"]).toBeCloseTo(1, 6);
    expect(got["policy/clipfrac_avg"]).toBe(0);
    expect(got["policy/approxkl_avg"]).toBeCloseTo(0, 6);
    expect(got.loss).toBeCloseTo(-2.5 / 4, 5);
    expect(got.largest).toBeGreaterThan(1e-4);
  });

  test("the clipped surrogate has its closed value, and so have its metrics", async () => {
    const logs = [0.5, -0.5, 0.1, 0.5];
    const advantages = [1, -2, 3, -1];
    const got = await policy(at(logs), at(advantages));
    const ratios = logs.map(Math.exp);
    const terms = ratios.map((r, i) => {
      const a = advantages[i]!;
      return Math.min(r * a, Math.min(Math.max(r, 0.8), 1.2) * a);
    });
    const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;
    expect(got.loss).toBeCloseTo(-mean(terms), 4);
    // Clipped where it costs: a good token that became too likely, a bad one that became too unlikely.
    expect(got["policy/clipfrac_avg"]).toBeCloseTo(2 / 4, 6);
    expect(got["val/ratio"]).toBeCloseTo(mean(ratios), 4);
    expect(got["val/ratio_square"]).toBeCloseTo(mean(ratios.map((r) => r * r)), 4);
    expect(got["policy/approxkl_avg"]).toBeCloseTo(mean(ratios.map((r, i) => r - 1 - logs[i]!)), 4);
  });

  test("tokens beyond the clip range give no gradient", async () => {
    const got = await policy(at([0.5, 0.5, 0.5, 0.5]), at([1, 1, 1, 1]));
    expect(got["policy/clipfrac_avg"]).toBe(1);
    expect(got.largest).toBe(0);
  });

  test("log-probabilities of replies are the language model's at temperature 1, and those of scaled logits at others", async () => {
    const model = modelOf(2);
    const on = { ids: i32(ids), targets: i32(targets) };
    const all = jit((m: LanguageModel, b: typeof on) => {
      const { hidden } = m.hidden(b.ids);
      const logits = hidden.reshape(12, 16).matmul(m.unembedding.transpose());
      return {
        plain: tokenLogProbabilities(m, b),
        one: replyLogProbabilities(m, b.ids, b.targets, 1),
        hot: replyLogProbabilities(m, b.ids, b.targets, 1.7),
        logits,
      };
    });
    const out = all(model, on);
    const [plain, one, hot, scores] = await Promise.all(
      [out.plain, out.one, out.hot, out.logits].map((t) => t.numbers()),
    );
    expect(one).toEqual(plain);
    counted.forEach((i) => {
      const row = scores!.slice(i * 13, i * 13 + 13).map((x) => x / 1.7);
      const sum = Math.log(row.reduce((a, x) => a + Math.exp(x), 0));
      expect(hot![i]).toBeCloseTo(row[targets.flat()[i]!]! - sum, 5);
    });
    expect(one!.filter((_, i) => !counted.includes(i)).every((x) => x === 0)).toBe(true);
    dispose([model, on, out]);
    all.release();
  });

  test("the value loss is half the larger of the plain and the clipped squared error", async () => {
    const rows = [
      { v: 1, old: 0.9, to: 2 }, // within the clip: (1 - 2)^2
      { v: 1, old: 0, to: 2 }, // clipped to 0.2: (0.2 - 2)^2
      { v: 1, old: 3, to: 1 }, // clipped to 2.8: (2.8 - 1)^2
      { v: 1, old: 0, to: 50 }, // does not count
    ];
    const head = new ValueHead(tensor([0.5, 0.25]), scalar(0.25));
    const batch = {
      hidden: f32(rows.map(() => [1, 1])),
      old: tensor(rows.map((r) => r.old)),
      returns: tensor(rows.map((r) => r.to)),
      mask: tensor([1, 1, 1, 0]),
      count: scalar(3),
    };
    const run = jit((h: ValueHead, b: typeof batch) => valueLoss(h, b, 0.2)[1]);
    const out = run(head, batch);
    expect(await out["loss/value_avg"]!.item()).toBeCloseTo((0.5 * (1 + 1.8 ** 2 + 1.8 ** 2)) / 3, 5);
    expect(await out["val/clipfrac_avg"]!.item()).toBeCloseTo(2 / 3, 6);
    dispose([head, batch, out]);
    run.release();
  });

  describe("the Bradley-Terry loss", () => {
    /** A trunk whose hidden state is the id itself and a 1: the score of a text ending in t is a t + b. */
    class Plain {
      readonly config = config;
      readonly table: Tensor;
      constructor(table: Tensor) {
        this.table = table;
      }
      get unembedding(): Tensor {
        return this.table;
      }
      hidden(x: Tensor<"i32">) {
        const value = x.to("f32").expandDims(2);
        return { hidden: value.mul(this.table.slice(0, 0, 1)).add(this.table.slice(0, 1, 2).mul(0)) };
      }
    }
    const pairs = [
      [4, 1],
      [2, 2],
      [0, 3],
    ];
    async function bradleyTerry(shift: number, slope: number, centre: number) {
      const key = randomKey(5);
      const trunk = new Plain(tensor([1, 0]));
      const model = new RewardModel(trunk as unknown as LanguageModel, tensor([slope]));
      const batch = {
        ids: i32(pairs.flat().map((last) => [9, last + shift, 7])),
        last: tensor(Int32Array.from(pairs.flat(), () => 1)) as Tensor<"i32">,
        pairs: scalar(pairs.length),
      };
      const run = jit((m: RewardModel, b: typeof batch) => {
        const [loss, metrics] = pairLoss(m, b, centre);
        return { loss, ...metrics };
      });
      const out = run(model, batch);
      const got: Record<string, number> = {};
      for (const [name, t] of Object.entries(out)) got[name] = await t.item();
      dispose([key, trunk.table, model.score, batch, out]);
      run.release();
      return got;
    }
    const margins = pairs.map(([a, b]) => a! - b!);
    const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;

    test("is the mean of -log sigmoid of the margins", async () => {
      const got = await bradleyTerry(0, 0.7, 0);
      expect(got.loss).toBeCloseTo(mean(margins.map((m) => Math.log(1 + Math.exp(-0.7 * m)))), 5);
      expect(got.margin).toBeCloseTo(0.7 * mean(margins), 5);
      expect(got.accuracy).toBeCloseTo(1 / 3, 6);
    });

    test("is log 2 when all scores are equal", async () => {
      expect((await bradleyTerry(0, 0, 0)).loss).toBeCloseTo(Math.log(2), 6);
    });

    test("does not change when a constant is added to both replies' scores; only the centring term does", async () => {
      const [plain, shifted] = [await bradleyTerry(0, 0.5, 0), await bradleyTerry(4, 0.5, 0)];
      expect(shifted.loss).toBeCloseTo(plain.loss!, 6);
      expect(shifted.margin).toBeCloseTo(plain.margin!, 6);
      expect(shifted.reward_chosen).toBeCloseTo(plain.reward_chosen! + 2, 5);
      expect((await bradleyTerry(4, 0.5, 0.01)).loss).toBeGreaterThan((await bradleyTerry(0, 0.5, 0.01)).loss! + 0.05);
    });

    test("stays finite for margins that overflow an exponential", async () => {
      const got = await bradleyTerry(0, 500, 0);
      expect(got.loss).toBeCloseTo((Math.log(2) + 1500) / 3, 2);
    });
  });

  test("a reward does not depend on what follows the last token of its row", async () => {
    const key = randomKey(3);
    const model = initRewardModel(modelOf(4), 16, key);
    const run = jit((m: RewardModel, x: Tensor<"i32">, last: Tensor<"i32">) => m.rewards(x, last));
    const last = tensor(Int32Array.of(3, 3)) as Tensor<"i32">;
    const x = i32([
      [1, 2, 3, 4, 5, 6],
      [1, 2, 3, 4, 0, 0],
    ]);
    const out = run(model, x, last);
    const [a, b] = await out.numbers();
    expect(a).toBeCloseTo(b!, 6);
    expect(a).not.toBe(0);
    dispose([key, model, x, last, out]);
    run.release();
  });
});
