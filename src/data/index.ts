export * from "./dialogue.ts";
export * from "./jsonl.ts";
export * from "./packing.ts";
export * from "./pairs.ts";
export * from "./random.ts";
export * from "./text.ts";
export * from "./token-file.ts";
export * from "./windows.ts";
