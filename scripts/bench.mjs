// `npm run bench -- NAME [options]`: set up what has changed, compile bench/ with the sources it imports, run it.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { step } from "./lib/console.mjs";
import { releaseSignals, run } from "./lib/process.mjs";
import { root } from "./lib/state.mjs";
import { main, setup } from "./setup.mjs";

await main(async () => {
  await setup();
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  await step("Compiling the benchmarks (tsc)", () =>
    run(process.execPath, [tsc, "-p", join(root, "tsconfig.bench.json")], { cwd: root }),
  );
});
releaseSignals();
const entry = join(root, "build", "bench", "bench", "main.js");
process.argv = [process.argv[0], entry, ...process.argv.slice(2)];
await import(pathToFileURL(entry).href);
