import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../tensor/errors.ts";
import { codeOf, makeFolder, removeLeftovers, writeFileAtomic, writeFolderAtomic } from "./atomic.ts";
import { Checkpoints } from "./checkpoints.ts";
import { Emitter } from "./events.ts";
import { acquireLock, lockHolder } from "./lock.ts";
import { EventLog, readEvents } from "./log.ts";
import { type RunState, runStateOf } from "./state.ts";

const recipeName = "recipe.yaml";
const eventsName = "events.jsonl";
const lockName = "run.lock";
const reportName = "report.md";

/** The folder of a run. @throws InputError if the name could leave `runsFolder` or is not a plain name */
export function runPath(runsFolder: string, name: string): string {
  if (!/^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$/u.test(name)) {
    throw new InputError(`"${name}" cannot be the name of a run: use letters, digits, "-", "_" and ".".`);
  }
  return join(runsFolder, name);
}

export interface OpenRunOptions {
  /** The resolved recipe, as YAML. */
  readonly recipe: string;
  /** Go on where the run stopped; otherwise a run that is there already is refused. */
  readonly resume: boolean;
}

/**
 * A run that this process works on: `runs/<name>/` with `recipe.yaml`, `events.jsonl`, `checkpoints/`, `models/<stage>/`
 * and `report.md`. Holding it locks it; `close()` gives it back.
 */
export class Run {
  readonly name: string;
  readonly path: string;
  readonly events: Emitter;
  readonly checkpoints: Checkpoints;
  /** What earlier sittings reported; empty for a new run. */
  readonly past: RunState;
  readonly resumed: boolean;
  readonly #log: EventLog;
  readonly #lock: { release(): void };

  private constructor(name: string, path: string, resumed: boolean, lock: { release(): void }) {
    this.name = name;
    this.path = path;
    this.resumed = resumed;
    this.#lock = lock;
    this.#log = new EventLog(join(path, eventsName));
    this.past = runStateOf(readEvents(this.#log.path).events);
    this.events = new Emitter([this.#log.append]);
    this.checkpoints = new Checkpoints(join(path, "checkpoints"));
    if (this.#log.repaired > 0) {
      const message = `The last ${this.#log.repaired} bytes of ${eventsName} were half a line (the process was killed) and were removed.`;
      this.events.emit({ type: "log", level: "warn", message });
    }
  }

  /**
   * Creates the run's folder, or with `resume` opens the one that is there. Emits no run event: that is the job's to say.
   * @throws InputError if it exists and `resume` is false; LockError if another process works on it
   */
  static async open(runsFolder: string, name: string, { recipe, resume }: OpenRunOptions): Promise<Run> {
    const path = runPath(runsFolder, name);
    const exists = existsSync(join(path, recipeName));
    if (exists && !resume) {
      throw new InputError(
        `The run "${name}" exists in ${path}: go on with --resume, choose another name with --set name=..., or remove the folder.`,
      );
    }
    makeFolder(path);
    const lock = acquireLock(join(path, lockName), `The run "${name}"`);
    try {
      for (const folder of [path, join(path, "checkpoints"), join(path, "models")]) await removeLeftovers(folder);
      if (!exists) writeFileAtomic(join(path, recipeName), recipe);
      return new Run(name, path, exists, lock);
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  /** The resolved recipe this run was started with. */
  get recipe(): string {
    return readFileSync(join(this.path, recipeName), "utf8");
  }

  /** Writes the recipe again, when the first sitting turned minutes into steps. */
  writeRecipe(text: string): void {
    writeFileAtomic(join(this.path, recipeName), text);
  }

  /** The folder of the model a stage ended with; it exists once the stage has one. */
  modelFolder(stage: string): string {
    return join(this.path, "models", stage);
  }

  /** Saves the model a stage ended with, all at once. */
  async saveModel(stage: string, fill: (folder: string) => Promise<void>): Promise<string> {
    const folder = this.modelFolder(stage);
    await writeFolderAtomic(folder, fill);
    return folder;
  }

  writeReport(text: string): void {
    writeFileAtomic(join(this.path, reportName), text);
  }

  close(): void {
    this.#log.close();
    this.#lock.release();
  }
}

export interface RunInfo {
  readonly name: string;
  readonly path: string;
  /** `interrupted`: it was running, and its process is gone. */
  readonly status: RunState["status"] | "interrupted";
  readonly state: RunState;
  readonly pid: number | undefined;
  readonly report: string | undefined;
}

/** Reads a run without locking it; it may be running. @throws InputError if there is none of that name */
export function readRun(runsFolder: string, name: string): RunInfo {
  const path = runPath(runsFolder, name);
  if (!existsSync(join(path, recipeName))) {
    const known = runNames(runsFolder);
    const others = known.length === 0 ? "There are no runs yet." : `There are: ${known.join(", ")}.`;
    throw new InputError(`There is no run "${name}" in ${runsFolder}. ${others}`);
  }
  const state = runStateOf(readEvents(join(path, eventsName)).events);
  const holder = lockHolder(join(path, lockName));
  const report = join(path, reportName);
  return {
    name,
    path,
    status: state.status === "running" && holder === undefined ? "interrupted" : state.status,
    state,
    pid: holder?.pid,
    report: existsSync(report) ? report : undefined,
  };
}

/** Names of the runs in a folder, the one that changed last first. */
export function runNames(runsFolder: string): string[] {
  let names: string[];
  try {
    names = readdirSync(runsFolder);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return [];
    throw error;
  }
  const changed = (name: string) => {
    const events = join(runsFolder, name, eventsName);
    return statSync(existsSync(events) ? events : join(runsFolder, name, recipeName)).mtimeMs;
  };
  return names
    .filter((name) => existsSync(join(runsFolder, name, recipeName)))
    .map((name) => ({ name, time: changed(name) }))
    .sort((a, b) => b.time - a.time)
    .map(({ name }) => name);
}
