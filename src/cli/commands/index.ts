import type { Command } from "../command.ts";
import { doctor } from "./doctor.ts";
import { forward } from "./forward.ts";
import { runs } from "./runs.ts";
import { start } from "./start.ts";
import { tokenizerDecode, tokenizerEncode, tokenizerTrain } from "./tokenizer.ts";
import { train } from "./train.ts";

/** Every command, in the order of `howdah --help`. */
export const commands: readonly Command[] = [
  start,
  train,
  tokenizerTrain,
  tokenizerEncode,
  tokenizerDecode,
  forward,
  runs,
  doctor,
];
