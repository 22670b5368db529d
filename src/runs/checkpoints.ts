import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { InputError } from "../tensor/errors.ts";
import { codeOf, removeLeftovers, writeFolderAtomic } from "./atomic.ts";
import { parse, stringify } from "./json.ts";

const manifestName = "checkpoint.json";

const manifestSchema = z.object({
  stage: z.string(),
  stageIndex: z.number().int().nonnegative(),
  step: z.number().int().nonnegative(),
  time: z.number(),
  /** What best is judged by, lower is better; absent where nothing was measured. */
  score: z.union([z.number(), z.nan(), z.literal(Infinity), z.literal(-Infinity)]).optional(),
  files: z.record(z.string(), z.number()),
});

export interface Checkpoint {
  readonly path: string;
  readonly stage: string;
  readonly stageIndex: number;
  readonly step: number;
  readonly score: number | undefined;
  /** Of all its files. */
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly time: number;
}

export interface SaveOptions {
  readonly stage: string;
  readonly stageIndex: number;
  readonly step: number;
  /** Such as the held-out loss; the checkpoint with the lowest is kept besides the last ones. */
  readonly score?: number;
  /** How many of the stage's last checkpoints stay. */
  readonly keep: number;
}

/**
 * `checkpoints/<stage>-step-N/` of a run. A folder of that name is complete: it is written beside and renamed, and its
 * `checkpoint.json` lists the size of every file, so that half a copy made by other means is noticed too.
 */
export class Checkpoints {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  /**
   * Saves what `fill` writes into the folder it is given, then removes what the rule (last `keep`, and the best) does not keep.
   * @throws DiskError if the disk is full; the checkpoints before are intact
   */
  async save({ stage, stageIndex, step, score, keep }: SaveOptions, fill: (folder: string) => Promise<void>) {
    if (!/^[\w-]+$/.test(stage)) throw new InputError(`A stage's name has letters, digits, - and _ only: "${stage}".`);
    const path = join(this.folder, `${stage}-step-${step}`);
    const time = Date.now();
    let bytes = 0;
    await writeFolderAtomic(path, async (folder) => {
      await fill(folder);
      const files: Record<string, number> = {};
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile()) continue;
        const full = join(entry.parentPath, entry.name);
        files[full.slice(folder.length + 1).replaceAll("\\", "/")] = statSync(full).size;
      }
      bytes = sum(Object.values(files));
      const manifest = { stage, stageIndex, step, time, ...(score === undefined ? {} : { score }), files };
      writeFileSync(join(folder, manifestName), `${stringify(manifest, 2)}\n`);
    });
    await this.#prune(stage, keep);
    return { path, stage, stageIndex, step, score, bytes, time } satisfies Checkpoint;
  }

  /** Every complete checkpoint, oldest first: by stage, then by step. */
  list(): Checkpoint[] {
    let names: string[];
    try {
      names = readdirSync(this.folder);
    } catch (error) {
      if (codeOf(error) === "ENOENT") return [];
      throw error;
    }
    const found: Checkpoint[] = [];
    for (const name of names) {
      if (!/^[\w-]+-step-\d+$/.test(name)) continue;
      const checkpoint = readCheckpoint(join(this.folder, name));
      if (checkpoint !== undefined) found.push(checkpoint);
    }
    return found.sort((a, b) => a.stageIndex - b.stageIndex || a.step - b.step);
  }

  /** The newest complete checkpoint, of one stage or of all. */
  latest(stage?: string): Checkpoint | undefined {
    return this.list()
      .filter((checkpoint) => stage === undefined || checkpoint.stage === stage)
      .at(-1);
  }

  /** The complete checkpoint of a stage with the lowest score; NaN never wins. */
  best(stage: string): Checkpoint | undefined {
    return lowest(this.list().filter((checkpoint) => checkpoint.stage === stage));
  }

  /** Removes checkpoints of a stage, all of them or those after a step. */
  remove(stage: string, after = -1): void {
    for (const checkpoint of this.list()) {
      if (checkpoint.stage === stage && checkpoint.step > after) removeCheckpoint(checkpoint.path);
    }
  }

  async #prune(stage: string, keep: number): Promise<void> {
    const own = this.list().filter((checkpoint) => checkpoint.stage === stage);
    const best = lowest(own);
    for (const checkpoint of own.slice(0, Math.max(0, own.length - Math.max(1, keep)))) {
      if (checkpoint.path !== best?.path) removeCheckpoint(checkpoint.path);
    }
    await removeLeftovers(this.folder);
  }
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, one) => total + one, 0);

function lowest(checkpoints: readonly Checkpoint[]): Checkpoint | undefined {
  let best: Checkpoint | undefined;
  for (const checkpoint of checkpoints) {
    if (checkpoint.score === undefined || Number.isNaN(checkpoint.score)) continue;
    if (best?.score === undefined || checkpoint.score < best.score) best = checkpoint;
  }
  return best;
}

/** The manifest goes first: a removal that is interrupted leaves a folder which is not a checkpoint. */
function removeCheckpoint(path: string): void {
  rmSync(join(path, manifestName), { force: true });
  rmSync(path, { recursive: true, force: true });
}

/** A checkpoint folder, or undefined if it is not complete. */
export function readCheckpoint(path: string): Checkpoint | undefined {
  const file = join(path, manifestName);
  if (!existsSync(file)) return undefined;
  try {
    const { files, score, ...rest } = manifestSchema.parse(parse(readFileSync(file, "utf8")));
    for (const [name, size] of Object.entries(files)) if (statSync(join(path, name)).size !== size) return undefined;
    return { path, score, bytes: sum(Object.values(files)), ...rest };
  } catch {
    return undefined; // half a manifest, or a file that is gone
  }
}
