import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../../runs/atomic.ts";
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

/** Encodes every file of documents that is not there yet; `reused` where all were. */
export async function encodeFiles(
  files: DedupeReport["files"],
  tokenizer: Tokenizer,
  { folder, seed, holdout: share, tell, signal }: EncodeOptions,
): Promise<{ files: EncodedFile[]; reused: boolean }> {
  mkdirSync(folder, { recursive: true });
  let [done, bytes, reused] = [0, 0, true];
  const out: EncodedFile[] = [];
  for (const [i, { path, source, documents }] of files.entries()) {
    const ids = join(folder, `${i}.ids`);
    const marker = join(folder, `${i}.lengths`);
    if (existsSync(marker)) done += documents;
    else {
      reused = false;
      using file = new PartFile(ids);
      const lengths: number[] = [];
      const holdout: number[] = [];
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
          holdout.push(uniform(seed, 7, idHash(batch[k]!.id)) < share ? 1 : 0);
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
      const words = Buffer.from(Uint32Array.from(lengths).buffer);
      writeFileAtomic(marker, Buffer.concat([words, Buffer.from(Uint8Array.from(holdout))]));
    }
    const stored = readFileSync(marker);
    const n = stored.length / 5;
    out.push({
      ids,
      source,
      lengths: new Uint32Array(stored.buffer.slice(stored.byteOffset, stored.byteOffset + 4 * n)),
      holdout: new Uint8Array(stored.subarray(4 * n)),
    });
  }
  return { files: out, reused };
}
