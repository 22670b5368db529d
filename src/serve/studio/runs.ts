import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseRecipe } from "../../recipe/load.ts";
import { lockHolder } from "../../runs/lock.ts";
import type { RunDetail, RunEvent, RunSummary } from "../api.ts";
import { ApiError } from "../errors.ts";
import { readEvents } from "./event-log.ts";

/** The name of a folder of a run or a corpus: no separators, nothing hidden, no "..". */
export const folderName = /^[\p{L}\p{N}_][\p{L}\p{N}_. -]{0,127}$/u;

/** Reads the folder of runs. It never writes there. */
export class Runs {
  readonly #dir: string;
  /** What is known of each run's events up to a byte, so that a list of long runs stays cheap. */
  readonly #known = new Map<string, { offset: number; summary: RunSummary }>();

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @throws ApiError 404 */
  async folder(name: string): Promise<string> {
    const folder = join(this.#dir, name);
    if (folderName.test(name) && (await stat(folder).catch(() => undefined))?.isDirectory()) return folder;
    throw new ApiError(404, "run_not_found", `There is no run ${JSON.stringify(name)}.`);
  }

  /** Newest first. A folder counts as a run when it has a recipe or events. */
  async list(): Promise<RunSummary[]> {
    const entries = await readdir(this.#dir, { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    const runs: RunSummary[] = [];
    for (const entry of entries) {
      if (!entry.isDirectory() || !folderName.test(entry.name)) continue;
      const folder = join(this.#dir, entry.name);
      if (!((await isFile(`${folder}/events.jsonl`)) || (await isFile(`${folder}/recipe.yaml`)))) continue;
      runs.push(await this.#summary(entry.name, folder));
    }
    return runs.sort((a, b) => (b.updated ?? 0) - (a.updated ?? 0) || a.name.localeCompare(b.name));
  }

  /** @throws ApiError 404 */
  async detail(name: string): Promise<RunDetail> {
    const folder = await this.folder(name);
    const recipe = await text(`${folder}/recipe.yaml`);
    const hasReport = await isFile(`${folder}/report.md`);
    const { status } = await this.#summary(name, folder);
    return { name, status, hasReport, ...(recipe === undefined ? {} : { recipe, stages: stagesOf(folder, recipe) }) };
  }

  /** Markdown. @throws ApiError 404 */
  async report(name: string): Promise<string> {
    const report = await text(`${await this.folder(name)}/report.md`);
    if (report !== undefined) return report;
    throw new ApiError(404, "report_not_found", `The run ${JSON.stringify(name)} has no report yet.`);
  }

  async #summary(name: string, folder: string): Promise<RunSummary> {
    const known = this.#known.get(name) ?? { offset: 0, summary: { name, status: "empty" } as RunSummary };
    for (;;) {
      const page = await readEvents(`${folder}/events.jsonl`, known.offset);
      if (page.reset) known.summary = { name, status: "empty" };
      for (const event of page.events) known.summary = advance(known.summary, event);
      known.offset = page.next;
      if (!page.more) break;
    }
    this.#known.set(name, known);
    const { summary } = known;
    const dead = summary.status === "running" && lockHolder(`${folder}/run.lock`) === undefined;
    return dead ? { ...summary, status: "interrupted" } : summary;
  }
}

/** Names of the recipe's stages, for those that have not begun. None of a recipe that is broken by now: it is only shown. */
function stagesOf(folder: string, recipe: string): string[] {
  try {
    return parseRecipe(`${folder}/recipe.yaml`, recipe).recipe.stages.map((stage) => stage.kind);
  } catch {
    return [];
  }
}

/** `applyEvent` without the curves and samples, which a list of runs need not keep in memory. */
function advance(summary: RunSummary, event: RunEvent): RunSummary {
  const next: RunSummary = { ...summary, began: summary.began ?? event.t, updated: event.t };
  if (event.type === "run") {
    next.status = event.status === "started" || event.status === "resumed" ? "running" : event.status;
  }
  if (event.type === "stage") next.stage = { name: event.stage, index: event.index, count: event.count };
  return next;
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}

async function text(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
