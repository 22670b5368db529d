// `npm test [-- filter or vitest options]`: set up what has changed, check the types, run the tests.
// The last line is `N passed, N failed`; the type check counts as one.
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { countTests, runChecks, typeChecks } from "./lib/checks.mjs";
import { say } from "./lib/console.mjs";
import { run } from "./lib/process.mjs";
import { root } from "./lib/state.mjs";
import { main, setup } from "./setup.mjs";

const report = join(root, "build", `tests-${process.pid}.json`);

async function test() {
  await setup();
  const types = await runChecks(typeChecks());
  const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
  const { code, signal } = await run(process.execPath, [vitest, "run", ...reporters, ...process.argv.slice(2)], {
    cwd: root,
    inherit: true,
  });
  let json;
  try {
    json = JSON.parse(readFileSync(report, "utf8"));
  } catch {
    json = undefined; // counted as a failure below
  }
  rmSync(report, { force: true });
  const tests = countTests(json, signal === null ? code : 1);
  const failed = types.failed + tests.failed;
  say(`${types.passed + tests.passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

// Even a set-up that failed ends with the line that says so.
await main(test, () => say("0 passed, 1 failed"));
