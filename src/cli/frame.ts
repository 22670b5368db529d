import { Command as Commander, CommanderError, Help } from "commander";
import { stringify } from "../runs/json.ts";
import { HowdahError } from "../tensor/errors.ts";
import type { Command, CommandContext } from "./command.ts";
import { Interrupted, listenForInterrupts } from "./interrupt.ts";
import { commanderArgument, commanderOption, parseOptions, shapesOf } from "./options.ts";
import { announce, restoreTerminal } from "./terminal.ts";

/** The exit codes of every command. */
export const exitCodes = { success: 0, failure: 1, usage: 2, interrupted: 130 } as const;

const groups: Record<string, string> = {
  data: "from files, pages and archives to documents",
  tokenizer: "train a tokenizer, encode and decode text",
  runs: "the runs in a folder, and what they reported",
};

interface Outcome {
  /** The last line of standard output; none after `--help` and `--version`. */
  readonly result?: Record<string, unknown>;
  readonly exitCode: number;
}

function helpAfter(command: Command): string {
  const examples = (command.examples ?? []).map(([line, does]) => `  ${line}\n      ${does}`);
  return examples.length === 0 ? "" : `\nExamples:\n${examples.join("\n")}\n`;
}

/** What a command line is made of. */
export interface Cli {
  readonly commands: readonly Command[];
  readonly version: string;
  /** What a person types before a command; default `howdah`. */
  readonly name?: string;
  readonly description?: string;
}

/** Builds the commander program; `onCommand` is called with the command a person chose and what they gave it. */
export function buildProgram(
  { commands, version, name, description }: Cli,
  onCommand: (command: Command, options: Record<string, unknown>, args: readonly unknown[]) => Promise<void>,
): Commander {
  const program = new Commander(name ?? "howdah")
    .description(
      description ??
        "The whole life of a foundation model: from raw text to a model that is trained, aligned, measured and served.",
    )
    .version(version, "-v, --version", "print the version")
    .option("--debug", "show where an error came from")
    .helpOption("-h, --help", "show this help")
    .showSuggestionAfterError(true)
    .exitOverride()
    .configureHelp({
      sortSubcommands: false,
      subcommandTerm: (one) => Help.prototype.subcommandTerm.call(undefined, one).replace(" [options]", ""),
    });
  for (const command of commands) {
    const words = command.name.split(" ");
    let parent = program;
    for (const word of words.slice(0, -1)) {
      const there = parent.commands.find((one) => one.name() === word);
      parent = there ?? parent.command(word).description(groups[word] ?? "");
    }
    const { options, positional } = shapesOf(command);
    const built = parent
      .command(words.at(-1)!, { hidden: command.hidden ?? false })
      .summary(command.summary)
      .description(command.description ?? command.summary)
      .addHelpText("after", helpAfter(command));
    for (const shape of positional) built.addArgument(commanderArgument(shape));
    for (const shape of options) built.addOption(commanderOption(shape));
    built.option("--debug", "show where an error came from");
    built.action(async (...given: unknown[]) => {
      // commander passes the arguments, then the options, then itself.
      await onCommand(command, given[positional.length] as Record<string, unknown>, given.slice(0, positional.length));
    });
  }
  return program;
}

/** What an error means for the exit code: what a person gave was wrong, or something failed. */
function exitCodeOf(error: unknown): number {
  if (error instanceof Interrupted) return exitCodes.interrupted;
  return error instanceof HowdahError && error.code === "input" ? exitCodes.usage : exitCodes.failure;
}

/** `SystemError: ENOENT ...` and friends keep their own code; what is not ours is an internal error. */
function codeOf(error: unknown): string {
  if (error instanceof HowdahError) return error.code;
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "internal";
}

/** Whether this error is how work ends that was asked to stop: ours, a training loop's, or the platform's. */
function isAbort(error: unknown): error is Error {
  return (
    error instanceof Interrupted ||
    (error instanceof HowdahError && error.code === "stopped") ||
    (error instanceof Error && error.name === "AbortError")
  );
}

/** Runs one command line to its end, prints its last line, and says the exit code. Never throws. */
export async function runCli(cli: Cli, argv: readonly string[]): Promise<number> {
  let outcome: Outcome = { exitCode: exitCodes.success };
  const debug = argv.includes("--debug");
  const say = announce;
  const program = buildProgram(cli, async (command, given, args) => {
    const options = parseOptions(command, given, args);
    const interrupts = listenForInterrupts({
      ask: () => say("Stopping cleanly; press Ctrl-C again to stop at once."),
      force: restoreTerminal,
    });
    const context: CommandContext = {
      print: (line = "") => void process.stdout.write(`${line}\n`),
      warn: say,
      signal: interrupts.signal,
      stdout: process.stdout,
      environment: process.env,
    };
    try {
      outcome = { result: await command.run(options, context), exitCode: exitCodes.success };
    } catch (error) {
      if (!interrupts.signal.aborted || !isAbort(error)) throw error;
      const stopped = error instanceof Interrupted ? error : new Interrupted(error.message);
      say(stopped.message);
      const result = { interrupted: true, message: stopped.message, ...stopped.result };
      outcome = { result, exitCode: exitCodes.interrupted };
    } finally {
      interrupts.stop();
      restoreTerminal();
    }
  });
  let usage = "";
  const output = {
    writeOut: (text: string) => void process.stdout.write(text),
    // What commander says about a wrong command line is said once, by the frame.
    writeErr: (text: string) => {
      usage += text;
    },
  };
  for (const one of [program, ...program.commands, ...program.commands.flatMap((group) => group.commands)]) {
    one.exitOverride().configureOutput(output);
  }
  try {
    await program.parseAsync([...argv], { from: "user" });
  } catch (error) {
    outcome = failed(error, usage, debug, say, program.name());
  }
  if (outcome.result !== undefined) process.stdout.write(`${stringify(outcome.result)}\n`);
  return outcome.exitCode;
}

function failed(error: unknown, usage: string, debug: boolean, say: (text: string) => void, name: string): Outcome {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return { exitCode: exitCodes.success };
    const text = usage.trim() === "" ? error.message : usage.trim();
    say(/^Usage:/m.test(text) ? text : `${text}\nSee ${name} --help, or ${name} COMMAND --help.`);
    const message = text.replace(/^error: /, "").split("\n")[0];
    return { result: { error: { code: "usage", message } }, exitCode: exitCodes.usage };
  }
  const code = codeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  say(`error (${code}): ${message}`);
  if (debug) {
    say(error instanceof Error ? (error.stack ?? "") : "");
    if (error instanceof Error && error.cause !== undefined) say(`caused by: ${String(error.cause)}`);
  } else if (code === "internal") {
    say("This is a mistake in howdah itself. Run it again with --debug to see where it happened.");
  }
  return { result: { error: { code, message } }, exitCode: exitCodeOf(error) };
}

/** Runs the command line of this process and ends it once everything printed has been read. */
export async function main(cli: Cli, argv: readonly string[] = process.argv.slice(2)): Promise<void> {
  // `howdah ... | head` closes the pipe early: that is not an error worth a stack.
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(exitCodes.success);
      throw error;
    });
  }
  const exitCode = await runCli(cli, argv);
  // Idle handles (a server's sockets, a worker) must not keep a finished command alive.
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise((done) => stream.write("", done))));
  process.exit(exitCode);
}
