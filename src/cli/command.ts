import type { z } from "zod";

/** What a command's body is given besides its options. */
export interface CommandContext {
  /** Prints a line for people. The last line, the JSON, is printed by the frame. */
  print(line?: string): void;
  /** Prints a warning for people, on standard error. */
  warn(line: string): void;
  /** Aborted by the first Ctrl-C or SIGTERM: stop cleanly. The second ends the process. */
  readonly signal: AbortSignal;
  readonly stdout: NodeJS.WriteStream;
  readonly environment: NodeJS.ProcessEnv;
}

/** What the last line of standard output says. Numbers that JSON lacks are written as "NaN" and "Infinity". */
export type CommandResult = Record<string, unknown>;

/**
 * A command, declared once: its options, their help, their parsing and their checks all come from one zod schema.
 *
 * Keys of the schema become options (`topP` is `--top-p`), or positional arguments if named in `positional`. Booleans
 * are flags, arrays can be given several times, defaults and descriptions are shown by `--help`. `meta({ short: "o" })`
 * gives a short form, `meta({ value: "FILE" })` names the value.
 */
export interface CommandDefinition<S extends z.ZodObject = z.ZodObject> {
  /** `runs`, or with its group `tokenizer train`. */
  readonly name: string;
  /** One line, in the list of commands. */
  readonly summary: string;
  /** More, shown by the command's own `--help`. */
  readonly description?: string;
  readonly options: S;
  /** Keys of `options` given by position, in order; the last may be an array. */
  readonly positional?: readonly (keyof z.input<S> & string)[];
  readonly examples?: readonly (readonly [command: string, does: string])[];
  /** Not in the list of commands. */
  readonly hidden?: boolean;
  run(options: z.output<S>, context: CommandContext): Promise<CommandResult>;
}

/** A command whose options' type the frame need not know: what `runCli` takes. */
export interface Command extends Omit<CommandDefinition, "run" | "positional"> {
  readonly positional?: readonly string[];
  run(options: never, context: CommandContext): Promise<CommandResult>;
}

/** Ties the type of the body's options to the schema. */
export function defineCommand<S extends z.ZodObject>(definition: CommandDefinition<S>): Command {
  return definition as Command;
}
