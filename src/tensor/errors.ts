/** What every error of howdah is: a stable `code` for programs, a message for people that says what to do. */
export class HowdahError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Shapes that do not fit an op. Raised while tracing, before anything runs. */
export class ShapeError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("shape", message, options);
  }
}

/** Element types that do not fit an op. */
export class DTypeError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("dtype", message, options);
  }
}

/** A tensor used after it was disposed or donated, a traced tensor used outside its trace, and the like. */
export class StateError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("state", message, options);
  }
}

/** Input from a person or a file that is wrong: names the place, the value and what was expected. */
export class InputError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("input", message, options);
  }
}

/** A backend failed or lacks something. */
export class BackendError extends HowdahError {
  constructor(message: string, options?: ErrorOptions) {
    super("backend", message, options);
  }
}
