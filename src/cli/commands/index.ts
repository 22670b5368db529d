import type { Command } from "../command.ts";
import { chat } from "./chat.ts";
import { dataExtract } from "./data.ts";
import { dataBuild, dataReport } from "./data-build.ts";
import { dataConvert, dataSelfInstruct } from "./data-instructions.ts";
import { doctor } from "./doctor.ts";
import { forward } from "./forward.ts";
import { generate } from "./generate.ts";
import { profile } from "./profile.ts";
import { runs } from "./runs.ts";
import { serve } from "./serve.ts";
import { start } from "./start.ts";
import { tokenizerDecode, tokenizerEncode, tokenizerTrain } from "./tokenizer.ts";
import { train } from "./train.ts";

/** Every command, in the order of `howdah --help`. */
export const commands: readonly Command[] = [
  start,
  train,
  generate,
  chat,
  serve,
  tokenizerTrain,
  tokenizerEncode,
  tokenizerDecode,
  dataExtract,
  dataBuild,
  dataReport,
  dataConvert,
  dataSelfInstruct,
  forward,
  runs,
  profile,
  doctor,
];
