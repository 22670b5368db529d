import type { HostArray } from "./dtype.ts";
import { HowdahError, StateError } from "./errors.ts";
import { type Attributes, type Aval, Graph, type Value } from "./graph.ts";
import type { Op } from "./op.ts";
import { runtime } from "./runtime.ts";
import { Tensor } from "./tensor.ts";

const traces: Graph[] = [];
const scopes: string[] = [];
let region = 0;
let regions = 0;

export function currentTrace(): Graph | undefined {
  return traces[traces.length - 1];
}

/** Names the ops traced inside `body`, for errors, profiles and `explain`. */
export function scope<T>(name: string, body: () => T): T {
  scopes.push(name);
  try {
    return body();
  } catch (error) {
    if (error instanceof HowdahError && !located.has(error)) {
      located.add(error);
      error.message += `\n  in ${[...scopes].reverse().join(" <- ")}`;
    }
    throw error;
  } finally {
    scopes.pop();
  }
}
const located = new WeakSet<HowdahError>();

/** Runs `body` as if in the scopes of `path` (names joined by `/`): for ops made on behalf of another, such as its gradient. */
export function inScopeOf<T>(path: string, body: () => T): T {
  const outer = scopes.splice(0, scopes.length, ...(path ? path.split("/") : []));
  try {
    return body();
  } finally {
    scopes.splice(0, scopes.length, ...outer);
  }
}

/** Runs `body` with all its ops marked as one checkpointed region. */
export function inRegion<T>(body: () => T): T {
  const outer = region;
  region = ++regions;
  try {
    return body();
  } finally {
    region = outer;
  }
}

export function freshRegion(): number {
  return ++regions;
}

/** Traces `body` into a new graph nested in the current one. */
export function trace<T>(body: (graph: Graph) => T): { graph: Graph; result: T } {
  const graph = new Graph(currentTrace());
  traces.push(graph);
  const outer = region;
  region = 0;
  try {
    return { graph, result: body(graph) };
  } finally {
    region = outer;
    traces.pop();
  }
}

/** Runs `body` as if `graph` were being traced still; new ops are appended to it. */
export function within<T>(graph: Graph, body: () => T): T {
  if (currentTrace() === graph) return body();
  traces.push(graph);
  try {
    return body();
  } finally {
    traces.pop();
  }
}

/** The value of `tensor` in `graph`; a tensor from outside becomes a captured input. */
export function lift(graph: Graph, tensor: Tensor): Value {
  const value = tensor.tracedValue;
  if (value?.graph === graph) return value;
  const found = graph.captured.find((c) => c.tensor === tensor || (value && c.tensor.tracedValue === value));
  if (found) return found.value;
  if (value) {
    let outer = graph.parent;
    while (outer && outer !== value.graph) outer = outer.parent;
    if (!outer)
      throw new StateError(
        "A tensor of a finished trace is used in another one. Return it from the traced function instead of storing it outside.",
      );
  } else tensor.assertAlive("a traced function");
  const input = graph.input(tensor);
  graph.captured.push({ tensor, value: input });
  return input;
}

export interface ApplyExtra {
  readonly bodies?: readonly Graph[];
  readonly data?: HostArray;
  readonly region?: number;
}

/** Applies an op: recorded while tracing, run at once otherwise. */
export function apply(
  op: Op,
  inputs: readonly Tensor[],
  attributes: Attributes = {},
  extra: ApplyExtra = {},
): Tensor[] {
  const avals = op.infer(inputs, attributes, extra.bodies ?? []);
  const graph = currentTrace();
  if (!graph) return runtime().eager(op, inputs, attributes, avals, extra);
  const values = inputs.map((t) => lift(graph, t));
  const node = graph.add(op, values, attributes, avals, {
    bodies: extra.bodies,
    data: extra.data,
    scope: scopes.join("/"),
    region: extra.region ?? region,
  });
  return node.outputs.map((v) => Tensor.traced(v));
}

export function apply1(op: Op, inputs: readonly Tensor[], attributes: Attributes = {}, extra: ApplyExtra = {}): Tensor {
  return apply(op, inputs, attributes, extra)[0]!;
}

/** Copies the nodes of `graph` into the current trace (or runs them at once), with `inputs` for its inputs. */
export function replay(graph: Graph, inputs: readonly Tensor[]): Tensor[] {
  const map = new Map<Value, Tensor>();
  graph.inputs.forEach((v, i) => {
    map.set(v, inputs[i]!);
  });
  for (const node of graph.nodes) {
    const outs = apply(
      node.op,
      node.inputs.map((v) => map.get(v)!),
      node.attributes,
      { bodies: node.bodies, ...(node.data ? { data: node.data } : {}), region: node.region || region },
    );
    node.outputs.forEach((v, i) => {
      map.set(v, outs[i]!);
    });
  }
  return graph.outputs.map((v) => map.get(v)!);
}

/** Traces a function of tensors with the given avals; the captured tensors follow its own inputs. */
export function traceFunction(avals: readonly Aval[], f: (...inputs: Tensor[]) => readonly Tensor[]): Graph {
  const { graph } = trace((g) => {
    const inputs = avals.map((a) => Tensor.traced(g.input(a)));
    g.outputs = f(...inputs).map((t) => lift(g, t));
  });
  return graph;
}
