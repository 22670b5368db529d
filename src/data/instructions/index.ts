export * from "./example.ts";
export { detectFormat, type InstructionFormat, instructionFormats } from "./formats.ts";
export { type Instructions, parseInstructions, type ReadInstructionsOptions, readInstructions } from "./read.ts";
export { rougeL } from "./rouge.ts";
export * from "./self-instruct.ts";
