import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkLosses } from "../../bench/contest.ts";
import { parseOptions } from "../../bench/options.ts";
import { Contender } from "../../bench/protocol.ts";
import { compareReports, readReport } from "../../bench/results.ts";
import { median, quantile, spread } from "../../bench/stats.ts";
import { BATCHES, batches, gptWorks } from "../../bench/works.ts";
import { InputError } from "../../src/tensor/errors.ts";

describe("statistics", () => {
  test("quantiles interpolate between order statistics", () => {
    expect(quantile([4, 1, 3, 2], 0.25)).toBe(1.75);
    expect([median([5]), median([1, 2]), median([9, 1, 5])]).toEqual([5, 1.5, 5]);
    expect(spread([8, 9, 10, 11, 12])).toBeCloseTo(0.1, 12);
    expect(median([])).toBeNaN();
  });
});

describe("options", () => {
  test("a work is named by any part that only it has", () => {
    const o = parseOptions(["gpt", "--works", "0.8M,gpt2", "--rounds", "2", "--seconds", "0.5", "--no-compile"]);
    expect(o).toMatchObject({ command: "gpt", rounds: 2, seconds: 0.5, compile: false, precision: "auto" });
    expect(o.command === "gpt" && o.works.map((w) => w.name)).toEqual(["gpt-0.8M", "gpt2-124M"]);
  });

  test.each([
    [["gpt", "--works", "gpt-"], "names 2 works"],
    [["gpt", "--works", "llama"], "names no work"],
    [["gpt", "--rounds", "1.5"], "--rounds must be a positive whole number"],
    [["gpt", "--seconds", "0"], "--seconds must be a positive number"],
    [["gpt", "--precision", "f16"], "--precision must be"],
    [["gpt", "--fast"], "--fast"],
    [["gemm"], "no benchmark"],
    [["compare", "a.json"], "takes 2 arguments"],
  ])("%j is refused", (args, message) => {
    expect(() => parseOptions(args)).toThrow(InputError);
    expect(() => parseOptions(args)).toThrow(message);
  });
});

describe("tokens", () => {
  test.each(gptWorks.map((w) => [w.name, w] as const))(
    "%s: within the vocabulary, each the target of the one before",
    (_name, work) => {
      const data = batches(work);
      const { batch, context, vocabulary } = work;
      const rows = batch * context;
      expect(data.length).toBe(BATCHES * 2 * rows);
      expect(data.every((t) => t >= 0 && t < vocabulary)).toBe(true);
      for (let b = 0; b < BATCHES; b++)
        for (let row = 0; row < batch; row++) {
          const ids = data.subarray((2 * b * batch + row) * context, (2 * b * batch + row + 1) * context);
          const at = ((2 * b + 1) * batch + row) * context;
          expect([...data.subarray(at, at + context - 1)]).toEqual([...ids.subarray(1)]);
        }
    },
  );
});

describe("the same work on both sides", () => {
  const ours = { losses: [4.2, 4.1], prepared: { about: "avx512, f32", threads: 2 } };
  test("losses must agree to 1e-4 in f32, and to 5e-3 where one side multiplies bf16", () => {
    expect(() => checkLosses(ours, { losses: [4.2003, 4.1], variant: "eager f32" })).not.toThrow();
    expect(() => checkLosses(ours, { losses: [4.2, 4.102], variant: "eager f32" })).toThrow("at step 1");
    expect(() => checkLosses(ours, { losses: [4.2, 4.11], variant: "eager bf16" })).not.toThrow();
    expect(() => checkLosses(ours, { losses: [4.2, 4.2], variant: "eager bf16" })).toThrow("same work");
    expect(() => checkLosses(ours, { losses: [Number.NaN, 4.1], variant: "eager f32" })).toThrow("at step 0");
  });
});

describe("results", () => {
  test("two runs are compared by time and against their peers", () => {
    const row = (work: string, ours: number, peer: number) => ({ work, ours, peer, ratio: peer / ours });
    const before = { results: [row("a", 10, 20), row("b", 1, 1)] };
    const after = { results: [row("c", 1, 1), row("a", 8, 24)] };
    expect(compareReports(before, after)).toEqual([
      { work: "a", before: 10, after: 8, speedup: 1.25, against_peer: 1.5 },
    ]);
  });

  test("a file that is not a result is named", async () => {
    const folder = await mkdtemp(join(tmpdir(), "howdah-bench-test-"));
    try {
      const path = join(folder, "x.json");
      await writeFile(path, '{"results": [{"work": "a"}]}');
      await expect(readReport(path)).rejects.toThrow(`${path} is not a bench result`);
      await expect(readReport(join(folder, "none.json"))).rejects.toThrow("cannot be read");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("measured processes", () => {
  const script = (body: string) => new Contender("peer", process.execPath, ["-e", body], process.env);
  const answering = (answer: string) =>
    script(`require("node:readline").createInterface({ input: process.stdin }).on("line", (l) => {
      if (JSON.parse(l).command === "close") process.exit(0);
      console.log("a library says hello"); console.log(${JSON.stringify(answer)});
    })`);

  test("answer line by line; what libraries print is passed over", async () => {
    const peer = answering('{"seconds":[1,2],"losses":[3,4],"peakBytes":5}');
    expect(await peer.run(2)).toEqual({ seconds: [1, 2], losses: [3, 4], peakBytes: 5 });
    await peer.close();
  });

  test("an error they report is an error here", async () => {
    const peer = answering('{"error":"no such weights"}');
    await expect(peer.run(1)).rejects.toThrow("peer: no such weights");
    await peer.close();
  });

  test("one that ends early is reported with what it said", async () => {
    const peer = script('console.error("out of memory"); process.exitCode = 3');
    await expect(peer.run(1)).rejects.toThrow(/peer ended with code 3\.\nout of memory/);
    await peer.close();
  });

  test("one that is not there is reported", async () => {
    const peer = new Contender("peer", "no-such-python", [], process.env);
    await expect(peer.run(1)).rejects.toThrow("cannot be started");
    await peer.close();
  });
});
