import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, expect, test } from "vitest";

// The scripts are plain JavaScript without types: they run before anything is installed.
const scripts = join(import.meta.dirname, "..", "..", "scripts");
const load = async <T>(name: string): Promise<T> => (await import(pathToFileURL(join(scripts, name)).href)) as T;

const folder = mkdtempSync(join(tmpdir(), "howdah-setup-"));
afterAll(() => rmSync(folder, { recursive: true }));

const setup = await load<{
  missingTools(found: { cmake: boolean; compiler: boolean }): string | undefined;
  dropForeignCache(build: string, source: string): void;
}>("setup.mjs");
const checks = await load<{ countTests(json: unknown, code: number): { passed: number; failed: number } }>(
  "lib/checks.mjs",
);
const lock = await load<{ completeLock(lock: { packages: Record<string, unknown> }): string[] }>("lib/lock.mjs");

test("a missing compiler or CMake is one sentence that names the package on Debian, macOS and Windows", () => {
  expect(setup.missingTools({ cmake: true, compiler: true })).toBeUndefined();
  for (const found of [
    { cmake: false, compiler: false },
    { cmake: true, compiler: false },
    { cmake: false, compiler: true },
  ]) {
    const sentence = setup.missingTools(found)!;
    expect(sentence).toMatch(/Debian.*apt install.*macOS.*Windows.*winget install[^\n]*\.$/);
    expect(sentence.includes("sudo apt install cmake")).toBe(!found.cmake);
    expect(/apt install (cmake )?g\+\+/.test(sentence)).toBe(!found.compiler);
  }
});

test("test counts come from the report, and a crash is never a success", () => {
  const file = (status: string, ...tests: string[]) => ({
    status,
    assertionResults: tests.map((s) => ({ status: s })),
  });
  const report = (...testResults: object[]) => ({ testResults });
  expect(checks.countTests(report(file("passed", "passed", "skipped")), 0)).toEqual({ passed: 1, failed: 0 });
  expect(checks.countTests(report(file("failed", "passed", "failed")), 1)).toEqual({ passed: 1, failed: 1 });
  expect(checks.countTests(report(file("failed")), 1)).toEqual({ passed: 0, failed: 1 });
  expect(checks.countTests(report(file("passed", "passed")), 1)).toEqual({ passed: 1, failed: 1 });
  expect(checks.countTests(undefined, 134)).toEqual({ passed: 0, failed: 1 });
});

test("a build folder of another checkout is dropped, one of this checkout is kept", () => {
  const build = join(folder, "build");
  const cache = join(build, "CMakeCache.txt");
  mkdirSync(build);
  writeFileSync(cache, "CMAKE_HOME_DIRECTORY:INTERNAL=/here/native\n");
  setup.dropForeignCache(build, "/here/native");
  expect(existsSync(cache)).toBe(true);
  setup.dropForeignCache(build, "/elsewhere/native");
  expect(existsSync(build)).toBe(false);
});

test("package-lock.json names every optional package, so that npm ci accepts it on every platform", () => {
  const text = readFileSync(join(scripts, "..", "package-lock.json"), "utf8");
  expect(lock.completeLock(JSON.parse(text))).toEqual([]);
});

test("an optional package missing from the lock is added with the platform its name says", () => {
  const tool = { version: "1.0.0", dev: true, optionalDependencies: { "@tool/cli-linux-x64-musl": "1.0.0" } };
  const parsed = { packages: { "": {}, "node_modules/tool": tool } as Record<string, unknown> };
  expect(lock.completeLock(parsed)).toEqual(["@tool/cli-linux-x64-musl@1.0.0"]);
  expect(parsed.packages["node_modules/@tool/cli-linux-x64-musl"]).toEqual({
    version: "1.0.0",
    cpu: ["x64"],
    dev: true,
    libc: ["musl"],
    optional: true,
    os: ["linux"],
  });
});
