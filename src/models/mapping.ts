import type { TensorSource } from "../checkpoint/safetensors.ts";
import type { TensorToWrite } from "../checkpoint/write.ts";
import { InputError } from "../tensor/errors.ts";
import { fromHost } from "../tensor/ops/creation.ts";
import { type Shape, sameShape, show, size } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { trace } from "../tensor/trace.ts";
import { dispose, leaves, mapTree, tensors } from "../tensor/tree.ts";

/** A Hugging Face tensor that is all, or a band of rows, of one of ours. */
export interface Part {
  /** Hugging Face's name. */
  readonly name: string;
  /** How many of our rows (first axis) it is; all of them if not given. */
  readonly rows?: number;
}

/** Where one of our parameters is in a Hugging Face checkpoint: the parts follow one another along our first axis. */
export interface Mapped {
  readonly parts: readonly Part[];
  /** Stored (in, out), as GPT-2's `Conv1D` does. */
  readonly transposed?: boolean;
}

/** Our path -> where it is. */
export type Mapping = ReadonlyMap<string, Mapped>;

/** The tree that `build` makes, with the shapes of its tensors but without values: nothing is allocated or run. */
export function skeleton<T>(build: (key: Tensor<"i32">) => T): T {
  return trace((graph) => build(Tensor.traced(graph.input({ dtype: "i32", shape: [2] })) as Tensor<"i32">)).result;
}

interface Piece {
  readonly name: string;
  /** As stored. */
  readonly shape: Shape;
  /** Elements of our tensor that it holds, in our layout. */
  readonly from: number;
  readonly to: number;
}

function pieces(path: string, shape: Shape, mapped: Mapped): Piece[] {
  const [rows = 1, ...rest] = shape;
  const perRow = size(rest);
  let at = 0;
  const out = mapped.parts.map((part) => {
    const n = part.rows ?? rows;
    const ours = shape.length === 0 ? [] : [n, ...rest];
    const piece = {
      name: part.name,
      shape: mapped.transposed ? [...ours].reverse() : ours,
      from: at * perRow,
      to: (at + n) * perRow,
    };
    at += n;
    return piece;
  });
  if (at !== rows) throw new InputError(`${path}: its parts have ${at} rows, it has ${rows}.`);
  return out;
}

/** (rows, columns) -> (columns, rows), both row-major. */
export function transposed(data: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!;
  return out;
}

function entry(mapping: Mapping, path: string): Mapped {
  const mapped = mapping.get(path);
  if (!mapped) throw new InputError(`The parameter ${path} has no name in Hugging Face's format.`);
  return mapped;
}

export interface LoadOptions {
  /** Names that a checkpoint may hold and nobody needs, such as masks that old versions stored. */
  readonly ignore?: (name: string) => boolean;
  /** From the name in the mapping to the name in this checkpoint. */
  readonly rename?: (name: string) => string;
  /** The file or folder, for errors. */
  readonly where: string;
}

/** One of our parameters that a checkpoint was found to hold. */
export class MappedTensor {
  readonly path: string;
  readonly shape: Shape;
  readonly #pieces: readonly Piece[];
  readonly #transposed: boolean;
  readonly #source: TensorSource;

  constructor(path: string, shape: Shape, list: readonly Piece[], transposed: boolean, source: TensorSource) {
    this.path = path;
    this.shape = shape;
    this.#pieces = list;
    this.#transposed = transposed;
    this.#source = source;
  }

  /** Rows (along the first axis) `from` to `to`, in f32. What is stored transposed is read whole for it. */
  async rows(from: number, to: number): Promise<Float32Array> {
    const perRow = size(this.shape.slice(1));
    const [first, last] = [from * perRow, to * perRow];
    const data = new Float32Array(last - first);
    for (const piece of this.#pieces) {
      const [begin, end] = [Math.max(first, piece.from), Math.min(last, piece.to)];
      if (begin >= end) continue;
      const range = { from: begin - piece.from, to: end - piece.from };
      if (!this.#transposed) {
        data.set((await this.#source.read(piece.name, "f32", range)) as Float32Array, begin - first);
        continue;
      }
      const [rows = 1, columns = 1] = piece.shape;
      const all = transposed((await this.#source.read(piece.name, "f32")) as Float32Array, rows, columns);
      data.set(all.subarray(range.from, range.to), begin - first);
    }
    return data;
  }

  all(): Promise<Float32Array> {
    return this.rows(0, this.shape[0] ?? 1);
  }
}

/**
 * Finds the parameters of `like` (a skeleton) in a checkpoint; nothing is read.
 * @throws InputError that lists every missing, unexpected and misshapen tensor
 */
export function findMapped(
  like: unknown,
  mapping: Mapping,
  source: TensorSource,
  options: LoadOptions,
): Map<Tensor, MappedTensor> {
  const { where, ignore = () => false, rename = (name) => name } = options;
  const problems: string[] = [];
  const used = new Set<string>();
  const found = new Map<Tensor, MappedTensor>();
  for (const { path, tensor } of leaves(like)) {
    const mapped = entry(mapping, path);
    const list = pieces(path, tensor.shape, mapped).map((p) => ({ ...p, name: rename(p.name) }));
    for (const { name, shape } of list) {
      used.add(name);
      const stored = source.tensors.get(name);
      if (!stored) problems.push(`${name} is missing (expected ${show(shape)})`);
      else if (!sameShape(stored.shape, shape))
        problems.push(`${name} is ${show(stored.shape)} in the file, but the config asks for ${show(shape)}`);
    }
    found.set(tensor, new MappedTensor(path, tensor.shape, list, mapped.transposed ?? false, source));
  }
  for (const [name, stored] of source.tensors)
    if (!used.has(name) && !ignore(name)) problems.push(`${name} ${show(stored.shape)} is not expected`);
  if (problems.length) {
    const more = problems.length > 12 ? `\n  and ${problems.length - 12} more` : "";
    throw new InputError(
      `${where}: the weights do not fit the config:\n  ${problems.slice(0, 12).join("\n  ")}${more}\nThe config.json and the weights must be of the same model.`,
    );
  }
  return found;
}

/**
 * Fills `like` (a skeleton) with the tensors of a checkpoint, in f32.
 * @throws InputError that lists every missing, unexpected and misshapen tensor, before any is read
 */
export async function readMapped<T>(like: T, mapping: Mapping, source: TensorSource, options: LoadOptions): Promise<T> {
  const found = findMapped(like, mapping, source, options);
  return fill(like, async (tensor) => fromHost("f32", tensor.shape, await found.get(tensor)!.all()));
}

/** The tree with each tensor as `load` gives it, one after the other. */
export async function fill<T>(like: T, load: (tensor: Tensor) => Promise<Tensor>): Promise<T> {
  const loaded = new Map<Tensor, Tensor>();
  try {
    for (const tensor of tensors(like)) if (!loaded.has(tensor)) loaded.set(tensor, await load(tensor));
  } catch (error) {
    dispose([...loaded.values()]);
    throw error;
  }
  return mapTree(like, (tensor) => loaded.get(tensor));
}

/**
 * The tensors of a tree under their Hugging Face names, ready to be written. The tree may be a model, or its gradients.
 * Each is downloaded when its turn comes.
 */
export function writeMapped(tree: unknown, mapping: Mapping): Map<string, TensorToWrite> {
  const out = new Map<string, TensorToWrite>();
  for (const { path, tensor } of leaves(tree)) {
    const mapped = entry(mapping, path);
    for (const piece of pieces(path, tensor.shape, mapped)) {
      out.set(piece.name, {
        dtype: "f32",
        shape: piece.shape,
        async data() {
          const ours = ((await tensor.data()) as Float32Array).subarray(piece.from, piece.to);
          if (!mapped.transposed) return ours;
          const [rows = 1, columns = 1] = piece.shape;
          return transposed(ours, columns, rows);
        },
      });
    }
  }
  return out;
}
