import { HowdahError } from "../tensor/errors.ts";

/** OpenAI's error body, as its client libraries parse it. */
export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 409 | 413 | 415 | 429 | 500 | 503 | 504;

/** OpenAI's `type` for each status. */
const types: Record<ErrorStatus, string> = {
  400: "invalid_request_error",
  401: "invalid_request_error",
  403: "permission_error",
  404: "invalid_request_error",
  405: "invalid_request_error",
  409: "invalid_request_error",
  413: "invalid_request_error",
  415: "invalid_request_error",
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
  504: "server_error",
};

/** An error that a client sees: HTTP status, a stable `code`, the parameter at fault, and headers such as Retry-After. */
export class ApiError extends HowdahError {
  readonly status: ErrorStatus;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: ErrorStatus,
    code: string,
    message: string,
    details: { param?: string | null; headers?: Record<string, string>; cause?: unknown } = {},
  ) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = status;
    this.param = details.param ?? null;
    this.headers = details.headers ?? {};
  }

  body(): ErrorBody {
    return { error: { message: this.message, type: types[this.status], param: this.param, code: this.code } };
  }
}

/**
 * Any thrown value as what the client may see. A person's wrong input keeps its message; a fault of ours says only that
 * there was one (paths and stack traces are for the log).
 */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof HowdahError && (error.code === "input" || error.code === "token")) {
    return new ApiError(400, "invalid_value", error.message, { cause: error });
  }
  if (error instanceof HowdahError && (error.code === "database" || error.code === "locked")) {
    return new ApiError(503, error.code, error.message, { cause: error });
  }
  return new ApiError(
    500,
    "internal_error",
    "The server failed on this request; its log says why. Trying again may help.",
    {
      cause: error,
    },
  );
}
