import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildCli, runCliProcess, startCli } from "../support/cli.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-data-"));
beforeAll(buildCli, 120_000);
afterAll(() => rmSync(root, { recursive: true, force: true }));

const folder = (name: string, files: Readonly<Record<string, string>>): string => {
  const path = join(root, name);
  mkdirSync(path);
  for (const [file, content] of Object.entries(files)) writeFileSync(join(path, file), content);
  return path;
};
const lines = (path: string) =>
  readFileSync(path, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as { id: string; text: string; meta: Record<string, unknown> });

test("documents are lines of JSONL; problems are named and counted, and do not end the job", async () => {
  const path = folder("mixed", {
    "a.md": "# A",
    "b.jsonl": '{"text": "one", "score": 2}\nno\n{"text": "two"}\n',
    "c.txt": "",
  });
  const out = join(root, "deep/out.jsonl");
  const { exitCode, result, stderr } = await runCliProcess([
    "data",
    "extract",
    path,
    "-o",
    out,
    "--name",
    "mine",
    "--keep",
    "score",
    "--licence",
    "mit",
  ]);
  expect(exitCode).toBe(0);
  expect(result).toMatchObject({ documents: 3, problems: 2, reasons: { malformed: 1, empty: 1 }, out });
  expect(stderr).toContain(`${path}/b.jsonl:2: The line is not JSON`);
  expect(lines(out).map(({ id, text }) => [id, text])).toEqual([
    ["mine/a.md", "# A"],
    ["mine/b.jsonl#1", "one"],
    ["mine/b.jsonl#3", "two"],
  ]);
  expect(lines(out)[1]!.meta).toMatchObject({ licence: "mit", extra: { score: 2 } });
  const { result: limited } = await runCliProcess(["data", "extract", path, "--limit", "1"]);
  expect(limited).toMatchObject({ documents: 1, problems: 0 });
});

test("a job of which every file failed is an error, and leaves what was there before", async () => {
  const path = folder("bad", { "a.txt": "", "b.json": "{" });
  const out = join(root, "kept.jsonl");
  writeFileSync(out, "before");
  const { exitCode, result } = await runCliProcess(["data", "extract", path, "-o", out]);
  expect(exitCode).toBe(1);
  expect(result).toMatchObject({
    error: { code: "nothing-read", message: expect.stringMatching(/1 empty, 1 malformed/) },
  });
  expect(readFileSync(out, "utf8")).toBe("before");
});

test("Ctrl-C leaves whole lines in a file of another name", async () => {
  const row = `${JSON.stringify({ text: "word ".repeat(2000) })}\n`;
  const path = folder("long", { "a.jsonl": row.repeat(10_000) });
  const out = join(root, "stopped.jsonl");
  const running = startCli(["data", "extract", path, "-o", out]);
  while (!existsSync(`${out}.part`) || readFileSync(`${out}.part`).length === 0)
    await new Promise((go) => setTimeout(go, 10));
  running.kill("SIGINT");
  const { exitCode, result } = await running.ended;
  expect(exitCode).toBe(130);
  expect(existsSync(out)).toBe(false);
  expect(result).toMatchObject({ interrupted: true, out: `${out}.part` });
  expect(lines(`${out}.part`)).toHaveLength(result!.documents as number);
});
