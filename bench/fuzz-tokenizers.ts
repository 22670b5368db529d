/**
 * Compares the tokenizers with the cases that `test/golden/tokenizers/fuzz.py` wrote; ends with 1 where something differs.
 *
 *     npx tsc -p tsconfig.bench.json && node build/bench/bench/fuzz-tokenizers.js cases.jsonl
 */
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { type Case, compareCase, readCase } from "./tokenizer-cases.ts";

const counts = {
  files: 0,
  refusedByBoth: 0,
  refusedByUs: 0,
  refusedByThem: 0,
  same: 0,
  weRefuse: 0,
  theyFail: 0,
  differ: 0,
};
const reasons = new Map<string, number>();

for await (const line of createInterface({ input: createReadStream(process.argv[2]!) })) {
  const one = JSON.parse(line) as Case;
  counts.files++;
  const tokenizer = readCase(one);
  if (typeof tokenizer === "string" || one.refused !== undefined) {
    if (typeof tokenizer !== "string") counts.refusedByThem++;
    else if (one.refused !== undefined) counts.refusedByBoth++;
    else {
      counts.refusedByUs++;
      reasons.set(tokenizer, (reasons.get(tokenizer) ?? 0) + 1);
    }
    continue;
  }
  const { same, weRefuse, theyFail, differences } = compareCase(one, tokenizer);
  counts.same += same;
  counts.weRefuse += weRefuse;
  counts.theyFail += theyFail;
  counts.differ += differences.length;
  for (const difference of differences.slice(0, 1))
    console.log(`${one.seed}/${one.number} ${JSON.stringify(difference)}`);
}
console.log(JSON.stringify(counts));
for (const [reason, count] of [...reasons].sort((a, b) => b[1] - a[1]))
  console.log(`only we refuse, ${count}: ${reason}`);
process.exitCode = counts.differ > 0 ? 1 : 0;
