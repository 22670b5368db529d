import { SelfAttention } from "../../nn/attention.ts";
import type { Context } from "../../nn/context.ts";
import { type Embedding, initEmbedding } from "../../nn/embedding.ts";
import { initLinear, type Linear } from "../../nn/linear.ts";
import { type Activation, activate, MLP } from "../../nn/mlp.ts";
import { initLayerNorm, type LayerNorm } from "../../nn/norm.ts";
import { InputError, ShapeError } from "../../tensor/errors.ts";
import { jit } from "../../tensor/jit.ts";
import { iota, zeros } from "../../tensor/ops/creation.ts";
import { linear } from "../../tensor/ops/dot.ts";
import { linearCrossEntropy } from "../../tensor/ops/loss.ts";
import { dropout, splitKey } from "../../tensor/ops/random.ts";
import { concatenate } from "../../tensor/ops/structure.ts";
import { sameShape, show } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scope } from "../../tensor/trace.ts";
import { Module } from "../../tensor/tree.ts";
import type { Encoder } from "../encoder.ts";
import { checkIds, layerKeys, needKey } from "../layers.ts";
import type { BertConfig } from "./config.ts";

/** What a BERT is told besides its tokens. Everything may be left out. */
export interface BertContext extends Omit<Context, "cache" | "rows"> {
  /** Kind of each token, i32 (batch, time): 0 for the first sentence, 1 for the second. Default 0. */
  readonly segments?: Tensor<"i32"> | undefined;
}

/** One post-norm Transformer layer. Vaswani et al. 2017, section 3.1. */
export class BertLayer extends Module {
  readonly attention: SelfAttention;
  readonly norm1: LayerNorm;
  readonly mlp: MLP;
  readonly norm2: LayerNorm;
  /** Of what the layer adds, in training. */
  readonly dropout: number;

  constructor(parts: { attention: SelfAttention; norm1: LayerNorm; mlp: MLP; norm2: LayerNorm }, rate: number) {
    super();
    this.attention = parts.attention;
    this.norm1 = parts.norm1;
    this.mlp = parts.mlp;
    this.norm2 = parts.norm2;
    this.dropout = rate;
  }

  /** @param x (batch, time, width) */
  forward(x: Tensor, context: Omit<BertContext, "segments">): Tensor {
    const [k1, k2, k3] = context.training && context.key ? splitKey(context.key, 3) : [];
    const drop = (y: Tensor, key: Tensor | undefined) => (key ? dropout(y, key, this.dropout) : y);
    const h = scope("attention", () => {
      const [attended] = this.attention.forward(x, { ...context, key: k1 });
      return this.norm1.forward(x.add(drop(attended, k2)));
    });
    return scope("mlp", () => this.norm2.forward(h.add(drop(this.mlp.forward(h), k3))));
  }
}

/** The head of masked-token prediction: one more layer, then the token embedding again. Devlin et al. 2019, section 3.1. */
export class MaskedHead extends Module {
  readonly transform: Linear;
  readonly norm: LayerNorm;
  /** (vocabulary) */
  readonly bias: Tensor;
  readonly activation: Activation;

  constructor(transform: Linear, norm: LayerNorm, bias: Tensor, activation: Activation) {
    super();
    this.transform = transform;
    this.norm = norm;
    this.bias = bias;
    this.activation = activation;
  }

  /** (..., width) -> (..., width): what is multiplied with the embedding. */
  forward(hidden: Tensor): Tensor {
    return this.norm.forward(activate(this.transform.forward(hidden), this.activation));
  }
}

/** BERT: a bidirectional encoder. Devlin et al. 2019. */
export class Bert extends Module implements Encoder {
  readonly config: BertConfig;
  /** (vocabulary, width) */
  readonly tokens: Embedding;
  /** (context, width) */
  readonly positions: Embedding;
  /** (segments, width) */
  readonly segments: Embedding;
  readonly norm: LayerNorm;
  readonly h: readonly BertLayer[];
  readonly pooler: Linear | undefined;
  readonly head: MaskedHead | undefined;

  constructor(
    config: BertConfig,
    parts: {
      tokens: Embedding;
      positions: Embedding;
      segments: Embedding;
      norm: LayerNorm;
      h: readonly BertLayer[];
      pooler?: Linear;
      head?: MaskedHead;
    },
  ) {
    super();
    this.config = config;
    this.tokens = parts.tokens;
    this.positions = parts.positions;
    this.segments = parts.segments;
    this.norm = parts.norm;
    this.h = parts.h;
    this.pooler = parts.pooler;
    this.head = parts.head;
  }

  /**
   * @param ids i32 (batch, time)
   * @returns (batch, time, width), after the last layer
   */
  hidden(ids: Tensor<"i32">, context: BertContext = {}): Tensor {
    return scope("BERT", () => {
      const time = checkIds(ids, context, this.config);
      const { segments, ...rest } = context;
      if (segments && !sameShape(segments.shape, ids.shape))
        throw new ShapeError(`BERT: segments must be i32 ${show(ids.shape)} as the ids, got ${show(segments.shape)}.`);
      const { hidden: rate, attention } = this.config.dropout;
      needKey(context, [rate, attention]);
      const keys = layerKeys(context, this.h.length);
      let x = scope("embedding", () => {
        const places = context.positions ?? iota([1, time], 1);
        const kinds = this.segments.forward(segments ?? zeros([1, 1], "i32"));
        return this.norm.forward(this.tokens.forward(ids).add(this.positions.forward(places)).add(kinds));
      });
      if (keys) x = dropout(x, keys.embedding, rate);
      this.h.forEach((layer, i) => {
        x = scope(`h.${i}`, () => layer.forward(x, { ...rest, key: keys?.layers[i] }));
      });
      return x;
    });
  }

  /**
   * The first token's vector, once more transformed: what sentence classifiers read.
   * @param hidden (batch, time, width)
   * @returns (batch, width)
   */
  pooled(hidden: Tensor): Tensor {
    if (!this.pooler) throw new InputError("BERT: this model has no pooler (config.pooler is false).");
    const [batch, , width] = hidden.shape as [number, number, number];
    return this.pooler.forward(hidden.slice(1, 0, 1).reshape(batch, width)).tanh();
  }

  /** hidden (..., width) -> logits of the masked-token head (..., vocabulary) */
  logits(hidden: Tensor): Tensor {
    return scope("head", () => linear(this.maskedHead.forward(hidden), this.tokens.weight, this.maskedHead.bias));
  }

  /** @throws InputError if there is none */
  get maskedHead(): MaskedHead {
    if (!this.head) throw new InputError("BERT: this model has no head for masked tokens (config.head is false).");
    return this.head;
  }
}

/**
 * Mean cross-entropy in nats of the masked tokens; 0 if none is.
 * @param ids i32 (batch, time), with masks in the places to guess
 * @param targets i32 (batch, time): the token there, or a negative number where nothing is guessed
 */
export function maskedLanguageModelLoss(
  model: Bert,
  ids: Tensor<"i32">,
  targets: Tensor<"i32">,
  context: BertContext = {},
): Tensor {
  if (!sameShape(ids.shape, targets.shape))
    throw new ShapeError(`masked loss: ids ${show(ids.shape)} and targets ${show(targets.shape)} differ in shape.`);
  const hidden = model.hidden(ids, context);
  const head = model.maskedHead;
  const width = hidden.shape[2]!;
  return scope("loss", () => {
    const rows = head.forward(hidden).reshape(ids.size, width);
    // The bias as one more column of the product, so that the logits never exist as a whole.
    const losses = linearCrossEntropy(
      withColumn(rows, 1),
      withColumn(model.tokens.weight, head.bias),
      targets.reshape(ids.size),
    );
    return losses.sum().div(targets.greaterEqual(0).to(losses.dtype).sum().maximum(1));
  });
}

/** (rows, width) with one column more. */
function withColumn(x: Tensor, column: Tensor | number): Tensor {
  const rows = x.shape[0]!;
  const last = typeof column === "number" ? zeros([rows, 1], x.dtype).add(column) : column.reshape(rows, 1);
  return concatenate([x, last], 1);
}

/**
 * Fresh weights: normal with deviation 0.02, biases 0 (Devlin et al. 2019's code).
 * @param key i32 (2), from `randomKey(seed)`
 */
export function initBert(config: BertConfig, key: Tensor<"i32">): Bert {
  const once = jit((k: Tensor<"i32">) => buildBert(config, k), { name: "initBert" });
  const model = once(key);
  once.release();
  return model;
}

/** The weights themselves, traced or not. */
export function buildBert(config: BertConfig, key: Tensor<"i32">): Bert {
  const { vocabulary, context, layers, width, heads, mlpWidth, epsilon, activation } = config;
  const deviation = 0.02;
  const [kTokens, kPositions, kSegments, kPooler, kHead, ...kLayers] = splitKey(key, 5 + layers) as [
    Tensor<"i32">,
    Tensor<"i32">,
    Tensor<"i32">,
    Tensor<"i32">,
    Tensor<"i32">,
    ...Tensor<"i32">[],
  ];
  const map = (k: Tensor, from: number, to: number) => initLinear(k, { in: from, out: to, bias: true, deviation });
  const norm = () => initLayerNorm(width, epsilon);
  const layer = (k: Tensor<"i32">): BertLayer => {
    const [a, b, c, d] = splitKey(k, 4) as [Tensor, Tensor, Tensor, Tensor];
    const attention = new SelfAttention(map(a, width, 3 * width), map(b, width, width), {
      heads,
      groups: heads,
      dropout: config.dropout.attention,
      causal: false,
    });
    const mlp = new MLP(map(c, width, mlpWidth), map(d, mlpWidth, width), activation);
    return new BertLayer({ attention, norm1: norm(), mlp, norm2: norm() }, config.dropout.hidden);
  };
  return new Bert(config, {
    tokens: initEmbedding(kTokens, vocabulary, width, deviation),
    positions: initEmbedding(kPositions, context, width, deviation),
    segments: initEmbedding(kSegments, config.segments, width, deviation),
    norm: norm(),
    h: kLayers.map(layer),
    ...(config.pooler ? { pooler: map(kPooler, width, width) } : {}),
    ...(config.head ? { head: new MaskedHead(map(kHead, width, width), norm(), zeros([vocabulary]), activation) } : {}),
  });
}
