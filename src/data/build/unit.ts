import { join } from "node:path";
import { makeFolder, writeFileAtomic } from "../../runs/atomic.ts";
import { InputError } from "../../tensor/errors.ts";
import { clean, type Filter, type Reason } from "../clean/filter.ts";
import { guessLanguage, loadLanguages } from "../clean/language.ts";
import { cutLeaks, LeakFinder } from "../dedup/decontaminate.ts";
import { comparable } from "../dedup/exact.ts";
import { hash64 } from "../dedup/hash.ts";
import { chooseBanding, MinHasher, shingles } from "../dedup/minhash.ts";
import { type Document, type Item, isProblem, isRaw, type Problem, type Raw } from "../document.ts";
import { extractRaw } from "../extract/raw.ts";
import type { Input } from "../sources/files.ts";
import { readDocuments, readInput } from "../sources/read.ts";
import { makeFilters } from "./filters.ts";
import { SHOWN } from "./lines.ts";
import { PartFile } from "./part-file.ts";
import type { DataRecipe, DataSource, FilterStep, NearStep } from "./recipe.ts";

/** What is done with one input: everything that decides its result, and where that goes. */
export interface UnitTask {
  readonly key: string;
  readonly folder: string;
  readonly input: Input;
  readonly source: Pick<DataSource, "name" | "licence" | "language" | "text_field" | "keep" | "limit">;
  readonly steps: readonly FilterStep[];
  /** The quality classifier's file. */
  readonly quality?: string;
  readonly near?: NearStep;
  readonly decontaminate?: DataRecipe["decontaminate"];
}

/** A document that stays after cleaning, as it lies in the unit's file. */
export interface KeptDocument extends Document {
  /** As guessed from the text. */
  readonly lang: string;
}
/** A document that went, with the beginning of its text. */
export interface DroppedDocument {
  readonly id: string;
  readonly source: string;
  readonly reason: Reason;
  readonly text: string;
  /** As guessed from the text. Not in what older versions wrote. */
  readonly lang?: string;
  readonly title?: string;
  readonly url?: string;
}
export interface UnitResult {
  readonly key: string;
  readonly path: string;
  readonly source: string;
  readonly documents: number;
  readonly bytes: number;
  readonly kept: number;
  readonly keptBytes: number;
  /** By `filter/rule`. */
  readonly dropped: Readonly<Record<string, number>>;
  readonly taken: Readonly<Record<string, number>>;
  readonly languages: Readonly<Record<string, number>>;
  readonly licences: Readonly<Record<string, number>>;
  readonly formats: Readonly<Record<string, number>>;
  /** Kept documents by the power of two below their length in characters. */
  readonly lengths: Readonly<Record<string, number>>;
  readonly leaks: Readonly<Record<string, number>>;
  readonly problems: readonly Problem[];
  readonly problemCount: number;
  /** Of the documents that stay. Not in what older versions wrote. */
  readonly hash?: string;
  readonly seconds: number;
}

/** Documents, bytes of their text, and bytes of the input that were read, since the last call. */
export type UnitProgress = (documents: number, bytes: number, read: number) => void;

export const unitFiles = (folder: string, key: string) => ({
  documents: join(folder, `${key}.docs.jsonl`),
  dropped: join(folder, `${key}.dropped.jsonl`),
  signatures: join(folder, `${key}.signatures`),
  result: join(folder, `${key}.json`),
});

/** What became of a document, as whoever worked it off says it to whoever writes it down. */
interface Worked {
  readonly bytes: number;
  readonly mediaType: string;
  readonly taken: Readonly<Record<string, number>>;
  /** Evaluations of which it has words. */
  readonly leaks: readonly string[];
  readonly kept: readonly {
    readonly line: string;
    readonly bytes: number;
    readonly length: number;
    readonly lang: string;
    readonly licence: string;
    readonly signature: Uint8Array;
  }[];
  readonly dropped?: { readonly rule: string; readonly line: string };
}
/** In the order of the documents and problems of what was read. */
export type Done = Worked | Problem;
export type Read = Item | Raw;

/** Threads that work off what the unit's own thread reads. */
export interface Helpers {
  /** @returns undefined when all have enough to do */
  give(items: readonly Read[]): Promise<readonly Done[]> | undefined;
  /** Batches that all of them together may have. */
  readonly room: number;
}
const nobody: Helpers = { give: () => undefined, room: 0 };

/** Of a batch, items and bytes: small enough that threads end together. */
const BATCH_ITEMS = 32;
const BATCH_BYTES = 2 ** 16;

/** What many units of a worker share, made once. */
export class UnitWorker {
  readonly #filters = new Map<string, readonly Filter[]>();
  readonly #leaks = new Map<string, LeakFinder>();
  readonly #hashers = new Map<string, MinHasher>();

  async #filtersOf(task: UnitTask): Promise<readonly Filter[]> {
    const key = JSON.stringify([task.steps, task.quality]);
    let found = this.#filters.get(key);
    if (!found) {
      found = await makeFilters(task.steps, task.quality);
      this.#filters.set(key, found);
    }
    return found;
  }

  async #leaksOf(task: UnitTask): Promise<LeakFinder | undefined> {
    const config = task.decontaminate;
    if (!config) return undefined;
    const key = JSON.stringify(config);
    let found = this.#leaks.get(key);
    if (!found) {
      found = await makeLeakFinder(config);
      this.#leaks.set(key, found);
    }
    return found;
  }

  #hasherOf(near: NearStep): MinHasher {
    const key = JSON.stringify(near);
    let found = this.#hashers.get(key);
    if (!found) {
      const { bands, rows } = chooseBanding(near.threshold, near.permutations, near.verify ? 0.95 : 0.5);
      found = new MinHasher(bands * rows);
      this.#hashers.set(key, found);
    }
    return found;
  }

  /** Extracts, cleans and signs what was read of a task's input: a function of the items alone, in whatever thread. */
  async prepare(task: UnitTask): Promise<(items: readonly Read[]) => Promise<Done[]>> {
    await loadLanguages();
    const filters = await this.#filtersOf(task);
    const leaks = await this.#leaksOf(task);
    const hasher = task.near && this.#hasherOf(task.near);
    const keep = (document: Document, lang: string): Worked["kept"][number] => {
      const hash = new Uint32Array(2);
      hash64(comparable(document.text), hash);
      const near =
        task.near && hasher ? hasher.signature(shingles(document.text, task.near.ngram)) : new Uint32Array(0);
      return {
        line: `${JSON.stringify({ ...document, lang })}\n`,
        bytes: Buffer.byteLength(document.text),
        length: document.text.length,
        lang,
        licence: document.meta.licence ?? "unknown",
        signature: new Uint8Array(Uint32Array.of(...hash, ...near).buffer),
      };
    };
    const drop = (document: Document, text: string, reason: Reason, lang: string): NonNullable<Worked["dropped"]> => {
      const { title, url } = document.meta;
      const line: DroppedDocument = {
        id: document.id,
        source: document.source,
        reason,
        text: text.slice(0, SHOWN),
        lang,
        ...(title === undefined ? {} : { title }),
        ...(url === undefined ? {} : { url }),
      };
      return { rule: `${reason.filter}/${reason.rule}`, line: `${JSON.stringify(line)}\n` };
    };
    const work = (item: Item): Done => {
      if (isProblem(item)) return item;
      const { language } = guessLanguage(item.text);
      const cleaned = clean(filters, item.text, language === "und" ? "en" : language);
      const about = {
        bytes: Buffer.byteLength(item.text),
        mediaType: item.meta.mediaType ?? "unknown",
        taken: cleaned.taken,
        leaks: [] as readonly string[],
        kept: [],
      };
      if (cleaned.reason) return { ...about, dropped: drop(item, cleaned.text, cleaned.reason, language) };
      if (cleaned.text.trim() === "") {
        const why = "Nothing was left of it.";
        const reason = { filter: "clean", rule: "empty", value: 0, threshold: 1, why };
        return { ...about, dropped: drop(item, item.text, reason, language) };
      }
      const found = leaks?.find(cleaned.text) ?? [];
      if (found.length === 0) return { ...about, kept: [keep({ ...item, text: cleaned.text }, language)] };
      about.leaks = [...new Set(found.map((l) => l.evaluation))];
      const cuts = task.decontaminate?.mode === "cut";
      const pieces = cuts ? cutLeaks(cleaned.text, found) : [];
      if (pieces.length > 0)
        return { ...about, kept: pieces.map((text, i) => keep({ ...item, id: `${item.id}~${i}`, text }, language)) };
      const { evaluation, item: at, start: from, end } = found[0]!;
      const shown = JSON.stringify(cleaned.text.slice(from, Math.min(end, from + 80)));
      const cut = cuts ? " What is left without them is too short." : "";
      const why = `It has words of ${evaluation}, item ${at}: ${shown}.${cut}`;
      const reason = { filter: "decontaminate", rule: evaluation, value: found.length, threshold: 0, why };
      return { ...about, dropped: drop(item, cleaned.text, reason, language) };
    };
    return async (items) => {
      const done: Done[] = [];
      for (const item of items)
        if (isRaw(item)) for await (const one of extractRaw(item)) done.push(work(one));
        else done.push(work(item));
      return done;
    };
  }

  /**
   * Reads one input, and cleans and signs what is in it, with what help there is. The result's own file comes last: where it is, the others are whole.
   */
  async run(
    task: UnitTask,
    onProgress: UnitProgress,
    signal?: AbortSignal,
    helpers: Helpers = nobody,
  ): Promise<UnitResult> {
    const start = performance.now();
    const work = await this.prepare(task);
    makeFolder(task.folder);
    const files = unitFiles(task.folder, task.key);
    using documents = new PartFile(files.documents);
    using dropped = new PartFile(files.dropped);
    using signatures = new PartFile(files.signatures);
    const result = {
      key: task.key,
      path: task.input.path,
      source: task.source.name,
      documents: 0,
      bytes: 0,
      kept: 0,
      keptBytes: 0,
      dropped: {} as Record<string, number>,
      taken: {} as Record<string, number>,
      languages: {} as Record<string, number>,
      licences: {} as Record<string, number>,
      formats: {} as Record<string, number>,
      lengths: {} as Record<string, number>,
      leaks: {} as Record<string, number>,
      problems: [] as Problem[],
      problemCount: 0,
      hash: "",
      seconds: 0,
    };
    const add = (to: Record<string, number>, key: string, n = 1) => {
      to[key] = (to[key] ?? 0) + n;
    };
    const write = (done: Done) => {
      if (isProblem(done)) {
        result.problemCount++;
        if (result.problems.length < 50) result.problems.push(done);
        return;
      }
      result.documents++;
      result.bytes += done.bytes;
      add(result.formats, done.mediaType);
      for (const [rule, n] of Object.entries(done.taken)) add(result.taken, rule, n);
      for (const name of done.leaks) add(result.leaks, name);
      for (const one of done.kept) {
        result.kept++;
        result.keptBytes += one.bytes;
        add(result.languages, one.lang);
        add(result.licences, one.licence);
        add(result.lengths, String(2 ** Math.floor(Math.log2(Math.max(one.length, 1)))));
        documents.write(one.line);
        signatures.write(one.signature);
      }
      if (done.dropped) {
        add(result.dropped, done.dropped.rule);
        dropped.write(done.dropped.line);
      }
      onProgress(1, done.bytes, 0);
    };
    const size = task.input.size ?? 0;
    let seen = 0;
    // Archives look at some places twice: never more than there is.
    const onBytes = (count: number) => {
      const more = Math.min(count, size - seen);
      seen += more;
      if (more > 0) onProgress(0, 0, more);
    };
    const { name, licence, language, text_field: textField, keep: fields, limit } = task.source;
    const options = {
      name,
      keep: fields,
      onBytes,
      ...(licence === undefined ? {} : { licence }),
      ...(language === undefined ? {} : { language }),
      ...(textField === undefined ? {} : { textField }),
    };
    const most = Math.min(BATCH_ITEMS, limit ?? BATCH_ITEMS);
    for await (const done of inOrder(readInput(task.input, options, signal), most, work, helpers)) {
      signal?.throwIfAborted();
      write(done);
      if (limit !== undefined && result.documents >= limit) break;
    }
    result.hash = documents.finish();
    dropped.finish();
    signatures.finish();
    onProgress(0, 0, size - seen);
    result.seconds = (performance.now() - start) / 1000;
    writeFileAtomic(files.result, JSON.stringify(result));
    return result;
  }
}

/** Works off what is read, batch by batch, here and in helping threads. What comes of it comes in the order of reading. */
async function* inOrder(
  items: AsyncIterable<Read>,
  most: number,
  work: (items: readonly Read[]) => Promise<readonly Done[]>,
  helpers: Helpers,
): AsyncGenerator<Done> {
  /** Batches under way, in order. */
  const ahead: { promise: Promise<readonly Done[]>; ready: boolean }[] = [];
  const begin = async (batch: readonly Read[]) => {
    const given = helpers.give(batch);
    const one = { promise: given ?? work(batch), ready: given === undefined };
    ahead.push(one);
    // An error is met when the batch's turn comes.
    if (given) given.then(() => (one.ready = true)).catch(() => {});
    else await one.promise;
  };
  const take = async function* (all: boolean) {
    while (ahead.length > 0 && (all || ahead[0]!.ready || ahead.length > 2 * helpers.room + 2))
      yield* await ahead.shift()!.promise;
  };
  let batch: Read[] = [];
  let bytes = 0;
  for await (const item of items) {
    batch.push(item);
    bytes += isRaw(item) ? item.bytes.length : isProblem(item) ? 0 : item.text.length;
    if (batch.length < most && bytes < BATCH_BYTES) continue;
    await begin(batch);
    yield* take(false);
    batch = [];
    bytes = 0;
  }
  if (batch.length > 0) await begin(batch);
  yield* take(true);
}

/**
 * Reads the evaluations that the corpus must not hold.
 * @throws InputError when one of them cannot be read whole: what is missing of it would not be looked for
 */
export async function makeLeakFinder(config: NonNullable<DataRecipe["decontaminate"]>): Promise<LeakFinder> {
  const finder = new LeakFinder({ ngram: config.ngram });
  for (const { name, paths, fields } of config.evaluations) {
    const items: string[] = [];
    const options = fields === undefined ? {} : { textField: fields[0]!, keep: fields };
    for await (const item of readDocuments(paths, options)) {
      if (isProblem(item))
        throw new InputError(
          `decontaminate: the evaluation "${name}" cannot be read whole. ${item.path}: ${item.reason} Mend it or leave it out.`,
        );
      const extra = item.meta.extra ?? {};
      items.push(
        fields === undefined
          ? item.text
          : [item.text, ...fields.slice(1).map((f) => String(extra[f] ?? ""))].join("\n"),
      );
    }
    finder.add(name, items);
  }
  return finder;
}
