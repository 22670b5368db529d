import { parse, stringify } from "../runs/json.ts";
import { InputError } from "../tensor/errors.ts";
import { fromHost } from "../tensor/ops/creation.ts";
import { sameShape, show } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { leaves, mapTree } from "../tensor/tree.ts";
import { naturalDType } from "./formats.ts";
import { SafetensorsFile } from "./safetensors.ts";
import { deviceTensor, writeSafetensors } from "./write.ts";

/** Where a tree's plain data are kept among the file's metadata. */
const KEY = "howdah";

/**
 * Saves the tensors of a tree by their paths, bit for bit, and plain data beside them, in one safetensors file. It appears all at once.
 * @param data anything that JSON holds, NaN and infinities included: step, data cursor, random state
 */
export async function saveTree(path: string, tree: unknown, data: unknown = null): Promise<void> {
  const list = leaves(tree);
  const tensors = new Map(list.map((l) => [l.path, deviceTensor(l.tensor)]));
  if (tensors.size !== list.length) throw new InputError(`${path}: two tensors of the tree have the same path.`);
  await writeSafetensors(path, tensors, { format: "pt", [KEY]: stringify(data) });
}

/**
 * Loads what `saveTree` saved into the form of `like`, whose own tensors are only looked at.
 * @returns a tree of new tensors, and the plain data
 * @throws InputError naming every tensor that is missing, left over, or of another shape or type
 */
export async function loadTree<T>(path: string, like: T): Promise<{ tree: T; data: unknown }> {
  const file = await SafetensorsFile.open(path);
  try {
    const wanted = leaves(like);
    const paths = new Set(wanted.map((l) => l.path));
    const problems: string[] = [];
    for (const { path: name, tensor } of wanted) {
      const stored = file.tensors.get(name);
      if (!stored) problems.push(`${name} is missing`);
      else if (!sameShape(stored.shape, tensor.shape) || naturalDType(stored.dtype) !== tensor.dtype)
        problems.push(
          `${name} is ${stored.dtype}${show(stored.shape)} in the file, expected ${tensor.dtype}${show(tensor.shape)}`,
        );
    }
    for (const name of file.tensors.keys()) if (!paths.has(name)) problems.push(`${name} is not expected`);
    if (problems.length)
      throw new InputError(
        `${path} was saved from something else: ${problems.slice(0, 10).join("; ")}${problems.length > 10 ? `; and ${problems.length - 10} more` : ""}.`,
      );
    const loaded = new Map<string, Tensor>();
    for (const { path: name, tensor } of wanted)
      loaded.set(name, fromHost(tensor.dtype, tensor.shape, await file.read(name)));
    return { tree: mapTree(like, (_, name) => loaded.get(name)), data: dataOf(file) };
  } finally {
    await file.close();
  }
}

/** The plain data of a file of `saveTree`, without its tensors. */
export async function loadTreeData(path: string): Promise<unknown> {
  const file = await SafetensorsFile.open(path);
  try {
    return dataOf(file);
  } finally {
    await file.close();
  }
}

function dataOf(file: SafetensorsFile): unknown {
  const text = file.metadata[KEY];
  if (text === undefined) throw new InputError(`${file.path} was not written by saveTree.`);
  return parse(text);
}
