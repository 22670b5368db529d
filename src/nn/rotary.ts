import { fromHost, iota } from "../tensor/ops/creation.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** How rotary frequencies are stretched for contexts longer than those of pre-training. */
export type RotaryScaling =
  /** Position interpolation. Chen et al. 2023, "Extending Context Window of Large Language Models". */
  | { readonly kind: "linear"; readonly factor: number }
  /** Llama 3.1: slow frequencies are divided by `factor`, fast ones kept, those between blended. Grattafiori et al. 2024. */
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalContext: number;
    };

export interface RotaryConfig {
  /** Base of the geometric series of wavelengths. */
  readonly theta: number;
  readonly scaling?: RotaryScaling | undefined;
}

/** The angles by which each pair of a head's elements is turned, each (1 or batch, time, width / 2). */
export interface RotaryAngles {
  readonly cosine: Tensor;
  readonly sine: Tensor;
}

/** Radians per position of each pair, `width / 2` of them. Su et al. 2021, section 3.2.2. */
export function rotaryFrequencies(width: number, { theta, scaling }: RotaryConfig): Float64Array {
  const frequencies = Float64Array.from({ length: width / 2 }, (_, i) => theta ** ((-2 * i) / width));
  if (!scaling) return frequencies;
  if (scaling.kind === "linear") return frequencies.map((f) => f / scaling.factor);
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalContext } = scaling;
  return frequencies.map((f) => {
    // How often this pair turns within the original context: at least `high` times is kept, at most `low` times stretched.
    const turns = (originalContext * f) / (2 * Math.PI);
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return kept * f + (1 - kept) * (f / factor);
  });
}

/**
 * @param width of a head
 * @param positions i32 (batch, time), or how many positions from 0
 * @param dtype of the result
 */
export function rotaryAngles(
  width: number,
  config: RotaryConfig,
  positions: Tensor | number,
  dtype: Tensor["dtype"] = "f32",
): RotaryAngles {
  const frequencies = Float32Array.from(rotaryFrequencies(width, config));
  const place = typeof positions === "number" ? iota([1, positions], 1) : positions;
  const angle = place
    .to("f32")
    .expandDims(2)
    .mul(fromHost("f32", [1, 1, width / 2], frequencies));
  return { cosine: angle.cos().to(dtype), sine: angle.sin().to(dtype) };
}
