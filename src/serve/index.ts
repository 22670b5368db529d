export { ApiError, type ErrorBody } from "./errors.ts";
export type { ChatMessage, GenerateChunk, GenerateRequest, ModelHost, ModelRegistry } from "./host.ts";
export { defaultLimits, type ServeLimits } from "./limits.ts";
export { createServer, drainOnSignals, type Server, type ServerOptions } from "./server.ts";
