import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { DedupeReport } from "../../data/build/dedupe.ts";
import type { DataReport } from "../../data/build/report.ts";
import { lockHolder } from "../../runs/lock.ts";
import type {
  CorpusComparison,
  CorpusDetail,
  CorpusReport,
  CorpusSummary,
  DocumentsPage,
  DocumentView,
  DuplicatesPage,
} from "../data-api.ts";
import { ApiError } from "../errors.ts";
import { compareCorpora } from "./compare.ts";
import {
  corpusFiles,
  type DocumentQuery,
  type Duplicates,
  findDocuments,
  readDocument,
  type ScanLimits,
  scanLimits,
} from "./documents.ts";
import { folderName } from "./runs.ts";

/** A list of files is good for this long: a search asks many times. */
const listedMs = 2000;
const othersShown = 50;

interface Kept<T> {
  readonly stamp: string;
  readonly value: T;
}

/** Reads the folder of corpora that `howdah data build` writes. It never writes there. */
export class Corpora {
  readonly dir: string;
  readonly #limits: ScanLimits;
  /** What was read of JSON files, by path, until they change. */
  readonly #read = new Map<string, Kept<unknown>>();
  readonly #maps = new WeakMap<object, Duplicates>();
  readonly #files = new Map<string, { at: number; files: Awaited<ReturnType<typeof corpusFiles>> }>();

  constructor(dir: string, limits: ScanLimits = scanLimits) {
    this.dir = dir;
    this.#limits = limits;
  }

  /** The one that changed last first. A folder is a corpus when it has a report, or a recipe and work on it. */
  async list(): Promise<CorpusSummary[]> {
    const entries = await readdir(this.dir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    const corpora: CorpusSummary[] = [];
    for (const name of entries) {
      const corpus = folderName.test(name) ? await this.#summary(name) : undefined;
      if (corpus) corpora.push(corpus);
    }
    return corpora.sort((a, b) => b.updated - a.updated || a.name.localeCompare(b.name));
  }

  /** @throws ApiError 404 */
  async detail(name: string): Promise<CorpusDetail> {
    const folder = await this.#folder(name);
    const { status, updated } = (await this.#summary(name))!;
    const recipe = await readFile(join(folder, "recipe.yaml"), "utf8").catch(() => undefined);
    const report = await this.#report(folder);
    return {
      name,
      status,
      updated,
      ...(recipe === undefined ? {} : { recipe }),
      ...(report === undefined ? {} : { report }),
    };
  }

  /** @throws ApiError 404 or 400 */
  async find(name: string, query: DocumentQuery, signal: AbortSignal): Promise<DocumentsPage> {
    const folder = await this.#folder(name);
    const duplicates = await this.#duplicates(folder);
    return findDocuments(folder, await this.#filesOf(folder, duplicates), duplicates, query, this.#limits, signal);
  }

  /** @throws ApiError 404, 400 or 413 */
  async document(name: string, at: string, from: number): Promise<DocumentView> {
    const folder = await this.#folder(name);
    const duplicates = await this.#duplicates(folder);
    return readDocument(folder, await this.#filesOf(folder, duplicates), duplicates, at, from, this.#limits);
  }

  /** Clusters of documents that are the same, the largest first. @throws ApiError 404 */
  async duplicates(name: string, from: number, limit: number): Promise<DuplicatesPage> {
    const folder = await this.#folder(name);
    const known = (await this.#report(folder))?.duplicates;
    const byKept = new Map<string, { id: string; kind: "exact" | "near" }[]>();
    const duplicates = await this.#duplicates(folder);
    for (const [id, { id: kept, kind }] of duplicates) {
      const others = byKept.get(kept) ?? [];
      others.push({ id, kind });
      byKept.set(kept, others);
    }
    const shown = new Map((known?.clusters ?? []).map((c) => [c.members[0]?.id, c]));
    // Without its work folder a corpus still has the clusters of its report.
    for (const [kept, { kind, members }] of shown)
      if (kept !== undefined && duplicates.size === 0)
        byKept.set(
          kept,
          members.slice(1).map(({ id }) => ({ id, kind })),
        );
    const clusters = [...byKept]
      .map(([kept, others]) => ({ kept, others, cluster: shown.get(kept) }))
      .map(({ kept, others, cluster }) => ({
        kept,
        kind: others.some((o) => o.kind === "near") ? ("near" as const) : ("exact" as const),
        size: Math.max(others.length + 1, cluster?.size ?? 0),
        others: others.slice(0, othersShown),
        texts: Object.fromEntries((cluster?.members ?? []).map((m) => [m.id, m.text])),
      }))
      .sort((a, b) => b.size - a.size || (a.kept < b.kept ? -1 : 1));
    const listed = duplicates.size;
    return {
      clusters: clusters.slice(from, from + limit),
      total: clusters.length,
      complete: known === undefined || listed >= known.exact + known.near,
    };
  }

  /** @throws ApiError 404, or 409 for one without a report */
  async compare(name: string, other: string): Promise<CorpusComparison> {
    const [a, b] = [await this.detail(name), await this.detail(other)];
    const side = ({ report, recipe, name }: CorpusDetail) => {
      if (report !== undefined) return { name, report, recipe };
      const message = `The corpus ${JSON.stringify(name)} has no report yet: let its job end, then compare.`;
      throw new ApiError(409, "corpus_unfinished", message);
    };
    return compareCorpora(side(a), side(b));
  }

  /** @throws ApiError 404 */
  async #folder(name: string): Promise<string> {
    if (folderName.test(name) && (await this.#summary(name))) return join(this.dir, name);
    throw new ApiError(404, "corpus_not_found", `There is no corpus ${JSON.stringify(name)}.`);
  }

  async #summary(name: string): Promise<CorpusSummary | undefined> {
    const folder = join(this.dir, name);
    const at = async (file: string) => await stat(join(folder, file)).catch(() => undefined);
    const [reported, recipe] = [await at("report.json"), await at("recipe.yaml")];
    const made = reported?.isFile() || (recipe?.isFile() && ((await at("work")) ?? (await at("build.lock"))));
    if (!made) return undefined;
    const report = await this.#report(folder);
    const running = lockHolder(join(folder, "build.lock")) !== undefined;
    return {
      name,
      status: running ? "running" : report === undefined ? "unfinished" : "finished",
      updated: Math.round(reported?.mtimeMs ?? recipe?.mtimeMs ?? 0),
      ...(report === undefined
        ? {}
        : { documents: report.final.documents, bytes: report.final.bytes, tokens: report.final.tokens }),
    };
  }

  /** The report, or undefined where there is none that this version reads. */
  async #report(folder: string): Promise<CorpusReport | undefined> {
    const report: DataReport | undefined = await this.#json(join(folder, "report.json"));
    return report?.version === 1 ? report : undefined;
  }

  async #duplicates(folder: string): Promise<Duplicates> {
    const done = await this.#json<{ result: DedupeReport }>(join(folder, "work", "dedup.json"));
    if (done === undefined) return new Map();
    const known = this.#maps.get(done);
    if (known) return known;
    const map = new Map<string, { id: string; kind: "exact" | "near" }>();
    for (const { id, kept, kind } of done.result.dropped) if (id !== "") map.set(id, { id: kept, kind });
    this.#maps.set(done, map);
    return map;
  }

  async #filesOf(folder: string, duplicates: Duplicates): Promise<Awaited<ReturnType<typeof corpusFiles>>> {
    const known = this.#files.get(folder);
    if (known && Date.now() - known.at < listedMs) return known.files;
    const files = await corpusFiles(folder, duplicates);
    this.#files.set(folder, { at: Date.now(), files });
    return files;
  }

  /** A JSON file that the job wrote, kept until it changes; undefined where there is none, or none that is whole. */
  async #json<T>(path: string): Promise<T | undefined> {
    const info = await stat(path).catch(() => undefined);
    if (info === undefined) return undefined;
    const stamp = `${info.size} ${info.mtimeMs} ${info.ino}`;
    const known = this.#read.get(path) as Kept<T | undefined> | undefined;
    if (known?.stamp === stamp) return known.value;
    const text = await readFile(path, "utf8").catch(() => undefined);
    let value: T | undefined;
    try {
      value = text === undefined ? undefined : (JSON.parse(text) as T);
    } catch {
      value = undefined;
    }
    this.#read.set(path, { stamp, value });
    return value;
  }
}
