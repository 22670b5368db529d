import { resolve } from "node:path";
import { z } from "zod";
import { SafetensorsFile } from "../../checkpoint/safetensors.ts";
import { writeSafetensors } from "../../checkpoint/write.ts";
import { chooseBackend } from "../../engine/default.ts";
import { useBackend } from "../../engine/index.ts";
import { loadModel } from "../../models/folder.ts";
import { forwardNamed } from "../../models/forward.ts";
import { parameterCount } from "../../models/model.ts";
import { InputError } from "../../tensor/errors.ts";
import { show } from "../../tensor/shape.ts";
import { dispose } from "../../tensor/tree.ts";
import { defineCommand } from "../command.ts";
import { table } from "../text.ts";

const options = z.object({
  model: z.string().describe("a Hugging Face folder: config.json and model.safetensors").meta({ value: "DIR" }),
  inputs: z
    .string()
    .describe("safetensors with input_ids, and attention_mask, position_ids, labels if wanted")
    .meta({ value: "FILE" }),
  outputs: z.string().describe("safetensors to write").meta({ value: "FILE" }),
  gradients: z.boolean().default(false).describe("also the gradient of the loss for each parameter; needs labels"),
  backend: z
    .enum(["auto", "native", "reference"])
    .default("auto")
    .describe("what computes; auto is native where its kernels are built"),
});

export const forward = defineCommand({
  name: "forward",
  summary: "run a model on named tensors",
  description:
    "Run a model on the tensors of a file and write what it gives, under the names that transformers uses: logits, last_hidden_state, " +
    "with labels the loss, with --gradients the gradient of each parameter. Everything is in f32. This is how to check a converted model.",
  options,
  examples: [
    ["howdah forward --model DIR --inputs in.safetensors --outputs out.safetensors", "logits and hidden states"],
    [
      "howdah forward --model DIR --inputs in.safetensors --outputs out.safetensors --gradients",
      "the loss for labels, and its gradients",
    ],
  ],
  async run({ model: folder, inputs, outputs, gradients, backend: wanted }, { print, warn }) {
    if (resolve(inputs) === resolve(outputs))
      throw new InputError(`--outputs is the same file as --inputs (${inputs}). Choose another name.`);
    const backend = chooseBackend(wanted, warn);
    useBackend(backend);
    const source = await SafetensorsFile.open(inputs);
    try {
      const { model, config } = await loadModel(folder);
      const began = performance.now();
      const result = await forwardNamed(model, source, { where: inputs, gradients });
      await writeSafetensors(outputs, result.outputs);
      const seconds = (performance.now() - began) / 1000;
      const list = [...result.outputs].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
      const parameters = parameterCount(model);
      result.release();
      dispose(model);
      print(`${config.family}, ${parameters} parameters, ${backend.name} backend`);
      for (const line of table(list.map(({ name, dtype, shape }) => [name, `${dtype}${show(shape)}`])))
        print(`  ${line}`);
      if (result.loss !== undefined) print(`loss ${result.loss}`);
      return {
        model: folder,
        family: config.family,
        parameters,
        backend: backend.name,
        seconds,
        outputs,
        tensors: list,
        ...(result.loss === undefined ? {} : { loss: result.loss }),
      };
    } finally {
      await source.close();
    }
  },
});
