import type { Backend, Instruction, Program, ProgramValue, Storage } from "../../src/engine/program.ts";
import { BufferStorage } from "../../src/engine/runtime.ts";
import { bytesPerElement, type HostArray, hostArray, toBfloat16, toFloat16 } from "../../src/tensor/dtype.ts";
import { inlineCustom } from "../../src/tensor/grad.ts";
import { type Aval, Graph, type Node, type Value } from "../../src/tensor/graph.ts";
import type { Compiled, Runtime } from "../../src/tensor/runtime.ts";
import { size } from "../../src/tensor/shape.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { traceFunction } from "../../src/tensor/trace.ts";

/**
 * The shortest way from a graph to a program: every value in a slot of its own, every node one instruction, composites
 * decomposed, nothing merged, folded, fused or reused. What the engine's passes make must give the same numbers.
 */
export function naiveProgram(graph: Graph, backend: Backend): Program {
  const values: ProgramValue[] = [];
  const instructions: Instruction[] = [];
  const constants: HostArray[] = [];
  let arenaBytes = 0;
  const define = (aval: Aval, storage: Storage): number =>
    values.push({ dtype: aval.dtype, shape: aval.shape, storage }) - 1;
  const slot = (aval: Aval): number => {
    const offset = arenaBytes;
    arenaBytes += Math.ceil((size(aval.shape) * bytesPerElement(aval.dtype)) / 64) * 64;
    return define(aval, { kind: "arena", offset });
  };
  const inline = (nodes: readonly Node[], ids: Map<Value, number>): void => {
    for (const node of nodes) {
      const inputs = node.inputs.map((v) => ids.get(v)!);
      if (node.op.name === "constant") {
        const [value] = node.outputs as [Value];
        ids.set(value, define(value, { kind: "constant", index: constants.push(constantData(node)) - 1 }));
        continue;
      }
      const dtypes = [...node.inputs, ...node.outputs].map((v) => v.dtype);
      const rule = node.op.decompose;
      if (node.op.name === "custom_gradient" || (rule && !backend.supports(node.op.name, node.attributes, dtypes))) {
        const body = traceFunction(node.inputs, (...xs) => (rule ? rule(xs, node.attributes) : inlineCustom(node, xs)));
        const inner = new Map(body.inputs.map((v, i) => [v, inputs[i]!] as const));
        inline(body.nodes, inner);
        node.outputs.forEach((v, i) => {
          ids.set(v, inner.get(body.outputs[i]!)!);
        });
        continue;
      }
      const outputs = node.outputs.map((v) => {
        const id = slot(v);
        ids.set(v, id);
        return id;
      });
      const programs = node.bodies.map((body) => naiveProgram(body, backend));
      instructions.push({
        op: node.op.name === "reshape" || node.op.name === "identity" ? "copy" : node.op.name,
        inputs,
        outputs,
        attributes: node.attributes,
        ...(programs.length ? { programs } : {}),
        scope: node.scope,
      });
    }
  };
  const ids = new Map<Value, number>();
  graph.inputs.forEach((v, index) => {
    ids.set(v, define(v, { kind: "input", index }));
  });
  const inputs = graph.inputs.map((v) => ids.get(v)!);
  inline(graph.nodes, ids);
  const outputs = graph.outputs.map((v, index) => {
    const id = define(v, { kind: "output", index });
    instructions.push({ op: "copy", inputs: [ids.get(v)!], outputs: [id], attributes: {} });
    return id;
  });
  return { values, instructions, inputs, outputs, constants, aliases: [], arenaBytes, matmul: "f32" };
}

function constantData(node: Node): HostArray {
  if (node.data) return node.data;
  const { dtype, shape } = node.outputs[0]!;
  const value = node.attributes.value as number;
  const encoded = dtype === "bf16" ? toBfloat16(value) : dtype === "f16" ? toFloat16(value) : value;
  return hostArray(dtype, size(shape)).fill(encoded) as HostArray;
}

/** Runs the language on a backend through naive programs. */
export class NaiveRuntime implements Runtime {
  readonly #backend: Backend;
  constructor(backend: Backend) {
    this.#backend = backend;
  }

  eager(...[op, inputs, attributes, outputs, extra]: Parameters<Runtime["eager"]>): Tensor[] {
    const graph = new Graph();
    const values = inputs.map((t) => graph.input(t));
    graph.outputs = graph.add(op, values, attributes, outputs, { bodies: extra.bodies, data: extra.data }).outputs;
    const compiled = this.compile(graph);
    const results = compiled.run(inputs);
    compiled.release();
    return results;
  }

  compile(graph: Graph): Compiled {
    const program = naiveProgram(graph, this.#backend);
    const executable = this.#backend.compile(program);
    return {
      run: (inputs) => {
        const outputs = graph.outputs.map((v) => this.#backend.allocate(size(v.shape) * bytesPerElement(v.dtype)));
        executable.run(
          inputs.map((t) => (t.storage("a compiled function") as BufferStorage).buffer),
          outputs,
        );
        return outputs.map((buffer, i) => {
          const { dtype, shape } = graph.outputs[i]!;
          return Tensor.concrete(dtype, shape, new BufferStorage(this.#backend, buffer));
        });
      },
      bind: () => {
        throw new Error("The naive runtime binds nothing.");
      },
      release: () => executable.release(),
    };
  }

  compileLater(graph: Graph): Promise<Compiled> {
    return Promise.resolve(this.compile(graph));
  }

  upload(...[data, dtype]: Parameters<Runtime["upload"]>): BufferStorage {
    return new BufferStorage(this.#backend, this.#backend.upload(data, dtype));
  }

  allocate(bytes: number): BufferStorage {
    return new BufferStorage(this.#backend, this.#backend.allocate(bytes));
  }
}
