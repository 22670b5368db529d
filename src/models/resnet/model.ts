import {
  type BatchNorm,
  type BatchNormPass,
  type Conv2d,
  initBatchNorm,
  initConv2d,
  initStatistics,
  type RunningStatistics,
} from "../../nn/convolution.ts";
import { initLinear, type Linear } from "../../nn/linear.ts";
import { InputError, ShapeError } from "../../tensor/errors.ts";
import { jit } from "../../tensor/jit.ts";
import { splitKey } from "../../tensor/ops/random.ts";
import { pad, slice } from "../../tensor/ops/structure.ts";
import { show } from "../../tensor/shape.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { scope } from "../../tensor/trace.ts";
import { Module } from "../../tensor/tree.ts";

/** A residual network for small pictures. He et al. 2016, section 4.2: 6 n + 2 layers, n blocks in each of three stages. */
export interface ResNetConfig {
  readonly classes: number;
  /** Of the pictures: 3 for colour. */
  readonly channels: number;
  /** Blocks in each stage: 3 make ResNet-20, 9 ResNet-56. */
  readonly blocks: number;
  /** Channels of the stages; the first of each later stage halves height and width. */
  readonly widths: readonly number[];
}

export const resNet20: ResNetConfig = { classes: 10, channels: 3, blocks: 3, widths: [16, 32, 64] };

export interface BlockStatistics {
  readonly norm1: RunningStatistics;
  readonly norm2: RunningStatistics;
}

/** The running statistics of all norms, in the order of the layers. */
export interface ResNetStatistics {
  readonly norm: RunningStatistics;
  readonly h: readonly BlockStatistics[];
}

/** Two 3 x 3 convolutions and what goes past them. He et al. 2016, figure 2. */
export class ResidualBlock extends Module {
  readonly conv1: Conv2d;
  readonly norm1: BatchNorm;
  readonly conv2: Conv2d;
  readonly norm2: BatchNorm;

  constructor(conv1: Conv2d, norm1: BatchNorm, conv2: Conv2d, norm2: BatchNorm) {
    super();
    this.conv1 = conv1;
    this.norm1 = norm1;
    this.conv2 = conv2;
    this.norm2 = norm2;
  }

  /** @param x (batch, height, width, channels) */
  forward(x: Tensor, running: BlockStatistics, pass: BatchNormPass): [y: Tensor, running: BlockStatistics] {
    const [h, norm1] = this.norm1.forward(this.conv1.forward(x), running.norm1, { ...pass, relu: true });
    const residual = this.shortcut(x);
    const [y, norm2] = this.norm2.forward(this.conv2.forward(h), running.norm2, { ...pass, relu: true, residual });
    return [y, { norm1, norm2 }];
  }

  /** The identity; where sizes change, every second place with zeros for the new channels (the paper's option A). */
  private shortcut(x: Tensor): Tensor {
    const [batch, height, width, channels] = x.shape as [number, number, number, number];
    const { stride } = this.conv1;
    const more = this.conv1.weight.shape[0]! - channels;
    if (stride === 1 && more === 0) return x;
    const thin = slice(x, [0, 0, 0, 0], [batch, height, width, channels], [1, stride, stride, 1]);
    const low = Math.floor(more / 2);
    return pad(thin, 0, [0, 0, 0, low], [0, 0, 0, more - low]);
  }
}

export class ResNet extends Module {
  readonly config: ResNetConfig;
  readonly stem: Conv2d;
  readonly norm: BatchNorm;
  readonly h: readonly ResidualBlock[];
  readonly head: Linear;

  constructor(
    config: ResNetConfig,
    parts: { stem: Conv2d; norm: BatchNorm; h: readonly ResidualBlock[]; head: Linear },
  ) {
    super();
    this.config = config;
    this.stem = parts.stem;
    this.norm = parts.norm;
    this.h = parts.h;
    this.head = parts.head;
  }

  /**
   * @param images (batch, height, width, channels)
   * @returns logits (batch, classes), and the running statistics afterwards
   */
  forward(
    images: Tensor,
    running: ResNetStatistics,
    { training }: { readonly training: boolean },
  ): [logits: Tensor, running: ResNetStatistics] {
    const { channels } = this.config;
    if (images.rank !== 4 || images.shape[3] !== channels)
      throw new ShapeError(
        `ResNet: images must be (batch, height, width, ${channels}), channels last, got ${show(images.shape)}.`,
      );
    return scope("ResNet", () => {
      let [x, norm] = scope("stem", () =>
        this.norm.forward(this.stem.forward(images), running.norm, { training, relu: true }),
      );
      const h = this.h.map((block, i) => {
        const [y, own] = scope(`h.${i}`, () => block.forward(x, running.h[i]!, { training }));
        x = y;
        return own;
      });
      const logits = scope("head", () => this.head.forward(x.mean([1, 2])));
      return [logits, { norm, h }] as const;
    }) as [Tensor, ResNetStatistics];
  }
}

/** Statistics of a network that has seen nothing. */
export function initResNetStatistics(config: ResNetConfig): ResNetStatistics {
  return {
    norm: initStatistics(config.widths[0]!),
    h: config.widths.flatMap((width) =>
      Array.from({ length: config.blocks }, () => ({ norm1: initStatistics(width), norm2: initStatistics(width) })),
    ),
  };
}

/**
 * Fresh weights: convolutions after He et al. 2015, the head normal with deviation 0.01.
 * @param key i32 (2), from `randomKey(seed)`
 */
export function initResNet(config: ResNetConfig, key: Tensor<"i32">): ResNet {
  const once = jit((k: Tensor<"i32">) => buildResNet(config, k), { name: "initResNet" });
  const model = once(key);
  once.release();
  return model;
}

/** The weights themselves, traced or not. */
export function buildResNet(config: ResNetConfig, key: Tensor<"i32">): ResNet {
  const { widths, blocks, classes, channels } = config;
  if (widths.length === 0 || blocks < 1)
    throw new InputError("ResNet: needs at least one stage (config.widths) and one block in each (config.blocks).");
  const [kStem, kHead, ...keys] = splitKey(key, 2 + 2 * widths.length * blocks) as [Tensor, Tensor, ...Tensor[]];
  let from = widths[0]!;
  const h = widths.flatMap((width, stage) =>
    Array.from({ length: blocks }, (_, i) => {
      const at = 2 * (stage * blocks + i);
      const stride = stage > 0 && i === 0 ? 2 : 1;
      const conv1 = initConv2d(keys[at]!, { in: from, out: width, window: 3, stride, padding: 1 });
      const conv2 = initConv2d(keys[at + 1]!, { in: width, out: width, window: 3, padding: 1 });
      from = width;
      return new ResidualBlock(conv1, initBatchNorm(width), conv2, initBatchNorm(width));
    }),
  );
  return new ResNet(config, {
    stem: initConv2d(kStem, { in: channels, out: widths[0]!, window: 3, padding: 1 }),
    norm: initBatchNorm(widths[0]!),
    h,
    head: initLinear(kHead, { in: from, out: classes, bias: true, deviation: 0.01 }),
  });
}
