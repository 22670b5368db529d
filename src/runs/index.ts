export * from "./atomic.ts";
export * from "./checkpoints.ts";
export * from "./events.ts";
export * from "./json.ts";
export * from "./lock.ts";
export * from "./log.ts";
export * from "./run.ts";
export * from "./state.ts";
