import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import { z } from "zod";
import { readFull, writeFileAtomic } from "../runs/atomic.ts";
import { InputError } from "../tensor/errors.ts";
import { encodeMany } from "../tokenizers/many.ts";
import type { Tokenizer } from "../tokenizers/types.ts";
import { type SourceText, sha256 } from "./text.ts";

/** Tokens that windows and batches are cut from. */
export interface TokenSource {
  /** Number of tokens. */
  readonly length: number;
  /** Where each document starts, ascending, the first at 0. */
  readonly starts: readonly number[];
  /** `count` ids from position `start`. */
  read(start: number, count: number): Int32Array;
}

const index = z.object({
  version: z.literal(1),
  dtype: z.enum(["u16", "u32"]),
  tokens: z.int().positive(),
  /** One more than the largest id. */
  vocabulary: z.int().positive(),
  /** Position of each document's first token. */
  starts: z.array(z.int().nonnegative()).min(1),
  source: z.string(),
  licence: z.string().optional(),
  /** What is in it from where, of a mixture. */
  sources: z
    .array(
      z.object({
        source: z.string(),
        licence: z.string().optional(),
        documents: z.int().nonnegative(),
        tokens: z.int().nonnegative(),
      }),
    )
    .optional(),
  /** SHA-256 of the `tokenizer.json` that the ids are of. */
  tokenizer: z.string().optional(),
  /** SHA-256 of the `.bin` file. */
  sha256: z.string(),
});

/** The JSON file beside a `.bin` of tokens (little-endian ids, nothing else). */
export type TokenIndex = z.output<typeof index>;

/** Tokens in memory as a source. */
export function tokensOf(documents: readonly ArrayLike<number>[]): TokenSource {
  const { ids, starts } = concatenate(documents);
  return { length: ids.length, starts, read: (start, count) => ids.slice(start, start + count) };
}

function concatenate(documents: readonly ArrayLike<number>[]): { ids: Int32Array; starts: number[] } {
  const ids = new Int32Array(documents.reduce((sum, document) => sum + document.length, 0));
  const starts: number[] = [];
  let at = 0;
  for (const document of documents) {
    if (document.length === 0) continue;
    starts.push(at);
    ids.set(document, at);
    at += document.length;
  }
  if (at === 0) throw new InputError("There are no tokens: every document is empty.");
  return { ids, starts };
}

/** The same as {@link encodeDocuments}, with the native encoder where there is one: on several threads, away from the JavaScript thread. */
export async function encodeAll(tokenizer: Tokenizer, documents: readonly SourceText[]): Promise<Int32Array[]> {
  const texts = documents.map(({ text }) => text);
  const ids = await encodeMany(tokenizer, texts, { addSpecialTokens: false });
  return ids.map((list) => {
    const begin = tokenizer.bosId === undefined ? 0 : 1;
    const out = new Int32Array(begin + list.length);
    if (tokenizer.bosId !== undefined) out[0] = tokenizer.bosId;
    out.set(list, begin);
    return out;
  });
}

/**
 * Documents as ids, each begun with the tokenizer's beginning token where it has one, so that a document's first words are predicted
 * too. Special tokens that a text spells out stay text.
 */
export function encodeDocuments(tokenizer: Tokenizer, documents: readonly SourceText[]): Int32Array[] {
  return documents.map(({ text }) => {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    return Int32Array.from(tokenizer.bosId === undefined ? ids : [tokenizer.bosId, ...ids]);
  });
}

const indexPath = (path: string): string => path.replace(/\.bin$/, ".json");

/**
 * Writes documents of ids as `path` (ending in .bin) and its index beside it, each atomically, the index last.
 * @param about where the text came from and under which licence
 * @throws InputError for an id that is not in [0, vocabulary)
 */
export function writeTokens(
  path: string,
  documents: readonly ArrayLike<number>[],
  vocabulary: number,
  about: Pick<TokenIndex, "source" | "licence" | "sources" | "tokenizer">,
): TokenIndex {
  if (!path.endsWith(".bin")) throw new InputError(`${path}: token files end in .bin.`);
  const { ids, starts } = concatenate(documents);
  checkIds(ids, vocabulary, path);
  const wide = vocabulary > 0x10000;
  const bytes = Buffer.alloc(ids.length * (wide ? 4 : 2));
  for (let i = 0; i < ids.length; i++) {
    if (wide) bytes.writeUInt32LE(ids[i]!, i * 4);
    else bytes.writeUInt16LE(ids[i]!, i * 2);
  }
  const written: TokenIndex = {
    version: 1,
    dtype: wide ? "u32" : "u16",
    tokens: ids.length,
    vocabulary,
    starts,
    ...about,
    sha256: sha256(bytes),
  };
  writeFileAtomic(path, bytes);
  writeFileAtomic(indexPath(path), `${JSON.stringify(written)}\n`);
  return written;
}

function checkIds(ids: ArrayLike<number>, vocabulary: number, place: string): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= vocabulary) {
      throw new InputError(
        `${place}: token ${i} is ${id}, but ids go from 0 to ${vocabulary - 1}. Was it made by another tokenizer?`,
      );
    }
  }
}

/**
 * A token file on disk, read where it is needed: what the operating system has cached is shared by every process, and a file larger
 * than memory can be trained on.
 */
export class TokenFile implements TokenSource {
  readonly length: number;
  readonly starts: readonly number[];
  readonly index: TokenIndex;
  private readonly path: string;
  private readonly width: 2 | 4;
  private handle: number | undefined;

  /**
   * Opens a file written by `writeTokens`.
   * @param options.vocabulary the model's; a file of another vocabulary is refused
   * @param options.verify read it all and compare its hash (default true)
   * @throws InputError when the files do not fit together or are damaged
   */
  constructor(path: string, options: { readonly vocabulary?: number; readonly verify?: boolean } = {}) {
    this.path = path;
    this.index = readTokenIndex(path);
    this.length = this.index.tokens;
    this.starts = this.index.starts;
    this.width = this.index.dtype === "u16" ? 2 : 4;
    const { vocabulary, verify = true } = options;
    if (vocabulary !== undefined && this.index.vocabulary > vocabulary) {
      throw new InputError(
        `${path}: ids go up to ${this.index.vocabulary - 1}, but the model's vocabulary has ${vocabulary}. Make the tokens again.`,
      );
    }
    const size = statSync(path).size;
    if (size !== this.length * this.width) {
      throw new InputError(
        `${path}: ${size} bytes, but its index says ${this.length} tokens of ${this.width} bytes. Make it again.`,
      );
    }
    if (verify) {
      const bytes = readFileSync(path);
      if (sha256(bytes) !== this.index.sha256)
        throw new InputError(`${path}: damaged: its hash is not the one in its index. Make it again.`);
      const view = this.width === 2 ? new Uint16Array(this.decode(bytes)) : this.decode(bytes);
      checkIds(view, this.index.vocabulary, path);
    }
    this.handle = openSync(path, "r");
  }

  read(start: number, count: number): Int32Array {
    if (this.handle === undefined) throw new InputError(`${this.path}: read after it was closed.`);
    if (start < 0 || start + count > this.length) {
      throw new InputError(`${this.path}: tokens ${start} to ${start + count} of ${this.length} were asked for.`);
    }
    const bytes = Buffer.alloc(count * this.width);
    if (readFull(this.handle, bytes, start * this.width) < bytes.length)
      throw new InputError(`${this.path}: the file became shorter while it was open.`);
    return this.decode(bytes);
  }

  private decode(bytes: Buffer): Int32Array {
    const ids = new Int32Array(bytes.length / this.width);
    for (let i = 0; i < ids.length; i++)
      ids[i] = this.width === 2 ? bytes.readUInt16LE(i * 2) : bytes.readUInt32LE(i * 4);
    return ids;
  }

  close(): void {
    if (this.handle !== undefined) closeSync(this.handle);
    this.handle = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Reads the index of a token file. @throws InputError when it is not there or not one */
export function readTokenIndex(path: string): TokenIndex {
  const place = indexPath(path);
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(place, "utf8"));
  } catch (error) {
    throw new InputError(`${place}: the index of ${path} cannot be read (${(error as Error).message}).`, {
      cause: error,
    });
  }
  const result = index.safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new InputError(`${place}: ${issue.path.join(".")}: ${issue.message}.`);
  }
  return result.data;
}
