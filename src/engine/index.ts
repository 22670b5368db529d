export { ReferenceBackend } from "./backends/reference/backend.ts";
export { type LowerOptions, lower, optimize } from "./compile.ts";
export type { Backend, BackendBuffer, Executable, Instruction, Program, ProgramValue } from "./program.ts";
export { activeBackend, createRuntime, type RuntimeOptions, useBackend } from "./runtime.ts";
