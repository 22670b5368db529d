import { z } from "zod";
import { defineCommand } from "../../src/cli/command.ts";
import { InputError } from "../../src/tensor/errors.ts";
import { profile as profileWork } from "../profile.ts";
import { chooseWorks } from "../suite.ts";
import { gptWorks } from "../works.ts";

const options = z.object({
  work: z.string().describe(`one of ${gptWorks.map((w) => w.name).join(", ")}`),
  precision: z.enum(["auto", "f32", "bf16"]).default("auto").describe("of the matmuls"),
  steps: z.number().int().min(1).default(5).describe("steps to profile"),
});

export const profile = defineCommand({
  name: "profile",
  summary: "where our training step spends its time, by kind of op and shapes",
  options,
  positional: ["work"],
  async run({ work, precision, steps }) {
    const [only, ...more] = chooseWorks(gptWorks, work);
    if (more.length > 0) throw new InputError(`${JSON.stringify(work)} names several works: say one.`);
    return { ...(await profileWork(only!, precision, steps)) };
  },
});
