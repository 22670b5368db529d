import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { InputError } from "../../src/tensor/errors.ts";
import { compareReports, readReport, showComparison } from "../results.ts";

const options = z.object({
  before: z.string().describe("a results file"),
  after: z.string().describe("a later one"),
});

export const compare = defineCommand({
  name: "compare",
  summary: "two results files of one suite",
  options,
  positional: ["before", "after"],
  async run({ before, after }, { print }) {
    const rows = compareReports(await readReport(before), await readReport(after));
    if (rows.length === 0) throw new InputError("The two runs have no work in common.");
    print(showComparison(rows));
    return { results: rows };
  },
});
