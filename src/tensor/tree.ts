import type { DType } from "./dtype.ts";
import { StateError } from "./errors.ts";
import type { Shape } from "./shape.ts";
import { Tensor } from "./tensor.ts";

/**
 * A module: a class whose own fields are tensors, other modules, lists or plain values. It is a tree like any plain object; a copy with
 * other leaves keeps its class. After Equinox (Kidger & Garcia 2021).
 */
export abstract class Module {}

export interface Leaf {
  /** Field names from the root joined by dots, list positions as numbers: `h.0.attention.qkv.weight`. */
  readonly path: string;
  readonly tensor: Tensor;
}

const isBranch = (x: unknown): x is Record<string, unknown> | unknown[] =>
  typeof x === "object" && x !== null && !(x instanceof Tensor) && (Array.isArray(x) || isRecord(x));

function isRecord(x: object): boolean {
  if (x instanceof Module) return true;
  const prototype = Object.getPrototypeOf(x);
  return prototype === Object.prototype || prototype === null;
}

/** The tensors of a tree with their paths, in the order of the fields. */
export function leaves(tree: unknown): Leaf[] {
  const out: Leaf[] = [];
  walk(tree, "", (path, x) => {
    if (x instanceof Tensor) out.push({ path, tensor: x });
  });
  return out;
}

/** The tensors of a tree. */
export function tensors(tree: unknown): Tensor[] {
  const out: Tensor[] = [];
  const go = (x: unknown): void => {
    if (x instanceof Tensor) out.push(x);
    else if (Array.isArray(x)) for (const item of x) go(item);
    else if (isBranch(x)) for (const value of Object.values(x)) go(value);
  };
  go(tree);
  return out;
}

function walk(x: unknown, path: string, visit: (path: string, x: unknown) => void): void {
  if (!isBranch(x)) {
    visit(path, x);
    return;
  }
  const entries = Array.isArray(x) ? x.map((v, i) => [String(i), v] as const) : Object.entries(x);
  for (const [key, value] of entries) walk(value, path ? `${path}.${key}` : key, visit);
}

/** The same tree with each tensor replaced; everything else is shared. */
export function mapTree<T>(tree: T, f: (tensor: Tensor, path: string) => unknown): T {
  const go = (x: unknown, path: string): unknown => {
    if (x instanceof Tensor) return f(x, path);
    if (!isBranch(x)) return x;
    const at = (key: string) => (path ? `${path}.${key}` : key);
    if (Array.isArray(x)) return x.map((v, i) => go(v, at(String(i))));
    const copy = Object.create(Object.getPrototypeOf(x)) as Record<string, unknown>;
    for (const [key, value] of Object.entries(x)) copy[key] = go(value, at(key));
    return copy;
  };
  return go(tree, "") as T;
}

/** The same tree with its tensors replaced in order. */
export function withTensors<T>(tree: T, replacements: readonly Tensor[]): T {
  let i = 0;
  const go = (x: unknown): unknown => {
    if (x instanceof Tensor) return replacements[i++];
    if (Array.isArray(x)) return x.map(go);
    if (!isBranch(x)) return x;
    const copy = Object.create(Object.getPrototypeOf(x)) as Record<string, unknown>;
    for (const [key, value] of Object.entries(x)) copy[key] = go(value);
    return copy;
  };
  const out = go(tree) as T;
  if (i !== replacements.length)
    throw new StateError(`A tree of ${i} tensors was given ${replacements.length} replacements.`);
  return out;
}

/** Combines trees of equal structure tensor by tensor; the first gives the structure. */
export function zipTree<T>(
  tree: T,
  others: readonly unknown[],
  f: (tensors: readonly Tensor[], path: string) => unknown,
): T {
  const lists = others.map((o) => tensors(o));
  let i = 0;
  return mapTree(tree, (t, path) => {
    const row = [t, ...lists.map((l) => l[i])];
    if (row.some((x) => x === undefined)) throw new StateError(`The trees differ in structure at ${path}.`);
    i++;
    return f(row as Tensor[], path);
  });
}

/** Releases every tensor of a tree. */
export function dispose(tree: unknown): void {
  for (const t of tensors(tree)) t.dispose();
}

/**
 * What a program depends on besides the values of its tensors: the classes, the keys, the shapes and dtypes, and every plain value.
 * Functions count by identity.
 */
export function signature(tree: unknown): string {
  const parts: string[] = [];
  const go = (x: unknown): void => {
    if (x instanceof Tensor) parts.push(x.dtype, "[", x.shape.join(), "]");
    else if (Array.isArray(x)) {
      parts.push("(");
      for (const v of x) {
        go(v);
        parts.push(",");
      }
      parts.push(")");
    } else if (isBranch(x)) {
      parts.push(x instanceof Module ? `${x.constructor.name}#${identity(x.constructor)}` : "", "{");
      for (const [key, value] of Object.entries(x)) {
        parts.push(key, ":");
        go(value);
        parts.push(",");
      }
      parts.push("}");
    } else if (typeof x === "function" || (typeof x === "object" && x !== null)) parts.push("@", String(identity(x)));
    else if (typeof x === "string") parts.push(JSON.stringify(x));
    else parts.push(Object.is(x, -0) ? "-0" : String(x));
  };
  go(tree);
  return parts.join("");
}

/** All that `signature` tells apart, kept as a tree: holding another tree against it builds no string. */
export type Pattern =
  | { readonly kind: "tensor"; readonly dtype: DType; readonly shape: Shape }
  | { readonly kind: "list"; readonly items: readonly Pattern[] }
  | {
      readonly kind: "record";
      readonly prototype: unknown;
      readonly keys: readonly string[];
      readonly items: readonly Pattern[];
    }
  | { readonly kind: "value"; readonly value: unknown };

export function patternOf(tree: unknown): Pattern {
  if (tree instanceof Tensor) return { kind: "tensor", dtype: tree.dtype, shape: tree.shape };
  if (Array.isArray(tree)) return { kind: "list", items: tree.map(patternOf) };
  if (!isBranch(tree)) return { kind: "value", value: tree };
  const items = Object.values(tree).map(patternOf);
  return { kind: "record", prototype: Object.getPrototypeOf(tree), keys: Object.keys(tree), items };
}

/** The tensors of a tree like the one that the pattern was made of, or undefined if it is not like it. */
export function tensorsLike(pattern: Pattern, tree: unknown): Tensor[] | undefined {
  const out: Tensor[] = [];
  return gather(pattern, tree, out) ? out : undefined;
}

function gather(pattern: Pattern, x: unknown, out: Tensor[]): boolean {
  if (pattern.kind === "tensor") {
    if (!(x instanceof Tensor) || x.dtype !== pattern.dtype) return false;
    const { shape } = pattern;
    if (x.shape !== shape && (x.shape.length !== shape.length || shape.some((n, i) => n !== x.shape[i]))) return false;
    out.push(x);
    return true;
  }
  if (pattern.kind === "value") return Object.is(x, pattern.value);
  if (typeof x !== "object" || x === null) return false;
  const { items } = pattern;
  if (pattern.kind === "list") {
    if (!Array.isArray(x) || x.length !== items.length) return false;
    for (let i = 0; i < items.length; i++) if (!gather(items[i]!, x[i], out)) return false;
    return true;
  }
  const { keys } = pattern;
  if (Object.getPrototypeOf(x) !== pattern.prototype) return false;
  const own = Object.keys(x);
  if (own.length !== keys.length) return false;
  for (let i = 0; i < keys.length; i++)
    if (own[i] !== keys[i] || !gather(items[i]!, (x as Record<string, unknown>)[keys[i]!], out)) return false;
  return true;
}

const identities = new WeakMap<object, number>();
let nextIdentity = 1;
function identity(x: object): number {
  let id = identities.get(x);
  if (id === undefined) {
    id = nextIdentity++;
    identities.set(x, id);
  }
  return id;
}
