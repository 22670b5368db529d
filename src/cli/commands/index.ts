import type { Command } from "../command.ts";
import { doctor } from "./doctor.ts";
import { runs } from "./runs.ts";
import { tokenizerDecode, tokenizerEncode, tokenizerTrain } from "./tokenizer.ts";

/** Every command, in the order of `howdah --help`. */
export const commands: readonly Command[] = [tokenizerTrain, tokenizerEncode, tokenizerDecode, runs, doctor];
