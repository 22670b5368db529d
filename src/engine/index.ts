export { loadNativeBackend, type NativeBackend } from "./backends/native/backend.ts";
export { ReferenceBackend } from "./backends/reference/backend.ts";
export { type LowerOptions, lower, optimize } from "./compile.ts";
export { type BackendChoice, chooseBackend } from "./default.ts";
export {
  type ExplainedPeak,
  type ExplainOptions,
  type Explanation,
  explain,
  explainPeak,
  showPeak,
} from "./explain.ts";
export { type Profile, type ProfileRow, Profiler, profileRows } from "./profile.ts";
export type { ArenaPeak, Backend, BackendBuffer, Executable, Instruction, Program, ProgramValue } from "./program.ts";
export { activeBackend, createRuntime, type RuntimeOptions, useBackend } from "./runtime.ts";
