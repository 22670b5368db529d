import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // Tests compile what they test; test/unit/engine-cache.test.ts keeps programs in folders of its own.
    env: { HOWDAH_CACHE: "off" },
    // The native backend holds its buffers in one process-wide pool; a file is the unit of isolation.
    isolate: true,
  },
});
