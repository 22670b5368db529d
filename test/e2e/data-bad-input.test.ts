import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { uniform } from "../../src/data/random.ts";
import { makePdf, makeZip } from "../support/archives.ts";
import { buildCli, runCliProcess } from "../support/cli.ts";
import { smallDisk } from "../support/small-disk.ts";

let root: string;
beforeAll(() => {
  buildCli();
  root = mkdtempSync(join(tmpdir(), "howdah-bad-"));
  chmodSync(root, 0o755);
}, 120_000);
afterAll(() => rmSync(root, { recursive: true, force: true }));

const speeches = readFileSync("data/tinyshakespeare.txt", "utf8").split("\n\n");
const page = (i: number) => speeches.slice(i * 5, i * 5 + 5).join("\n\n");
const rows = (from: number, to: number) =>
  Array.from({ length: to - from }, (_, i) => `${JSON.stringify({ text: page(from + i) })}\n`).join("");

function recipeFor(crawl: string, name = "bad"): string {
  const file = join(crawl, "..", `${name}.yaml`);
  writeFileSync(file, `name: ${name}\nsources: [{ name: crawl, paths: ${crawl} }]\ntokenizer: { vocabulary: 300 }\n`);
  return file;
}

/** A folder with one of everything that is wrong, between files that are not. */
function badFolder(): string {
  const crawl = join(root, "crawl");
  mkdirSync(join(crawl, "loop"), { recursive: true });
  const put = (name: string, content: string | Uint8Array) => writeFileSync(join(crawl, name), content);
  put("a-good.jsonl", rows(0, 40));
  put("empty.txt", "");
  put("empty.jsonl.gz", gzipSync(""));
  symlinkSync("..", join(crawl, "loop", "up"));
  symlinkSync("self.txt", join(crawl, "self.txt"));
  put("bomb.zip", makeZip({ "good.txt": page(50), "bomb.txt": Buffer.alloc(40 * 2 ** 20, 97), "z.txt": page(51) }));
  put("cut.jsonl.gz", gzipSync(rows(60, 80)).subarray(0, 3000));
  put("huge.html", "<html><body><p>");
  truncateSync(join(crawl, "huge.html"), 200 * 2 ** 20);
  put("locked.pdf", makePdf(["Secret"], { password: true }));
  put("lines.jsonl", `${rows(90, 92)}this is not JSON\n{"text": 5\n${rows(92, 94)}`);
  put(
    "noise.txt",
    Uint8Array.from({ length: 5000 }, (_, i) => Math.floor(uniform(7, i) * 256)),
  );
  put("two-gigabytes.jsonl", "");
  truncateSync(join(crawl, "two-gigabytes.jsonl"), 2 * 2 ** 30);
  put("two-gigabytes.txt", "");
  truncateSync(join(crawl, "two-gigabytes.txt"), 2 * 2 ** 30);
  put("z-good.jsonl", rows(110, 150));
  return crawl;
}

/** What must be said of each, and of nothing else. */
const expected: readonly (readonly [path: RegExp, code: string, reason: RegExp])[] = [
  [/^bomb\.zip!\/bomb\.txt$/, "bomb", /grows more than 400 times/],
  [/^cut\.jsonl\.gz/, "malformed", /cut off/],
  [/^empty\.jsonl\.gz/, "empty", /empty/],
  [/^empty\.txt$/, "empty", /empty/],
  [/^huge\.html$/, "too-large", /200 MB/],
  [/^lines\.jsonl:3$/, "malformed", /not JSON/],
  [/^lines\.jsonl:4$/, "malformed", /not JSON/],
  [/^locked\.pdf$/, "encrypted", /password/],
  [/^loop\/up$/, "unreadable", /leads back/],
  [/^noise\.txt$/, "binary", /not text in any encoding/],
  [/^self\.txt$/, "unreadable", /circle/],
  [/^two-gigabytes\.jsonl$/, "binary", /not text/],
  [/^two-gigabytes\.txt$/, "binary", /not text/],
];

test("each bad input is a line in the report with its place and reason, the rest is intact, for any number of workers", async () => {
  const crawl = badFolder();
  const out = (name: string) => join(root, name);
  const built = await runCliProcess(["data", "build", recipeFor(crawl), "--out", out("two"), "--workers", "2"]);
  expect(built.exitCode, built.stderr).toBe(0);
  const report = JSON.parse(readFileSync(join(out("two"), "report.json"), "utf8")) as {
    problems: { count: number; first: { path: string; code: string; reason: string }[] };
  };
  const problems = report.problems.first
    .map((p) => ({ ...p, path: p.path.slice(crawl.length + 1) }))
    .sort((a, b) => (a.path < b.path ? -1 : 1));
  const shown = JSON.stringify(problems, undefined, 1);
  expect(
    problems.map((p) => p.code),
    shown,
  ).toEqual(expected.map(([, code]) => code));
  for (const [i, [path, , reason]] of expected.entries()) {
    expect(problems[i]!.path).toMatch(path);
    expect(problems[i]!.reason).toMatch(reason);
  }
  expect(report.problems.count).toBe(expected.length);
  const markdown = readFileSync(join(out("two"), "report.md"), "utf8");
  for (const { reason } of problems) expect(markdown).toContain(reason.slice(0, 60));

  const texts = readdirSync(join(out("two"), "documents")).flatMap((f) =>
    readFileSync(join(out("two"), "documents", f), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => (JSON.parse(line) as { text: string }).text),
  );
  for (const i of [0, 39, 50, 51, 90, 91, 92, 93, 110, 149]) expect(texts).toContain(page(i));

  const one = await runCliProcess(["data", "build", recipeFor(crawl), "--out", out("one"), "--workers", "1"]);
  expect(one.exitCode, one.stderr).toBe(0);
  const bytes = (name: string) => readFileSync(join(out(name), "shards", "shard-00000.bin")).toString("base64");
  expect(bytes("one")).toBe(bytes("two"));

  const extracted = await runCliProcess(["data", "extract", crawl, "-o", join(root, "out.jsonl")]);
  expect(extracted.exitCode, extracted.stderr).toBe(0);
  expect(extracted.result).toMatchObject({ problems: expected.length });
  for (const { path, reason } of problems) expect(extracted.stderr).toContain(`${path}: ${reason.slice(0, 40)}`);
}, 180_000);

test("a folder without permission is a line in the report", async ({ skip }) => {
  // Root may read everything: then the job runs as nobody.
  const asRoot = process.getuid?.() === 0;
  const nobody = 65534;
  const home = join(root, "permission");
  mkdirSync(join(home, "crawl", "shut"), { recursive: true });
  writeFileSync(join(home, "crawl", "a.jsonl"), rows(0, 40));
  writeFileSync(join(home, "crawl", "shut", "b.jsonl"), rows(40, 80));
  writeFileSync(join(home, "crawl", "closed.txt"), "hidden");
  const recipe = recipeFor(join(home, "crawl"), "permission");
  chmodSync(join(home, "crawl", "shut"), 0o000);
  chmodSync(join(home, "crawl", "closed.txt"), 0o000);
  if (asRoot) chownSync(home, nobody, nobody);
  try {
    const argv = ["data", "build", recipe, "--out", join(home, "out"), "--workers", "1"];
    const ended = await runCliProcess(argv, {}, asRoot ? nobody : undefined);
    // The sources may lie where nobody else may look.
    if (asRoot && /EACCES|MODULE_NOT_FOUND/.test(ended.stderr) && ended.result === undefined)
      return skip("nobody may not run this checkout");
    expect(ended.exitCode, ended.stderr).toBe(0);
    const report = JSON.parse(readFileSync(join(home, "out", "report.json"), "utf8")) as {
      read: { documents: number };
      problems: { first: { path: string; code: string; reason: string }[] };
    };
    expect(report.read.documents).toBe(40);
    expect(report.problems.first.map(({ path, code }) => [path.slice(home.length + 1), code]).sort()).toEqual([
      ["crawl/closed.txt", "unreadable"],
      ["crawl/shut", "unreadable"],
    ]);
    for (const { reason } of report.problems.first) expect(reason).toMatch(/permission/i);
  } finally {
    chmodSync(join(home, "crawl", "shut"), 0o755);
  }
}, 60_000);

test("a full disk ends the job with its name; with room made, the same command goes on to the same bits", async ({
  skip,
}) => {
  const home = join(root, "disk");
  mkdirSync(join(home, "crawl"), { recursive: true });
  for (let f = 0; f < 6; f++) writeFileSync(join(home, "crawl", `${f}.jsonl`), rows(f * 100, f * 100 + 100));
  const recipe = recipeFor(join(home, "crawl"), "disk");
  const whole = await runCliProcess(["data", "build", recipe, "--out", join(home, "whole"), "--workers", "1"]);
  expect(whole.exitCode, whole.stderr).toBe(0);
  const bits = (out: string) =>
    ["documents", "shards"].flatMap((f) =>
      readdirSync(join(out, f))
        .sort()
        .map((name) => `${name} ${readFileSync(join(out, f, name)).toString("base64")}`),
    );
  const disk = smallDisk(12);
  if (!disk) return skip("it takes root on Linux to mount a small disk");
  try {
    const filler = join(disk.folder, "filler");
    const out = join(disk.folder, "out");
    const stages = new Set<string>();
    // Not even room for the job's lock.
    expect(() => writeFileSync(filler, new Uint8Array(13 * 2 ** 20))).toThrow(/ENOSPC/);
    const none = await runCliProcess(["data", "build", recipe, "--out", out, "--workers", "1"]);
    expect(none.result).toMatchObject({ error: { code: "disk" } });
    rmSync(filler);
    // Less room at first, so that the disk fills up in one stage after the other. What is asked for at the start is there all the same.
    for (const free of [1, 1.53, 2.2, 3.3]) {
      writeFileSync(filler, new Uint8Array((12 - free) * 2 ** 20));
      const ended = await runCliProcess(["data", "build", recipe, "--out", out, "--workers", "1"]);
      if (ended.exitCode === 0) continue;
      expect(ended.exitCode, ended.stderr).toBe(1);
      expect(ended.result).toMatchObject({ error: { code: "disk" } });
      expect(ended.stderr).toMatch(/the disk is full|needs? .* free/i);
      stages.add(/out\/(\w+)/.exec(ended.stderr)?.[1] ?? "start");
      rmSync(filler);
    }
    expect(stages.size).toBeGreaterThanOrEqual(2);
    rmSync(filler, { force: true });
    const resumed = await runCliProcess(["data", "build", recipe, "--out", out, "--workers", "1"]);
    expect(resumed.exitCode, resumed.stderr).toBe(0);
    expect(bits(out)).toEqual(bits(join(home, "whole")));
    expect(readdirSync(join(out, "work", "units")).filter((f) => f.endsWith(".part"))).toEqual([]);
  } finally {
    disk.remove();
  }
}, 120_000);
