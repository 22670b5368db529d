import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { InputError } from "../src/tensor/errors.ts";

/** What a measured process is asked; one line of JSON each, answered by one line. */
export type Request =
  | ({ readonly command: "prepare" } & Preparation)
  | { readonly command: "run"; readonly steps: number }
  | { readonly command: "close" };

/** A later `prepare` takes the place of an earlier one. */
export interface Preparation {
  readonly work: string;
  /** Which of a side's ways, such as `eager bf16`. */
  readonly variant: string;
  /** What the work is made of: the same for every side. JSON. */
  readonly parameters: unknown;
}

export interface Prepared {
  /** Of the program that measures: version, processor features, precision. */
  readonly about: string;
  readonly threads: number;
}

export interface Ran {
  /** One per step. */
  readonly seconds: readonly number[];
  /** What each step computed: a loss, a checksum. Of the first steps these are compared between the sides. */
  readonly outputs: readonly unknown[];
  /** Other measured numbers by name, one per step. */
  readonly metrics?: Readonly<Record<string, readonly number[]>>;
  /** The most this process has held so far, in bytes. */
  readonly peakBytes: number;
}

/** Whoever can be measured. A process that speaks lines of JSON is a `ProcessContender`; other tools need an adaptor of their own. */
export interface Contender {
  readonly name: string;
  prepare(request: Preparation): Promise<Prepared>;
  run(steps: number): Promise<Ran>;
  /** Ends it and waits until it is gone. */
  close(): Promise<void>;
}

/** A process that answers lines of JSON with lines of JSON, one at a time. What it prints to standard error comes with its failure. */
export class ProcessContender implements Contender {
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

  prepare(request: Preparation): Promise<Prepared> {
    return this.#ask<Prepared>({ command: "prepare", ...request });
  }

  run(steps: number): Promise<Ran> {
    return this.#ask<Ran>({ command: "run", steps });
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    const gone = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stdin!.end(`${JSON.stringify({ command: "close" } satisfies Request)}\n`);
    const impatient = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(impatient);
  }
}
