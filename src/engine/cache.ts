import type { HostArray } from "../tensor/dtype.ts";
import type { Attribute, Graph, Value } from "../tensor/graph.ts";
import type { Op } from "../tensor/op.ts";
import { type Capabilities, type LowerOptions, lowering } from "./compile.ts";
import type { Program, ProgramStore, StoredProgram } from "./program.ts";
import { type Sliced, whole } from "./slices.ts";

/** Smaller graphs are lowered faster than a file is read. */
const WORTH_KEEPING = 48;
/** Programs with more bytes of constants of their own (not the graph's) are not kept. */
const MOST_CONSTANTS = 1 << 20;

/**
 * As `lower`, but looked up in `store` first by a digest of the graph and the options. The same graph gives the same program whether it was
 * found or made: what the store's digest does not see (the code of the compiler, the backend's kernels) is the store's own affair.
 */
export function lowerThrough(
  store: ProgramStore | undefined,
  graph: Graph,
  backend: Capabilities,
  options: LowerOptions,
): Program {
  return whole(loweringThrough(store, graph, backend, options));
}

/** As `lowerThrough`, to be done in slices. */
export function* loweringThrough(
  store: ProgramStore | undefined,
  graph: Graph,
  backend: Capabilities,
  options: LowerOptions,
): Sliced<Program> {
  if (!store || graph.nodes.length < WORTH_KEEPING) return yield* lowering(graph, backend, options);
  const described = yield* describing(graph, options);
  yield;
  const key = yield* store.digesting([described.text, ...described.data]);
  yield;
  const found = store.load(key);
  const known = found && withConstants(found, described.data);
  if (known) return known;
  yield;
  const program = yield* lowering(graph, backend, options);
  const kept = withoutConstants(program, described.data);
  if (kept) store.save(key, kept);
  return program;
}

interface Description {
  readonly text: string;
  readonly data: readonly HostArray[];
}

/** All that lowering reads of a graph: as text, and the elements of its constants. Scopes too: they are in errors and profiles. */
export function describeGraph(graph: Graph, options: LowerOptions): Description {
  return whole(describing(graph, options));
}

function* describing(graph: Graph, options: LowerOptions): Sliced<Description> {
  const { donated = [], matmul, optimize = true, bfloat16 = "held", recompute } = options;
  const data: HostArray[] = [];
  /** Numbers of values, scopes and regions: by order of appearance, so that they do not depend on what was traced before. */
  const values = new Map<Value, number>();
  const regions = new Map<number, number>([[0, 0]]);
  const ops = new Map<Op, number>();
  const shared = new Map<string, number>();
  let text = `${exact([donated.map(Number), matmul, optimize, bfloat16, (recompute as Attribute | undefined) ?? null])}\n`;
  const once = (s: string): string => {
    const known = shared.get(s);
    if (known !== undefined) return `@${known}`;
    shared.set(s, shared.size);
    return s;
  };
  const typed = (v: Value): string => {
    values.set(v, values.size);
    return `${v.dtype}[${v.shape.join()}]`;
  };
  const opName = (op: Op): string => {
    const known = ops.get(op);
    if (known !== undefined) return `#${known}`;
    ops.set(op, ops.size);
    // Ops of the house are covered by the store's digest of the code; of any other, this is what can be seen.
    return JSON.stringify([op.name, op.decompose?.toString() ?? null]);
  };
  const walk = function* (g: Graph): Sliced<void> {
    text += `(${g.inputs.map(typed).join(" ")}\n`;
    for (const n of g.nodes) {
      yield;
      if (!regions.has(n.region)) regions.set(n.region, regions.size);
      let line = opName(n.op);
      for (const v of n.inputs) line += ` ${values.get(v)}`;
      line += `;${once(exact(n.attributes as Attribute))};`;
      for (const v of n.outputs) line += `${typed(v)} `;
      line += `;${regions.get(n.region)};${once(JSON.stringify(n.scope))}`;
      if (n.data) {
        line += `;data ${n.data.constructor.name} ${n.data.length}`;
        data.push(n.data);
      }
      text += `${line}\n`;
      for (const body of n.bodies) yield* walk(body);
    }
    text += `${g.outputs.map((v) => values.get(v)).join()})\n`;
  };
  yield* walk(graph);
  return { text, data };
}

/** As JSON, with the numbers that JSON lacks. */
function exact(value: Attribute | undefined): string {
  if (typeof value === "number") return Object.is(value, -0) ? "-0" : String(value);
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "undefined";
  let out = "";
  if (Array.isArray(value)) {
    for (const item of value as readonly Attribute[]) out += `${exact(item)},`;
    return `[${out}]`;
  }
  for (const [key, item] of Object.entries(value as { readonly [key: string]: Attribute | undefined }))
    out += `${JSON.stringify(key)}:${exact(item)},`;
  return `{${out}}`;
}

/** Constants that are the graph's are named by their position in `data`; undefined if what is left is too much to keep. */
function withoutConstants(program: Program, data: readonly HostArray[]): StoredProgram | undefined {
  const positions = new Map(data.map((d, i) => [d, i]));
  let own = 0;
  const strip = (p: Program): StoredProgram => ({
    ...p,
    constants: p.constants.map((c) => {
      const at = positions.get(c);
      if (at === undefined) own += c.byteLength;
      return at ?? c;
    }),
    instructions: p.instructions.map((i) => ({ ...i, ...(i.programs && { programs: i.programs.map(strip) }) })),
  });
  const stored = strip(program);
  return own <= MOST_CONSTANTS ? stored : undefined;
}

/** Undefined if it names what the graph does not have: then it is another graph's. */
function withConstants(stored: StoredProgram, data: readonly HostArray[]): Program | undefined {
  let whole = true;
  const fill = (p: StoredProgram): Program => ({
    ...p,
    constants: p.constants.map((c) => {
      if (typeof c !== "number") return c;
      const found = data[c];
      if (!found) whole = false;
      return found!;
    }),
    instructions: p.instructions.map(({ programs, ...i }) => ({
      ...i,
      ...(programs && { programs: programs.map(fill) }),
    })),
  });
  const program = fill(stored);
  return whole ? program : undefined;
}
