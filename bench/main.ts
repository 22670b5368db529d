// npm run bench -- SUITE: the suites are in suites/, one file each.
import { main } from "../src/cli/frame.ts";
import { suites } from "./suites/index.ts";

await main({
  commands: suites,
  version: process.version,
  name: "npm run bench --",
  description:
    "Benchmarks beside the peers, in one interleaved run. HOWDAH_PYTHON names the Python that has them " +
    "(bench/peers/requirements.txt), HOWDAH_LLAMA_CPP the folder of llama.cpp's programs, HOWDAH_THREADS the threads of each side.",
});
