import { SelfAttention } from "../nn/attention.ts";
import type { Embedding } from "../nn/embedding.ts";
import type { Linear } from "../nn/linear.ts";
import { MLP, SwiGLU } from "../nn/mlp.ts";
import {
  type PackedEmbedding,
  type PackedLinear,
  PackedMatrix,
  type Packer,
  packEmbedding,
  packLinear,
  packRows,
  packSwiGLU,
  packTensors,
  releasePackers,
} from "../nn/quantized.ts";
import type { DType } from "../tensor/dtype.ts";
import { PANEL, packedShape, type WeightFormat } from "../tensor/ops/quantized.ts";
import type { Shape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { trace } from "../tensor/trace.ts";
import { dispose } from "../tensor/tree.ts";
import { GPT, GPTBlock } from "./gpt/model.ts";
import { Llama, LlamaBlock } from "./llama/model.ts";
import { fill, type MappedTensor, Scratch } from "./mapping.ts";
import type { LanguageModel } from "./model.ts";

/** How weights are kept while a model is read: as loaded, or packed. */
export const weightChoices = ["f32", "bf16", "int8", "int4"] as const;
export type WeightChoice = (typeof weightChoices)[number];

export interface PackOptions {
  readonly format: WeightFormat;
  /** Of the token table and the head; default `format`, int8 beside int4: their errors cost most and reach every token. */
  readonly head?: WeightFormat;
}

/**
 * The model with its matrices packed: a half, a quarter or an eighth of the memory that is read for each token. Norms, biases and positions
 * stay f32. The model given is used up: what was packed is disposed. `loadModel` packs while it reads, which needs less memory.
 */
export function packModel(model: LanguageModel, options: PackOptions): LanguageModel {
  try {
    return packLayers(model, options, (weights, format) => {
      const packed = packTensors(weights, format);
      // One matrix at a time is disposed, so that both forms of the whole model are never in memory.
      dispose(weights);
      return packed;
    });
  } finally {
    releasePackers();
  }
}

/** A matrix to be packed: in the packed skeleton `into` stands where it will be. */
interface PackJob {
  readonly weights: readonly Tensor[];
  readonly into: PackedMatrix;
}

/** The form of a model's packed self, and how to fill it. @param like a skeleton */
function packSkeleton(like: LanguageModel, options: PackOptions): { model: LanguageModel; jobs: PackJob[] } {
  const jobs: PackJob[] = [];
  const { result } = trace((graph) => {
    const empty = (shape: Shape, dtype: DType) => Tensor.traced(graph.input({ dtype, shape }));
    return packLayers(like, options, (weights, format) => {
      const shape = weights[0].shape as [number, number];
      const panels = Math.ceil(shape[0] / PANEL) * weights.length;
      const { packed, scales } = packedShape(format, panels * PANEL, shape[1]);
      const into = new PackedMatrix({
        packed: empty(packed, format === "bf16" ? "bf16" : "u8"),
        scales: scales && empty(scales, "bf16"),
        format,
        shape,
      });
      jobs.push({ weights, into });
      return into;
    });
  });
  return { model: result, jobs };
}

/** Fills a skeleton with the tensors of a checkpoint, each packed a few rows at a time: the model is never whole in f32. */
export async function readPacked(
  like: LanguageModel,
  found: ReadonlyMap<Tensor, MappedTensor>,
  options: PackOptions,
): Promise<LanguageModel> {
  const { model, jobs } = packSkeleton(like, options);
  const packed = new Map<Tensor, Tensor>();
  const scratch = new Scratch();
  try {
    for (const { weights, into } of jobs) {
      const sources = weights.map((w) => found.get(w)!);
      const width = into.shape[1];
      const made = await packRows(into.shape, into.format, async (from, to) => {
        const parts: Float32Array[] = [];
        for (const source of sources) {
          const part = scratch.take(`part ${parts.length}`, (to - from) * width);
          await source.read(part, from * width, scratch);
          parts.push(part);
        }
        return parts;
      });
      packed.set(into.packed, made.packed);
      if (into.scales) packed.set(into.scales, made.scales!);
    }
    return await fill(model, async (tensor) => packed.get(tensor) ?? (await found.get(tensor)!.load(scratch)));
  } catch (error) {
    dispose([...packed.values()]);
    throw error;
  } finally {
    releasePackers();
  }
}

/** Which matrices of a model are packed, and as what. */
function packLayers(model: LanguageModel, options: PackOptions, pack: Packer): LanguageModel {
  const { format, head = format === "int4" ? "int8" : format } = options;
  const linear = (l: Linear | PackedLinear, f = format): PackedLinear => ("weight" in l ? packLinear(l, f, pack) : l);
  const table = (e: Embedding | PackedEmbedding): PackedEmbedding => ("weight" in e ? packEmbedding(e, head, pack) : e);
  const attention = (a: SelfAttention) =>
    new SelfAttention(linear(a.qkv), linear(a.out), { heads: a.heads, groups: a.groups, dropout: a.dropout });
  const gated = (m: SwiGLU) => packSwiGLU(m, format, pack) ?? new SwiGLU(linear(m.gate), linear(m.up), linear(m.down));
  if (model instanceof Llama) {
    const h = model.h.map(
      (b) => new LlamaBlock(b.norm1, attention(b.attention), b.norm2, b.mlp instanceof SwiGLU ? gated(b.mlp) : b.mlp),
    );
    const lm = model.head && linear(model.head, head);
    return new Llama(model.config, { tokens: table(model.tokens), h, norm: model.norm, head: lm });
  }
  const gpt = model as GPT;
  const h = gpt.h.map((b) => {
    const mlp = new MLP(linear(b.mlp.up), linear(b.mlp.down), b.mlp.activation);
    return new GPTBlock(b.norm1, attention(b.attention), b.norm2, mlp, b.dropout);
  });
  const lm = gpt.head && linear(gpt.head, head);
  return new GPT(gpt.config, { tokens: table(gpt.tokens), positions: gpt.positions, h, norm: gpt.norm, head: lm });
}
