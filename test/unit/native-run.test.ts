import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import type { Program, ProgramValue } from "../../src/engine/program.ts";
import { BackendError } from "../../src/tensor/errors.ts";
import { backend, missing, op1, plain, run, single } from "./native-support.ts";

const f32 = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
const value = (
  shape: number[],
  storage: ProgramValue["storage"],
  dtype: ProgramValue["dtype"] = "f32",
): ProgramValue => ({
  dtype,
  shape,
  storage,
});

describe.skipIf(missing !== undefined)("the native executor", () => {
  let buffersBefore = 0;
  beforeAll(() => {
    buffersBefore = backend().memory().liveBuffers;
  });

  it("copies and adds", async () => {
    const x = plain("f32", [3], [1, 2, 3]);
    expect(await op1("copy", [x], f32(3))).toEqual([1, 2, 3]);
    expect(await op1("add", [x, plain("f32", [3], [10, 20, 30])], f32(3))).toEqual([11, 22, 33]);
  });

  it("runs a bound program as often as asked, also once its buffers are let go", async () => {
    const b = backend();
    const exe = b.compile(single("add", [f32(2), f32(2)], [f32(2)], {}));
    const one = b.upload(new Float32Array([1, 2]), "f32");
    const [x, y] = [b.upload(new Float32Array(2), "f32"), b.allocate(8)];
    const bound = [exe.bind([x, one], [y]), exe.bind([y, one], [x])];
    for (let i = 0; i < 10; i++) bound[i % 2]!.run();
    b.release(one); // still in use by the queued runs
    for (const each of bound) each.release();
    expect(() => bound[0]!.run()).toThrow("was already released");
    expect([...(await b.download(x, "f32", 2))]).toEqual([10, 20]);
    expect(() => exe.bind([x], [y])).toThrow("2 inputs");
    b.release(x);
    b.release(y);
    exe.release();
  });

  it("keeps the order of queued runs", async () => {
    const b = backend();
    const exe = b.compile(single("add", [f32(4), f32(4)], [f32(4)], {}));
    const one = b.upload(new Float32Array([1, 1, 1, 1]), "f32");
    let x = b.upload(new Float32Array(4), "f32");
    for (let i = 0; i < 500; i++) {
      const y = b.allocate(16);
      exe.run([x, one], [y]);
      b.release(x); // still in use by the queued run
      x = y;
    }
    expect([...(await b.download(x, "f32", 4))]).toEqual([500, 500, 500, 500]);
    b.release(x);
    b.release(one);
    exe.release();
  });

  it("reads constants and plans arena values at byte offsets", async () => {
    const program: Program = {
      values: [
        value([2], { kind: "input", index: 0 }),
        value([2], { kind: "constant", index: 0 }),
        value([2], { kind: "arena", offset: 64 }),
        value([2], { kind: "output", index: 0 }),
      ],
      instructions: [
        { op: "multiply", inputs: [0, 1], outputs: [2], attributes: {} },
        { op: "add", inputs: [2, 1], outputs: [3], attributes: {} },
      ],
      inputs: [0],
      outputs: [3],
      constants: [new Float32Array([10, 100])],
      aliases: [],
      arenaBytes: 128,
      matmul: "f32",
    };
    expect(await run(program, [plain("f32", [2], [1, 2])])).toEqual([[20, 300]]);
  });

  it("copies outputs that are inputs or constants", async () => {
    const program: Program = {
      values: [value([2], { kind: "input", index: 0 }), value([1], { kind: "constant", index: 0 }, "i32")],
      instructions: [],
      inputs: [0],
      outputs: [1, 0],
      constants: [new Int32Array([7])],
      aliases: [],
      arenaBytes: 0,
      matmul: "f32",
    };
    expect(await run(program, [plain("f32", [2], [1, 2])])).toEqual([[7], [1, 2]]);
  });

  it("updates a donated input in place", async () => {
    const b = backend();
    const exe = b.compile({ ...single("add", [f32(2), f32(2)], [f32(2)], {}), aliases: [[0, 0]] });
    const x = b.upload(new Float32Array([1, 2]), "f32");
    exe.run([x, x], [x]);
    expect([...(await b.download(x, "f32", 2))]).toEqual([2, 4]);
    b.release(x);
    exe.release();
  });

  it("names what is wrong with a program when it is compiled", () => {
    const b = backend();
    expect(() => b.compile(single("no_such_op", [f32(2)], [f32(2)], {}, { scope: "GPT.forward/h.3" }))).toThrow(
      /no_such_op \[f32 \(2\)\] -> \[f32 \(2\)\] in GPT.forward\/h.3: the native backend has no such kernel/,
    );
    expect(() => b.compile(single("add", [f32(2), f32(3)], [f32(2)], {}))).toThrow(BackendError);
    expect(() => b.compile(single("transpose", [f32(2, 3)], [f32(3, 2)], {}))).toThrow(/"permutation" is missing/);
    expect(() => b.compile(single("copy", [{ dtype: "f64", shape: [1] }], [{ dtype: "f64", shape: [1] }], {}))).toThrow(
      /f64/,
    );
    const outside = single("copy", [f32(2)], [f32(2)], {});
    const values = [outside.values[0] as ProgramValue, value([2], { kind: "arena", offset: 64 })];
    expect(() => b.compile({ ...outside, values, arenaBytes: 64 })).toThrow(/outside/);
  });

  it("refuses released and foreign buffers", async () => {
    const b = backend();
    const x = b.upload(new Float32Array(2), "f32");
    b.release(x);
    expect(() => b.release(x)).toThrow(/already released/);
    await expect(b.download(x, "f32", 2)).rejects.toThrow(/already released/);
    expect(() => b.release({ bytes: 4 })).toThrow(/another backend/);
    const exe = b.compile(single("copy", [f32(2)], [f32(2)], {}));
    const small = b.allocate(4);
    expect(() => exe.run([small], [small])).toThrow(/holds 4 bytes/);
    b.release(small);
    exe.release();
    expect(() => exe.run([small], [small])).toThrow(/already released/);
  });

  it("tells of a failed run once at the next wait, and of its results at every download", async () => {
    const b = backend();
    const huge = b.compile({
      ...single("copy", [f32(2)], [f32(2)], {}),
      arenaBytes: 2 ** 47, // more than any machine has
    });
    const copy = b.compile(single("copy", [f32(2)], [f32(2)], {}));
    const [x, y, z] = [b.upload(new Float32Array([1, 2]), "f32"), b.allocate(8), b.allocate(8)];
    huge.run([x], [y]);
    copy.run([y], [z]); // reads what was never written
    await expect(b.sync()).rejects.toThrow(/larger than any memory/);
    await expect(b.sync()).resolves.toBeUndefined();
    await expect(b.download(z, "f32", 2)).rejects.toThrow(BackendError);
    copy.run([x], [z]);
    expect([...(await b.download(z, "f32", 2))]).toEqual([1, 2]);
    for (const buffer of [x, y, z]) b.release(buffer);
    huge.release();
    copy.release();
  });

  it("counts live buffers and bytes", () => {
    const b = backend();
    const before = b.memory();
    const x = b.allocate(1000);
    expect(b.memory().liveBuffers).toBe(before.liveBuffers + 1);
    expect(b.memory().liveBytes).toBe(before.liveBytes + 1000);
    b.release(x);
    expect(b.memory()).toMatchObject({ liveBuffers: before.liveBuffers, liveBytes: before.liveBytes });
    expect(b.memory().peakBytes).toBeGreaterThanOrEqual(1000);
  });

  it("times each instruction when asked", async () => {
    const b = backend();
    const exe = b.compile(single("add", [f32(4), f32(4)], [f32(4)], {}, { scope: "here" }));
    exe.profile(true);
    const [x, y] = [b.upload(new Float32Array(4), "f32"), b.allocate(16)];
    exe.run([x, x], [y]);
    exe.run([x, x], [y]);
    const [entry] = await exe.readProfile();
    expect(entry).toMatchObject({ op: "add", scope: "here", calls: 2 });
    expect(entry?.nanoseconds).toBeGreaterThan(0);
    b.release(x);
    b.release(y);
    exe.release();
  });

  it("releases everything it was given", async () => {
    await backend().sync();
    expect(backend().memory().liveBuffers).toBe(buffersBefore);
  });

  it("lets a process exit with work queued, also from a worker thread", () => {
    const module = fileURLToPath(new URL("../../src/engine/backends/native/addon.ts", import.meta.url));
    const program = {
      values: [0, 1].map((i) => ({
        dtype: "f32",
        shape: [1 << 20],
        storage: { kind: i ? "output" : "input", index: 0 },
      })),
      instructions: Array.from({ length: 200 }, () => ({
        op: "exponential",
        inputs: [0],
        outputs: [1],
        attributes: {},
      })),
      inputs: [0],
      outputs: [1],
      constants: [],
      aliases: [],
      arenaBytes: 0,
    };
    const body = `
      const addon = process.getBuiltinModule("module").createRequire("/")(process.env.HOWDAH_ADDON);
      const exe = addon.compile(${JSON.stringify(JSON.stringify(program))}, [], false);
      const x = addon.upload(new Float32Array(1 << 20)), y = addon.allocate(4 << 20);
      for (let i = 0; i < 50; i++) addon.run(exe, new Float64Array([x]), new Float64Array([y]));
    `;
    const worker = `
      const { Worker } = require("node:worker_threads");
      const worker = new Worker(${JSON.stringify(`${body} addon.download(y, new Float32Array(1 << 20)); require("node:worker_threads").parentPort.postMessage(1);`)}, { eval: true });
      worker.on("message", () => worker.terminate().then(() => console.log("ended")));
    `;
    const path = process.env.HOWDAH_NATIVE ?? fileURLToPath(new URL("../../native/build/howdah.node", import.meta.url));
    const start = (code: string) =>
      execFileSync(process.execPath, ["-e", code], {
        env: { ...process.env, HOWDAH_ADDON: path },
        encoding: "utf8",
        timeout: 20_000,
      });
    expect(module).toContain("addon");
    expect(start(`${body} console.log("queued")`)).toBe("queued\n");
    expect(start(`${body} addon.download(y, new Float32Array(4)); process.exit(0)`)).toBe("");
    expect(start(worker)).toBe("ended\n");
  });
});
