import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Gate } from "../../src/serve/gate.ts";
import { Guard } from "../../src/serve/guard.ts";
import { createServer, drainOnSignals, type Server } from "../../src/serve/index.ts";
import { ScriptedRegistry, scriptedModel, until } from "../support/scripted-model.ts";

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** fetch() may not set Host or Origin; a bare request may. */
function send(url: string, headers: Record<string, string>, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest(url, { method: body === undefined ? "GET" : "POST", headers }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => {
        text += part;
      });
      response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

const code = (answer: Answer) => (JSON.parse(answer.body) as { error: { code: string } }).error.code;
const chat = (model: string, more: object = {}) =>
  JSON.stringify({ model, messages: [{ role: "user", content: "hi" }], ...more });
const isJson = { "Content-Type": "application/json" };

describe("who may talk to the server", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-guard-"));
  const model = scriptedModel("m", ["hello"]);
  let server: Server;
  let port: string;
  beforeAll(async () => {
    writeFileSync(join(folder, "index.html"), "<!doctype html>");
    const options = { models: new ScriptedRegistry(model), runsDir: folder, studioDir: folder };
    server = await createServer({ ...options, limits: { bodyBytes: 2000 } });
    port = new URL(server.url).port;
  });
  afterAll(async () => {
    await server.close();
    rmSync(folder, { recursive: true });
  });

  test("it listens on loopback unless told otherwise", () => {
    expect(new URL(server.url).hostname).toBe("127.0.0.1");
  });

  test("a Host that is not ours is refused on every path, so that a re-bound DNS name reads nothing", async () => {
    for (const path of ["/", "/v1/models", "/api/runs", "/health"]) {
      for (const host of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example", "0.0.0.0"]) {
        const answer = await send(server.url + path, { Host: host });
        expect(answer.status, `${path} ${host}`).toBe(403);
        expect(code(answer)).toBe("foreign_host");
      }
    }
    for (const host of ["user@localhost", "localhost/"]) {
      expect([400, 403], JSON.stringify(host)).toContain(
        (await send(`${server.url}/v1/models`, { Host: host })).status,
      );
    }
    for (const host of ["localhost", `LOCALHOST:${port}`, "127.0.0.1:9999", "[::1]:1"]) {
      expect((await send(`${server.url}/v1/models`, { Host: host })).status, host).toBe(200);
    }
  });

  test("an Origin other than the page's own is refused, another local port's too", async () => {
    for (const origin of ["https://evil.example", "null", "http://localhost:1", `ftp://127.0.0.1:${port}`, "file://"]) {
      const answer = await send(`${server.url}/v1/chat/completions`, { ...isJson, Origin: origin }, chat("m"));
      expect(answer.status, origin).toBe(403);
      expect(answer.headers["access-control-allow-origin"]).toBeUndefined();
    }
    const own = await send(`${server.url}/v1/chat/completions`, { ...isJson, Origin: server.url }, chat("m"));
    expect(own.status).toBe(200);
  });

  test("a cross-site or same-site fetch without Origin is refused, a link to the page is not", async () => {
    for (const site of ["cross-site", "same-site"]) {
      expect((await send(`${server.url}/api/runs`, { "Sec-Fetch-Site": site })).status).toBe(403);
      expect((await send(`${server.url}/`, { "Sec-Fetch-Site": site })).status).toBe(200);
    }
    expect((await send(`${server.url}/api/runs`, { "Sec-Fetch-Site": "same-origin" })).status).toBe(200);
  });

  test("a body that a form of another site could send is refused: only application/json is read", async () => {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]) {
      const answer = await send(`${server.url}/v1/chat/completions`, { "Content-Type": type }, chat("m"));
      expect(answer.status, type).toBe(415);
    }
    expect(model.seen.requests).toHaveLength(1); // the one of the page's own Origin above
  });

  test("bodies that are too large, not JSON, or not an object are refused in OpenAI's shape", async () => {
    const url = `${server.url}/v1/chat/completions`;
    const large = await send(url, isJson, chat("m", { user: "x".repeat(3000) }));
    expect([large.status, code(large)]).toEqual([413, "body_too_large"]);
    // Without a length beforehand, too; and the answer still arrives.
    const chunked = await new Promise<Answer>((resolve, reject) => {
      const sent = httpRequest(url, { method: "POST", headers: isJson }, (response) => {
        response.resume().on("end", () => resolve({ status: response.statusCode ?? 0, headers: {}, body: "" }));
      });
      sent.on("error", reject);
      sent.write(" ".repeat(1500));
      sent.write(" ".repeat(1500));
      sent.end();
    });
    expect(chunked.status).toBe(413);
    const torn = await send(url, isJson, '{"model": ');
    expect([torn.status, code(torn)]).toEqual([400, "invalid_json"]);
    const list = await send(url, isJson, "[]");
    expect([list.status, code(list)]).toEqual([400, "invalid_value"]);
    expect((await send(`${server.url}/v1/nothing`, {})).status).toBe(404);
  });

  test("an address that others reach needs a key of at least 8 characters", async () => {
    const options = { models: new ScriptedRegistry(), runsDir: folder };
    for (const host of ["0.0.0.0", "::", "192.168.1.5", "example.com"]) {
      await expect(createServer({ ...options, host })).rejects.toMatchObject({ code: "input" });
    }
    await expect(createServer({ ...options, apiKey: "short" })).rejects.toMatchObject({ code: "input" });
  });

  test("with a key, everything but the page and /health wants it, and our own names are still checked", async () => {
    const options = { models: new ScriptedRegistry(model), runsDir: folder, studioDir: folder };
    const open = await createServer({ ...options, host: "0.0.0.0", apiKey: "12345678", allowedHosts: ["lab.example"] });
    const local = open.url.replace("localhost", "127.0.0.1");
    try {
      for (const path of ["/v1/models", "/api/runs", "/api/votes"]) {
        const answer = await send(local + path, {});
        expect([answer.status, code(answer)]).toEqual([401, "invalid_api_key"]);
        expect((await send(local + path, { Authorization: "Bearer 123456789" })).status).toBe(401);
      }
      expect((await send(`${local}/v1/models`, { Authorization: "Bearer 12345678" })).status).toBe(200);
      expect(
        (await send(`${local}/v1/models`, { Authorization: "Bearer 12345678", Host: "evil.example" })).status,
      ).toBe(403);
      expect((await send(`${local}/health`, { Host: "lab.example:443" })).status).toBe(200);
      expect((await send(`${local}/`, {})).status).toBe(200);
    } finally {
      await open.close();
    }
  });

  test("an IPv6 literal is compared without regard to how it is bracketed", () => {
    const guard = new Guard("::", "12345678", []);
    expect(() => guard.checkOrigin(new Headers({ host: "[::1]:80" }), false)).not.toThrow();
    expect(() => guard.checkOrigin(new Headers({ host: "[fe80::9]:80" }), false)).toThrow("not one of this server's");
  });

  test("the page is sent with a strict policy and can be revalidated", async () => {
    const page = await send(`${server.url}/`, {});
    expect(page.headers["content-security-policy"]).toContain("default-src 'none'");
    expect(page.headers["content-security-policy"]).not.toContain("unsafe");
    expect(page.headers).toMatchObject({ "cache-control": "no-cache", "x-content-type-options": "nosniff" });
    const again = await send(`${server.url}/`, { "If-None-Match": String(page.headers.etag) });
    expect([again.status, again.body]).toEqual([304, ""]);
    for (const path of ["/../package.json", "/%2e%2e/package.json", "/events.jsonl", "/assets/"]) {
      expect((await send(server.url + path, {})).status, path).toBe(404);
    }
  });

  test("a port in use is said so", async () => {
    const options = { models: new ScriptedRegistry(), runsDir: folder, port: Number(port) };
    await expect(createServer(options)).rejects.toMatchObject({ code: "port_in_use" });
  });
});

describe("how much the server takes at once", () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-gate-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const start = (model: ReturnType<typeof scriptedModel>, limits: object) =>
    createServer({ models: new ScriptedRegistry(model), runsDir: folder, limits });

  test("at most `concurrent` continuations run, the next wait in order, and one more is told when to come back", async () => {
    const model = scriptedModel("m", ["x".repeat(20)], { delayMs: 10 });
    const server = await start(model, { concurrent: 2, queue: 2 });
    try {
      const url = `${server.url}/v1/chat/completions`;
      const answers = await Promise.all(Array.from({ length: 6 }, () => send(url, isJson, chat("m"))));
      const refused = answers.filter((answer) => answer.status === 429);
      expect(answers.filter((answer) => answer.status === 200)).toHaveLength(4);
      expect(refused).toHaveLength(2);
      expect(Number(refused[0]?.headers["retry-after"])).toBeGreaterThanOrEqual(1);
      expect(refused[0] && code(refused[0])).toBe("rate_limit_exceeded");
      expect(model.seen.mostRunning).toBe(2);
    } finally {
      await server.close();
    }
  });

  test("a wide request is not overtaken by narrow ones that came later, and leaving the queue lets others in", async () => {
    const gate = new Gate(2, 10);
    const never = new AbortController().signal;
    const order: string[] = [];
    const first = await gate.enter(1, never);
    const abort = new AbortController();
    const wide = gate.enter(2, abort.signal).catch(() => order.push("wide left"));
    const narrow = gate.enter(1, never).then((release) => {
      order.push("narrow");
      return release;
    });
    await Promise.resolve();
    expect(order).toEqual([]);
    abort.abort(new Error("left"));
    await wide;
    (await narrow)();
    expect(order.toSorted()).toEqual(["narrow", "wide left"]);
    first();
    first(); // giving back twice gives back once
    expect([gate.running, gate.waiting]).toEqual([0, 0]);
    await gate.idle();
  });

  test("draining lets a running stream finish, takes no new request, and then resolves", async () => {
    const model = scriptedModel("m", ["a whole reply"], { delayMs: 20 });
    const server = await start(model, {});
    const streaming = send(`${server.url}/v1/chat/completions`, isJson, chat("m", { stream: true }));
    await until(() => model.seen.running === 1);
    const closing = server.close();
    await expect(fetch(`${server.url}/v1/models`)).rejects.toThrow(); // no longer listening
    const answer = await streaming;
    expect(answer.body.match(/"content":"(.)"/g)).toHaveLength(13);
    expect(answer.body.trimEnd().endsWith("data: [DONE]")).toBe(true);
    await closing;
    await server.close(); // again: nothing more to do
  });

  test("SIGTERM drains and then calls back; a second signal does not wait", async () => {
    const model = scriptedModel("m", ["a whole reply"], { delayMs: 20 });
    const server = await start(model, {});
    const before = new Set(process.listeners("SIGTERM"));
    const done: string[] = [];
    const off = drainOnSignals(server, (signal) => done.push(signal));
    const handler = process.listeners("SIGTERM").find((listener) => !before.has(listener));
    const answer = send(`${server.url}/v1/chat/completions`, isJson, chat("m"));
    await until(() => model.seen.running === 1);
    handler?.("SIGTERM");
    expect(done).toEqual([]);
    expect((await answer).status).toBe(200);
    await until(() => done.length === 1);
    handler?.("SIGTERM");
    expect(done).toEqual(["SIGTERM", "SIGTERM"]);
    off();
    expect(process.listeners("SIGTERM")).toEqual([...before]);
  });

  test("draining that lasts too long cuts replies off with an error", async () => {
    const model = scriptedModel("m", ["x".repeat(1000)], { delayMs: 20 });
    const server = await start(model, { drainSeconds: 0.2 });
    const plain = send(`${server.url}/v1/chat/completions`, isJson, chat("m"));
    const streaming = send(`${server.url}/v1/chat/completions`, isJson, chat("m", { stream: true }));
    await until(() => model.seen.running === 2);
    const began = performance.now();
    await server.close();
    expect(performance.now() - began).toBeLessThan(2500);
    const answer = await plain;
    expect([answer.status, code(answer)]).toEqual([503, "draining"]);
    expect((await streaming).body).toContain('"code":"draining"');
    expect(model.seen.aborted).toBe(2);
  });
});
