import { beforeAll, describe, expect, test } from "vitest";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { useBackend } from "../../src/engine/runtime.ts";
import { StateError } from "../../src/tensor/errors.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import {
  dispose,
  leaves,
  Module,
  mapTree,
  patternOf,
  signature,
  tensors,
  tensorsLike,
  withTensors,
  zipTree,
} from "../../src/tensor/tree.ts";
import { checkLeaks } from "../helpers/leaks.ts";

beforeAll(() => {
  useBackend(new ReferenceBackend());
});
checkLeaks();

class Linear extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;
  readonly name: string;
  constructor(weight: Tensor, bias: Tensor | undefined, name: string) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.name = name;
  }
  get width(): number {
    return this.weight.shape[0]!;
  }
}

class Model extends Module {
  readonly h: readonly Linear[];
  readonly table: { readonly rows: Tensor };
  constructor(h: readonly Linear[], rows: Tensor) {
    super();
    this.h = h;
    this.table = { rows };
  }
}

const model = () =>
  new Model([new Linear(tensor([1]), tensor([2]), "a"), new Linear(tensor([3, 3]), undefined, "b")], tensor([[4]]));

describe("trees", () => {
  test("paths are field names and positions joined by dots, in the order of the fields", () => {
    const m = model();
    expect(leaves(m).map((l) => l.path)).toEqual(["h.0.weight", "h.0.bias", "h.1.weight", "table.rows"]);
    dispose(m);
  });

  test("a mapped module keeps its class, its getters and its plain fields", () => {
    const m = model();
    const paths: string[] = [];
    const copy = mapTree(m, (t, path) => {
      paths.push(path);
      return t;
    });
    expect(copy).not.toBe(m);
    expect(copy.h[1]).toBeInstanceOf(Linear);
    expect(copy.h[1]!.width).toBe(2);
    expect(copy.h[0]!.name).toBe("a");
    expect(paths).toEqual(leaves(m).map((l) => l.path));
    dispose(m);
  });

  test("withTensors needs as many tensors as the tree has", () => {
    const m = model();
    const [first, ...rest] = tensors(m);
    expect(withTensors(m, [first!, ...rest]).table.rows).toBe(rest[2]);
    expect(() => withTensors(m, rest)).toThrow(StateError);
    dispose(m);
  });

  test("zipTree goes through trees together and names where they differ", () => {
    const [a, b] = [model(), model()];
    const pairs: number[] = [];
    zipTree(a, [b], ([x, y]) => {
      pairs.push(x!.size + y!.size);
      return x;
    });
    expect(pairs).toEqual([2, 2, 4, 2]);
    expect(() => zipTree(a, [b.h], ([x]) => x)).toThrow(/table\.rows/);
    dispose([a, b]);
  });

  test("a tensor inside a Map or a Date is no leaf", () => {
    const t = tensor([1]);
    expect(tensors({ map: new Map([["t", t]]), when: new Date(0) })).toEqual([]);
    t.dispose();
  });
});

describe("signatures", () => {
  const [a, b] = [() => tensor([1, 2]), () => tensor([3, 4])];
  const of = (...trees: unknown[]) => {
    const out = trees.map(signature);
    // Held against a pattern, trees are alike where their signatures are.
    for (const one of trees)
      for (const other of trees)
        expect(tensorsLike(patternOf(one), other)).toEqual(
          signature(one) === signature(other) ? tensors(other) : undefined,
        );
    dispose(trees);
    return out;
  };

  test("values of tensors do not count", () => {
    const [x, y] = of({ w: a() }, { w: b() });
    expect(x).toBe(y);
  });

  test.each<[string, () => unknown, () => unknown]>([
    ["shape", () => tensor([1, 2]), () => tensor([[1, 2]])],
    ["dtype", () => tensor([1]), () => tensor([1], { dtype: "i32" })],
    ["key", () => ({ a: tensor([1]) }), () => ({ b: tensor([1]) })],
    ["number", () => 1, () => 2],
    ["sign of zero", () => 0, () => -0],
    ["text against number", () => "1", () => 1],
    ["null against undefined", () => null, () => undefined],
    ["list against object", () => [tensor([1])], () => ({ 0: tensor([1]) })],
    ["class", () => model(), () => ({ ...model() })],
    ["function", () => () => 1, () => () => 1],
    ["boundary of texts", () => ["a,b"], () => ["a", "b"]],
  ])("%s counts", (_name, left, right) => {
    const [x, y] = of(left(), right());
    expect(x).not.toBe(y);
  });
});
