import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { explainWrite, makeFolder, requireSpace, writeFileAtomic } from "../../runs/atomic.ts";
import { acquireLock } from "../../runs/lock.ts";
import { HowdahError, InputError } from "../../tensor/errors.ts";
import { loadTokenizer } from "../../tokenizers/load.ts";
import { trainByteLevel } from "../../tokenizers/train.ts";
import type { Tokenizer } from "../../tokenizers/types.ts";
import { QualityClassifier } from "../clean/quality.ts";
import type { Problem } from "../document.ts";
import { uniform } from "../random.ts";
import { type Input, systemProblem } from "../sources/files.ts";
import { listInputs } from "../sources/read.ts";
import { sha256 } from "../text.ts";
import { type DedupeReport, dedupe } from "./dedupe.ts";
import { sampleTexts } from "./filters.ts";
import { indexFile, indexPath } from "./grams.ts";
import { jsonLines } from "./lines.ts";
import { runUnits } from "./pool.ts";
import { type DataRecipe, type DataSource, writeDataRecipe } from "./recipe.ts";
import { type DataReport, makeReport, reportMarkdown } from "./report.ts";
import { type Mixed, writeShards } from "./shards.ts";
import { type EncodedFile, encodeFiles, idHash } from "./tokens.ts";
import { type KeptDocument, makeLeakFinder, type UnitResult, type UnitTask, unitFiles } from "./unit.ts";

/** Changed when a stage gives something else for the same input: what older versions made is then made again. */
const VERSION = 2;

export const dataStages = ["read", "dedup", "tokenizer", "tokens", "shards", "index", "report"] as const;
export type DataStage = (typeof dataStages)[number];

export interface DataProgress {
  readonly stage: DataStage;
  /** In units of the stage: inputs, documents, bytes, tokens. */
  readonly done: number;
  readonly total: number | undefined;
  readonly documents: number;
  readonly bytes: number;
  /** Of the stage's work, 0 to 1: of bytes where inputs are read, so that one large file moves too. */
  readonly share: number | undefined;
  /** Of this sitting. */
  readonly seconds: number;
  /** Of the stage; undefined until there is something to judge by. */
  readonly secondsLeft: number | undefined;
}

export interface BuildOptions {
  /** Threads that read and clean; 0: in this one. Default every core. */
  readonly workers: number;
  readonly onProgress?: (progress: DataProgress) => void;
  /** A line for people, such as what was found done. */
  readonly say?: (line: string) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface BuildResult {
  readonly out: string;
  readonly report: DataReport;
  /** Stages of which nothing had to be done again. */
  readonly reused: readonly DataStage[];
}

const keyOf = (...parts: readonly unknown[]): string =>
  sha256(Buffer.from(JSON.stringify([VERSION, ...parts]))).slice(0, 24);

/** A stage's result, if its marker is there and was made from the same. */
function readDone<T>(path: string, key: string): T | undefined {
  try {
    const done = JSON.parse(readFileSync(path, "utf8")) as { key: string; result: T };
    return done.key === key ? done.result : undefined;
  } catch {
    return undefined; // not there, or cut off: made again
  }
}
const writeDone = (path: string, key: string, result: unknown) =>
  writeFileAtomic(path, JSON.stringify({ key, result }));

/**
 * Builds a corpus: reads and cleans every input (on several threads), takes duplicates out, learns a tokenizer, and writes mixed token shards and a report
 * into the recipe's folder. Each stage is kept with a hash of all it was made from: a job that was stopped or killed goes on where it was, and a changed
 * recipe does again only what the change touches. The result does not depend on the number of workers.
 * @throws InputError when the recipe cannot be followed; HowdahError ("nothing-read") when no document could be read
 */
export async function buildCorpus(recipe: DataRecipe, options: BuildOptions): Promise<BuildResult> {
  const { out } = recipe;
  try {
    makeFolder(out);
    const lock = acquireLock(join(out, "build.lock"), `The corpus ${out}`);
    try {
      return await new Build(recipe, options).run();
    } finally {
      lock.release();
    }
  } catch (error) {
    throw explainWrite(error, out, "What was finished before is kept; make room and run the same command again.");
  }
}

/** An input's task, of so many documents at most. */
type Plan = (limit: number | undefined) => UnitTask;

/** Whether a problem may be gone when the job is run again: a server that answers, a package that was installed, a permission that was given. */
function mayPass({ code, reason }: Problem): boolean {
  if (code !== "package") return code === "network" || code === "unreadable" || code === "missing";
  const [, name] = /npm install ([\w@/-]+)/.exec(reason) ?? [];
  try {
    return name === undefined || import.meta.resolve(name) !== "";
  } catch {
    return false;
  }
}

class Build {
  readonly recipe: DataRecipe;
  readonly options: BuildOptions;
  readonly work: string;
  readonly reused: DataStage[] = [];
  readonly seconds: Record<string, number> = {};
  #stage: { name: DataStage; start: number; first: number | undefined } = { name: "read", start: 0, first: undefined };
  #told = 0;

  constructor(recipe: DataRecipe, options: BuildOptions) {
    this.recipe = recipe;
    this.options = options;
    this.work = join(recipe.out, "work");
  }

  #begin(name: DataStage): void {
    this.options.signal?.throwIfAborted();
    this.#stage = { name, start: performance.now(), first: undefined };
    this.#told = 0;
  }
  #end(name: DataStage): void {
    this.seconds[name] = (performance.now() - this.#stage.start) / 1000;
  }
  #tell(
    done: number,
    total: number | undefined,
    documents: number,
    bytes: number,
    last = false,
    share = total === undefined || total === 0 ? undefined : done / total,
  ): void {
    const now = performance.now();
    if (!last && now - this.#told < 100) return;
    this.#told = now;
    const seconds = (now - this.#stage.start) / 1000;
    this.#stage.first ??= share;
    const moved = share === undefined ? 0 : share - this.#stage.first!;
    const secondsLeft = moved <= 0 || seconds < 1 ? undefined : ((1 - share!) * seconds) / moved;
    this.options.onProgress?.({ stage: this.#stage.name, done, total, share, documents, bytes, seconds, secondsLeft });
  }

  async run(): Promise<BuildResult> {
    const { recipe, options } = this;
    writeFileAtomic(join(recipe.out, "recipe.yaml"), writeDataRecipe(recipe));
    const { plans, problems } = await this.#list();
    const units = await this.#read(plans, problems);
    const { deduped, dedupKey } = await this.#dedup(units);
    const { tokenizer, tokenizerKey } = await this.#tokenizer(deduped, dedupKey);
    const encoded = await this.#tokens(deduped, tokenizer, tokenizerKey);
    const mixed = await this.#shards(
      tokenizer,
      encoded,
      keyOf(
        dedupKey,
        tokenizerKey,
        "with the tokenizer's hash",
        recipe.mix,
        recipe.shards,
        recipe.seed,
        recipe.sources.map((s) => [s.name, s.weight, s.epochs, s.licence]),
      ),
    );
    await this.#index(deduped, units);
    this.#begin("report");
    this.#tell(deduped.files.length, deduped.files.length, 0, 0, true);
    const bytes = Object.values(deduped.sources).reduce((n, s) => n + s.bytes, 0);
    const tokens = encoded.reduce((n, file) => n + file.lengths.reduce((a, b) => a + b, 0), 0);
    const report = makeReport({
      recipe,
      folder: join(this.work, "units"),
      units,
      problems,
      dedupe: deduped,
      shares: mixed.shares,
      realised: mixed.realised,
      tokenizer: { vocabulary: tokenizer.vocabularySize, bytesPerToken: tokens === 0 ? 0 : bytes / tokens },
      shards: mixed.shards,
      holdout: mixed.holdout,
      seconds: this.seconds,
    });
    writeFileAtomic(join(recipe.out, "report.json"), `${JSON.stringify(report, undefined, 1)}\n`);
    writeFileAtomic(join(recipe.out, "report.md"), reportMarkdown(report));
    this.#end("report");
    this.#clean(units);
    options.signal?.throwIfAborted();
    return { out: recipe.out, report, reused: this.reused };
  }

  /** Everything that is to be read, in the order of the recipe and of names: the plans of a source, one an input. */
  async #list(): Promise<{ plans: Plan[][]; problems: Problem[] }> {
    const { recipe, work } = this;
    const { signal } = this.options;
    const plans: Plan[][] = [];
    const problems: Problem[] = [];
    let bytes = 0;
    const { decontaminate } = recipe;
    // Evaluations that cannot be read end the job now, not in a thread an hour later.
    const leaks = decontaminate && (await makeLeakFinder(decontaminate));
    for (const e of leaks?.evaluations ?? [])
      if (e.items === 0)
        throw new InputError(`decontaminate: the evaluation "${e.name}" has no items. Look at its paths and fields.`);
    for (const source of recipe.sources) {
      const inputs: Input[] = [];
      for await (const item of listInputs(source.paths, { name: source.name }, signal)) {
        if ("reason" in item) problems.push(item);
        else inputs.push(item);
      }
      if (inputs.length === 0) {
        const [why] = problems.filter((p) => p.source === source.name);
        throw new InputError(
          `The source "${source.name}" has nothing to read: no file of a known kind in ${source.paths.join(", ")}.${why ? ` ${why.path}: ${why.reason}` : ""}`,
        );
      }
      const quality = await this.#quality(source, inputs);
      const beside = await this.#beside(source);
      const near = recipe.dedup.near === false ? undefined : recipe.dedup.near;
      plans.push(
        inputs.map((input): Plan => {
          bytes += input.size ?? 0;
          return (limit) => {
            const about = {
              name: source.name,
              licence: source.licence,
              language: source.language,
              text_field: source.text_field,
              keep: source.keep,
              limit,
            };
            const key = keyOf(
              about,
              input.name,
              input.path,
              this.#stamp(input),
              source.clean,
              quality,
              near,
              decontaminate,
              leaks?.fingerprint,
              ...beside,
            );
            return {
              key,
              folder: join(work, "units"),
              input,
              source: about,
              steps: source.clean,
              ...(quality === undefined ? {} : { quality }),
              ...(near === undefined ? {} : { near }),
              ...(decontaminate === undefined ? {} : { decontaminate }),
            };
          };
        }),
      );
    }
    // Kept and dropped texts, documents and tokens: about three times what is read, where it is not packed.
    requireSpace(recipe.out, 3 * bytes, `The corpus ${recipe.name}`);
    return { plans, problems };
  }

  /** What tells the files that a source's filters are made from, word lists and good texts, from edited ones. */
  async #beside(source: DataSource): Promise<unknown[]> {
    const stamps: unknown[] = [];
    for (const step of source.clean) {
      if (step.name === "word_list") {
        try {
          stamps.push(sha256(readFileSync(step.file)));
        } catch (error) {
          throw new InputError(`word_list: ${step.file} cannot be read: ${systemProblem(error).message}`, {
            cause: error,
          });
        }
      } else if (step.name === "perplexity") stamps.push(...(await this.#stamps(step.good)));
    }
    return stamps;
  }

  async #stamps(paths: readonly string[]): Promise<unknown[]> {
    const stamps: unknown[] = [];
    for await (const item of listInputs(paths, {}, this.options.signal))
      stamps.push("reason" in item ? [item.path, item.code] : [item.path, this.#stamp(item)]);
    return stamps;
  }

  /** What tells a file from an edited one of the same name. */
  #stamp(input: Input): unknown {
    if (input.kind === "url") return "url";
    try {
      const { size, mtimeMs } = statSync(input.path);
      return [size, mtimeMs];
    } catch {
      return "gone";
    }
  }

  /** Trains the classifier of a source that wants one, on known-good texts against its own; the file, named by what it was made from. */
  async #quality(source: DataSource, inputs: readonly Input[]): Promise<string | undefined> {
    const step = source.clean.find((s) => s.name === "quality");
    if (step?.name !== "quality") return undefined;
    const { signal, say } = this.options;
    const key = keyOf(
      "quality",
      step,
      source.paths,
      inputs.map((i) => [i.path, this.#stamp(i)]),
      await this.#stamps(step.good),
      this.recipe.seed,
    );
    const path = join(this.work, `quality-${key}.json`);
    if (existsSync(path)) return path;
    say?.(`learning what good text is for ${source.name}`);
    const good = await sampleTexts(step.good, step.sample, signal);
    const other = await sampleTexts(source.paths, step.sample, signal);
    const classifier = await QualityClassifier.train(good, other, { seed: this.recipe.seed });
    makeFolder(this.work);
    writeFileAtomic(path, JSON.stringify(classifier));
    return path;
  }

  /** What a task gave before, unless something stood in its way that may be gone by now. */
  #readBefore({ folder, key }: UnitTask): UnitResult | undefined {
    try {
      const result = JSON.parse(readFileSync(unitFiles(folder, key).result, "utf8")) as UnitResult;
      return result.problems.some(mayPass) ? undefined : result;
    } catch {
      return undefined; // not done yet
    }
  }

  async #read(plans: readonly (readonly Plan[])[], problems: readonly Problem[]): Promise<UnitResult[]> {
    this.#begin("read");
    const { workers, signal, say } = this.options;
    const { sources } = this.recipe;
    const sizeOf = (t: UnitTask) => t.input.size ?? 0;
    const bySource = plans.map((list, i) => list.map((plan) => plan(sources[i]!.limit)));
    const tasks = bySource.flat();
    const all = new Map(tasks.map((t) => [t.key, t]));
    const allBytes = tasks.reduce((n, t) => n + sizeOf(t), 0);
    const results = new Map<string, UnitResult>();
    let [documents, bytes, read, done, fresh] = [0, 0, 0, 0, 0];
    const tell = (last = false) =>
      this.#tell(done, all.size, documents, bytes, last, allBytes > 0 ? Math.min(1, read / allBytes) : undefined);
    const run = async (list: readonly UnitTask[]): Promise<void> => {
      const left: UnitTask[] = [];
      for (const task of list) {
        if (results.has(task.key)) continue;
        const before = this.#readBefore(task);
        if (before === undefined) left.push(task);
        else {
          results.set(task.key, before);
          done++;
          read += sizeOf(task);
        }
      }
      if (left.length === 0) return;
      if (left.length < list.length) say?.(`${list.length - left.length} of ${list.length} inputs were read before`);
      fresh += left.length;
      for (const { key } of left)
        for (const path of Object.values(unitFiles("", key)))
          rmSync(join(this.recipe.out, indexPath(`work/units/${basename(path)}`)), { force: true });
      tell();
      // Large inputs first, so that no thread ends with the largest one alone; what they give is put in order below.
      await runUnits(
        left.sort((a, b) => sizeOf(b) - sizeOf(a)),
        {
          workers,
          signal,
          onProgress: (d, b, r) => {
            documents += d;
            bytes += b;
            read += r;
            tell();
          },
          onResult: (result) => {
            results.set(result.key, result);
            done++;
            tell(done >= all.size);
          },
        },
      );
    };
    await run(bySource.flatMap((list, i) => (sources[i]!.limit === undefined ? list : [])));
    const units: UnitResult[] = [];
    for (const [i, list] of bySource.entries()) {
      let left = sources[i]!.limit;
      if (left === undefined) {
        units.push(...list.map((t) => results.get(t.key)!));
        continue;
      }
      // The first documents of the source, in order. More inputs at a time as they turn out to be small; which ones, no thread decides.
      for (let [at, many] = [0, 1]; at < list.length && left > 0; at += many, many = Math.min(16, 2 * many)) {
        const most = left;
        const wave = plans[i]!.slice(at, at + many).map((plan) => plan(most));
        await run(wave);
        for (const [k, task] of wave.entries()) {
          let result = results.get(task.key)!;
          if (left > 0 && result.documents > left) {
            const exact = plans[i]![at + k]!(left);
            await run([exact]);
            result = results.get(exact.key)!;
          }
          if (left > 0) units.push(result);
          left -= result.documents;
        }
      }
    }
    if (fresh === 0) this.reused.push("read");
    this.#end("read");
    if (units.every((u) => u.documents === 0)) {
      const all = [...problems, ...units.flatMap((u) => u.problems)];
      const shown = all.slice(0, 3).map((p) => `${p.path}: ${p.reason}`);
      throw new HowdahError(
        "nothing-read",
        `No document could be read from ${units.length} inputs. ${shown.join(" ")}`,
      );
    }
    return units;
  }

  async #dedup(units: readonly UnitResult[]): Promise<{ deduped: DedupeReport; dedupKey: string }> {
    this.#begin("dedup");
    const { memory: _, ...settings } = this.recipe.dedup;
    const dedupKey = keyOf(
      "dedup, with hashes",
      units.map((u) => [u.hash ?? u.key, u.source]),
      settings,
    );
    const marker = join(this.work, "dedup.json");
    const folder = join(this.recipe.out, "documents");
    let deduped = readDone<DedupeReport>(marker, dedupKey);
    if (deduped?.files.every((f) => existsSync(f.path))) this.reused.push("dedup");
    else {
      rmSync(marker, { force: true });
      rmSync(folder, { recursive: true, force: true });
      rmSync(join(this.work, "index"), { recursive: true, force: true });
      this.#spills();
      const total = units.reduce((n, u) => n + u.kept, 0);
      deduped = await dedupe(units, join(this.work, "units"), folder, this.recipe.dedup, (n) => {
        this.options.signal?.throwIfAborted();
        this.#tell(n, total, n, 0);
      });
      writeDone(marker, dedupKey, deduped);
    }
    if (deduped.files.length === 0) {
      const rules = Object.entries(
        units
          .flatMap((u) => Object.entries(u.dropped))
          .reduce<Record<string, number>>((all, [rule, n]) => {
            all[rule] = (all[rule] ?? 0) + n;
            return all;
          }, {}),
      ).sort((a, b) => b[1] - a[1]);
      throw new InputError(
        `No document is left after cleaning. The filters took: ${rules
          .slice(0, 5)
          .map(([rule, n]) => `${rule} ${n}`)
          .join(", ")}. Loosen them, or look at the texts with \`howdah data extract\`.`,
      );
    }
    this.#end("dedup");
    return { deduped, dedupKey };
  }

  async #tokenizer(deduped: DedupeReport, dedupKey: string): Promise<{ tokenizer: Tokenizer; tokenizerKey: string }> {
    this.#begin("tokenizer");
    const { recipe } = this;
    const folder = join(recipe.out, "tokenizer");
    if ("path" in recipe.tokenizer) {
      const tokenizer = await loadTokenizer(recipe.tokenizer.path);
      // A copy, so that the corpus goes with its tokenizer; its files are what counts, not where they were.
      await tokenizer.save(folder);
      this.#end("tokenizer");
      return {
        tokenizer,
        tokenizerKey: keyOf(
          readdirSync(folder)
            .sort()
            .map((name) => sha256(readFileSync(join(folder, name)))),
        ),
      };
    }
    const { vocabulary, sample } = recipe.tokenizer;
    const tokenizerKey = keyOf("tokenizer", dedupKey, vocabulary, sample, recipe.seed);
    const marker = join(this.work, "tokenizer.json");
    if (readDone<true>(marker, tokenizerKey) && existsSync(join(folder, "tokenizer.json"))) {
      this.reused.push("tokenizer");
      this.#end("tokenizer");
      return { tokenizer: await loadTokenizer(folder), tokenizerKey };
    }
    const total = Object.values(deduped.sources).reduce((n, s) => n + s.bytes, 0);
    const share = Math.min(1, sample / total);
    const { seed } = recipe;
    const signal = this.options.signal;
    const texts = function* () {
      for (const { path } of deduped.files)
        for (const { id, text } of jsonLines<KeptDocument>(path)) {
          signal?.throwIfAborted();
          if (share === 1 || uniform(seed, idHash(id)) < share) yield text;
        }
    };
    const tokenizer = await trainByteLevel(texts(), {
      vocabulary,
      minFrequency: 2,
      specialTokens: ["<|endoftext|>"],
      config: { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>", pad_token: "<|endoftext|>" },
      onProgress: ({ bytes }) => this.#tell(bytes, Math.min(sample, total), 0, bytes),
    });
    await tokenizer.save(folder);
    writeDone(marker, tokenizerKey, true);
    this.#end("tokenizer");
    return { tokenizer, tokenizerKey };
  }

  /** Ids and lengths of every file of documents, beside each other in the work folder. */
  async #tokens(deduped: DedupeReport, tokenizer: Tokenizer, key: string): Promise<EncodedFile[]> {
    this.#begin("tokens");
    const { seed, mix } = this.recipe;
    const total = Object.values(deduped.sources).reduce((n, s) => n + s.documents, 0);
    const { files, reused } = await encodeFiles(deduped.files, tokenizer, {
      folder: join(this.work, `tokens-${key}`),
      seed,
      holdout: mix.holdout,
      tell: (documents, bytes) => this.#tell(documents, total, documents, bytes),
      signal: this.options.signal,
    });
    if (reused) this.reused.push("tokens");
    for (const name of readdirSync(this.work))
      if (name.startsWith("tokens-") && name !== `tokens-${key}`)
        rmSync(join(this.work, name), { recursive: true, force: true });
    this.#end("tokens");
    return files;
  }

  async #shards(tokenizer: Tokenizer, encoded: readonly EncodedFile[], key: string): Promise<Mixed> {
    this.#begin("shards");
    const marker = join(this.work, "shards.json");
    let mixed = readDone<Mixed>(marker, key);
    if (mixed?.shards.every((s) => existsSync(join(this.recipe.out, s.path)))) this.reused.push("shards");
    else {
      rmSync(marker, { force: true });
      mixed = await writeShards(this.recipe, encoded, {
        vocabulary: tokenizer.vocabularySize,
        tell: (tokens, total, documents) => this.#tell(tokens, total, documents, 0),
        signal: this.options.signal,
      });
      writeDone(marker, key, mixed);
    }
    this.#end("shards");
    return mixed;
  }

  /** What the Studio's search looks at first. Duplicates lie among the clean documents of their units. */
  async #index(deduped: DedupeReport, units: readonly UnitResult[]): Promise<void> {
    this.#begin("index");
    const { out } = this.recipe;
    const inUnits = (kind: "dropped" | "documents") =>
      units.map(({ key }) => `work/units/${basename(unitFiles("", key)[kind])}`);
    const paths = [
      ...deduped.files.map(({ path }) => `documents/${basename(path)}`),
      ...inUnits("dropped"),
      ...(deduped.exact + deduped.near > 0 ? inUnits("documents") : []),
    ];
    const total = paths.reduce((n, path) => n + statSync(join(out, path)).size, 0);
    let [bytes, reused] = [0, true];
    for (const path of paths) {
      const made = await indexFile(out, path, (n) => {
        bytes += n;
        this.options.signal?.throwIfAborted();
        this.#tell(bytes, total, 0, bytes);
      });
      if (made) reused = false;
    }
    if (reused) this.reused.push("index");
    const known = new Set(paths.map((path) => basename(indexPath(path))));
    for (const name of readdirSync(join(this.work, "index")))
      if (!known.has(name)) rmSync(join(this.work, "index", name), { force: true });
    this.#end("index");
  }

  /** Takes away what a killed job's duplicates had spilled to disk. */
  #spills(): void {
    const folder = join(this.work, "units");
    if (!existsSync(folder)) return;
    for (const name of readdirSync(folder))
      if (name.startsWith("howdah-")) rmSync(join(folder, name), { recursive: true, force: true });
  }

  /** Takes away what units of earlier recipes and killed jobs left; those of this one stay, so that nothing is read twice. */
  #clean(units: readonly UnitResult[]): void {
    this.#spills();
    const folder = join(this.work, "units");
    const keys = new Set(units.map((u) => u.key));
    for (const name of readdirSync(folder))
      if (!keys.has(name.split(".")[0]!) || name.endsWith(".part"))
        rmSync(join(folder, name), { recursive: true, force: true });
  }
}
