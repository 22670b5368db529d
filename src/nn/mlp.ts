import { InputError } from "../tensor/errors.ts";
import { gelu, relu, silu, swiglu } from "../tensor/ops/nn.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { Module } from "../tensor/tree.ts";
import type { Linear } from "./linear.ts";
import type { PackedLinear } from "./quantized.ts";

/** `gelu_tanh` is GPT-2's approximation of GELU. */
export const activations = ["gelu", "gelu_tanh", "relu", "silu"] as const;
export type Activation = (typeof activations)[number];

export function activate(x: Tensor, activation: Activation): Tensor {
  switch (activation) {
    case "gelu":
      return gelu(x);
    case "gelu_tanh":
      return gelu(x, { approximate: "tanh" });
    case "relu":
      return relu(x);
    case "silu":
      return silu(x);
    default:
      throw new InputError(`There is no activation named ${String(activation)}; there are ${activations.join(", ")}.`);
  }
}

/** Two linear maps with an activation between: a Transformer's feed-forward part. Vaswani et al. 2017, section 3.3. */
export class MLP extends Module {
  readonly up: Linear | PackedLinear;
  readonly down: Linear | PackedLinear;
  readonly activation: Activation;

  constructor(up: Linear | PackedLinear, down: Linear | PackedLinear, activation: Activation) {
    super();
    this.up = up;
    this.down = down;
    this.activation = activation;
  }

  /** (..., width) -> (..., width) */
  forward(x: Tensor): Tensor {
    return this.down.forward(activate(this.up.forward(x), this.activation));
  }
}

/** A feed-forward part with a gate: down(silu(gate(x)) * up(x)). Shazeer 2020, equation 6. */
export class SwiGLU extends Module {
  readonly gate: Linear | PackedLinear;
  readonly up: Linear | PackedLinear;
  readonly down: Linear | PackedLinear;

  constructor(gate: Linear | PackedLinear, up: Linear | PackedLinear, down: Linear | PackedLinear) {
    super();
    this.gate = gate;
    this.up = up;
    this.down = down;
  }

  /** (..., width) -> (..., width) */
  forward(x: Tensor): Tensor {
    return this.down.forward(swiglu(this.gate.forward(x), this.up.forward(x)));
  }
}
