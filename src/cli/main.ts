#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { commands } from "./commands/index.ts";
import { main } from "./frame.ts";

// Two folders above this file, in `src/` and in `dist/` alike.
const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
  version: string;
};

await main({ commands, version });
