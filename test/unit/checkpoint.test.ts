import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  deviceTensor,
  hostTensor,
  loadTree,
  loadTreeData,
  openWeights,
  readSafetensors,
  SafetensorsFile,
  saveTree,
  writeSafetensors,
} from "../../src/checkpoint/index.ts";
import { ReferenceBackend, useBackend } from "../../src/engine/index.ts";
import { ones, scalar, zeros } from "../../src/tensor/ops/creation.ts";
import { type Tensor, tensor } from "../../src/tensor/tensor.ts";
import { dispose, Module } from "../../src/tensor/tree.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-checkpoint-"));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(() => void useBackend(new ReferenceBackend()));
checkLeaks();

/** A file with any header and data, the header's length stated as given. */
function file(header: unknown, data = 0, length?: bigint): string {
  const text = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(length ?? BigInt(text.length));
  const path = join(root, "hostile.safetensors");
  writeFileSync(path, Buffer.concat([start, text, Buffer.alloc(data)]));
  return path;
}
const entry = (dtype: string, shape: unknown, from: number, to: number) => ({ dtype, shape, data_offsets: [from, to] });

describe("safetensors", () => {
  test("every dtype comes back bit for bit", async () => {
    const path = join(root, "all.safetensors");
    const list: Record<string, Tensor> = {
      f32: tensor(Float32Array.of(1.5, -0, Number.NaN, Number.NEGATIVE_INFINITY, 1e-45, 3.4e38), { shape: [2, 3] }),
      bf16: tensor([1, -2.5, 1e30], { dtype: "bf16" }),
      f16: tensor([1, -2.5, 6e-8], { dtype: "f16" }),
      i32: tensor(Int32Array.of(-2147483648, 2147483647)),
      i8: tensor(Int8Array.of(-128, 127)),
      u8: tensor(Uint8Array.of(0, 255)),
      bool: tensor([true, false, true], { dtype: "bool" }),
      scalar: scalar(7),
      empty: zeros([0, 3]),
      "a.b.0/odd name": ones([1]),
    };
    await writeSafetensors(path, new Map(Object.entries(list).map(([name, t]) => [name, deviceTensor(t)])));
    const again = await readSafetensors(path);
    expect([...again.keys()].sort()).toEqual(Object.keys(list).sort());
    for (const [name, t] of Object.entries(list)) {
      const got = again.get(name)!;
      expect([got.dtype, got.shape]).toEqual([t.dtype, t.shape]);
      const bits = async (x: Tensor) => {
        const data = await x.data();
        return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("hex");
      };
      expect(await bits(got)).toBe(await bits(t));
    }
    dispose([list, [...again.values()]]);
  });

  test("tensors are stored widest first, then by name, at offsets that fit their type", async () => {
    const path = join(root, "order.safetensors");
    await writeSafetensors(
      path,
      new Map([
        ["z", hostTensor("u8", [3], new Uint8Array(3))],
        ["b", hostTensor("f32", [1], new Float32Array(1))],
        ["m", hostTensor("f16", [1], new Uint16Array(1))],
        ["a", hostTensor("f32", [1], new Float32Array(1))],
      ]),
    );
    const opened = await SafetensorsFile.open(path);
    const order = [...opened.tensors.values()].sort((x, y) => x.start - y.start);
    expect(order.map((t) => t.name)).toEqual(["a", "b", "m", "z"]);
    expect(order[0]!.start % 8).toBe(0);
    expect(opened.metadata).toEqual({ format: "pt" });
    await opened.close();
  });

  test("64-bit integers are read where they fit 32 bits, and named where they do not", async () => {
    const path = file({ ids: entry("I64", [2], 0, 16) }, 16);
    const bytes = readFileSync(path);
    bytes.writeBigInt64LE(-5n, bytes.length - 16);
    bytes.writeBigInt64LE(2n ** 31n - 1n, bytes.length - 8);
    writeFileSync(path, bytes);
    const good = await readSafetensors(path);
    expect(await good.get("ids")!.numbers()).toEqual([-5, 2 ** 31 - 1]);
    dispose([...good.values()]);
    bytes.writeBigInt64LE(2n ** 31n, bytes.length - 8);
    writeFileSync(path, bytes);
    await expect(readSafetensors(path)).rejects.toThrow(/ids: element 1 is 2147483648, which does not fit 32 bits/);
  });

  test("floats of any width are read into an array that is there, from any element on", async () => {
    const path = join(root, "into.safetensors");
    const values = Float32Array.from({ length: 40 }, (_, i) => (i - 20) * 1.37);
    const wide = tensor(values);
    const stored = { f32: wide, bf16: wide.to("bf16"), f16: wide.to("f16") };
    await writeSafetensors(path, new Map(Object.entries(stored).map(([name, t]) => [name, deviceTensor(t)])));
    const source = await SafetensorsFile.open(path);
    for (const name of Object.keys(stored)) {
      const all = (await source.read(name, "f32")) as Float32Array;
      for (const [from, length] of [
        [0, 40],
        [3, 5],
        [39, 1],
        [17, 0],
      ] as const) {
        const into = new Float32Array(length + 1).fill(7);
        await source.readInto(into.subarray(0, length), name, from);
        expect([...into]).toEqual([...all.subarray(from, from + length), 7]);
      }
    }
    // Two at once do not mix.
    const [a, b] = [new Float32Array(40), new Float32Array(40)];
    await Promise.all([source.readInto(a, "bf16", 0), source.readInto(b, "f16", 0)]);
    expect([a, b]).toEqual([await source.read("bf16", "f32"), await source.read("f16", "f32")]);
    await source.close();
    dispose(stored);
  });

  test("floats are read as other floats, never as integers", async () => {
    const path = join(root, "floats.safetensors");
    await writeSafetensors(
      path,
      new Map([
        ["f16", hostTensor("f16", [2], Uint16Array.of(0x3c00, 0x8001))],
        ["bf16", hostTensor("bf16", [2], Uint16Array.of(0x3f80, 0xff80))],
        ["f64", hostTensor("f64", [1], Float64Array.of(1 + 2 ** -40))],
        ["i32", hostTensor("i32", [1], Int32Array.of(300))],
      ]),
    );
    const opened = await SafetensorsFile.open(path);
    expect(Array.from(await opened.read("f16", "f32"))).toEqual([1, -(2 ** -24)]);
    expect(Array.from(await opened.read("bf16", "f32"))).toEqual([1, Number.NEGATIVE_INFINITY]);
    expect(Array.from(await opened.read("f64", "f32"))).toEqual([1]);
    await expect(opened.read("f16", "i32")).rejects.toThrow(/f16: holds F16, expected I32/);
    await expect(opened.read("i32", "f32")).rejects.toThrow(/i32: holds I32, expected F32/);
    await expect(opened.read("i32", "u8")).rejects.toThrow(/element 0 is 300, which does not fit u8/);
    await expect(opened.read("g")).rejects.toThrow(/there is no tensor "g"; there are f64, i32, bf16, f16/);
    await opened.close();
  });

  test.each<[string, () => string, RegExp]>([
    ["has an empty header", () => file(""), /header is not JSON/],
    ["claims a header longer than itself", () => file({}, 0, 2n ** 62n), /header would be 4611686018427387904 bytes/],
    ["claims a header of half a gigabyte", () => file({}, 64, 500_000_000n), /header would be 500000000 bytes/],
    ["has a header that is not JSON", () => file("{nope"), /header is not JSON/],
    ["has a list for a header", () => file([1]), /not a JSON object/],
    ["has an unknown dtype", () => file({ x: entry("F4", [1], 0, 1) }, 1), /element type "F4", which is not read here/],
    ["has a dtype from the prototype", () => file({ x: entry("toString", [1], 0, 4) }, 4), /element type "toString"/],
    ["has a negative size", () => file({ x: entry("F32", [-1], 0, 4) }, 4), /shape of "x" is \[-1\]/],
    [
      "has a size beyond counting",
      () => file({ x: entry("F32", [2 ** 40, 2 ** 40], 0, 4) }, 4),
      /needs .* bytes, its offsets say 4/,
    ],
    [
      "has offsets of another length",
      () => file({ x: entry("F32", [2], 0, 4) }, 4),
      /needs 8 bytes, its offsets say 4/,
    ],
    ["has offsets backwards", () => file({ x: entry("F32", [1], 4, 0) }, 4), /needs 4 bytes, its offsets say -4/],
    ["is cut off", () => file({ x: entry("F32", [4], 0, 16) }, 12), /cut off, download it again/],
    [
      "has tensors that overlap",
      () => file({ x: entry("F32", [2], 0, 8), y: entry("F32", [1], 4, 8) }, 8),
      /"y" begins at/,
    ],
    ["has a gap", () => file({ x: entry("F32", [1], 4, 8) }, 8), /"x" begins at byte/],
    ["has bytes left over", () => file({ x: entry("F32", [1], 0, 4) }, 8), /the tensors end at byte .* the file at/],
  ])("a file that %s is refused", async (_what, make, message) => {
    await expect(SafetensorsFile.open(make())).rejects.toThrow(message);
  });

  test("a write that fails leaves the old file and nothing else", async () => {
    const folder = mkdtempSync(join(root, "atomic-"));
    const path = join(folder, "model.safetensors");
    await writeSafetensors(path, new Map([["x", hostTensor("f32", [1], Float32Array.of(1))]]));
    const before = readFileSync(path);
    const broken = { dtype: "f32" as const, shape: [1], data: () => Promise.reject(new Error("the device is gone")) };
    await expect(writeSafetensors(path, new Map([["x", broken]]))).rejects.toThrow(/the device is gone/);
    const short = new Map([["x", hostTensor("f32", [2], new Float32Array(1))]]);
    await expect(writeSafetensors(path, short)).rejects.toThrow(/x: 1 elements for the shape \(2\)/);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(readdirSync(folder)).toEqual(["model.safetensors"]);
  });
});

describe("the weights of a folder", () => {
  test("are found across shards", async () => {
    const folder = mkdtempSync(join(root, "shards-"));
    await writeSafetensors(join(folder, "a.safetensors"), new Map([["x", hostTensor("f32", [1], Float32Array.of(1))]]));
    await writeSafetensors(join(folder, "b.safetensors"), new Map([["y", hostTensor("f32", [1], Float32Array.of(2))]]));
    const index = join(folder, "model.safetensors.index.json");
    const write = (weight_map: unknown) => writeFileSync(index, JSON.stringify({ metadata: {}, weight_map }));
    write({ x: "a.safetensors", y: "b.safetensors" });
    const weights = await openWeights(folder);
    expect([...weights.tensors.keys()]).toEqual(["x", "y"]);
    expect(Array.from(await weights.read("y"))).toEqual([2]);
    await weights.close();
    write({ x: "b.safetensors" });
    await expect(openWeights(folder)).rejects.toThrow(/b.safetensors: there is no tensor "x"; there are y/);
    write({ x: "../a.safetensors" });
    await expect(openWeights(folder)).rejects.toThrow(/"..\/a.safetensors" is not the name of a safetensors file/);
    write({ x: "c.safetensors" });
    await expect(openWeights(folder)).rejects.toThrow(/c.safetensors cannot be opened/);
    write(7);
    await expect(openWeights(folder)).rejects.toThrow(/"weight_map" must map/);
  });

  test("stored as a pickle are refused with the way out", async () => {
    const folder = mkdtempSync(join(root, "pickle-"));
    writeFileSync(join(folder, "pytorch_model.bin"), "");
    await expect(openWeights(folder)).rejects.toThrow(/there is no model.safetensors.*save the model as safetensors/);
  });
});

class Counter extends Module {
  readonly count: Tensor;
  readonly step: number;
  constructor(count: Tensor, step: number) {
    super();
    this.count = count;
    this.step = step;
  }
}

describe("a saved tree", () => {
  test("comes back with its classes, its bits and its plain data", async () => {
    const path = join(root, "state.safetensors");
    const state = {
      model: new Counter(tensor(Float32Array.of(0.1, Number.NaN, -0)), 3),
      moments: [tensor([1, 2], { dtype: "bf16" }), { key: tensor(Int32Array.of(-1, 5)) }],
      note: "plain values stay those of the form",
    };
    const data = { step: 12, cursor: [3, 4], loss: Number.NaN, text: { deep: null } };
    await saveTree(path, state, data);
    const like = {
      model: new Counter(zeros([3]), 3),
      moments: [zeros([2], "bf16"), { key: zeros([2], "i32") }],
      note: "plain values stay those of the form",
    };
    const { tree, data: got } = await loadTree(path, like);
    expect(tree.model).toBeInstanceOf(Counter);
    expect(Object.is((await tree.model.count.data())[2], -0)).toBe(true);
    expect(await tree.model.count.data()).toEqual(await state.model.count.data());
    expect(await (tree.moments[0] as Tensor).data()).toEqual(await (state.moments[0] as Tensor).data());
    expect(got).toEqual(data);
    expect(await loadTreeData(path)).toEqual(data);
    dispose([state, like, tree]);
  });

  test("names what does not fit, all of it", async () => {
    const path = join(root, "other.safetensors");
    const saved = { a: zeros([2]), b: zeros([3]), c: zeros([1]) };
    const like = { a: zeros([2], "i32"), b: zeros([4]), d: zeros([1]) };
    await saveTree(path, saved);
    await expect(loadTree(path, like)).rejects.toThrow(
      /a is F32\(2\) in the file, expected i32\(2\); b is F32\(3\) in the file, expected f32\(4\); d is missing; c is not expected/,
    );
    dispose([saved, like]);
  });

  test("is not mistaken for a file of somebody else", async () => {
    const path = join(root, "plain.safetensors");
    await writeSafetensors(path, new Map());
    await expect(loadTreeData(path)).rejects.toThrow(/was not written by saveTree/);
  });
});
