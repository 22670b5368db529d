import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, writeFileAtomic } from "../../runs/atomic.ts";
import { encodeMany } from "../../tokenizers/many.ts";
import type { Tokenizer } from "../../tokenizers/types.ts";
import { hashBits, uniform } from "../random.ts";
import type { DedupeReport } from "./dedupe.ts";
import { jsonLines } from "./lines.ts";
import { PartFile } from "./part-file.ts";
import type { KeptDocument } from "./unit.ts";

/** A file of documents as ids: 32 bits each, one document after the other. */
export interface EncodedFile {
  readonly ids: string;
  readonly source: string;
  readonly lengths: Uint32Array;
  /** 1 for documents that are kept back. */
  readonly holdout: Uint8Array;
}

export interface EncodeOptions {
  readonly folder: string;
  readonly seed: number;
  /** Share of the documents that is kept back. */
  readonly holdout: number;
  readonly tell: (documents: number, bytes: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/** Characters that are encoded at a time. */
const BATCH = 2 ** 23;

/** A number from a document's id, the same in every run. */
export function idHash(id: string): number {
  let h = 0;
  for (let i = 0; i < id.length; i++) h = hashBits(h, id.charCodeAt(i));
  return h;
}

/**
 * Encodes every file of documents whose content was not encoded before; `reused` where all were. Files are named by the hash of what was encoded, so
 * that one changed input costs its own documents; which of them are held out is decided anew each time, from their ids.
 */
export async function encodeFiles(
  files: DedupeReport["files"],
  tokenizer: Tokenizer,
  { folder, seed, holdout: share, tell, signal }: EncodeOptions,
): Promise<{ files: EncodedFile[]; reused: boolean }> {
  makeFolder(folder);
  let [done, bytes, reused] = [0, 0, true];
  const out: EncodedFile[] = [];
  const known = new Set<string>();
  for (const { path, source, documents, hash } of files) {
    const ids = join(folder, `${hash}.ids`);
    const marker = join(folder, `${hash}.lengths`);
    known.add(`${hash}.ids`).add(`${hash}.lengths`);
    if (existsSync(marker) && existsSync(ids)) done += documents;
    else {
      reused = false;
      using file = new PartFile(ids);
      const lengths: number[] = [];
      const hashes: number[] = [];
      let batch: KeptDocument[] = [];
      let size = 0;
      const flush = async () => {
        const texts = batch.map((d) => d.text);
        const encoded = await encodeMany(tokenizer, texts, { addSpecialTokens: false });
        const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId];
        encoded.forEach((e, k) => {
          for (const p of [Uint32Array.from(begin), e])
            file.write(new Uint8Array(p.buffer, p.byteOffset, p.byteLength));
          lengths.push(begin.length + e.length);
          hashes.push(idHash(batch[k]!.id));
        });
        done += batch.length;
        batch = [];
        size = 0;
        signal?.throwIfAborted();
        tell(done, bytes);
      };
      for (const document of jsonLines<KeptDocument>(path)) {
        batch.push(document);
        size += document.text.length;
        bytes += document.text.length;
        if (size > BATCH) await flush();
      }
      await flush();
      file.finish();
      writeFileAtomic(marker, Buffer.from(Uint32Array.from(lengths.concat(hashes)).buffer));
    }
    const bytes32 = readFileSync(marker);
    const stored = new Uint32Array(bytes32.buffer.slice(bytes32.byteOffset, bytes32.byteOffset + bytes32.length));
    const n = stored.length / 2;
    out.push({
      ids,
      source,
      lengths: stored.subarray(0, n),
      holdout: Uint8Array.from(stored.subarray(n), (hash) => (uniform(seed, 7, hash) < share ? 1 : 0)),
    });
  }
  for (const name of readdirSync(folder)) if (!known.has(name)) rmSync(join(folder, name), { force: true });
  return { files: out, reused };
}
