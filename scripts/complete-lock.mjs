// `node scripts/complete-lock.mjs`, after adding a dependency: npm leaves an optional package of another platform out of
// package-lock.json when the registry it asked does not have it, and `npm ci` then refuses the file on every machine.
// This adds such an entry (version, os, cpu and libc, read from the package's name); without a checksum, which only that registry
// could give.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { say } from "./lib/console.mjs";
import { completeLock } from "./lib/lock.mjs";
import { root } from "./lib/state.mjs";

const file = join(root, "package-lock.json");
const lock = JSON.parse(readFileSync(file, "utf8"));
const added = completeLock(lock);
if (added.length > 0) writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
say(added.length === 0 ? "package-lock.json is complete." : `Added ${added.join(", ")}.`);
