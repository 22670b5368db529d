import { type AttentionOptions, packedAttention } from "../tensor/ops/attention.ts";
import { rotary } from "../tensor/ops/nn.ts";
import { type Pages, pagedAttention, pageWrite } from "../tensor/ops/paged.ts";
import { concatenate } from "../tensor/ops/structure.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import { type LayerCache, placesIn } from "./cache.ts";
import type { Context } from "./context.ts";
import type { Linear } from "./linear.ts";
import type { PackedLinear } from "./quantized.ts";
import type { RotaryAngles } from "./rotary.ts";

/** What a layer is told: the pass's context with what belongs to this layer alone. */
export interface LayerContext extends Omit<Context, "cache" | "key" | "training"> {
  readonly cache?: LayerCache | undefined;
  /** Random key of the dropout of the attention weights; without it there is none. */
  readonly key?: Tensor<"i32"> | undefined;
  /** Turns queries and keys; without it positions are not seen by the attention itself. */
  readonly rotary?: RotaryAngles | undefined;
}

export interface AttentionSizes {
  /** Of the queries. */
  readonly heads: number;
  /** Heads of keys and values: `heads`, or fewer that are shared (grouped-query attention, Ainslie et al. 2023). */
  readonly groups: number;
  /** Probability that an attention weight is dropped in training. */
  readonly dropout: number;
  /** Whether a token sees only itself and those before it; default yes. Encoders see the whole row. */
  readonly causal?: boolean;
}

/** Multi-head self-attention with one projection for queries, keys and values. Vaswani et al. 2017, section 3.2.2. */
export class SelfAttention extends Module {
  /** width -> (heads + 2 groups) * head width: the queries' heads, then the keys', then the values'. */
  readonly qkv: Linear | PackedLinear;
  /** heads * head width -> width */
  readonly out: Linear | PackedLinear;
  readonly heads: number;
  readonly groups: number;
  readonly dropout: number;
  readonly causal: boolean;

  constructor(qkv: Linear | PackedLinear, out: Linear | PackedLinear, sizes: AttentionSizes) {
    super();
    this.qkv = qkv;
    this.out = out;
    this.heads = sizes.heads;
    this.groups = sizes.groups;
    this.dropout = sizes.dropout;
    this.causal = sizes.causal ?? true;
  }

  /**
   * @param x (batch, time, width)
   * @returns (batch, time, width), and the layer's pages with the new keys and values if there was a cache
   */
  forward(x: Tensor, context: LayerContext): [y: Tensor, pages: Pages | undefined] {
    const [batch, time] = x.shape as [number, number];
    const { heads, groups } = this;
    const all = heads + 2 * groups;
    const seen = heads + groups;
    // (batch, time, heads + 2 groups, head width): a view of the projection.
    const projected = this.qkv.forward(x);
    const packed = projected.reshape(batch, time, all, projected.shape[2]! / all);
    // Queries and keys are turned, values are not.
    const turned = context.rotary && rotary(packed.slice(2, 0, seen), context.rotary.cosine, context.rotary.sine);
    const options: AttentionOptions = {
      causal: this.causal,
      ...(context.first ? { first: context.first } : {}),
      ...(context.end ? { end: context.end } : {}),
      ...(context.key && this.dropout > 0 ? { dropout: { key: context.key, rate: this.dropout } } : {}),
    };
    if (!context.cache) {
      const joint = turned ? concatenate([turned, packed.slice(2, seen)], 2) : packed;
      return [this.join(packedAttention(joint, heads, groups, options)), undefined];
    }

    const places = placesIn(context.cache.table, [batch, time], context);
    const flat = (h: Tensor): Tensor => h.reshape(batch * time, ...h.shape.slice(2));
    const [turnedRows, rows] = [flat(turned ?? packed), flat(packed)];
    const pages = pageWrite(context.cache.pages, turnedRows, rows, places, { keyHead: heads, valueHead: seen });
    const y = pagedAttention(turnedRows, pages, places, { heads });
    return [this.join(y.reshape(batch, time, heads, y.shape[2]!)), pages];
  }

  /** (batch, time, heads, head width) -> (batch, time, width) */
  private join(y: Tensor): Tensor {
    const [batch, time, heads, width] = y.shape as [number, number, number, number];
    return this.out.forward(y.reshape(batch, time, heads * width));
  }
}
