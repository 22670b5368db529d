#!/usr/bin/env node
import { commands } from "./commands/index.ts";
import { main } from "./frame.ts";

await main(commands);
