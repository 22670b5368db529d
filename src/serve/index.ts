export { ApiError, type ErrorBody } from "./errors.ts";
export type { ChatTurn, ModelHost, ModelRegistry, ReplyChunk, ReplyRequest } from "./host.ts";
export { defaultLimits, type ServeLimits } from "./limits.ts";
export { createServer, drainOnSignals, type Server, type ServerOptions } from "./server.ts";
