import type { Command } from "../command.ts";
import { doctor } from "./doctor.ts";
import { runs } from "./runs.ts";
import { tokenizerDecode, tokenizerEncode, tokenizerTrain } from "./tokenizer.ts";
import { train } from "./train.ts";

/** Every command, in the order of `howdah --help`. */
export const commands: readonly Command[] = [train, tokenizerTrain, tokenizerEncode, tokenizerDecode, runs, doctor];
