import type { Command } from "../../src/cli/command.ts";
import { bert } from "./bert.ts";
import { compare } from "./compare.ts";
import { data, dedup } from "./data.ts";
import { decode, prompt } from "./decode.ts";
import { eventloop } from "./eventloop.ts";
import { extract } from "./extract.ts";
import { gemm } from "./gemm.ts";
import { gpt } from "./gpt.ts";
import { lstm } from "./lstm.ts";
import { neighbour } from "./neighbour.ts";
import { perplexity } from "./perplexity.ts";
import { profile } from "./profile.ts";
import { resnet } from "./resnet.ts";
import { serve } from "./serve.ts";
import { tokenizers } from "./tokenizers.ts";

/** Every suite, in the order of `npm run bench -- --help`. */
export const suites: readonly Command[] = [
  gpt,
  resnet,
  lstm,
  bert,
  gemm,
  decode,
  prompt,
  serve,
  tokenizers,
  extract,
  data,
  dedup,
  neighbour,
  eventloop,
  perplexity,
  profile,
  compare,
];
