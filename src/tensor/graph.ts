import type { DType, HostArray } from "./dtype.ts";
import type { Op } from "./op.ts";
import type { Shape } from "./shape.ts";
import type { Tensor } from "./tensor.ts";

/** What is known of a tensor before it has values. */
export interface Aval {
  readonly dtype: DType;
  readonly shape: Shape;
}

export type Attribute =
  | number
  | string
  | boolean
  | null
  | readonly Attribute[]
  | { readonly [key: string]: Attribute | undefined };
export type Attributes = { readonly [key: string]: Attribute | undefined };

/** One result of a node, or an input of the graph. */
export class Value implements Aval {
  readonly dtype: DType;
  readonly shape: Shape;
  readonly graph: Graph;
  /** Undefined for the graph's inputs. */
  readonly node: Node | undefined;
  /** Which output of the node, or which input of the graph. */
  readonly index: number;

  constructor(aval: Aval, graph: Graph, node: Node | undefined, index: number) {
    this.dtype = aval.dtype;
    this.shape = aval.shape;
    this.graph = graph;
    this.node = node;
    this.index = index;
  }
}

/** One op applied to values. */
export class Node {
  readonly op: Op;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
  readonly outputs: readonly Value[];
  /** Bodies of loops. */
  readonly bodies: readonly Graph[];
  /** Elements of a `constant`, unless it is a splat. */
  readonly data: HostArray | undefined;
  /** Names of the scopes it was traced in, outermost first. */
  readonly scope: string;
  /** The checkpointed region it belongs to, and which recomputation of it. Equal nodes of different numbers are not merged. */
  readonly region: number;

  constructor(
    graph: Graph,
    op: Op,
    inputs: readonly Value[],
    attributes: Attributes,
    outputs: readonly Aval[],
    extra: { bodies?: readonly Graph[] | undefined; data?: HostArray | undefined; scope?: string; region?: number },
  ) {
    this.op = op;
    this.inputs = inputs;
    this.attributes = attributes;
    this.bodies = extra.bodies ?? [];
    this.data = extra.data;
    this.scope = extra.scope ?? "";
    this.region = extra.region ?? 0;
    this.outputs = outputs.map((aval, i) => new Value(aval, graph, this, i));
  }
}

/** A program being traced: inputs, nodes in execution order, outputs. */
export class Graph {
  readonly inputs: Value[] = [];
  readonly nodes: Node[] = [];
  outputs: readonly Value[] = [];
  readonly parent: Graph | undefined;
  /** Tensors of outer traces, or concrete ones, that the body used: each became an input. */
  readonly captured: { readonly tensor: Tensor; readonly value: Value }[] = [];

  constructor(parent?: Graph) {
    this.parent = parent;
  }

  input(aval: Aval): Value {
    const value = new Value({ dtype: aval.dtype, shape: aval.shape }, this, undefined, this.inputs.length);
    this.inputs.push(value);
    return value;
  }

  add(
    op: Op,
    inputs: readonly Value[],
    attributes: Attributes,
    outputs: readonly Aval[],
    extra: {
      bodies?: readonly Graph[] | undefined;
      data?: HostArray | undefined;
      scope?: string;
      region?: number;
    } = {},
  ): Node {
    const node = new Node(this, op, inputs, attributes, outputs, extra);
    this.nodes.push(node);
    return node;
  }
}
