import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, readFull } from "../../runs/atomic.ts";
import { StateError } from "../../tensor/errors.ts";
import { sha256 } from "../text.ts";
import { readTokenIndex, writeTokens } from "../token-file.ts";
import { placeDocuments, planMixture, type SourceShare } from "./mix.ts";
import type { DataRecipe } from "./recipe.ts";
import type { EncodedFile } from "./tokens.ts";

/** What the shards hold. */
export interface Mixed {
  readonly shares: readonly SourceShare[];
  /** Tokens written of each source. */
  readonly realised: readonly number[];
  readonly shards: readonly { readonly path: string; readonly tokens: number; readonly documents: number }[];
  readonly holdout: { readonly tokens: number; readonly documents: number };
}

export interface ShardOptions {
  readonly vocabulary: number;
  readonly tell: (tokens: number, total: number, documents: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Writes the mixture of a recipe into `shards/` in its folder, anew, and what is held out beside it. */
export async function writeShards(
  recipe: DataRecipe,
  encoded: readonly EncodedFile[],
  options: ShardOptions,
): Promise<Mixed> {
  const { vocabulary, tell, signal } = options;
  const folder = join(recipe.out, "shards");
  rmSync(folder, { recursive: true, force: true });
  makeFolder(folder);
  const places = recipe.sources.map((s) => locateDocuments(encoded, s.name));
  const train = places.map((p) => p.filter((d) => !d.holdout));
  const sizes = recipe.sources.map((s, i) => ({
    name: s.name,
    weight: s.weight,
    epochs: s.epochs,
    tokens: train[i]!.reduce((n, d) => n + d.length, 0),
  }));
  const shares = planMixture(sizes, recipe.mix);
  const lengths = train.map((t) => Uint32Array.from(t, (d) => d.length));
  const placed = placeDocuments(lengths, shares, recipe.seed);
  const total = shares.reduce((n, s) => n + s.asked, 0);
  const tokenizer = sha256(readFileSync(join(recipe.out, "tokenizer", "tokenizer.json")));
  using reader = new IdReader(encoded);
  const realised = recipe.sources.map(() => 0);

  /** Writes documents as a token file. */
  const write = (name: string, { documents, counts }: Filling) => {
    const sources = [...counts]
      .sort((a, b) => a[0] - b[0])
      .map(([i, c]) => {
        const { name: source, licence } = recipe.sources[i]!;
        return { source, ...(licence === undefined ? {} : { licence }), ...c };
      });
    const licences = [...new Set(sources.flatMap((s) => s.licence ?? []))];
    const { tokens } = writeTokens(join(folder, `${name}.bin`), documents, vocabulary, {
      source: recipe.name,
      ...(licences.length === 0 ? {} : { licence: licences.join("; ") }),
      sources,
      tokenizer,
    });
    return { path: join("shards", `${name}.bin`), tokens, documents: documents.length };
  };

  const shards: { path: string; tokens: number; documents: number }[] = [];
  let filling = new Filling();
  const flush = () => {
    if (filling.documents.length > 0) shards.push(write(`shard-${String(shards.length).padStart(5, "0")}`, filling));
    filling = new Filling();
  };
  let written = 0;
  for (let k = 0; k < placed.source.length; k++) {
    const s = placed.source[k]!;
    const n = placed.tokens[k]!;
    const { file, offset } = train[s]![placed.document[k]!]!;
    if (filling.tokens > 0 && filling.tokens + n > recipe.shards.tokens) flush();
    filling.add(s, reader.read(file, offset, n));
    realised[s]! += n;
    written += n;
    if (k % 1024 === 0) {
      tell(written, total, k);
      await new Promise(setImmediate);
      signal?.throwIfAborted();
    }
  }
  flush();
  let held = new Filling();
  const heldOut = { tokens: 0, documents: 0, shards: 0 };
  const flushHeld = () => {
    if (held.documents.length === 0) return;
    const { tokens, documents } = write(`holdout-${String(heldOut.shards++).padStart(5, "0")}`, held);
    heldOut.tokens += tokens;
    heldOut.documents += documents;
    held = new Filling();
  };
  for (const [s, list] of places.entries())
    for (const { file, offset, length, holdout } of list) {
      if (!holdout) continue;
      if (held.tokens > 0 && held.tokens + length > recipe.shards.tokens) {
        flushHeld();
        await new Promise(setImmediate);
        signal?.throwIfAborted();
      }
      held.add(s, reader.read(file, offset, length));
    }
  flushHeld();
  const { tokens, documents } = heldOut;
  if (written !== total) throw new StateError(`shards: ${written} tokens were written of ${total}.`);
  for (const { path } of shards) readTokenIndex(join(recipe.out, path));
  return { shares, realised, shards, holdout: { tokens, documents } };
}

/** A shard while it is filled. */
class Filling {
  readonly documents: Int32Array[] = [];
  /** By number of the source. */
  readonly counts = new Map<number, { documents: number; tokens: number }>();
  tokens = 0;

  add(source: number, ids: Int32Array): void {
    const count = this.counts.get(source) ?? { documents: 0, tokens: 0 };
    count.documents++;
    count.tokens += ids.length;
    this.counts.set(source, count);
    this.documents.push(ids);
    this.tokens += ids.length;
  }
}

interface Place {
  readonly file: number;
  /** In ids. */
  readonly offset: number;
  readonly length: number;
  readonly holdout: boolean;
}

function locateDocuments(files: readonly EncodedFile[], source: string): Place[] {
  const out: Place[] = [];
  files.forEach((f, file) => {
    if (f.source !== source) return;
    let offset = 0;
    f.lengths.forEach((length, i) => {
      if (length > 0) out.push({ file, offset, length, holdout: f.holdout[i] === 1 });
      offset += length;
    });
  });
  return out;
}

/** Ids from the encoded files, with a handful of them open. */
class IdReader {
  readonly #files: readonly EncodedFile[];
  readonly #open = new Map<number, number>();

  constructor(files: readonly EncodedFile[]) {
    this.#files = files;
  }
  read(file: number, offset: number, count: number): Int32Array {
    let handle = this.#open.get(file);
    if (handle === undefined) {
      if (this.#open.size >= 64) {
        const [oldest, old] = this.#open.entries().next().value!;
        closeSync(old);
        this.#open.delete(oldest);
      }
      handle = openSync(this.#files[file]!.ids, "r");
      this.#open.set(file, handle);
    }
    const out = new Int32Array(count);
    const bytes = Buffer.from(out.buffer);
    if (readFull(handle, bytes, offset * 4) < bytes.length)
      throw new StateError(
        `${this.#files[file]!.ids}: the file is shorter than it was. Remove the work folder and run the job again.`,
      );
    return out;
  }
  [Symbol.dispose](): void {
    for (const handle of this.#open.values()) closeSync(handle);
    this.#open.clear();
  }
}
