// `npm run test:isas`: the native half of the conformance suite on every instruction set that is not this machine's best (which
// `npm test` runs on). The last line is `N passed, N failed`; a set that the processor or build lacks is skipped, and that is said.
import { readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { countTests } from "./lib/checks.mjs";
import { duration, say } from "./lib/console.mjs";
import { run } from "./lib/process.mjs";
import { root } from "./lib/state.mjs";
import { main, setup } from "./setup.mjs";

const sets = ["portable", "neon", "avx2", "avx512", "avx512bf16"];
const files = ["test/conformance/ops.test.ts", "test/conformance/native.test.ts"];

await main(
  async () => {
    await setup();
    const { isa, available } = createRequire(import.meta.url)(join(root, "native", "build", "howdah.node")).facts();
    const wanted = process.argv[2] === undefined ? sets : process.argv.slice(2);
    let passed = 0;
    let failed = 0;
    for (const set of wanted) {
      if (process.argv[2] === undefined && set === isa && process.env.HOWDAH_ISA === undefined) {
        say(`skipped ${set}: npm test runs on it`);
        continue;
      }
      if (!available.includes(set)) {
        say(`skipped ${set}: this processor or build has ${available.join(", ")}`);
        continue;
      }
      const start = performance.now();
      const report = join(root, "build", `tests-${process.pid}-${set}.json`);
      const vitest = join(root, "node_modules", "vitest", "vitest.mjs");
      // The reference's own tests do not depend on the processor.
      const args = [vitest, "run", ...files, "-t", "native", "--reporter=json", `--outputFile.json=${report}`];
      const env = { ...process.env, HOWDAH_ISA: set };
      const { code, output } = await run(process.execPath, args, { cwd: root, env, allowFailure: true });
      let json;
      try {
        json = JSON.parse(readFileSync(report, "utf8"));
      } catch {
        json = undefined; // counted as a failure below
      }
      rmSync(report, { force: true });
      const counted = countTests(json, code);
      if (counted.failed > 0) say(failures(json) || output.trimEnd());
      say(
        `${counted.failed === 0 ? "ok    " : "FAILED"}  ${set}: ${counted.passed} passed, ${counted.failed} failed, ${duration(performance.now() - start)}`,
      );
      passed += counted.passed;
      failed += counted.failed;
    }
    say(`${passed} passed, ${failed} failed`);
    process.exitCode = failed === 0 ? 0 : 1;
  },
  () => say("0 passed, 1 failed"),
);

/** The first few, by name. */
function failures(json) {
  const all = (json?.testResults ?? []).flatMap((file) => file.assertionResults.filter((t) => t.status === "failed"));
  return all
    .slice(0, 20)
    .map((t) => `${t.fullName}\n  ${(t.failureMessages[0] ?? "").split("\n")[0]}`)
    .join("\n");
}
