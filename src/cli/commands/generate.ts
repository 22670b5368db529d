import { performance } from "node:perf_hooks";
import { text as readStream } from "node:stream/consumers";
import { z } from "zod";
import { InputError } from "../../tensor/errors.ts";
import { defineCommand } from "../command.ts";
import {
  backendOption,
  freshSeed,
  installBackend,
  openHost,
  safeText,
  samplingOf,
  samplingOptions,
  weightsFor,
  weightsOption,
} from "../generation.ts";
import { Interrupted } from "../interrupt.ts";

const options = z.object({
  model: z.string().describe("a Hugging Face folder: model and tokenizer").meta({ value: "DIR", short: "m" }),
  prompt: z
    .string()
    .default("-")
    .describe("the text to continue; - reads it from the pipe")
    .meta({ value: "TEXT", short: "p" }),
  weights: weightsOption,
  ...samplingOptions,
  backend: backendOption,
});

export const generate = defineCommand({
  name: "generate",
  summary: "continue a text",
  description: "Continue a text with a model. The continuation is printed as it comes, then one line of JSON.",
  options,
  examples: [
    ['howdah generate --model DIR --prompt "Once upon a time"', "a continuation, another one each time"],
    ["howdah generate --model DIR --temperature 0 < prompt.txt", "the most likely continuation of a file's text"],
    ["howdah generate --model DIR -p 'ROMEO:' --stop 'JULIET:' --seed 7", "ends before a text; the same one each time"],
  ],
  async run(o, { stdout, warn, signal }) {
    const given = o.prompt === "-" ? await pipedText() : o.prompt;
    const backend = installBackend(o.backend, warn);
    const host = await openHost(o.model, { slots: 1, weights: weightsFor(o.weights, backend) });
    try {
      let prompt = host.encode(given);
      if (prompt.length === 0) {
        const begin = host.model.config.tokens.begin ?? host.tokenizer.bosId;
        if (begin === undefined)
          throw new InputError("The prompt is empty, and this model has no token that begins a text. Give a prompt.");
        prompt = [begin];
      }
      const seed = o.seed ?? freshSeed();
      const began = performance.now();
      let first: number | undefined;
      let text = "";
      let tokens = 0;
      let finish: string | undefined;
      try {
        for await (const chunk of host.generate({ ...samplingOf(o), prompt, seed }, signal)) {
          first ??= performance.now();
          text += chunk.text;
          tokens += chunk.tokens.length;
          finish = chunk.finish;
          stdout.write(safeText(chunk.text, stdout));
        }
      } finally {
        // Whatever ended the text, the last line begins on its own.
        if (text !== "" && !text.endsWith("\n")) stdout.write("\n");
      }
      const seconds = (performance.now() - began) / 1000;
      const decoding = (performance.now() - (first ?? began)) / 1000;
      return {
        text,
        finish,
        prompt_tokens: prompt.length,
        tokens,
        seconds,
        seconds_to_first_token: first === undefined ? null : (first - began) / 1000,
        // The first token comes with the prompt; the rate is that of the others.
        tokens_per_second: tokens > 1 && decoding > 0 ? (tokens - 1) / decoding : null,
        seed,
        backend,
        model: o.model,
      };
    } catch (error) {
      if (signal.aborted && error === signal.reason) throw new Interrupted("Stopped before the end of the text.");
      throw error;
    } finally {
      await host.close();
    }
  },
});

async function pipedText(): Promise<string> {
  if (process.stdin.isTTY) throw new InputError("There is no prompt: give --prompt TEXT, or a text through a pipe.");
  return (await readStream(process.stdin)).replace(/\r?\n$/, "");
}
