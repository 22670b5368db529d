import { emptyCache, type LanguageModel, logits } from "../../src/models/index.ts";
import type { Cache } from "../../src/nn/cache.ts";
import { jit } from "../../src/tensor/jit.ts";
import { argmax } from "../../src/tensor/ops/sort.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose } from "../../src/tensor/tree.ts";

/** Continues prompts by the most likely token, `count` times: one pass over the padded prompts, then one token at a time. */
export async function greedy(model: LanguageModel, prompts: readonly number[][], count: number): Promise<number[][]> {
  const batch = prompts.length;
  const longest = Math.max(...prompts.map((p) => p.length));
  const step = jit(
    (m: LanguageModel, cache: Cache, ids: Tensor<"i32">, positions: Tensor<"i32">) => {
      const out = m.hidden(ids, { cache, positions });
      return { next: argmax(logits(m, out.hidden)), cache: out.cache! };
    },
    { donate: [1] },
  );
  const grid = (time: number, f: (b: number, t: number) => number) =>
    tensor(
      Int32Array.from({ length: batch * time }, (_, i) => f(Math.floor(i / time), i % time)),
      { shape: [batch, time] },
    ) as Tensor<"i32">;
  let cache = emptyCache(model.config, batch, longest + count);
  const rows = prompts.map((p) => [...p]);
  for (let n = 0; n < count; n++) {
    const time = n === 0 ? longest : 1;
    const ids = grid(time, (b, t) => (n === 0 ? (rows[b]![t] ?? 0) : rows[b]!.at(-1)!));
    const positions = grid(time, (b, t) => (n === 0 ? t : rows[b]!.length - 1));
    const out = step(model, cache, ids, positions);
    cache = out.cache;
    const next = await out.next.data();
    for (const [b, row] of rows.entries()) row.push(next[b * time + (n === 0 ? row.length - 1 : 0)]!);
    dispose([ids, positions, out.next]);
  }
  dispose(cache);
  step.release();
  return rows;
}
