import { scalar, zeros } from "../tensor/ops/creation.ts";
import { adamwUpdate, globalNorm } from "../tensor/ops/optimizer.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type Leaf, leaves, withTensors } from "../tensor/tree.ts";

export interface OptimizerConfig {
  /** `muon` for the hidden matrices and AdamW for everything else. */
  readonly kind: "adamw" | "muon";
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  /** Largest global norm of the gradients; larger ones are scaled down to it. Pascanu et al. 2013. */
  readonly clip: number;
  readonly muonMomentum: number;
}

/** What an optimizer remembers: the step it is at, and per trainable tensor one or two moments. A tree, so it is saved like a model. */
export interface OptimizerState {
  /** i32 scalar: updates done so far. */
  readonly step: Tensor;
  /** First moment (AdamW) or momentum (Muon), in the order of the parameters. */
  readonly m: readonly Tensor[];
  /** Second moment; an empty tensor where the optimizer has none. */
  readonly v: readonly Tensor[];
}

export interface LearningRates {
  /** f32 scalars. */
  readonly adamw: Tensor;
  readonly muon: Tensor;
}

/** Weight decay pulls on matrices only; gains, biases and other vectors are left alone. */
const decays = ({ tensor }: Leaf): boolean => tensor.rank >= 2;

/** Hidden matrices: those that map activations to activations. Look-up tables and the output layer are not among them. */
const isHidden = ({ path, tensor }: Leaf): boolean =>
  tensor.rank === 2 && !/(^|\.)(tokens|positions|head)\.weight$/.test(path);

export class Optimizer {
  readonly config: OptimizerConfig;
  readonly #trainable: (leaf: Leaf) => boolean;

  /** @param trainable which tensors of the model are updated; default all floating-point ones */
  constructor(config: OptimizerConfig, trainable: (leaf: Leaf) => boolean = () => true) {
    this.config = config;
    this.#trainable = trainable;
  }

  #parameters(model: unknown): { all: readonly Leaf[]; chosen: readonly number[] } {
    const all = leaves(model);
    const chosen = all.flatMap((leaf, i) => (leaf.tensor.dtype === "f32" && this.#trainable(leaf) ? [i] : []));
    return { all, chosen };
  }

  #usesMuon(leaf: Leaf): boolean {
    return this.config.kind === "muon" && isHidden(leaf);
  }

  /** Concrete zeros for a concrete model. */
  init(model: unknown): OptimizerState {
    const { all, chosen } = this.#parameters(model);
    return {
      step: scalar(0, "i32"),
      m: chosen.map((i) => zeros(all[i]!.tensor.shape)),
      v: chosen.map((i) => zeros(this.#usesMuon(all[i]!) ? [0] : all[i]!.tensor.shape)),
    };
  }

  /**
   * One update inside a traced step.
   * @returns the new model and state, and the norm of the gradients before clipping
   */
  update<M>(
    model: M,
    state: OptimizerState,
    gradients: M,
    rates: LearningRates,
  ): { model: M; state: OptimizerState; norm: Tensor } {
    const { config } = this;
    const { all, chosen } = this.#parameters(model);
    const g = leaves(gradients).map((l) => l.tensor);
    const norm = globalNorm(chosen.map((i) => g[i]!));
    // min(1, clip / norm), without a division by zero.
    const scale = norm.maximum(config.clip).pow(-1).mul(config.clip);
    const step = state.step.add(1);
    const next = all.map((l) => l.tensor);
    const m = [...state.m];
    const v = [...state.v];
    const byAdam = chosen.map((i, k) => ({ i, k })).filter(({ i }) => !this.#usesMuon(all[i]!));
    if (byAdam.length) {
      const updated = adamwUpdate(
        byAdam.map(({ i, k }) => ({
          parameter: next[i]!,
          m: m[k]!,
          v: v[k]!,
          gradient: g[i]!,
          decays: decays(all[i]!),
        })),
        config,
        rates.adamw,
        step,
        scale,
      );
      byAdam.forEach(({ i, k }, n) => {
        next[i] = updated[n]!.parameter;
        m[k] = updated[n]!.m;
        v[k] = updated[n]!.v;
      });
    }
    chosen.forEach((i, k) => {
      if (!this.#usesMuon(all[i]!)) return;
      const momentum = m[k]!.mul(config.muonMomentum).add(g[i]!.mul(scale));
      const nesterov = g[i]!.mul(scale).add(momentum.mul(config.muonMomentum));
      const p = next[i]!;
      const [rows, columns] = p.shape as [number, number];
      const direction = orthogonalize(nesterov).mul(Math.sqrt(Math.max(1, rows / columns)));
      next[i] = p.mul(rates.muon.mul(-config.weightDecay).add(1)).sub(direction.mul(rates.muon));
      m[k] = momentum;
    });
    return { model: withTensors(model, next), state: { step, m, v }, norm };
  }
}

/**
 * The nearest semi-orthogonal matrix, roughly: five Newton-Schulz steps with the quintic of Jordan et al. 2024 ("Muon"), whose
 * coefficients trade exactness for speed (singular values end between about 0.7 and 1.2).
 */
export function orthogonalize(x: Tensor): Tensor {
  const [a, b, c] = [3.4445, -4.775, 2.0315];
  const tall = x.shape[0]! > x.shape[1]!;
  let y = tall ? x.transpose() : x;
  y = y.div(y.square().sum().sqrt().add(1e-7));
  for (let i = 0; i < 5; i++) {
    const gram = y.matmul(y.transpose());
    const polynomial = gram.mul(b).add(gram.matmul(gram).mul(c));
    y = y.mul(a).add(polynomial.matmul(y));
  }
  return tall ? y.transpose() : y;
}
