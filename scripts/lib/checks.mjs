// The checks that are not tests: types, lint and format.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { duration, say } from "./console.mjs";
import { run } from "./process.mjs";
import { root } from "./state.mjs";

const bin = (...parts) => join(root, "node_modules", ...parts);
const tsc = (project) => [bin("typescript", "bin", "tsc"), "--noEmit", "-p", join(root, project)];

export function typeChecks() {
  const projects = ["tsconfig.test.json", "studio/tsconfig.json"].filter((project) => existsSync(join(root, project)));
  return projects.map((project) => ({ name: `types (${project})`, args: tsc(project) }));
}

export const lintCheck = {
  name: "lint and format (biome)",
  args: [bin("@biomejs", "biome", "bin", "biome"), "check", root],
};
export const layersCheck = {
  name: "import layers",
  args: [bin("vitest", "vitest.mjs"), "run", "test/unit/layers.test.ts"],
};

/** Runs checks one after the other and says each result in a line; a failing one shows its output. */
export async function runChecks(checks) {
  let failed = 0;
  for (const { name, args } of checks) {
    const start = performance.now();
    const { code, output } = await run(process.execPath, args, { cwd: root, allowFailure: true });
    if (code !== 0) {
      failed++;
      say(output.trimEnd());
    }
    say(`${code === 0 ? "ok    " : "FAILED"}  ${name}: ${duration(performance.now() - start)}`);
  }
  return { passed: checks.length - failed, failed };
}

/** Counts from vitest's JSON report. A file that could not be loaded has no tests: it counts as one failure. */
export function countTests(json, code) {
  let passed = 0;
  let failed = 0;
  for (const file of json?.testResults ?? []) {
    const failures = file.assertionResults.filter((test) => test.status === "failed").length;
    passed += file.assertionResults.filter((test) => test.status === "passed").length;
    failed += failures === 0 && file.status === "failed" ? 1 : failures;
  }
  // Vitest died, found no test, or saw an error outside any test.
  if (code !== 0 && failed === 0) failed = 1;
  return { passed, failed };
}
