// Child processes: output is kept and shown only when something went wrong; signals reach the child.
import { spawn, spawnSync } from "node:child_process";

/** A failure with a message for people; the stack would say nothing more. */
export class SetupError extends Error {}

const children = new Set();

/** Sends a signal to a child, and to what it has started if it leads a group of its own (compilers under CMake). */
function end(child, signal) {
  try {
    if (child.leads === true) process.kill(-child.pid, signal);
    else child.kill(signal);
  } catch {
    // Ended by itself in the meantime.
  }
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    if (children.size === 0) process.exit(signal === "SIGINT" ? 130 : 143);
    for (const child of children) end(child, signal);
  });
}

/** Forgets the handlers above, so that a program running on in this process sets its own. */
export function releaseSignals() {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.removeAllListeners(signal);
}

/**
 * Runs a command to its end. With `inherit` its output is shown as it comes; otherwise it is collected, each line goes
 * to `onLine`, and a failure throws a SetupError that shows it. Resolves to { code, signal, output }.
 */
export function run(command, args, { cwd, env, inherit = false, onLine, shell = false, allowFailure = inherit } = {}) {
  return new Promise((resolve, reject) => {
    // A child that shares the terminal must stay in its foreground group; the others lead a group, to be ended whole.
    const detached = !inherit && process.platform !== "win32";
    const child = spawn(command, args, {
      cwd,
      env: env ?? process.env,
      shell,
      detached,
      stdio: inherit ? "inherit" : ["ignore", "pipe", "pipe"],
    });
    child.leads = detached;
    children.add(child);
    let output = "";
    let rest = "";
    const take = (chunk) => {
      const text = chunk.toString();
      output += text;
      if (onLine === undefined) return;
      const lines = (rest + text).split(/\r?\n/);
      rest = lines.pop() ?? "";
      for (const line of lines) onLine(line);
    };
    child.stdout?.on("data", take);
    child.stderr?.on("data", take);
    child.on("error", (error) => {
      children.delete(child);
      reject(new SetupError(`${command} could not be started: ${error.message}`));
    });
    child.on("close", (code, signal) => {
      children.delete(child);
      if (signal !== null && !allowFailure) {
        // Interrupted, by Ctrl-C as a rule: nothing to explain.
        reject(Object.assign(new SetupError(`${command} was ended by ${signal}.`), { signal }));
      } else if (code !== 0 && !allowFailure) {
        const lines = output.trimEnd().split("\n");
        // What went wrong stands first for npm, last for a compiler.
        const shown = lines.length <= 100 ? lines : [...lines.slice(0, 30), "  [...]", ...lines.slice(-60)];
        reject(new SetupError(`${shown.join("\n")}\n\n${[command, ...args].join(" ")} ended with exit code ${code}.`));
      } else {
        resolve({ code: code ?? 1, signal, output });
      }
    });
  });
}

/** What a command prints, or undefined if it is missing or fails. */
export function ask(command, args, input) {
  const result = spawnSync(command, args, { encoding: "utf8", ...(input === undefined ? {} : { input }) });
  return result.status === 0 ? result.stdout : undefined;
}
