// `npm start [-- options]`: set up what has changed, then `howdah start` with the same options, in this process.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { releaseSignals } from "./lib/process.mjs";
import { root } from "./lib/state.mjs";
import { main, setup } from "./setup.mjs";

await main(setup);
releaseSignals();
const cli = join(root, "dist", "cli", "main.js");
process.argv = [process.argv[0], cli, "start", ...process.argv.slice(2)];
await import(pathToFileURL(cli).href);
