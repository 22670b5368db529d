import { spawn } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  acquireLock,
  Checkpoints,
  DiskError,
  Emitter,
  type Event,
  EventLog,
  explainWrite,
  formatBytes,
  freeBytes,
  latest,
  lockHolder,
  makeFolder,
  parse,
  Run,
  readEvents,
  readRun,
  removeLeftovers,
  requireFolder,
  requireSpace,
  runNames,
  runPath,
  runStateOf,
  series,
  stringify,
  writeFileAtomic,
  writeFolderAtomic,
} from "../../src/runs/index.ts";
import { bundle } from "../helpers/bundle.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-runs-"));
afterAll(() => rmSync(root, { recursive: true }));
let serial = 0;
const fresh = () => {
  const folder = join(root, String(serial++));
  mkdirSync(folder);
  return folder;
};

describe("JSON", () => {
  test("NaN and the infinities survive, and a text that says NaN stays a text", () => {
    const value = {
      values: { loss: Number.NaN, up: Infinity, down: -Infinity, zero: 0 },
      text: "NaN",
      prompt: "Infinity",
    };
    expect(parse(stringify(value))).toEqual(value);
    expect(() => JSON.parse(stringify(value))).not.toThrow();
  });
});

describe("events", () => {
  const events: Event[] = [
    { t: 1, type: "run", status: "started" },
    { t: 2, type: "stage", stage: "pretrain", index: 0, count: 2, status: "started" },
    { t: 3, type: "metrics", stage: "pretrain", step: 1, values: { loss: 5 } },
    { t: 4, type: "metrics", stage: "pretrain", step: 2, values: { loss: Number.NaN } },
    { t: 5, type: "sample", stage: "pretrain", step: 2, prompt: "ROMEO:", text: "\n\u2028 “O”" },
  ];

  test("what was written is what is read, line by line and from any offset", () => {
    const path = join(fresh(), "events.jsonl");
    const log = new EventLog(path);
    for (const event of events.slice(0, 3)) log.append(event);
    const first = readEvents(path);
    expect(first.events).toEqual(events.slice(0, 3));
    for (const event of events.slice(3)) log.append(event);
    log.close();
    expect(readEvents(path, first.offset).events).toEqual(events.slice(3));
    expect(readFileSync(path, "utf8").split("\n")).toHaveLength(events.length + 1);
  });

  test("a file cut at any byte is repaired to its whole lines, and goes on", () => {
    const path = join(fresh(), "events.jsonl");
    const log = new EventLog(path);
    for (const event of events) log.append(event);
    log.close();
    const whole = readFileSync(path);
    for (let size = whole.length; size >= 0; size--) {
      writeFileSync(path, whole.subarray(0, size));
      const lines = whole.subarray(0, size).toString("latin1").split("\n").length - 1;
      expect(readEvents(path).events).toHaveLength(lines);
      const again = new EventLog(path);
      again.append(events[0]!);
      again.close();
      expect(readEvents(path).events).toEqual([...events.slice(0, lines), events[0]]);
    }
  });

  test("a last line of zeros, as a power cut leaves it, is removed", () => {
    const path = join(fresh(), "events.jsonl");
    const log = new EventLog(path);
    log.append(events[0]!);
    log.close();
    appendFileSync(path, Buffer.concat([Buffer.alloc(100_000), Buffer.from("\n")]));
    const again = new EventLog(path);
    expect(again.repaired).toBe(100_001);
    again.close();
    expect(readEvents(path).events).toEqual([events[0]]);
  });

  test("a line that is no event is an error with the file and the byte", () => {
    const path = join(fresh(), "events.jsonl");
    const good = `${stringify(events[0])}\n`;
    writeFileSync(path, `${good}{"t":1,"type":"metrics"}\n`);
    expect(() => readEvents(path)).toThrow(`events.jsonl: the line at byte ${good.length} is not an event`);
  });

  test("every sink gets every event in order with one time stamp", () => {
    const seen: Event[][] = [[], []];
    const emitter = new Emitter([(e) => seen[0]!.push(e)], () => 7);
    const remove = emitter.add((e) => seen[1]!.push(e));
    emitter.emit({ type: "log", level: "info", message: "a" });
    remove();
    emitter.emit({ type: "log", level: "info", message: "b" });
    expect(seen[0]!.map((e) => [e.t, e.type === "log" && e.message])).toEqual([
      [7, "a"],
      [7, "b"],
    ]);
    expect(seen[1]).toHaveLength(1);
  });
});

describe("the state of a run", () => {
  const metrics = (step: number, loss: number): Event => ({
    t: 9,
    type: "metrics",
    stage: "a",
    step,
    values: { loss },
  });
  const stage = (status: "started" | "resumed" | "finished", step?: number): Event => {
    const event = { t: 9, type: "stage" as const, stage: "a", index: 0, count: 1, status };
    return step === undefined ? event : { ...event, step };
  };

  test("a stage resumed from step 2 forgets what it had said about later steps", () => {
    const state = runStateOf([
      stage("started"),
      metrics(1, 1),
      metrics(2, 2),
      metrics(3, 3),
      stage("resumed", 2),
      metrics(3, 30),
    ]);
    expect(series(state.stages[0]!, "loss")).toEqual([
      [1, 1],
      [2, 2],
      [3, 30],
    ]);
    expect(latest(state.stages[0]!, "loss")).toBe(30);
  });

  test("of two reports for one step the last counts, name by name", () => {
    const more: Event = { t: 9, type: "metrics", stage: "a", step: 1, values: { heldOut: 4 } };
    const state = runStateOf([stage("started"), metrics(1, 1), more, metrics(1, 2)]);
    expect(state.stages[0]!.metrics.get(1)).toEqual({ loss: 2, heldOut: 4 });
  });

  test("a stage started over forgets everything", () => {
    expect(series(runStateOf([stage("started"), metrics(1, 1), stage("started")]).stages[0]!, "loss")).toEqual([]);
  });
});

describe("atomic writes", () => {
  test("a writer that fails leaves the old file and the old folder as they were, and nothing beside them", async () => {
    const folder = fresh();
    const file = join(folder, "a.txt");
    writeFileAtomic(file, "old");
    expect(readFileSync(file, "utf8")).toBe("old");
    const model = join(folder, "model");
    await writeFolderAtomic(model, async (at) => writeFileSync(join(at, "w"), "1"));
    await expect(
      writeFolderAtomic(model, async (at) => {
        writeFileSync(join(at, "w"), "2");
        throw Object.assign(new Error("write ENOSPC"), { code: "ENOSPC" });
      }),
    ).rejects.toThrow(/disk is full.*unchanged/);
    expect(readFileSync(join(model, "w"), "utf8")).toBe("1");
    await writeFolderAtomic(model, async (at) => writeFileSync(join(at, "w"), "3"));
    expect(readFileSync(join(model, "w"), "utf8")).toBe("3");
    expect(readdirSync(folder).sort()).toEqual(["a.txt", "model"]);
  });

  test.skipIf(!existsSync("/dev/full"))("a full disk is named, by the system's own error", () => {
    const log = new EventLog("/dev/full");
    expect(() => log.append({ t: 1, type: "log", level: "info", message: "x" })).toThrow(/disk is full/);
  });

  test("folders are made with those they stand in; where none can be, that is an error and no endless loop", () => {
    const folder = fresh();
    makeFolder(join(folder, "a", "b", "c"));
    makeFolder(join(folder, "a", "b", "c"));
    expect(readdirSync(join(folder, "a", "b"))).toEqual(["c"]);
    writeFileSync(join(folder, "file"), "");
    expect(() => makeFolder(join(folder, "file", "d"))).toThrow(/file is a file, where a folder is to be/);
    expect(() => requireFolder(join(folder, "file"))).toThrow(/file is a file, where a folder is to be/);
    requireFolder(join(folder, "e"));
    expect(existsSync(join(folder, "e"))).toBe(true);
    // What could not be begun need not be removed, and why says more than that.
    expect(() => writeFileAtomic(join(folder, "file", "d", "e"), "")).toThrow(
      /file is a file, where a folder is to be/,
    );
    symlinkSync(join(folder, "nowhere", "at all"), join(folder, "link"));
    expect(() => makeFolder(join(folder, "link", "d"))).toThrow(/no folder of this name can be made/);
  });

  test.skipIf(!existsSync("/proc/self"))("Linux's /proc makes no folders", () => {
    expect(() => makeFolder("/proc/x")).toThrow(/no folder of this name can be made in \/proc/);
    expect(() => writeFileAtomic("/proc/x/y/z.json", "{}")).toThrow(DiskError);
  });

  test("leftovers of dead writers go, those of living ones stay", async () => {
    const folder = fresh();
    writeFileSync(join(folder, ".a.999999999.0123abcd0.partial"), "");
    writeFileSync(join(folder, `.b.${process.ppid}.0123abcd0.partial`), "");
    writeFileSync(join(folder, ".profile"), "");
    await removeLeftovers(folder);
    expect(readdirSync(folder).sort()).toEqual([`.b.${process.ppid}.0123abcd0.partial`, ".profile"]);
  });

  test("too little space is said before the start, with the numbers", () => {
    expect(freeBytes(join(root, "not", "there", "yet"))).toBeGreaterThan(0);
    expect(() => requireSpace(root, 0, "A run")).not.toThrow();
    expect(() => requireSpace(root, 2.5e9, "A run", 12e6)).toThrow(/A run needs 2\.5 GB .* 12 MB are free/);
    expect([0, 999, 1000, 1e6, 15.4e9].map(formatBytes)).toEqual(["0 B", "999 B", "1.0 kB", "1.0 MB", "15 GB"]);
  });

  test("an error that is not about the disk passes through", () => {
    const error = new Error("shape");
    expect(explainWrite(error, "x", "")).toBe(error);
  });
});

describe("checkpoints", () => {
  const fill = (text: string) => async (folder: string) => {
    mkdirSync(join(folder, "state"));
    writeFileSync(join(folder, "state", "model.safetensors"), text);
  };
  const save = (all: Checkpoints, step: number, score?: number) =>
    all.save(
      { stage: "pretrain", stageIndex: 0, step, keep: 2, ...(score === undefined ? {} : { score }) },
      fill(`${step}`),
    );

  test("the last two and the best stay", async () => {
    const all = new Checkpoints(join(fresh(), "checkpoints"));
    expect(all.latest()).toBeUndefined();
    const scores = [5, 2, 3, Number.NaN, 4];
    for (const [i, score] of scores.entries()) await save(all, (i + 1) * 10, score);
    expect(all.list().map(({ step }) => step)).toEqual([20, 40, 50]);
    expect(all.latest()?.step).toBe(50);
    expect(all.best("pretrain")?.step).toBe(20);
  });

  test("steps are ordered as numbers, stages by their place", async () => {
    const all = new Checkpoints(join(fresh(), "checkpoints"));
    await save(all, 9);
    await save(all, 10);
    await all.save({ stage: "sft", stageIndex: 1, step: 1, keep: 2 }, fill("x"));
    expect(all.latest("pretrain")?.step).toBe(10);
    expect(all.latest()?.stage).toBe("sft");
  });

  test("a folder with a missing or a short file is not a checkpoint", async () => {
    const all = new Checkpoints(join(fresh(), "checkpoints"));
    await save(all, 1);
    await save(all, 2);
    truncateSync(join(all.latest()!.path, "state", "model.safetensors"), 0);
    expect(all.latest()?.step).toBe(1);
    rmSync(join(all.latest()!.path, "checkpoint.json"));
    expect(all.latest()).toBeUndefined();
  });

  test("a save that fails keeps the checkpoints before", async () => {
    const all = new Checkpoints(join(fresh(), "checkpoints"));
    await save(all, 1);
    const full = Object.assign(new Error("write ENOSPC"), { code: "ENOSPC" });
    const failing = all.save({ stage: "pretrain", stageIndex: 0, step: 2, keep: 1 }, () => Promise.reject(full));
    await expect(failing).rejects.toMatchObject({ code: "disk" });
    expect(all.list().map(({ step }) => step)).toEqual([1]);
  });
});

describe("the lock of a run", () => {
  test("a held lock refuses, a released one does not, and the holder is named", () => {
    const path = join(fresh(), "run.lock");
    const lock = acquireLock(path, "The run");
    expect(() => acquireLock(path, "The run")).toThrow(`in use by process ${process.pid}`);
    expect(lockHolder(path)?.pid).toBe(process.pid);
    lock.release();
    expect(lockHolder(path)).toBeUndefined();
    acquireLock(path, "The run").release();
  });

  test("the lock of a dead process, or of another with the same id, is taken over", () => {
    const path = join(fresh(), "run.lock");
    for (const holder of [
      { pid: 999999999, host: hostname() },
      { pid: process.pid, host: hostname(), began: "1" },
    ]) {
      writeFileSync(path, JSON.stringify(holder));
      expect(lockHolder(path)).toBeUndefined();
      acquireLock(path, "The run").release();
    }
  });

  test("the fresh lock of another machine refuses", () => {
    const path = join(fresh(), "run.lock");
    writeFileSync(path, JSON.stringify({ pid: 1, host: "elsewhere" }));
    expect(() => acquireLock(path, "The run")).toThrow(/process 1 on elsewhere/);
  });
});

describe("a run", () => {
  test("is created once, refused a second time, and resumed", async () => {
    const runs = fresh();
    const run = await Run.open(runs, "a", { recipe: "name: a\n", resume: false });
    run.events.emit({ type: "run", status: "started" });
    await expect(Run.open(runs, "a", { recipe: "", resume: true })).rejects.toMatchObject({ code: "locked" });
    expect(readRun(runs, "a").status).toBe("running");
    run.close();
    expect(readRun(runs, "a").status).toBe("interrupted");
    await expect(Run.open(runs, "a", { recipe: "", resume: false })).rejects.toThrow(/exists/);
    const again = await Run.open(runs, "a", { recipe: "name: other\n", resume: true });
    expect(again.resumed).toBe(true);
    expect(again.recipe).toBe("name: a\n");
    expect(again.past.status).toBe("running");
    again.close();
    expect(runNames(runs)).toEqual(["a"]);
    expect(() => readRun(runs, "b")).toThrow(/no run "b".*There are: a/);
  });

  test("no name leaves the runs folder", () => {
    for (const name of ["..", "../a", "a/b", "", ".hidden", "a\\b", "a\0"])
      expect(() => runPath(root, name)).toThrow(/name/);
    expect(runPath(root, "shakespeare-2.莎士比亚")).toBe(join(root, "shakespeare-2.莎士比亚"));
  });
});

describe("a process killed at any instant", () => {
  let program: Awaited<ReturnType<typeof bundle>>;
  beforeAll(async () => {
    // A run that writes events and checkpoints as fast as it can; each checkpoint holds its step twice.
    program = await bundle(`
      import { writeFileSync } from "node:fs";
      import { join } from "node:path";
      import { Run } from "src/runs/index.ts";
      const run = await Run.open(process.argv[2]!, "killed", { recipe: "name: killed\\n", resume: true });
      const stage = "work";
      let step = run.checkpoints.latest()?.step ?? 0;
      run.events.emit({ type: "run", status: run.resumed ? "resumed" : "started" });
      run.events.emit({ type: "stage", stage, index: 0, count: 1, status: step > 0 ? "resumed" : "started", step });
      console.log("going");
      for (;;) {
        step++;
        for (let i = 0; i < 20; i++) run.events.emit({ type: "metrics", stage, step, values: { loss: 1 / step, i } });
        await run.checkpoints.save({ stage, stageIndex: 0, step, keep: 2 }, async (folder) => {
          for (const name of ["a", "b"]) writeFileSync(join(folder, name), String(step).padStart(200_000));
        });
      }
    `);
  });
  afterAll(() => program.remove());

  test("leaves a readable log, whole checkpoints, and a lock that the next one takes over", async () => {
    const runs = fresh();
    let reached = 0;
    for (let round = 0; round < 8; round++) {
      const child = spawn(process.execPath, [program.file, runs], { stdio: ["ignore", "pipe", "inherit"] });
      await new Promise((resolve) => child.stdout.once("data", resolve));
      await new Promise((resolve) => setTimeout(resolve, 20 + ((round * 37) % 90)));
      const closed = new Promise((resolve) => child.once("close", resolve));
      child.kill("SIGKILL");
      await closed;
      const { state, status } = readRun(runs, "killed");
      expect(status).toBe("interrupted");
      const all = new Checkpoints(join(runs, "killed", "checkpoints")).list();
      const step = all.at(-1)?.step ?? 0;
      expect(step).toBeGreaterThanOrEqual(reached);
      reached = step;
      for (const checkpoint of all) {
        for (const name of ["a", "b"]) {
          expect(Number(readFileSync(join(checkpoint.path, name), "utf8"))).toBe(checkpoint.step);
        }
      }
      // Every step up to the checkpoint has been reported, and none twice.
      const steps = series(state.stages[0]!, "loss").map(([at]) => at);
      expect(steps.slice(0, step)).toEqual(Array.from({ length: step }, (_, i) => i + 1));
    }
    expect(reached).toBeGreaterThan(0);
    const run = await Run.open(runs, "killed", { recipe: "", resume: true });
    run.close();
    const left = readdirSync(join(runs, "killed", "checkpoints"));
    expect(left.filter((name) => name.startsWith("."))).toEqual([]);
  });
});
