import type { DType, HostArray } from "./dtype.ts";
import { HowdahError } from "./errors.ts";
import type { Attributes, Aval, Graph, Node } from "./graph.ts";
import type { Tensor } from "./tensor.ts";

export interface GradientContext {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  /** One per output; an output nothing depends on has `undefined`. */
  readonly cotangents: readonly (Tensor | undefined)[];
  readonly attributes: Attributes;
  /** Which inputs' gradients are wanted. */
  readonly wanted: readonly boolean[];
  readonly node: Node;
}

/** A test case of an op: inputs either given or drawn at random, outputs given where a closed answer is known. */
export interface OpCase {
  readonly inputs: readonly CaseInput[];
  readonly attributes?: Attributes;
  /** Flat row-major answers, one list per output; omitted where the reference backend is the answer. */
  readonly outputs?: readonly (readonly number[])[];
  /** Central differences in f64 are compared with the gradient unless this says no (kinks, integers). */
  readonly differentiable?: boolean;
  /** Relative tolerance against the reference, default 1e-5 for f32. */
  readonly tolerance?: number;
}

export interface CaseInput {
  readonly shape: readonly number[];
  readonly dtype?: DType;
  /** Given values, row-major; otherwise uniform in [low, high). */
  readonly values?: readonly number[];
  readonly low?: number;
  readonly high?: number;
}

/**
 * One op, in one place: its name, its rule for shapes and dtypes, its gradient (written in ops, so that gradients have gradients), its
 * decomposition if it is a composite, its rule under `vmap`, and its cases for the conformance suite.
 */
export interface OpDefinition {
  readonly name: string;
  infer(inputs: readonly Aval[], attributes: Attributes, bodies: readonly Graph[]): readonly Aval[];
  gradient?(context: GradientContext): readonly (Tensor | undefined)[];
  /** Composites only: the same result by simpler ops. */
  decompose?(inputs: readonly Tensor[], attributes: Attributes): readonly Tensor[];
  /** Inputs marked in `batched` carry the mapped axis in front; all outputs must. */
  batch?(
    inputs: readonly Tensor[],
    batched: readonly boolean[],
    attributes: Attributes,
    size: number,
    bodies: readonly Graph[],
  ): readonly Tensor[];
  /** Element-wise ops may be gathered into fused regions. */
  readonly elementwise?: boolean;
  /** `[output, input]` pairs whose storage a backend may share when the input is not needed afterwards. */
  readonly inPlace?:
    | readonly (readonly [output: number, input: number])[]
    | ((inputs: number, attributes: Attributes) => readonly (readonly [output: number, input: number])[]);
  /** Floating-point operations of one call. */
  flops?(inputs: readonly Aval[], outputs: readonly Aval[], attributes: Attributes): number;
  readonly cases?: readonly OpCase[];
}

export type Op = OpDefinition;

const registry = new Map<string, Op>();

export function defineOp(definition: OpDefinition): Op {
  if (registry.has(definition.name)) throw new HowdahError("internal", `The op ${definition.name} is defined twice.`);
  registry.set(definition.name, definition);
  return definition;
}

export function findOp(name: string): Op {
  const op = registry.get(name);
  if (!op) throw new HowdahError("internal", `There is no op named ${name}.`);
  return op;
}

export function allOps(): readonly Op[] {
  return [...registry.values()];
}

/** Elements of a constant, given for the whole or as one repeated number. */
export type ConstantData = HostArray | number;
