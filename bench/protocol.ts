import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { InputError } from "../src/tensor/errors.ts";
import type { GPTWork } from "./works.ts";

/** What a measured process is asked; one line of JSON each, answered by one line. */
export type Request =
  | {
      readonly command: "prepare";
      readonly work: GPTWork;
      readonly training: Readonly<Record<string, number>>;
      readonly weights: string;
      readonly batches: string;
      readonly variant: string;
    }
  | { readonly command: "run"; readonly steps: number }
  | { readonly command: "close" };

export interface Prepared {
  /** Of the program that measures: version, processor features, precision. */
  readonly about: string;
  readonly threads: number;
}

export interface Ran {
  /** One per step. */
  readonly seconds: readonly number[];
  readonly losses: readonly number[];
  /** The most this process has held so far, in bytes. */
  readonly peakBytes: number;
}

/** A process that answers lines of JSON with lines of JSON, one at a time. What it prints to standard error comes with its failure. */
export class Contender {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #answers: string[] = [];
  #waiting: { resolve: (line: string) => void; reject: (error: Error) => void } | undefined;
  #errors = "";
  #ended: Error | undefined;

  constructor(name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.name = name;
    this.#child = spawn(command, [...args], { stdio: ["pipe", "pipe", "pipe"], env });
    createInterface({ input: this.#child.stdout! }).on("line", (line) => {
      // Libraries print to standard output as well; answers are the lines that are objects.
      if (!line.startsWith("{")) return;
      const waiting = this.#waiting;
      this.#waiting = undefined;
      if (waiting) waiting.resolve(line);
      else this.#answers.push(line);
    });
    this.#child.stderr!.on("data", (data: Buffer) => {
      this.#errors = (this.#errors + data.toString()).slice(-4000);
    });
    // A write to a process that is gone: the exit is what is reported.
    this.#child.stdin!.on("error", () => {});
    const end = (why: string) => {
      this.#ended ??= new InputError(`${this.name} ${why}.${this.#errors ? `\n${this.#errors.trimEnd()}` : ""}`);
      this.#waiting?.reject(this.#ended);
      this.#waiting = undefined;
    };
    this.#child.on("error", (error) => end(`cannot be started: ${error.message}`));
    this.#child.on("close", (code, signal) => end(`ended with ${signal ?? `code ${code}`}`));
  }

  async #ask<T>(request: Request): Promise<T> {
    if (this.#ended) throw this.#ended;
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const line =
      this.#answers.shift() ??
      (await new Promise<string>((resolve, reject) => {
        this.#waiting = { resolve, reject };
      }));
    const answer = JSON.parse(line) as T & { error?: string };
    if (answer.error !== undefined) throw new InputError(`${this.name}: ${answer.error}`);
    return answer;
  }

  prepare(request: Omit<Extract<Request, { command: "prepare" }>, "command">): Promise<Prepared> {
    return this.#ask<Prepared>({ command: "prepare", ...request });
  }

  run(steps: number): Promise<Ran> {
    return this.#ask<Ran>({ command: "run", steps });
  }

  /** Ends the process and waits until it is gone. */
  async close(): Promise<void> {
    if (this.#ended) return;
    const gone = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stdin!.end(`${JSON.stringify({ command: "close" } satisfies Request)}\n`);
    const impatient = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(impatient);
  }
}
