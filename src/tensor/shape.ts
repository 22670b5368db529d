import { ShapeError } from "./errors.ts";

export type Shape = readonly number[];

export function size(shape: Shape): number {
  let n = 1;
  for (const d of shape) n *= d;
  return n;
}

/** Row-major strides in elements. */
export function strides(shape: Shape): number[] {
  const out = new Array<number>(shape.length);
  let step = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    out[i] = step;
    step *= shape[i]!;
  }
  return out;
}

export function sameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

export function show(shape: Shape): string {
  return `(${shape.join(", ")})`;
}

/** `axis` counted from the front; negative axes count from the back. */
export function normalizeAxis(op: string, axis: number, rank: number): number {
  const a = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(a) || a < 0 || a >= rank)
    throw new ShapeError(`${op}: axis ${axis} does not exist in a tensor of rank ${rank}.`);
  return a;
}

export function normalizeAxes(op: string, axes: number | readonly number[] | undefined, rank: number): number[] {
  if (axes === undefined) return Array.from({ length: rank }, (_, i) => i);
  const list = (typeof axes === "number" ? [axes] : axes).map((a) => normalizeAxis(op, a, rank));
  if (new Set(list).size !== list.length) throw new ShapeError(`${op}: an axis is named twice in [${list}].`);
  return [...list].sort((a, b) => a - b);
}

/** NumPy's rule: align at the back; sizes must agree or be 1. */
export function broadcastShapes(op: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1)
      throw new ShapeError(
        `${op}: shapes ${show(a)} and ${show(b)} do not broadcast: ${x} against ${y} in axis ${i - rank}. Reshape one of them, or insert an axis of size 1.`,
      );
    out[i] = x === 1 ? y : x;
  }
  return out;
}

/** Fills in one -1 in `shape` so that the size is `total`. */
export function inferReshape(from: Shape, shape: Shape): number[] {
  const total = size(from);
  const holes = shape.filter((d) => d === -1).length;
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  if (holes > 1 || shape.some((d) => d < -1 || !Number.isInteger(d)))
    throw new ShapeError(`reshape: ${show(shape)} is not a shape; sizes are whole numbers, with at most one -1.`);
  if (holes === 1 ? known === 0 || total % known !== 0 : known !== total)
    throw new ShapeError(`reshape: ${show(from)} holds ${total} elements and cannot become ${show(shape)}.`);
  return shape.map((d) => (d === -1 ? total / known : d));
}
