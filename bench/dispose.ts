import { tensors } from "../src/tensor/tree.ts";

/** Frees every tensor of a tree now. */
export function disposeTree(tree: unknown): void {
  for (const t of tensors(tree)) t.dispose();
}
