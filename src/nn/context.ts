import type { Tensor } from "../tensor/tensor.ts";
import type { Cache } from "./cache.ts";

/** What a forward pass is told besides its input and its parameters. Everything may be left out: a causal pass over full rows. */
export interface Context {
  /** Whether dropout is on. It needs `key` then. */
  readonly training?: boolean | undefined;
  /** Random key of this pass, i32 (2). */
  readonly key?: Tensor<"i32"> | undefined;
  /**
   * Position of each token in its sequence, i32 (batch, time), or (1, time) for all rows; default 0, 1, ... time - 1. With a cache, a
   * negative one is padding: it is not kept, and nobody sees it.
   */
  readonly positions?: Tensor<"i32"> | undefined;
  /**
   * The first key that each query sees, i32 (batch, time): the start of its document in a packed row, or the end of its padding at the
   * left. Default 0. Keys are counted along the row. Not with a cache.
   */
  readonly first?: Tensor<"i32"> | undefined;
  /** One past the last key that each query sees, i32 (batch, time); default its own place + 1, which is causal attention. Not with a cache. */
  readonly end?: Tensor<"i32"> | undefined;
  /** Keys and values of earlier tokens; the new ones are written at `positions`. */
  readonly cache?: Cache | undefined;
  /**
   * The slot of the cache that each row of the batch belongs to, i32 (batch), or each token, i32 (batch, time); default the slot of the
   * row's number. Tokens of one slot must be at different positions.
   */
  readonly rows?: Tensor<"i32"> | undefined;
}
