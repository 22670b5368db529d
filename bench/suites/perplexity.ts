import { readFile } from "node:fs/promises";
import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { loadNativeBackend, useBackend } from "../../src/engine/index.ts";
import { perplexity as perplexityOf, textLoss } from "../../src/evaluate/index.ts";
import { Decoder } from "../../src/generate/index.ts";
import { loadModel, readLlama2c, type WeightChoice, weightChoices } from "../../src/models/index.ts";
import { packModel } from "../../src/models/packed.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import type { PageType } from "../../src/tensor/ops/paged.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { Llama2cTokenizer, loadTokenizer } from "../../src/tokenizers/index.ts";
import { table } from "../table.ts";

const options = z.object({
  model: z.string().describe("a Hugging Face folder, or a llama2.c file with --tokenizer"),
  text: z.string().describe("a text that the model has not seen"),
  tokenizer: z.string().optional().describe("of a llama2.c model: its tokenizer file"),
  bytes: z.number().int().min(1000).default(100_000).describe("of the text, from its beginning"),
});

/** Tokens that are read in one step. */
const PIECE = 256;

/** Weights and cache, and by how much the perplexity may rise above f32's. */
const forms: readonly (readonly [WeightChoice, PageType, number | undefined])[] = [
  ["f32", "f32", undefined],
  ["bf16", "f32", 0.01],
  ["int8", "f32", 0.01],
  ["int4", "f32", 0.06],
  ["f32", "bf16", 0.01],
  ["f32", "i8", 0.01],
  ["int8", "bf16", 0.01],
  ["int8", "i8", 0.01],
  ["int4", "bf16", 0.06],
];

export const perplexity = defineCommand({
  name: "perplexity",
  summary: "what packed weights and a rounded cache cost a trained model",
  description:
    `Perplexity and bits per byte of a held-out text with weights ${weightChoices.join(", ")} and keys and values f32, bf16, i8. Targets: int8 within ` +
    "1 % of f32, int4 within 6 %. The command fails where one is missed.",
  options,
  positional: ["model", "text"],
  async run({ model: path, text: file, tokenizer: parts, bytes }, { print }) {
    const native = loadNativeBackend();
    if ("missing" in native) throw new BackendError(native.missing);
    useBackend(native);
    const text = (await readFile(file)).subarray(0, bytes).toString("utf8");
    const tokenizer =
      parts === undefined ? await loadTokenizer(path) : Llama2cTokenizer.parse(await readFile(parts), parts);
    const ids = tokenizer.encode(text);
    const results = [];
    let exact: number | undefined;
    for (const [weights, cache, bound] of forms) {
      const loaded = parts === undefined ? (await loadModel(path)).model : await readLlama2c(path);
      const model = weights === "f32" ? loaded : packModel(loaded, { format: weights });
      const decoder = new Decoder({ slots: 1, ahead: PIECE - 1, chunks: [PIECE], cache });
      try {
        const loss = await textLoss(model, decoder, ids);
        const value = perplexityOf(loss);
        exact ??= value;
        const change = value / exact - 1;
        const bitsPerByte = loss.nats / Math.LN2 / Buffer.byteLength(text);
        results.push({ weights, cache, tokens: loss.tokens, perplexity: value, bitsPerByte, change, bound });
        print(`${weights} weights, ${cache} cache: ${value.toFixed(4)}`);
      } finally {
        decoder.release();
        dispose(model);
      }
    }
    const percent = (x: number) => `${x < 0 ? "" : "+"}${(100 * x).toFixed(2)} %`;
    print(
      `\n${table([
        ["weights", "cache", "perplexity", "bits per byte", "change", "at most"],
        ...results.map((r) => [
          r.weights,
          r.cache,
          r.perplexity.toFixed(4),
          r.bitsPerByte.toFixed(4),
          percent(r.change),
          r.bound === undefined ? "" : percent(r.bound),
        ]),
      ])}`,
    );
    // NaN is too far as well.
    const missed = results.filter((r) => r.bound !== undefined && !(r.change <= r.bound));
    if (missed.length > 0)
      throw new BackendError(
        `Too far from f32: ${missed.map((r) => `${r.weights} with a ${r.cache} cache`).join(", ")}.`,
      );
    return { suite: "perplexity", model: path, bytes: Buffer.byteLength(text), results };
  },
});
