import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cacheFolder, hashOfCode, ProgramFiles, sweep } from "../../src/engine/backends/native/programs.ts";
import { ReferenceBackend } from "../../src/engine/backends/reference/backend.ts";
import { describeGraph, lowerThrough } from "../../src/engine/cache.ts";
import type { Capabilities } from "../../src/engine/compile.ts";
import { type Backend, type LowerOptions, lower, useBackend } from "../../src/engine/index.ts";
import type { ProgramStore } from "../../src/engine/program.ts";
import { type Sliced, whole } from "../../src/engine/slices.ts";
import { scan } from "../../src/tensor/control.ts";
import { checkpoint, grad } from "../../src/tensor/grad.ts";
import type { Graph } from "../../src/tensor/graph.ts";
import { jit, tensor } from "../../src/tensor/index.ts";
import { traceCall } from "../../src/tensor/jit.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { missing, backend as native } from "./native-support.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "howdah-programs-"));
  useBackend(new ReferenceBackend());
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const x = () => tensor([[1, -2, 3, 0.5]], { dtype: "f32" });
/** Of many nodes, with constants (whole, repeated and infinite), a loop, a checkpointed region and gradients. */
const work = (n = 20, shift = 1) => {
  const f = (a: Tensor): Tensor => {
    const table = tensor([[shift, 2, 3, 4]], { dtype: "f32" });
    let h = a;
    for (let i = 0; i < n; i++) h = h.mul(table).tanh().add(a);
    h = checkpoint((b: Tensor) => b.exp().tanh().mul(b))(h);
    const [carry] = scan((c: Tensor, v: Tensor) => [c.add(v.mul(v)), v], h.sum(), h.reshape(4));
    return carry.add(h.max());
  };
  return (a: Tensor) => grad(a, f).maximum(Number.NEGATIVE_INFINITY);
};
const graphOf = (f: (a: Tensor) => unknown = work()): Graph => traceCall(f, [x()]).graph;

const capabilities: Capabilities = { supports: (op: string) => op !== "tanh", prefersBfloat16: true };
const options: LowerOptions = { matmul: "f32" };

/** What programs depend on, with a pause before it is said. */
function* said(about: string): Sliced<string> {
  yield;
  return about;
}

/** Counts what it is asked for. */
function files(about = "these kernels") {
  const store = new ProgramFiles(folder, () => said(about));
  const seen = { hits: 0, misses: 0 };
  const counted: ProgramStore = {
    digesting: (parts) => store.digesting(parts),
    load(key) {
      const found = store.load(key);
      seen[found ? "hits" : "misses"]++;
      return found;
    },
    save: (key, program) => store.save(key, program),
  };
  const make = async (graph: Graph, o: LowerOptions = options) => {
    const program = lowerThrough(counted, graph, capabilities, o);
    await store.settled();
    return program;
  };
  return { make, seen, store };
}
const only = () => {
  const [name, ...more] = readdirSync(folder);
  expect(more).toEqual([]);
  return join(folder, name!);
};

describe("programs kept on disk", () => {
  test("the second process finds the program that the first one made, the same to the last detail", async () => {
    const first = files();
    const made = await first.make(graphOf());
    expect(made).toEqual(lower(graphOf(), capabilities, options));
    const second = files();
    const found = await second.make(graphOf());
    expect(found).toEqual(made);
    expect([first.seen, second.seen]).toEqual([
      { hits: 0, misses: 1 },
      { hits: 1, misses: 0 },
    ]);
  });

  test("constants of the graph are not stored a second time, and come from the graph that asks", async () => {
    const large = new Float32Array(300_000).fill(0.25);
    const f = (a: Tensor) =>
      work()(a)
        .sum()
        .add(tensor(large, { dtype: "f32", shape: [300_000] }).sum());
    const made = await files().make(graphOf(f));
    expect(readFileSync(only()).byteLength).toBeLessThan(100_000);
    expect(await files().make(graphOf(f))).toEqual(made);
  });

  test("another option, length, constant, shape or set of kernels is another program", async () => {
    const { make, seen } = files();
    await make(graphOf());
    await make(graphOf(), { matmul: "bf16" });
    await make(graphOf(), { ...options, donated: [true] });
    await make(graphOf(), { ...options, optimize: false });
    await make(graphOf(), { ...options, bfloat16: "none" });
    await make(graphOf(), { ...options, recompute: false });
    await make(graphOf(), { ...options, recompute: { smallProgram: 1, smallValue: 1 } });
    await make(graphOf(work(21)));
    await make(graphOf(work(20, 7)));
    await make(traceCall((a: Tensor) => work()(a.reshape(1, 4)), [tensor([1, 2, 3, 4], { dtype: "f32" })]).graph);
    expect(seen).toEqual({ hits: 0, misses: 10 });
    const other = files("other kernels");
    await other.make(graphOf());
    expect(other.seen).toEqual({ hits: 0, misses: 1 });
  });

  test("NaN, infinities and the sign of zero are told apart", () => {
    const of = (value: number) =>
      describeGraph(
        graphOf((a) => a.mul(value)),
        options,
      ).text;
    const texts = [0, -0, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1].map(of);
    expect(new Set(texts).size).toBe(texts.length);
  });

  test("what was traced before does not matter", () => {
    const before = describeGraph(graphOf(), options).text;
    for (let i = 0; i < 3; i++) graphOf(work(i + 1));
    expect(describeGraph(graphOf(), options).text).toBe(before);
  });

  const damages: Record<string, (file: Buffer) => Buffer> = {
    "cut off": (file) => file.subarray(0, file.length >> 1),
    empty: () => Buffer.alloc(0),
    "with one bit turned": (file) => {
      const copy = Buffer.from(file);
      copy[copy.length - 100]! ^= 4;
      return copy;
    },
    "of another format": () =>
      Buffer.from("howdah program 0\nwhatever comes after it, long enough to hold a hash of thirty-two bytes"),
  };
  for (const [name, damage] of Object.entries(damages))
    test(`a file ${name} is passed over and written anew`, async () => {
      const made = await files().make(graphOf());
      const path = only();
      writeFileSync(path, damage(readFileSync(path)));
      const next = files();
      expect(await next.make(graphOf())).toEqual(made);
      expect(next.seen).toEqual({ hits: 0, misses: 1 });
      const last = files();
      expect(await last.make(graphOf())).toEqual(made);
      expect(last.seen.hits).toBe(1);
    });

  test("another program's file under this one's name is passed over", async () => {
    await files().make(graphOf());
    const path = only();
    const wrong = readFileSync(path);
    rmSync(path);
    const made = await files().make(graphOf(work(22)));
    const mine = only();
    writeFileSync(mine, wrong);
    const next = files();
    expect(await next.make(graphOf(work(22)))).toEqual(made);
    expect(next.seen.hits).toBe(0);
  });

  test("many who write the same at once leave one whole file", async () => {
    const program = lower(graphOf(), capabilities, options);
    const stores = Array.from({ length: 8 }, () => files().store);
    const key = whole(stores[0]!.digesting(["a"]));
    const read = setInterval(() => stores[0]!.load(key), 0);
    for (const store of stores) for (let i = 0; i < 5; i++) store.save(key, { ...program, constants: [] });
    await Promise.all(stores.map((store) => store.settled()));
    clearInterval(read);
    only();
    expect(stores[0]!.load(key)?.instructions).toEqual(program.instructions);
  });

  test("a folder that cannot be written costs nothing but the time to compile", async () => {
    const path = join(folder, "file");
    writeFileSync(path, "");
    const store = new ProgramFiles(join(path, "below"), () => said(""));
    const program = lowerThrough(store, graphOf(), capabilities, options);
    await store.settled();
    expect(program).toEqual(lower(graphOf(), capabilities, options));
  });

  test("programs not used for longest make room, and so do writes that broke off", async () => {
    for (let i = 0; i < 10; i++) {
      writeFileSync(join(folder, `${i}.program`), Buffer.alloc(1000));
      // 3 was used last, then 9, 8, ...
      utimesSync(join(folder, `${i}.program`), 1000, i === 3 ? 5000 : 1000 + i);
    }
    writeFileSync(join(folder, "a.program.12-ab"), "half");
    utimesSync(join(folder, "a.program.12-ab"), 1000, 1000);
    writeFileSync(join(folder, "b.program.12-ab"), "half");
    writeFileSync(join(folder, "notes.txt"), "not ours");
    await sweep(folder, 5000, 3000);
    expect(readdirSync(folder).sort()).toEqual(["3.program", "8.program", "9.program", "b.program.12-ab", "notes.txt"]);
  });

  test("the code's hash covers the compiler and the ops", () => {
    expect(hashOfCode()).toMatch(/^[0-9a-f]{64}$/);
    expect(hashOfCode()).toBe(hashOfCode());
  });

  test.skipIf(process.platform !== "linux")(
    "the folder is the one that was given, or the user's for such things",
    () => {
      expect(cacheFolder({ HOWDAH_CACHE: "off", HOME: "/home/a" })).toBeUndefined();
      expect(cacheFolder({ HOWDAH_CACHE: "/x", HOME: "/home/a" })).toBe("/x");
      expect(cacheFolder({ XDG_CACHE_HOME: "/c", HOME: "/home/a" })).toBe("/c/howdah");
      expect(cacheFolder({ HOME: "/home/a" })).toBe("/home/a/.cache/howdah");
    },
  );

  test.skipIf(missing)("a compiled function gives the same bits from a stored program", async () => {
    const results: unknown[] = [];
    for (let i = 0; i < 2; i++) {
      const programs = new ProgramFiles(folder, () => said(hashOfCode()));
      const kept: Backend = new Proxy<Backend>(native(), {
        get: (target, key) => {
          if (key === "programs") return programs;
          const member: unknown = Reflect.get(target, key, target);
          return typeof member === "function" ? member.bind(target) : member;
        },
      });
      useBackend(kept);
      const f = jit(work());
      const a = x();
      const y = f(a);
      results.push(await y.numbers());
      y.dispose();
      a.dispose();
      f.release();
      await programs.settled();
      only();
    }
    expect(results[1]).toEqual(results[0]);
  });
});
