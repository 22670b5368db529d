import { z } from "zod";
import { StoppedError } from "../../train/index.ts";
import { defineCommand } from "../command.ts";
import { Interrupted } from "../interrupt.ts";
import { driveJob, openJob } from "../job.ts";

const options = z.object({
  recipe: z.string().describe("a recipe file, such as recipes/shakespeare.yaml"),
  set: z
    .array(z.string())
    .default([])
    .describe("change a value of the recipe, such as model.layers=4")
    .meta({ value: "KEY=VALUE" }),
  resume: z.boolean().default(false).describe("go on with a run of this name where it stopped"),
  runs: z.string().default("runs").describe("the folder of the runs").meta({ value: "DIR" }),
});

export const train = defineCommand({
  name: "train",
  summary: "run a recipe's stages, from the text to the report",
  options,
  positional: ["recipe"],
  examples: [
    ["howdah train recipes/shakespeare.yaml", "the main job, without serving"],
    ["howdah train my.yaml --set model.layers=4 --set seed=2", "with two values changed"],
    ["howdah train my.yaml --resume", "go on after Ctrl-C, a crash or a full disk"],
  ],
  async run(o, context) {
    const job = await openJob(o);
    try {
      return await driveJob(job, context);
    } catch (error) {
      if (!(error instanceof StoppedError || error instanceof Interrupted)) throw error;
      const where = error instanceof StoppedError ? ` in ${error.stage} after step ${error.step}` : "";
      const goOn = `howdah train ${o.recipe}${o.set.map((s) => ` --set ${s}`).join("")} --runs ${o.runs} --resume`;
      throw new Interrupted(`Stopped${where}; all is saved. Go on with: ${goOn}`, { run: job.run.path, resume: goOn });
    } finally {
      job.run.close();
    }
  },
});
