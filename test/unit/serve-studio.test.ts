import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readPreferences } from "../../src/data/jsonl.ts";
import { acquireLock } from "../../src/runs/lock.ts";
import type { EventsPage, NewVote, RunSummary, Vote } from "../../src/serve/api.ts";
import { createServer, type Server } from "../../src/serve/index.ts";
import { openDatabase } from "../../src/serve/records/database.ts";
import { readEvents } from "../../src/serve/studio/event-log.ts";
import { ScriptedRegistry, scriptedModel, until } from "../support/scripted-model.ts";

/** The messages of an event stream, as they come. */
function listen(url: string): { messages: unknown[]; close: () => void; ended: Promise<void> } {
  const abort = new AbortController();
  const messages: unknown[] = [];
  const read = async () => {
    const response = await fetch(url, { signal: abort.signal });
    let rest = "";
    for await (const bytes of response.body ?? []) {
      rest += Buffer.from(bytes as Uint8Array).toString();
      const parts = rest.split("\n\n");
      rest = parts.pop() ?? "";
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (data) messages.push(JSON.parse(data.slice(6)));
      }
    }
  };
  return { messages, close: () => abort.abort(), ended: read().catch(() => {}) };
}

describe("the Studio's API", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-studio-"));
  const runsDir = join(folder, "runs");
  const models = new ScriptedRegistry(scriptedModel("base", ["."], { description: "pre-trained" }));
  let server: Server;
  let held: { release(): void };
  const get = async <T>(path: string): Promise<T> => (await fetch(server.url + path)).json() as Promise<T>;

  const events = [
    { t: 1000, type: "run", status: "started" },
    { t: 1001, type: "stage", stage: "pretrain", index: 0, count: 2, status: "started" },
    { t: 1002, type: "metrics", stage: "pretrain", step: 1, values: { loss: 6.9, 梯度: "NaN" } },
  ];
  const lines = (list: object[]) => list.map((event) => `${JSON.stringify(event)}\n`).join("");

  beforeAll(async () => {
    mkdirSync(join(runsDir, "hamlet"), { recursive: true });
    mkdirSync(join(runsDir, "not a run"));
    writeFileSync(join(folder, "secret.txt"), "secret");
    symlinkSync(folder, join(runsDir, ".hidden"));
    writeFileSync(join(runsDir, "hamlet", "events.jsonl"), lines(events));
    writeFileSync(join(runsDir, "hamlet", "recipe.yaml"), "name: hamlet\n");
    held = acquireLock(join(runsDir, "hamlet", "run.lock"), "hamlet");
    server = await createServer({ models, runsDir, limits: { eventStreams: 3 } });
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  test("lists runs with the state that their events tell, and no other folders", async () => {
    const { runs } = await get<{ runs: RunSummary[] }>("/api/runs");
    expect(runs).toEqual([
      {
        name: "hamlet",
        status: "running",
        began: 1000,
        updated: 1002,
        stage: { name: "pretrain", index: 0, count: 2 },
      },
    ]);
    expect(await get("/api/runs/hamlet")).toEqual({
      name: "hamlet",
      status: "running",
      recipe: "name: hamlet\n",
      stages: [], // a recipe that is no recipe names none
      hasReport: false,
    });
  });

  test("a run whose process is gone without a word is interrupted", async () => {
    held.release();
    expect(await get("/api/runs/hamlet")).toMatchObject({ status: "interrupted" });
  });

  test("a name cannot leave the folder of runs", async () => {
    for (const name of ["..", "%2e%2e", "..%2f..", ".hidden", "hamlet%2f..%2f..", "hamlet%00", "none", "secret.txt"]) {
      for (const tail of ["", "/report", "/events", "/events/stream"]) {
        const response = await fetch(`${server.url}/api/runs/${name}${tail}`);
        expect(response.status, name + tail).toBe(404);
        expect(await response.text()).not.toContain("secret\n");
      }
    }
  });

  test("events are read from a byte offset on, in whole lines", async () => {
    const all = await get<EventsPage>("/api/runs/hamlet/events");
    expect(all.events).toEqual(events);
    const size = Buffer.byteLength(lines(events));
    expect(all).toMatchObject({ offset: 0, next: size, more: false });
    const rest = await get<EventsPage>(
      `/api/runs/hamlet/events?offset=${Buffer.byteLength(lines(events.slice(0, 2)))}`,
    );
    expect(rest.events).toEqual(events.slice(2));
    expect((await get<EventsPage>(`/api/runs/hamlet/events?offset=${size}`)).events).toEqual([]);
    const response = await fetch(`${server.url}/api/runs/hamlet/events?offset=-1`);
    expect(response.status).toBe(400);
  });

  test("a line that is being written waits, a torn one is skipped, a shorter file begins again", async () => {
    const file = join(folder, "log.jsonl");
    expect(await readEvents(file, 0)).toEqual({ offset: 0, next: 0, events: [], more: false });
    writeFileSync(file, `${lines(events)}{"t":5,"type":"lo`);
    const first = await readEvents(file, 0);
    expect(first.events).toEqual(events);
    expect(first.more).toBe(false);
    appendFileSync(
      file,
      'g","level":"info","message":"é"}\n{"torn\n{"t":6,"type":"log","level":"info","message":"z"}\n',
    );
    const second = await readEvents(file, first.next);
    expect(second.events.map((event) => event.t)).toEqual([5, 6]);
    writeFileSync(file, lines(events.slice(0, 1)));
    expect(await readEvents(file, second.next)).toMatchObject({ reset: true, offset: 0, events: events.slice(0, 1) });
  });

  test("a long file comes in pages that lose and repeat nothing, and a line longer than a page comes whole", async () => {
    const file = join(folder, "long.jsonl");
    const many = Array.from({ length: 9000 }, (_, i) => ({
      t: i,
      type: "log",
      level: "info",
      message: "x".repeat(100),
    }));
    many[17] = { t: 17, type: "log", level: "info", message: "y".repeat(1_500_000) };
    writeFileSync(file, lines(many));
    const times: number[] = [];
    let pages = 0;
    for (let at = 0, more = true; more; pages++) {
      const page = await readEvents(file, at);
      times.push(...page.events.map((event) => event.t));
      at = page.next;
      more = page.more;
    }
    expect(times).toEqual(many.map((event) => event.t));
    expect(pages).toBeGreaterThan(2);
  });

  test("new events are pushed as they are written", async () => {
    const stream = listen(`${server.url}/api/runs/hamlet/events/stream?offset=0`);
    await until(() => stream.messages.length > 0);
    const event = {
      t: 2000,
      type: "progress",
      stage: "pretrain",
      done: 1,
      total: 9,
      unit: "steps",
      rate: 2,
      secondsLeft: 4,
    };
    appendFileSync(join(runsDir, "hamlet", "events.jsonl"), lines([event]));
    await until(() => stream.messages.length > 1);
    const [backlog, pushed] = stream.messages as EventsPage[];
    expect(backlog?.events).toEqual(events);
    expect(pushed).toMatchObject({ offset: backlog?.next, events: [event] });
    stream.close();
  });

  test("models and runs that appear are announced", async () => {
    const stream = listen(`${server.url}/api/changes`);
    await until(() => stream.messages.length === 3);
    expect(stream.messages.toSorted()).toEqual(["data", "models", "runs"]);
    models.add(scriptedModel("sft", ["."]));
    await until(() => stream.messages.slice(3).includes("models"));
    expect(await get("/api/models")).toMatchObject({
      models: [{ id: "base", description: "pre-trained" }, { id: "sft" }],
    });
    mkdirSync(join(runsDir, "lear"));
    writeFileSync(join(runsDir, "lear", "events.jsonl"), lines(events.slice(0, 1)));
    await until(() => stream.messages.includes("runs", 4));
    stream.close();
  });

  test("streams are limited, and those of clients that left do not count", async () => {
    const url = `${server.url}/api/changes`;
    const status = async () => {
      const response = await fetch(url);
      await response.body?.cancel();
      return response.status;
    };
    await until(async () => (await status()) === 200);
    const streams = [listen(url), listen(url), listen(url)];
    await until(() => streams.every((stream) => stream.messages.length > 0));
    expect(await status()).toBe(429);
    for (const stream of streams) stream.close();
    await until(async () => (await status()) === 200);
  });

  test("a report is served once it is written", async () => {
    expect((await fetch(`${server.url}/api/runs/hamlet/report`)).status).toBe(404);
    writeFileSync(join(runsDir, "hamlet", "report.md"), "# 报告");
    const response = await fetch(`${server.url}/api/runs/hamlet/report`);
    expect(response.headers.get("content-type")).toContain("text/markdown");
    expect(await response.text()).toBe("# 报告");
  });
});

describe("votes", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-votes-"));
  const start = () => createServer({ models: new ScriptedRegistry(), runsDir: folder });
  let server: Server;
  const juliet = { role: "assistant", name: "JULIET" };
  const prompt = [
    { role: "user", name: "ROMEO", content: 'It\'s the "east"; 东方' },
    { ...juliet, content: "" },
  ];
  const send = (vote: unknown) =>
    fetch(`${server.url}/api/votes`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(vote),
    });
  const list = async (query = "") =>
    ((await (await fetch(`${server.url}/api/votes${query}`)).json()) as { votes: Vote[] }).votes;
  beforeAll(async () => {
    server = await start();
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  test("the database is not opened before someone votes", async () => {
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    expect(existsSync(join(folder, "studio.pglite"))).toBe(false);
  });

  test("thumbs and preferences are kept, listed newest first, and survive a restart", async () => {
    const votes: NewVote[] = [
      { kind: "thumb", prompt, model: "sft", reply: "Good", value: 1, settings: { temperature: 0.7, seed: null } },
      { kind: "thumb", prompt, model: "base", reply: "Bad'); DROP TABLE votes; --", value: -1 },
      { kind: "preference", prompt, chosen: { model: "ppo", reply: "A" }, rejected: { model: "sft", reply: "B" } },
      {
        kind: "preference",
        prompt,
        chosen: { model: "ppo", reply: "same" },
        rejected: { model: "sft", reply: "same" },
      },
    ];
    for (const vote of votes) {
      const response = await send(vote);
      expect(response.status).toBe(201);
      expect(await response.json()).toMatchObject(vote);
    }
    expect(await list()).toMatchObject(votes.toReversed());
    await server.close();
    expect(existsSync(join(folder, "studio.pglite.lock"))).toBe(false);
    server = await start();
    expect(await list()).toMatchObject(votes.toReversed());
    const [newest] = await list("?limit=1");
    expect(await list(`?limit=1&before=${newest?.id}`)).toMatchObject([votes[2]]);
  });

  test("the export is preference data: chosen pairs, and a liked against a disliked reply to one prompt", async () => {
    const response = await fetch(`${server.url}/api/votes/export.jsonl`);
    const text = await response.text();
    const rows = text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as unknown);
    const file = join(folder, "preferences.jsonl");
    writeFileSync(file, text);
    expect(await readPreferences(file)).toHaveLength(2); // what trainers read
    expect(rows).toEqual([
      { prompt: prompt.slice(0, 1), chosen: [{ ...juliet, content: "A" }], rejected: [{ ...juliet, content: "B" }] },
      {
        prompt: prompt.slice(0, 1),
        chosen: [{ ...juliet, content: "Good" }],
        rejected: [{ ...juliet, content: "Bad'); DROP TABLE votes; --" }],
      },
    ]);
  });

  test("a vote can be taken back once", async () => {
    const before = await list();
    const take = () => fetch(`${server.url}/api/votes/${before[0]?.id}`, { method: "DELETE" });
    expect((await take()).status).toBe(200);
    expect((await take()).status).toBe(404);
    expect(await list()).toEqual(before.slice(1));
  });

  test("a database that another server holds is a 503 that says so, and the next vote tries again", async () => {
    const other = await start();
    const response = await fetch(`${other.url}/api/votes`);
    expect(response.status).toBe(503);
    expect(await response.text()).toContain("in use by process");
    await other.close();
  });

  test("a malformed vote is refused with the field at fault and not stored", async () => {
    const before = await list();
    const thumb = { kind: "thumb", prompt, model: "m", reply: "r", value: 1 };
    for (const vote of [
      { ...thumb, value: 2 },
      { ...thumb, prompt: [] },
      { ...thumb, extra: 1 },
      { kind: "stars" },
      7,
    ]) {
      expect((await send(vote)).status, JSON.stringify(vote)).toBe(400);
    }
    expect(await list()).toEqual(before);
  });

  test("a second process on the same folder is refused, a dead one's lock is not", async () => {
    await server.close();
    const dir = join(folder, "studio.pglite");
    const lock = `${dir}.lock`;
    const child = spawn(process.execPath, ["-e", "setTimeout(() => {}, 60000)"]);
    writeFileSync(lock, JSON.stringify({ pid: child.pid, host: hostname() }));
    await expect(openDatabase(undefined, dir)).rejects.toMatchObject({ code: "locked" });
    child.kill("SIGKILL");
    await once(child, "exit");
    const database = await openDatabase(undefined, dir);
    await database.script("INSERT INTO howdah_schema VALUES (99)");
    await database.close();
    await expect(openDatabase(undefined, dir)).rejects.toThrow("newer howdah");
  });

  test("a DATABASE_URL that cannot work says what to do", async () => {
    await expect(openDatabase("mysql://x", folder)).rejects.toMatchObject({ code: "database" });
    await expect(openDatabase("postgres://u:secret@127.0.0.1:1/x", folder)).rejects.toSatisfy(
      (error) =>
        error instanceof Error &&
        /npm install pg|Cannot reach/.test(error.message) &&
        !error.message.includes("secret"),
    );
  });
});
