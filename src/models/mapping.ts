import type { TensorSource } from "../checkpoint/safetensors.ts";
import type { TensorToWrite } from "../checkpoint/write.ts";
import { InputError } from "../tensor/errors.ts";
import { fromParts } from "../tensor/ops/creation.ts";
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
  transpose(data, columns, out, 0, rows);
  return out;
}

/** Rows of `columns` elements become columns of `into`, from the `first` one on; its rows are `width` long. */
function transpose(data: Float32Array, columns: number, into: Float32Array, first: number, width: number): void {
  const rows = data.length / columns;
  for (let c = 0; c < columns; c++) {
    const to = c * width + first;
    for (let r = 0; r < rows; r++) into[to + r] = data[r * columns + c]!;
  }
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

  /** The elements from `from` on, row-major, as many as `into` holds. */
  async read(into: Float32Array, from: number, scratch: Scratch): Promise<void> {
    const last = from + into.length;
    for (const piece of this.#pieces) {
      const [begin, end] = [Math.max(from, piece.from), Math.min(last, piece.to)];
      if (begin >= end) continue;
      const part = into.subarray(begin - from, end - from);
      if (this.#transposed)
        part.set((await this.#turned(piece, scratch)).subarray(begin - piece.from, end - piece.from));
      else await this.#source.readInto(part, piece.name, begin - piece.from);
    }
  }

  /** What is stored transposed is read whole, once for all of its parts. */
  async #turned(piece: Piece, scratch: Scratch): Promise<Float32Array> {
    const length = piece.to - piece.from;
    const turned = scratch.take("turned", length);
    if (scratch.turned?.piece === piece && scratch.turned.array === turned.buffer) return turned;
    const [rows = 1, columns = 1] = piece.shape;
    const atOnce = Math.max(1, Math.floor(PART / columns));
    for (let r = 0; r < rows; r += atOnce) {
      const stored = scratch.take("stored", Math.min(atOnce, rows - r) * columns);
      await this.#source.readInto(stored, piece.name, r * columns);
      transpose(stored, columns, turned, r, rows);
    }
    scratch.turned = { piece, array: turned.buffer };
    return turned;
  }

  /** The whole tensor. */
  load(scratch: Scratch): Promise<Tensor> {
    const part = scratch.take("part", Math.min(PART, size(this.shape)));
    return fromParts(this.shape, part, (into, from) => this.read(into, from, scratch));
  }
}

/** Elements that are read at a time. */
const PART = 2 ** 19;

/**
 * Arrays that are used again from tensor to tensor: those of a whole load would stay in memory for as long as nothing makes
 * JavaScript collect them. For one reader at a time.
 */
export class Scratch {
  readonly #arrays = new Map<string, Float32Array>();
  /** Which piece lies in "turned". */
  turned: { readonly piece: Piece; readonly array: ArrayBufferLike } | undefined;

  /** `length` elements for a purpose, with what the one before left there. */
  take(purpose: string, length: number): Float32Array {
    let array = this.#arrays.get(purpose);
    if (array === undefined || array.length < length) {
      array = new Float32Array(length);
      this.#arrays.set(purpose, array);
    }
    return array.subarray(0, length);
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
  const scratch = new Scratch();
  return fill(like, (tensor) => found.get(tensor)!.load(scratch));
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
