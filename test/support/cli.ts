import { spawn, spawnSync } from "node:child_process";
import { dirname, join } from "node:path";

const root = join(dirname(import.meta.dirname), "..");
const program = join(root, "dist", "cli", "main.js");

/** Compiles `dist/` from the sources as they are; quick when nothing has changed. Wrong types are the type check's to report. */
export function buildCli(): void {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  const { status, stdout } = spawnSync(process.execPath, [tsc, "-p", join(root, "tsconfig.json")], {
    encoding: "utf8",
  });
  const emittedDespiteErrors = 2;
  if (status !== 0 && status !== emittedDespiteErrors) throw new Error(`dist could not be compiled:\n${stdout}`);
}

export interface Ended {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** The last line of standard output; undefined if it is not JSON. */
  readonly result: Record<string, unknown> | undefined;
}

export interface Running {
  readonly pid: number;
  readonly ended: Promise<Ended>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts `howdah` as a process of its own; as another user where root says so. */
export function startCli(argv: readonly string[], env: Readonly<Record<string, string>> = {}, uid?: number): Running {
  const child = spawn(process.execPath, [program, ...argv], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    ...(uid === undefined ? {} : { uid }),
  });
  const out = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => {
      out[name] += text;
    });
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (exitCode, signal) => {
      let result: Record<string, unknown> | undefined;
      try {
        result = JSON.parse(out.stdout.trimEnd().split("\n").at(-1)!) as Record<string, unknown>;
      } catch {
        result = undefined; // killed before its last line
      }
      resolve({ exitCode, signal, ...out, result });
    });
  });
  return { pid: child.pid!, ended, kill: (signal) => void child.kill(signal) };
}

export const runCliProcess = (
  argv: readonly string[],
  env?: Readonly<Record<string, string>>,
  uid?: number,
): Promise<Ended> => startCli(argv, env, uid).ended;
