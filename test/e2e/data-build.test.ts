import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { uniform } from "../../src/data/random.ts";
import { buildCli, runCliProcess, startCli } from "../support/cli.ts";

let root: string;
beforeAll(() => {
  buildCli();
  root = mkdtempSync(join(tmpdir(), "howdah-data-"));
  mkdirSync(join(root, "crawl"));
  const play = readFileSync("data/tinyshakespeare.txt", "utf8").split("\n\n");
  // Speeches as pages; every seventh one stands there twice.
  for (let f = 0; f < 24; f++) {
    const pages = Array.from({ length: 12 }, (_, i) => {
      const n = f * 12 + i;
      return { text: play.slice((n % 7 === 6 ? n - 1 : n) * 8, (n % 7 === 6 ? n - 1 : n) * 8 + 8).join("\n\n") };
    });
    const lines = `${pages.map((p) => JSON.stringify(p)).join("\n")}\n`;
    if (f % 2) writeFileSync(join(root, "crawl", `${f}.jsonl.gz`), gzipSync(lines));
    else writeFileSync(join(root, "crawl", `${f}.jsonl`), lines);
  }
  writeFileSync(
    join(root, "recipe.yaml"),
    "name: plays\nsources: [{ name: plays, paths: crawl }]\nclean: [repair, gopher_repetition, pii]\ntokenizer: { vocabulary: 600 }\nshards: { tokens: 20000 }\n",
  );
});
afterAll(() => rmSync(root, { recursive: true }));

/** What must not depend on how the corpus was made: everything but times. */
function bits(out: string): [string, string][] {
  return ["documents", "shards", "tokenizer"].flatMap((folder) =>
    readdirSync(join(out, folder))
      .sort()
      .map((f): [string, string] => [`${folder}/${f}`, readFileSync(join(out, folder, f)).toString("base64")]),
  );
}
const build = (out: string, workers: number) => [
  "data",
  "build",
  join(root, "recipe.yaml"),
  "--out",
  join(root, out),
  "--workers",
  String(workers),
];

test("the corpus is the same for any number of workers, and after kill -9 at any moment", async () => {
  const one = await runCliProcess(build("one", 1));
  expect(one.exitCode, one.stderr).toBe(0);
  expect(one.result).toMatchObject({ read: { documents: 288 }, problems: 0, reused: [] });
  // 41 pages stand there twice; Gopher's rules take both of one pair before.
  expect(Number((one.result!.duplicates as { exact: number }).exact)).toBe(40);
  const want = bits(join(root, "one"));

  const two = await runCliProcess(build("two", 2));
  expect(two.exitCode, two.stderr).toBe(0);
  expect(bits(join(root, "two"))).toEqual(want);

  const seconds = Number(two.result!.seconds);
  let killed = 0;
  for (let round = 0; round < 3; round++) {
    const running = startCli(build("killed", 2));
    await sleep(300 + uniform(3, round) * seconds * 1000);
    running.kill("SIGKILL");
    if ((await running.ended).signal === "SIGKILL") killed++;
  }
  expect(killed).toBeGreaterThan(0);
  const last = await runCliProcess(build("killed", 2));
  expect(last.exitCode, last.stderr).toBe(0);
  expect(bits(join(root, "killed"))).toEqual(want);
  const again = await runCliProcess(build("killed", 2));
  expect(again.result!.reused).toEqual(["read", "dedup", "tokenizer", "tokens", "shards", "index"]);
}, 300_000);

test("Ctrl-C stops cleanly and says how to go on; two builds of one corpus do not mix", async () => {
  const running = startCli(build("stopped", 1));
  const lock = join(root, "stopped", "build.lock");
  while (!existsSync(lock)) await sleep(20);
  running.kill("SIGSTOP");
  const other = await runCliProcess(build("stopped", 1));
  running.kill("SIGINT");
  running.kill("SIGCONT");
  expect(other.result).toMatchObject({ error: { code: "locked" } });
  const ended = await running.ended;
  expect(ended.exitCode).toBe(130);
  expect(ended.stderr).toMatch(/run the same command again/);
}, 180_000);

test("reports can be read and compared, and a folder without one is said so", async () => {
  const shown = await runCliProcess(["data", "report", join(root, "one")]);
  expect(shown.stdout).toContain("# plays");
  const compared = await runCliProcess(["data", "report", join(root, "one"), "--compare", join(root, "two")]);
  expect(compared.result).toMatchObject({ differences: 0 });
  const none = await runCliProcess(["data", "report", root]);
  expect(none.exitCode).toBe(2);
  expect(none.stderr).toMatch(/there is no report\.json here/);
});

test("one large file is worked off by all threads together, with what one thread makes of it", async () => {
  const play = readFileSync("data/tinyshakespeare.txt", "utf8").split("\n\n");
  const lines = Array.from({ length: 9000 }, (_, i) => {
    if (i % 1000 === 500) return "{ no JSON";
    const speeches = Array.from({ length: 9 }, (_, k) => play[Math.floor(uniform(i, k) * play.length)]!);
    return JSON.stringify({ text: speeches.join("\n\n") });
  });
  mkdirSync(join(root, "large"));
  const file = join(root, "large", "all.jsonl");
  writeFileSync(file, `${lines.join("\n")}\n`);
  // What one thread is left alone with.
  expect(statSync(file).size).toBeGreaterThan(10 * 2 ** 20);
  const recipe = join(root, "large.yaml");
  writeFileSync(
    recipe,
    `name: large\nsources: [{ name: large, paths: large }]\nclean: [repair, gopher_repetition]\ndedup: { near: false }\ntokenizer: { vocabulary: 300, sample: 100000 }\n`,
  );
  const made = async (workers: number) => {
    const out = join(root, `large-${workers}`);
    const { exitCode, result, stderr } = await runCliProcess([
      ...["data", "build", recipe, "--out", out, "--workers", String(workers)],
    ]);
    expect(exitCode, stderr).toBe(0);
    expect(result).toMatchObject({ read: { documents: 8991 }, problems: 9 });
    const { seconds: _, ...report } = JSON.parse(readFileSync(join(out, "report.json"), "utf8")) as {
      seconds: unknown;
    };
    return { bits: bits(out), report };
  };
  const one = await made(1);
  const three = await made(3);
  expect(three.bits).toEqual(one.bits);
  expect({ ...three.report, out: "" }).toEqual({ ...one.report, out: "" });
}, 120_000);
