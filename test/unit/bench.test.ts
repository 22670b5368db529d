import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { byPrecision, contest, sameNumbers } from "../../bench/contest.ts";
import { ProcessContender } from "../../bench/protocol.ts";
import { compareReports, readReport, showResults } from "../../bench/results.ts";
import { median, quantile, spread } from "../../bench/stats.ts";
import { chooseWorks } from "../../bench/suite.ts";
import { checkAgreement, compareDecisions } from "../../bench/suites/data.ts";
import { suites } from "../../bench/suites/index.ts";
import { BATCHES, batches, gptWorks } from "../../bench/works.ts";
import { parseOptions } from "../../src/cli/options.ts";
import { InputError } from "../../src/tensor/errors.ts";

describe("statistics", () => {
  test("quantiles interpolate between order statistics", () => {
    expect(quantile([4, 1, 3, 2], 0.25)).toBe(1.75);
    expect([median([5]), median([1, 2]), median([9, 1, 5])]).toEqual([5, 1.5, 5]);
    expect(spread([8, 9, 10, 11, 12])).toBeCloseTo(0.1, 12);
    expect(median([])).toBeNaN();
  });
});

describe("decisions on the same documents", () => {
  const texts = Object.fromEntries(Array.from({ length: 100 }, (_, i) => [`u${i}`, `Line ${i}.\n\nAnother.`]));
  const same = Object.fromEntries(Object.entries(texts).map(([url, text]) => [url, text.replace("\n\n", "\n")]));
  const all = (decide: (i: number) => string) =>
    Object.fromEntries(Object.keys(texts).map((url, i) => [url, decide(i)]));
  const mine = { decisions: all((i) => (i < 40 ? "c4" : i < 50 ? "duplicate" : "final")) };
  const against = (decisions: Record<string, string>, theirTexts = same) =>
    compareDecisions(mine, { decisions, texts: theirTexts }, texts);

  test("who says the same of every document does the same work", () => {
    const a = against(mine.decisions);
    expect(a).toMatchObject({ documents: 100, agree: 100, sameText: 100, kept: [60, 60], final: [50, 50], wrong: [] });
    for (const kind of ["crawl", "texts"] as const) expect(() => checkAgreement(kind, a, 100)).not.toThrow();
  });

  test.each([
    ["another filter took one", against({ ...mine.decisions, u0: "fineweb" }), "1 documents of the same text"],
    ["documents are missing", compareDecisions({ decisions: {} }, { decisions: {} }, {}), "0 of 100 documents"],
    ["other duplicates", against(all((i) => (i < 40 ? "c4" : i < 58 ? "duplicate" : "final"))), "near duplicates"],
  ])("%s: other work, of the same texts", (_, agreement, message) => {
    expect(() => checkAgreement("texts", agreement, 100)).toThrow(message);
  });

  test("where texts differ, decisions may, within bounds", () => {
    const other = all((i) => `text ${i} of theirs`);
    const differing = (n: number) =>
      against(
        all((i) => (i < 40 - n ? "c4" : i < 50 ? "duplicate" : "final")),
        other,
      );
    expect(() => checkAgreement("crawl", differing(5), 100)).not.toThrow();
    expect(() => checkAgreement("crawl", differing(12), 100)).toThrow("too different numbers");
    expect(() => checkAgreement("crawl", differing(20), 100)).toThrow("only 80 documents are decided alike");
  });
});

describe("the command line", () => {
  test("works are named by any part of their names, an exact name is that work alone", () => {
    const names = (parts: string) => chooseWorks(gptWorks, parts).map((w) => w.name);
    expect(names("0.8M,gpt2")).toEqual(["gpt-0.8M", "gpt2-124M", "gpt2-124M-2x1024"]);
    expect(names("gpt2-124M")).toEqual(["gpt2-124M"]);
    expect(chooseWorks(gptWorks, undefined)).toEqual(gptWorks);
    expect(() => chooseWorks(gptWorks, "llama")).toThrow("names no work; there are gpt-0.8M");
  });

  test("suites have names and schemas of their own", () => {
    const names = suites.map((suite) => suite.name);
    expect(new Set(names).size).toBe(names.length);
    for (const suite of suites) expect(() => parseOptions(suite, { fast: true }, [])).not.toThrow(TypeError);
  });

  test.each([
    ["gpt", { rounds: "1.5" }, [], "--rounds is 1.5"],
    ["gpt", { seconds: "0" }, [], "--seconds is 0"],
    ["gpt", { precision: "f16" }, [], "--precision is"],
    ["compare", {}, ["a.json"], "after is missing"],
  ])("%s %j %j is refused", (name, given, args, message) => {
    const suite = suites.find((one) => one.name === name)!;
    expect(() => parseOptions(suite, given, args)).toThrow(InputError);
    expect(() => parseOptions(suite, given, args)).toThrow(message);
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
  const check = sameNumbers(byPrecision(), "loss");
  const side = (variant: string, outputs: readonly unknown[]) => ({
    name: "X",
    variant,
    about: "avx512, f32",
    outputs,
  });
  test("losses must agree to 1e-4 in f32, and to 5e-3 where one side multiplies bf16", () => {
    const ours = side("auto", [4.2, 4.1]);
    expect(() => check(ours, side("eager f32", [4.2003, 4.1]))).not.toThrow();
    expect(() => check(ours, side("eager f32", [4.2, 4.102]))).toThrow("at step 1 our loss is 4.1");
    expect(() => check(ours, side("eager bf16", [4.2, 4.11]))).not.toThrow();
    expect(() => check(ours, side("eager bf16", [4.2, 4.2]))).toThrow("same work");
    expect(() => check(ours, side("eager f32", [Number.NaN, 4.1]))).toThrow("at step 0");
    expect(() => check(ours, side("eager f32", [4.2]))).toThrow("2 outputs");
    expect(() => check(ours, side("eager f32", ["4.2", 4.1]))).toThrow("at step 0");
  });
});

describe("a contest", () => {
  /** A side whose steps take so many seconds, and that writes down when it was asked. */
  const entrant = (name: string, seconds: number, asked: string[], outputs: readonly number[] = [1]) => ({
    name,
    variant: name,
    start: () => ({
      name,
      prepare: async () => ({ about: "f32", threads: 2 }),
      run: async (steps: number) => {
        asked.push(`${name} ${steps}`);
        const each = Array.from({ length: steps }, (_, i) => seconds * (1 + 0.01 * i));
        return { seconds: each, outputs: each.map((_, i) => outputs[i % outputs.length]), peakBytes: 1e6 };
      },
      close: async () => void asked.push(`${name} leaves`),
    }),
  });
  const work = { name: "w", parameters: {}, flops: 1e9, peak: "f32" as const, bytes: 1e8 };
  const o = { rounds: 2, seconds: 0.3, threads: 2, say: () => {} };
  const peaks = async () => ({ f32: 20, bf16: null, read: 2 });

  test("sides take turns in changing order; the hopeless leave; the best median counts", async () => {
    const asked: string[] = [];
    const peers = [entrant("slow", 0.3, asked), entrant("fast", 0.15, asked), entrant("near", 0.18, asked)];
    const { results, samples, peak } = await contest(
      [work],
      { ours: entrant("we", 0.1, asked), peers },
      { ...o, peaks },
    );
    const [row] = results;
    expect(row).toMatchObject({ work: "w", ours: 101, ratio: 1.493 });
    expect(row!.sides.map((s) => s.variant)).toEqual(["we", "fast", "near"]);
    expect(row!.sides[0]).toMatchObject({
      gflops: 9.9,
      of_peak: 0.495,
      gb_per_s: 0.99,
      of_read_peak: 0.495,
      peak_mb: 1,
    });
    expect(peak).toEqual(await peaks());
    expect(samples.w!.map((s) => s.seconds.length)).toEqual([6, 4, 4]);
    // Three steps to warm up, a first turn, then the rounds.
    expect(asked.join("; ")).toBe(
      "we 3; we 3; slow 3; slow 1; fast 3; fast 2; slow leaves; near 3; near 2; " +
        "we 3; fast 2; near 2; near 2; fast 2; we 3; we leaves; fast leaves; near leaves",
    );
  });

  test("no round begins after the budget, but one there is", async () => {
    const asked: string[] = [];
    const sides = { ours: entrant("we", 0.1, asked), peers: [] };
    const { samples } = await contest([work], sides, { ...o, rounds: 5, budget: 0 });
    expect(samples.w![0]!.seconds).toHaveLength(3);
  });

  test("alone there is no ratio; processes that stay do not say their peak memory", async () => {
    const asked: string[] = [];
    const sides = { ours: entrant("we", 0.1, asked), peers: [] };
    const { results } = await contest([work, { ...work, name: "v" }], sides, { ...o, fresh: false });
    expect(results.map((r) => [r.work, r.peer, r.ratio])).toEqual([
      ["w", null, null],
      ["v", null, null],
    ]);
    expect(results[0]!.sides[0]).not.toHaveProperty("peak_mb");
    expect(asked.filter((a) => a === "we leaves")).toHaveLength(1);
  });

  test("different work, or other threads, end it, and everybody is sent home", async () => {
    const asked: string[] = [];
    const sides = { ours: entrant("we", 0.1, asked), peers: [entrant("peer", 0.1, asked, [2])] };
    const checked = { ...work, check: sameNumbers(() => 1e-4) };
    await expect(contest([checked], sides, o)).rejects.toThrow("at step 0 our output is 1, that of peer is 2");
    expect(asked.slice(-2)).toEqual(["we leaves", "peer leaves"]);
    await expect(contest([work], sides, { ...o, threads: 1 })).rejects.toThrow("we uses 2 threads, not 1");
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
    const alone = { results: [{ work: "a", ours: 5, peer: null, ratio: null }] };
    expect(compareReports(before, alone)).toEqual([
      { work: "a", before: 10, after: 5, speedup: 2, against_peer: null },
    ]);
  });

  test("columns that no side has are not shown", () => {
    const shown = showResults([
      {
        work: "a",
        ours: 2,
        peer: 3,
        ratio: 1.5,
        sides: [
          { variant: "auto", ms: 2, spread: 0.01 },
          { variant: "eager", ms: 3, spread: 0 },
        ],
      },
    ]);
    expect(shown.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["", "ms", "+-", "we are"],
      ["a: ours, auto", "2.00", "1 %"],
      ["", "eager", "3.00", "0 %", "1.50x"],
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
  const script = (body: string) => new ProcessContender("peer", process.execPath, ["-e", body], process.env);
  const answering = (answer: string) =>
    script(`require("node:readline").createInterface({ input: process.stdin }).on("line", (l) => {
      if (JSON.parse(l).command === "close") process.exit(0);
      console.log("a library says hello"); console.log(${JSON.stringify(answer)});
    })`);

  test("answer line by line; what libraries print is passed over", async () => {
    const peer = answering('{"seconds":[1,2],"outputs":[3,4],"peakBytes":5}');
    expect(await peer.run(2)).toEqual({ seconds: [1, 2], outputs: [3, 4], peakBytes: 5 });
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
    const peer = new ProcessContender("peer", "no-such-python", [], process.env);
    await expect(peer.run(1)).rejects.toThrow("cannot be started");
    await peer.close();
  });
});
